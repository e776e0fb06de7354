"""The passes of a low-rank update on a GPU: compiled, emulated on the host, and held to NumPy in float64."""

from types import SimpleNamespace

import numpy as np
import nvrtc
import pytest
from emulated import emulated_device, emulator
from gpu_kernels import low_rank_kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from psgd_core.arrays.draws import signs
from psgd_core.kernels.gpu import cuda_library, low_rank_launches

DTYPES = ("float32", "float64")


@pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_kernel_compiles_to_machine_code(architecture):
    names = tuple(low_rank_kernels())
    code = nvrtc.compile_for(architecture, cuda_library.source("low_rank.cu"), names, cuda_library.OPTIONS)
    assert code[:4] == b"\x7fELF"


@pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed")
def test_tiles_are_copied_while_others_are_worked_on():
    text = nvrtc.compile_for(
        "compute_80", cuda_library.source("low_rank.cu"), ("gram<float>",), cuda_library.OPTIONS
    ).decode()
    assert "cp.async.ca.shared.global" in text
    assert "cp.async.wait_group 1" in text


@pytest.fixture
def low_rank():
    """The kernels of low_rank.cu, emulated."""
    return emulator("low_rank.cu")


@pytest.fixture
def host(monkeypatch):
    """A device on which threads take several columns."""
    with emulated_device(monkeypatch, threads=16) as found:
        yield found


class Case:
    """Rows on the device, and R in float64 on the host."""

    def __init__(self, host, r, n, dtype, seed=0, damping=0.0, scale=1.0, pending=False):
        rng = np.random.default_rng(seed)
        self.u, self.v = rng.standard_normal((2, r, n)).astype(dtype)
        self.d, self.h, self.p = rng.standard_normal((3, n)).astype(dtype)
        self.h *= np.asarray(scale, dtype)
        self.count, self.eps, self.r, self.n, self.dtype = seed % 7, np.finfo(dtype).eps, r, n, dtype
        self.host, self.rng, self.damping = host, rng, damping
        arrays = {name: host.place(x) for name, x in {"u": self.u, "v": self.v, "d": self.d}.items()}
        numbers = {"damping": (damping, dtype), "pending": (pending, bool), "count": (self.count, np.int32)}
        self.state = SimpleNamespace(**arrays, **{name: self.scalar(*x) for name, x in numbers.items()})
        self.pair = host.place(self.h), host.place(self.p)
        self.rows = low_rank_launches.take(self.state, *self.pair)
        wide = [x.astype(np.float64) for x in (self.u, self.v, self.d, self.h, self.p)]
        u, v, d, h, p = wide
        if damping and not pending:
            like = np.zeros((n, 1), dtype)
            h = h + abs(damping) * signs(np.asarray(self.count, np.int32), like)[:, 0]
        self.x, self.y = d * h, p / d
        self.units = np.max(np.abs(self.x)), np.max(np.abs(self.y))
        if not pending:
            self.units = (max(self.units),) * 2
        self.matrix = np.concatenate([u, v, self.x[None] / self.units[0], self.y[None] / self.units[1]])

    def scalar(self, x, dtype=None):
        return self.host.place(np.asarray(x, dtype or self.dtype))

    def reading(self):
        noise = 0.0 if self.state.pending else abs(self.damping)
        return self.host.place(np.asarray([*self.units, noise], self.dtype))

    def coefficients(self, count):
        return self.rng.standard_normal((count, 2 * self.r + 2))


CASES = {
    "r": st.integers(0, 12),
    "n": st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 800])),
    "dtype": st.sampled_from(DTYPES),
    "seed": st.integers(0, 100),
    "damping": st.sampled_from([0.0, 0.25, -0.25]),
    "pending": st.booleans(),
}


