"""The GPU's kernels on a GPU, from CuPy and from PyTorch. Skipped where there is none."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_kernels import KINDS, fitting

import psgd_core as psgd
from psgd_core import kernels
from psgd_core.kernels.gpu import low_rank_launches

pytestmark = pytest.mark.gpu
DTYPES = ("float32", "float64")
LONG = 2 * 10**9  # cycles: about a second
SPIN = """
extern "C" __global__ void spin(long long cycles) {
    const long long start = clock64();
    while (clock64() - start < cycles) {}
}
"""


class OfCupy:
    """CuPy on the current device."""

    def __init__(self):
        self.cupy = pytest.importorskip("cupy")
        if not self.cupy.cuda.is_available():
            pytest.skip("no CUDA device")
        self.spin = self.cupy.RawKernel(SPIN, "spin")
        self.spin((1,), (1,), (1,))  # compiles

    def asarray(self, x):
        return self.cupy.asarray(x)

    def numpy(self, x):
        return x.get()

    @contextlib.contextmanager
    def stream(self):
        """A stream that waits for no other."""
        self.wait()
        with self.cupy.cuda.Stream(non_blocking=True) as stream:
            yield
            stream.synchronize()

    def wait(self):
        """Wait for all that was queued."""
        self.cupy.cuda.Device().synchronize()

    def occupy(self):
        """Keep the current stream busy for about a second."""
        self.spin((1,), (1,), (LONG,))

    def busy(self):
        """Return whether what was queued is still running."""
        return not self.cupy.cuda.get_current_stream().done

    def peak(self, call):
        """Return the bytes that a call takes at most from a pool that has none to spare."""
        pool = self.cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.total_bytes()
        call()
        return pool.total_bytes() - before

    def strictly(self):
        return contextlib.nullcontext()


class OfTorch:
    """PyTorch on the current device, through CuPy's compiler."""

    def __init__(self):
        self.torch = pytest.importorskip("torch")
        pytest.importorskip("cupy")
        if not self.torch.cuda.is_available():
            pytest.skip("no CUDA device")

    def asarray(self, x):
        return self.torch.asarray(np.array(x), device="cuda")

    def numpy(self, x):
        return x.cpu().numpy()

    @contextlib.contextmanager
    def stream(self):
        self.wait()
        stream = self.torch.cuda.Stream()
        with self.torch.cuda.stream(stream):
            yield
            stream.synchronize()

    def wait(self):
        self.torch.cuda.synchronize()

    def occupy(self):
        self.torch.cuda._sleep(LONG)

    def busy(self):
        return not self.torch.cuda.current_stream().query()

    def peak(self, call):
        cuda = self.torch.cuda
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        call()
        return cuda.max_memory_allocated() - before

    @contextlib.contextmanager
    def strictly(self):
        """Raise where PyTorch waits for the device."""
        self.torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            self.torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(params=[OfCupy, OfTorch], ids=["cupy", "torch"])
def library(request):
    """A library with arrays on a CUDA device."""
    return request.param()


@pytest.fixture
def used(monkeypatch):
    """Count how often the kernels did the work."""
    calls, ask = [], kernels.update

    def counting(*args):
        found = ask(*args)
        calls.append(found is not None)
        return found

    monkeypatch.setattr(kernels, "update", counting)
    return calls


def leaves(state):
    """Return all arrays of a state."""
    return [x for part in state for x in (leaves(part) if isinstance(part, tuple) else [part])]


def pairs(library, n, dtype, count, seed):
    """Return pairs (v, h) of a diagonal, indefinite Hessian and some noise."""
    rng = np.random.default_rng(seed)
    diagonal = rng.choice([-1, 1], n) * 10 ** rng.uniform(-0.5, 0.5, n)
    made = []
    for _ in range(count):
        v = rng.standard_normal(n)
        made.append((v, diagonal * v + 0.1 * rng.standard_normal(n)))
    return [tuple(library.asarray(x.astype(dtype)) for x in pair) for pair in made]


