"""Kernels of orbits of one and of two against the plain code, orbit by orbit, over drawn configurations."""

import numpy as np
import pytest
from fitted_pairs import leaves
from hypothesis import given, settings
from hypothesis import strategies as st

import psgd_core as psgd
from psgd_core import PermutationSubgroup, kernels
from psgd_core.preconditioners.normalizers import Running, Sample

pytest.importorskip("numba", reason="the kernels need numba (the extra `fast`)")

from psgd_core.kernels.cpu.orbit_passes import CHUNK


def swaps(n, **options):
    """Return orbits of two that are gathered: 0 and 2, 1 and 3, the others alone."""
    generator = [2, 3, 0, 1, *range(4, n)] if n >= 4 else list(range(n))
    return psgd.Sparse(PermutationSubgroup.from_generators([generator]), **options)


KINDS = {
    "diagonal": lambda n, **options: psgd.Diagonal(**options),
    "xmat": lambda n, **options: psgd.XMat(**options),
    "butterfly": lambda n, **options: psgd.Butterfly(**options),
    "swaps": swaps,
}
SPOILT = (
    "nothing",
    "nan in v",
    "inf in h",
    "zero probe",
    "zero product",
    "zeros in both",
    "singular",
    "huge",
)
DTYPES = (np.float32, np.float64)


def spoil(how, state, v, h):
    """Return a state and a pair with something wrong or odd in the middle."""
    m = v.size // 2
    if how == "nan in v":
        v[m] = np.nan
    elif how == "inf in h":
        h[m] = -np.inf
    elif how == "zero probe":
        v[:] = 0
    elif how == "zero product":
        h[:] = 0
    elif how == "zeros in both":
        v[m:], h[m:] = 0, 0
        v[0] = 1
    elif how == "singular":
        state.q.blocks[-1][:, :, m % state.q.blocks[-1].shape[2]] = 0
    elif how == "huge":  # a product whose image is not finite
        h[m] = np.finfo(h.dtype).max
        state = state._replace(q=state.q._replace(blocks=tuple(64 * block for block in state.q.blocks)))
    return state, v, h


def assert_equal_by_orbit(got, expected):
    """Compare states: what an orbit has may differ by some roundings of its largest entry."""
    for x, y in zip(got.q.blocks, expected.q.blocks, strict=True):
        most = np.max(np.abs(y), axis=(0, 1))
        assert np.all(np.abs(x - y) <= 30 * np.finfo(y.dtype).eps * most)
    for x, y in zip(got.held, expected.held, strict=True):
        np.testing.assert_allclose(x, y, rtol=30 * np.finfo(y.dtype).eps)
        assert not np.any(np.signbit(x))
    for x, y in zip(got[2:], expected[2:], strict=True):
        np.testing.assert_array_equal(x, y)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    n=st.one_of(
        st.integers(1, 40), st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 3, 2 * CHUNK + 1, 2 * CHUNK + 6])
    ),
    dtype=st.sampled_from(DTYPES),
    normalizer=st.sampled_from([Running(), Running(0.5), Sample()]),
    damping=st.sampled_from([None, 0.0, 0.3]),
    exponent=st.sampled_from([-0.6, -0.3, 0.0, 0.3, 0.6]),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
    step=st.sampled_from([1e-6, 0.1, 0.7]),
    spoilt=st.sampled_from(SPOILT),
    inplace=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_one_update_is_that_of_the_plain_code(
    kind, n, dtype, normalizer, damping, exponent, spread, step, spoilt, inplace, seed
):
    """With sizes from one end of the floats to the other in one pair, and what is odd among what is not."""
    n += n % 2 if kind == "butterfly" else 0
    p, rng = KINDS[kind](n, normalizer=normalizer, damping=damping), np.random.default_rng(seed)
    exponent *= 1.0 if dtype == np.float32 else 0.7  # the counters square in float64
    size = dtype(2.0) ** dtype(exponent * np.finfo(dtype).maxexp)

    def pair():
        v = rng.standard_normal(n)
        return v.astype(dtype), (v * 10.0 ** rng.uniform(-spread, spread, n)).astype(dtype) * size

    with np.errstate(all="ignore"):
        state = p.init(n, like=np.zeros(1, dtype), scale=1.0)
        with kernels.off():
            for _ in range(2):
                state = p.update(state, *pair(), 0.3)
        state, v, h = spoil(spoilt, state, *pair())
        g = rng.standard_normal(n).astype(dtype)
        with kernels.off():
            plain = p.update(state, v, h, step)
            product = p.precondition(plain, g)
        with kernels.on():
            got = p.update(state, v, h, step, inplace=inplace)
            assert_equal_by_orbit(got, plain)
            np.testing.assert_allclose(
                p.precondition(plain, g), product,
                rtol=0, atol=30 * np.finfo(dtype).eps * np.max(np.abs(product), initial=0),
            )  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_several_probes_go_the_ordinary_way_and_one_column_does_not(kind, columns, monkeypatch):
    taken, door = [], kernels.update

    def counting(*arguments):
        found = door(*arguments)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(kernels, "update", counting)
    p, rng = KINDS[kind](12), np.random.default_rng(columns)
    v, h = rng.standard_normal((2, 12, columns))
    state = p.init(12, like=v[:, 0], scale=1.0)
    with kernels.on():
        got = p.update(state, v, h, 0.3)
    assert taken == [columns == 1]
    with kernels.off():
        assert_equal_by_orbit(got, p.update(state, v, h, 0.3))


@pytest.mark.parametrize("kind", ["diagonal", "xmat"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_thousands_of_zero_products_end_at_the_damping_as_they_do_in_plain_code(kind, dtype):
    """P grows until the damping, far above rounding by then, holds it."""
    p, rng = KINDS[kind](6, damping=0.05), np.random.default_rng(0)
    states = [p.init(6, like=np.zeros(1, dtype), scale=1.0)] * 2
    for _ in range(300):
        v = rng.choice([-1, 1], 6).astype(dtype)
        with kernels.on():
            states[0] = p.update(states[0], v, np.zeros(6, dtype), 0.5)
        with kernels.off():
            states[1] = p.update(states[1], v, np.zeros(6, dtype), 0.5)
    tolerance = 300 * 30 * np.finfo(dtype).eps
    for x, y in zip(leaves(states[0]), leaves(states[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.max(np.abs(y)))
    assert 0.3 / 0.05 < np.max(np.linalg.eigvalsh(p.matrix(states[0]))) < 3 / 0.05