def test_every_pass_is_what_numpy_does(host):
    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(**CASES)
    def check(r, n, dtype, seed, damping, pending):
        case = Case(host, r, n, dtype, seed, damping, pending=pending)
        eps, m = case.eps, 2 * r + 2
        reading, usable, seen, due = low_rank_launches.survey(case.rows)
        assert (usable, seen, due) == (True, True, pending)
        np.testing.assert_allclose(reading, case.reading(), rtol=4 * eps)
        assert reading[2] == (0 if pending else abs(damping))

        g = low_rank_launches.gram(case.rows, reading)
        assert g.dtype == np.float64
        # x and y are rounded to the dtype, three times; the sums are float64
        size = np.linalg.norm(case.matrix, axis=1)
        bound = (8 * eps + n * 1e-16) * np.outer(size, size)
        assert np.all(np.abs(g - case.matrix @ case.matrix.T) <= bound)
        assert np.array_equal(g, g.T)

        c = case.coefficients(5)
        expected, magnitude = c @ case.matrix, np.abs(c) @ np.abs(case.matrix)
        out = low_rank_launches.combine(host.place(c), case.rows, reading)
        assert out.dtype == dtype
        assert np.all(np.abs(out - expected) <= (m + 4) * eps * magnitude)

        largest = low_rank_launches.extremes(host.place(c[:2]), case.rows, reading)
        plus, minus = case.matrix[-2] * expected[0], case.matrix[-1] * expected[1]
        both = (m + 8) * eps * np.max(np.abs(case.matrix[-2:]) * magnitude[:2], axis=1)
        for got, wanted, error in zip(
            largest, (plus, minus, plus - minus), (both[0], both[1], both.sum()), strict=True
        ):
            assert abs(got - np.max(np.abs(wanted))) <= error

    check()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("r", [0, 1, 4, 10])
def test_factors_and_diagonal_are_rewritten(host, r, dtype, which, inplace):
    n = 53
    case = Case(host, r, n, dtype, seed=r + which)
    reading = case.reading()
    c, mu, scale = case.coefficients(2 * r + 2), case.scalar(0.125), case.scalar(2.0)
    flags = case.scalar(True, bool), case.scalar(which, np.int32)
    got = low_rank_launches.rewrite(host.place(c), case.rows, reading, mu, scale, *flags, inplace=inplace)
    made, magnitude = c @ case.matrix, np.abs(c) @ np.abs(case.matrix)
    made[: 2 * r] += case.matrix[: 2 * r]
    magnitude[: 2 * r] += np.abs(case.matrix[: 2 * r])
    error = (2 * r + 12) * case.eps
    for factor, (new, old) in enumerate(((got[0], case.u), (got[1], case.v))):
        part = slice(factor * r, (factor + 1) * r)
        if which >> factor & 1:
            assert np.all(np.abs(new - made[part]) <= error * magnitude[part])
        else:
            np.testing.assert_array_equal(new, old)
    moved = case.matrix[-2] * made[-2] - case.matrix[-1] * made[-1]
    size = np.abs(case.matrix[-2]) * magnitude[-2] + np.abs(case.matrix[-1]) * magnitude[-1]
    assert np.all(
        np.abs(got[2] - 2 * case.d * (1 - 0.125 * moved)) <= error * np.abs(2 * case.d) * (1 + size)
    )
    assert all((x is y) == inplace for x, y in zip(got, (case.rows.u, case.rows.v, case.rows.d), strict=True))
    assert len(host.overwritten) == (3 if inplace else 0)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("r", [0, 3])