def run(p, n, made, **options):
    """Return the state after all pairs."""
    state = p.init(n, like=made[0][0])
    for v, h in made:
        state = p.update(state, v, h, 0.3, **options)
    return state


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 60, 1001, 200_000])
def test_updates_and_products_are_those_of_the_plain_code(library, kind, dtype, n, used):
    n = fitting(kind, n)
    p, made = KINDS[kind](n), pairs(library, n, dtype, 8, seed=n)
    state = run(p, n, made)
    assert used == [True] * 8
    with kernels.off():
        plain = run(p, n, made)
        product = p.precondition(plain, made[0][1])
    found, expected = ([library.numpy(x) for x in leaves(tree)] for tree in (state, plain))
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        if y.dtype.kind == "f":
            tolerance = 1000 * np.finfo(dtype).eps
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.max(np.abs(y)))
        else:
            np.testing.assert_array_equal(x, y)
    got, product = library.numpy(p.precondition(plain, made[0][1])), library.numpy(product)
    np.testing.assert_allclose(got, product, rtol=0, atol=50 * np.finfo(dtype).eps * np.max(np.abs(product)))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_runs_repeat_bit_for_bit_in_place_or_not_on_any_stream(library, kind):
    n = fitting(kind, 300_001)
    p, made = KINDS[kind](n), pairs(library, n, "float32", 5, seed=1)
    first = run(p, n, made)
    with library.stream():
        again = run(p, n, made, inplace=True)
    for x, y in zip(leaves(first), leaves(again), strict=True):
        np.testing.assert_array_equal(library.numpy(x), library.numpy(y))


@pytest.mark.parametrize("bad", [np.nan, np.inf, None])
def test_a_pair_that_is_none_is_skipped_and_counted(library, bad):
    p, ((v, h),) = psgd.XMat(), pairs(library, 1000, "float32", 1, seed=2)
    state = p.update(p.init(1000, like=v), v, h, 0.3)
    v, h = (v, h + 0) if bad is not None else (0 * v, h)
    if bad is not None:
        h[999] = bad
    after = p.update(state, v, h, 0.3)
    assert (int(after.count), int(after.skipped)) == (1, 1)
    for x, y in zip(leaves(after.q), leaves(state.q), strict=True):
        np.testing.assert_array_equal(library.numpy(x), library.numpy(y))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("r", "n"), [(0, 50), (1, 3), (10, 1001), (10, 100_000), (32, 5000)])
