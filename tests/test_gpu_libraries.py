"""How arrays get to the GPU's kernels: from a fake CuPy; on a GPU, from CuPy and PyTorch themselves."""

import sys

import numpy as np
import pytest
from emulated import FakeCupy, forget_kernels

import psgd_core as psgd
from psgd_core import PermutationSubgroup, kernels
from psgd_core.kernels.gpu import cuda_library, low_rank_launches


def forget():
    """Forget what was compiled and asked of a device."""
    for function in (cuda_library.compiled, cuda_library._processors, cuda_library._have_cupy):
        function.cache_clear()
    forget_kernels()


@pytest.fixture
def cupy(monkeypatch):
    """A fake CuPy, whose arrays are on device 1."""
    fake = FakeCupy(1)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(cuda_library, "THREADS", 16)
    forget()
    yield fake
    forget()
    assert fake.host.intact()


def leaves(state):
    """Return all arrays of a state."""
    return [x for part in state for x in (leaves(part) if isinstance(part, tuple) else [part])]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("p", [psgd.Diagonal(), psgd.XMat(), psgd.Sparse(PermutationSubgroup.klein(40))])
def test_cupys_arrays_are_updated_without_a_look_at_their_values(p, inplace, cupy):
    n, rng = 40, np.random.default_rng(0)
    expected = p.init(n, like=np.zeros(1, np.float32))
    state = cupy.state(expected)
    for _ in range(5):
        v, h = rng.standard_normal((2, n)).astype(np.float32)
        state = p.update(state, cupy.asarray(v), cupy.asarray(h), 0.3, inplace=inplace)
        with kernels.off():
            expected = p.update(expected, v, h, 0.3)
    assert all(type(x) is cupy.ndarray for x in leaves(state))
    for x, y in zip(map(np.asarray, leaves(state)), leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.max(np.abs(y)))
    got = np.asarray(p.precondition(state, cupy.asarray(h)))
    np.testing.assert_allclose(got, p.precondition(expected, h), rtol=1e-4, atol=1e-4)
    assert len(cupy.compiled) == 2  # what all sizes share, and this one
    assert all(options == cuda_library.OPTIONS for _, options in cupy.compiled)


def test_arrays_with_gaps_are_not_for_kernels(cupy):
    x = cupy.asarray(np.zeros(8, np.float32))
    library = cuda_library.library_of(x)
    assert library.view(x) == (x.ctypes.data, (8,), "float32", 1)
    assert library.view(x[::2]) is None
    assert library.view(np.zeros(8, np.float32)) is None
    assert cuda_library.library_of(np.zeros(3)) is None
    assert cuda_library.library_of(None) is None


def test_the_passes_of_a_low_rank_update_take_cupys_arrays(cupy):
    rng, r, n = np.random.default_rng(1), 3, 50
    u, v = rng.standard_normal((2, r, n)).astype(np.float32)
    d, h, p = rng.standard_normal((3, n)).astype(np.float32)
    state = psgd.LowRank(r).init(n, like=d, scale=1.0)
    state = cupy.state(state._replace(u=u, v=v, d=d, damping=np.zeros_like(state.damping)))
    rows = low_rank_launches.take(state, cupy.asarray(h), cupy.asarray(p))
    reading, usable, _, _ = low_rank_launches.survey(rows)
    one = np.max(np.abs([d * h, p / d]))
    matrix = np.concatenate([u, v, [d * h / one, p / d / one]]).astype(np.float64)
    g = low_rank_launches.gram(rows, reading)
    np.testing.assert_allclose(np.asarray(g), matrix @ matrix.T, rtol=0, atol=1e-4)
    c = rng.standard_normal((2 * r + 2, 2 * r + 2))
    turned = cupy.asarray(c.T.copy()).T  # a view with the strides of a transposed matrix
    largest = low_rank_launches.extremes(turned[:2], rows, reading)
    assert largest.dtype == np.float32
    expected = np.max(np.abs(matrix[-2:] * (c[:2] @ matrix)), axis=1)
    np.testing.assert_allclose(np.asarray(largest)[:2], expected, rtol=1e-4)
    tenth, two = cupy.asarray(np.float32(0.1)), cupy.asarray(np.int32(2))
    made = low_rank_launches.rewrite(turned, rows, reading, tenth, tenth, usable, two, inplace=True)
    assert made == (rows.u, rows.v, rows.d)
    np.testing.assert_allclose(
        np.asarray(made[1]), (c @ matrix)[r : 2 * r] + matrix[r : 2 * r], rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(np.asarray(made[0]), u)


def test_tensors_on_the_host_and_traced_ones_are_not_for_these_kernels():
    torch = pytest.importorskip("torch")
    x = torch.zeros(4)
    assert cuda_library.library_of(x) is None
    assert cuda_library._TORCH.view(x) is None