def test_what_is_not_usable_changes_nothing(host, r, inplace):
    case = Case(host, r, 21, "float32")
    case.rows.keep[3][5] = np.nan
    c = host.place(case.coefficients(2 * r + 2))
    reading, usable, _, _ = low_rank_launches.survey(case.rows)
    assert not usable
    args = case.scalar(0.1), case.scalar(1.0), usable, case.scalar(3, np.int32)
    got = low_rank_launches.rewrite(c, case.rows, reading, *args, inplace=inplace)
    for new, old in zip(got, (case.u, case.v, case.d), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    ("spoil", "usable", "seen"),
    [
        ({"h": np.nan}, False, False),
        ({"h": np.inf}, False, False),
        ({"p": -np.inf}, False, False),
        ({"p": 0.0}, False, False),
        ({"h": 0.0}, True, False),
    ],
)
@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pairs_are_judged_on_the_device(host, dtype, spoil, usable, seen, pending):
    case = Case(host, 2, 37, dtype, damping=0.25, pending=pending)
    (name, value), at = next(iter(spoil.items())), {"h": 3, "p": 4}
    target = case.rows.keep[at[name]]
    target[slice(None) if value == 0 else 30] = value
    found = low_rank_launches.survey(case.rows)
    assert (found.usable, found.seen, found.due) == (usable, seen, False)
    assert found.usable.shape == ()
    assert found.reading[2] == np.asarray(0.25, dtype)


def test_a_largest_entry_that_is_nan_stays_one(host):
    case = Case(host, 2, 37, "float32")
    case.rows.keep[0][1, 36] = np.nan
    assert np.all(
        np.isnan(low_rank_launches.extremes(host.place(np.ones((2, 6))), case.rows, case.reading()))
    )


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_units_keep_float32_from_its_ends(host, scale, pending):
    case = Case(host, 3, 40, "float32", scale=scale, pending=pending)
    reading = low_rank_launches.survey(case.rows).reading
    g = low_rank_launches.gram(case.rows, reading)
    np.testing.assert_allclose(g, case.matrix @ case.matrix.T, rtol=0, atol=1e-5 * np.max(np.abs(g)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_order_of_threads_or_blocks_changes_a_bit(host, low_rank, dtype):
    case = Case(host, 6, 4000, dtype, damping=0.1)  # several tiles for each block
    c, results = host.place(case.coefficients(14)), []
    for schedule in (0, 1, 2, 0):
        low_rank.schedule = schedule
        reading, usable, _, _ = low_rank_launches.survey(case.rows)
        args = case.scalar(0.1), case.scalar(1.0), usable, case.scalar(3, np.int32)
        made = low_rank_launches.rewrite(c, case.rows, reading, *args, inplace=False)
        results.append([reading, low_rank_launches.gram(case.rows, reading), *made])
        results[-1].append(low_rank_launches.extremes(c, case.rows, reading))
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("r", [20, 31, 40])
def test_large_ranks_take_several_groups_of_squares(host, r):
    case = Case(host, r, 90, "float64")
    g = low_rank_launches.gram(case.rows, case.reading())
    np.testing.assert_allclose(g, case.matrix @ case.matrix.T, rtol=0, atol=1e-13 * np.max(np.abs(g)))


@pytest.mark.parametrize(
    ("spoil", "to"),
    [
        ("u", np.zeros((100, 20), np.float32)),
        ("u", np.zeros((3, 21), np.float32)),
        ("v", np.zeros((4, 20), np.float32)),
        ("d", np.zeros(20)),
        ("count", np.int64(0)),
        ("damping", np.float64(0.0)),
        ("damping", np.zeros(1, np.float32)),
        ("pending", np.int32(1)),
    ],
)
def test_a_state_that_does_not_fit_is_refused(host, spoil, to):
    case = Case(host, 3, 20, "float32")
    assert case.rows is not None
    setattr(case.state, spoil, host.place(to))
    assert low_rank_launches.take(case.state, *case.pair) is None


@pytest.mark.parametrize("spoil", ["shape", "dtype", "strides", "library"])
def test_a_pair_that_does_not_fit_is_refused(host, spoil):
    case = Case(host, 3, 20, "float32")
    h, p = case.pair
    assert case.rows is not None
    if spoil == "shape":
        h = host.place(np.zeros(21, np.float32))
    elif spoil == "dtype":
        p = host.place(np.zeros(20))
    elif spoil == "strides":
        p = host.place(np.zeros(40, np.float32))[::2]
    elif spoil == "library":
        h = np.zeros(20, np.float32)
    assert low_rank_launches.take(case.state, h, p) is None