def test_low_rank_updates_are_those_of_the_plain_code(library, r, n, dtype, monkeypatch):
    calls, rewrite = [], low_rank_launches.rewrite
    monkeypatch.setattr(low_rank_launches, "rewrite", lambda *a, **k: calls.append(1) or rewrite(*a, **k))
    p, made = psgd.LowRank(r), pairs(library, n, dtype, 9, seed=n)
    state = run(p, n, made, inplace=True)
    assert len(calls) == 9
    g = made[0][0]
    with kernels.off():
        plain = run(p, n, made)
        got, expected = (library.numpy(p.precondition(x, g)) for x in (state, plain))
    tolerance = 2000 * np.finfo(dtype).eps * np.max(np.abs(expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(library.numpy(p.precondition(state, g)), got, rtol=0, atol=tolerance)
    assert [int(x) for x in state[5:]] == [int(x) for x in plain[5:]] == [0, 0, 9, 0]
    for x, y in zip(state, run(p, n, made), strict=True):
        np.testing.assert_array_equal(library.numpy(x), library.numpy(y))


def of_kind(kind, n):
    """Return a preconditioner that has kernels."""
    return psgd.LowRank(10) if kind == "low rank" else KINDS[kind](n)


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "klein", "low rank"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_jump_of_the_hessian_sets_the_scale_where_the_plain_code_does(library, kind, dtype):
    n = fitting(kind, 5000)
    p, made = of_kind(kind, n), pairs(library, n, dtype, 84, seed=5)
    state = plain = p.init(n, like=made[0][0])
    for i, (v, h) in enumerate(made):
        product = 1e9 * h if 3 <= i < 15 else h
        state = p.update(state, v, product, 0.3, inplace=i % 2 == 1)
        with kernels.off():
            plain = p.update(plain, v, product, 0.3)
        counted = [int(x) for x in state[-4:]]
        assert counted == [int(x) for x in plain[-4:]]
        assert counted[0] == (i in (3 + 8 - 1, 15 + 64 - 1))
    np.testing.assert_allclose(float(state.damping), float(plain.damping), rtol=1e-4)


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "klein", "low rank"])
@pytest.mark.parametrize("step", [0.0, 1.0, -1.0, np.nan])
def test_a_step_on_the_device_that_is_none_is_skipped_and_counted(library, kind, step):
    n = fitting(kind, 1000)
    p, ((v, h),) = of_kind(kind, n), pairs(library, n, "float32", 1, seed=6)
    state = p.update(p.init(n, like=v), v, h, library.asarray(np.float64(0.3)))
    assert [int(x) for x in state[-2:]] == [1, 0]
    after = p.update(state, v, h, library.asarray(np.float64(step)))
    assert [int(x) for x in after[-2:]] == [1, 1]
    for x, y in zip(leaves(after)[:-1], leaves(state)[:-1], strict=True):
        np.testing.assert_array_equal(library.numpy(x), library.numpy(y))


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "klein", "low rank"])
def test_nothing_waits_for_the_device(library, kind):
    n = fitting(kind, 100_000)
    p = of_kind(kind, n)
    made = pairs(library, n, "float32", 4, seed=3)
    with library.stream():
        step = library.asarray(np.float32(0.3))
        for _ in range(2):  # the first time compiles, and fills the stream's pool of memory
            state = run(p, n, made)
            p.precondition(p.update(state, *made[0], step), made[0][1])
        state = p.init(n, like=made[0][0])
        library.wait()
        with library.strictly():
            library.occupy()
            for i, (v, h) in enumerate(made):
                state = p.update(state, v, h, step if i > 1 else 0.3, inplace=i % 2 == 1)
            p.precondition(state, made[0][1])
            assert library.busy()


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "klein"])
def test_in_place_next_to_nothing_is_allocated(library, kind):
    n = fitting(kind, 4_000_000)
    p, made = KINDS[kind](n), pairs(library, n, "float32", 1, seed=4)
    state = run(p, n, made)
    assert library.peak(lambda: p.update(state, *made[0], 0.3, inplace=True)) < n  # a quarter of a vector


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("r", "n"), [(0, 1000), (1, 1), (3, 1003), (10, 300_001), (32, 20_000)])
def test_the_passes_of_a_low_rank_update_are_what_numpy_does(library, r, n, dtype):
    rng = np.random.default_rng(r)
    host = [rng.standard_normal(shape).astype(dtype) for shape in ((r, n), (r, n), n, n, n)]
    kinds = {"damping": dtype, "pending": bool, "count": np.int32}
    numbers = {name: library.asarray(np.zeros((), kind)) for name, kind in kinds.items()}
    u, v, d, h, p = map(library.asarray, host)
    rows = low_rank_launches.take(SimpleNamespace(u=u, v=v, d=d, **numbers), h, p)
    u, v, d, h, p = (x.astype(np.float64) for x in host)
    reading, usable, seen, due = low_rank_launches.survey(rows)
    one = max(np.max(np.abs(d * h)), np.max(np.abs(p / d)))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(library.numpy(reading), [one, one, 0], rtol=4 * eps)
    assert [bool(x) for x in (usable, seen, due)] == [True, True, False]
    matrix = np.concatenate([u, v, [d * h / one, p / d / one]])
    g = library.numpy(low_rank_launches.gram(rows, reading))
    size = np.linalg.norm(matrix, axis=1)
    assert np.all(np.abs(g - matrix @ matrix.T) <= (8 * eps + n * 1e-16) * np.outer(size, size))
    np.testing.assert_array_equal(g, library.numpy(low_rank_launches.gram(rows, reading)))

    c = rng.standard_normal((2 * r + 2, 2 * r + 2))
    made, magnitude = c @ matrix, np.abs(c) @ np.abs(matrix)
    out = library.numpy(low_rank_launches.combine(library.asarray(c), rows, reading))
    assert np.all(np.abs(out - made) <= (2 * r + 8) * eps * magnitude)
    largest = library.numpy(low_rank_launches.extremes(library.asarray(c[:2]), rows, reading))
    expected = np.max(np.abs(matrix[-2:] * made[:2]), axis=1)
    error = (2 * r + 12) * eps * np.max(np.abs(matrix[-2:]) * magnitude[:2], axis=1)
    assert np.all(np.abs(largest[:2] - expected) <= error)
    tenth, three = library.asarray(np.asarray(0.1, dtype)), library.asarray(np.int32(3))
    new = low_rank_launches.rewrite(
        library.asarray(c), rows, reading, tenth, tenth, usable, three, inplace=False
    )
    got = np.concatenate([library.numpy(new[0]), library.numpy(new[1])])
    wanted, size = made[: 2 * r] + matrix[: 2 * r], magnitude[: 2 * r] + np.abs(matrix[: 2 * r])
    assert np.all(np.abs(got - wanted) <= (2 * r + 8) * eps * size)
