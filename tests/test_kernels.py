"""The fused kernels give what the plain code gives, on whatever arrays, and repeat it bit for bit."""

import contextlib
import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from fitted_pairs import leaves, pairs
from hypothesis import given, settings
from hypothesis import strategies as st

import psgd_core as psgd
from psgd_core import PermutationSubgroup, kernels
from psgd_core.groups import OrbitGroup
from psgd_core.kernels import switch
from psgd_core.kernels.cpu import orbit_update

pytest.importorskip("numba", reason="the kernels need numba (the extra `fast`)")

KINDS = {
    "diagonal": lambda n: psgd.Diagonal(),
    "xmat": lambda n: psgd.XMat(),
    "butterfly": lambda n: psgd.Butterfly(),
    "klein": lambda n: psgd.Sparse(PermutationSubgroup.klein(n)),
    "all-shifts": lambda n: psgd.Sparse(PermutationSubgroup.all_shifts(n)),
    "thirds": lambda n: psgd.Sparse(PermutationSubgroup.on_blocks(n, [(1, 2, 0)])),
    "uneven": lambda n: psgd.Sparse(PermutationSubgroup.from_generators([[1, 2, 0, *range(3, n)]])),
    "dense": lambda n: psgd.Dense(),
    "dense-sample": lambda n: psgd.Dense(normalizer=psgd.normalizers.Sample(), damping=0.01),
    "sample": lambda n: psgd.XMat(normalizer=psgd.normalizers.Sample()),
    "undamped": lambda n: psgd.XMat(damping=0.0),
    "much-damped": lambda n: psgd.Sparse(PermutationSubgroup.klein(n), damping=0.3),
}
DTYPES = (np.float32, np.float64)


@pytest.fixture
def used(monkeypatch):
    """Count how often the kernels did the work."""
    calls = []
    plain = kernels.update

    def counting(*args):
        found = plain(*args)
        calls.append(found is not None)
        return found

    monkeypatch.setattr(kernels, "update", counting)
    return calls


def run(p, made, dtype, step=0.3, **options):
    """Return the state after all pairs."""
    state = p.init(made[0][0].shape[0], like=np.zeros(1, dtype))
    for v, h in made:
        state = p.update(state, v, h, step, **options)
    return state


def assert_equal_to_rounding(got, expected, updates):
    """Compare states: each update adds a few roundings of the largest entry of its block."""
    for x, y in zip(leaves(got), leaves(expected), strict=True):
        assert x.dtype == y.dtype
        if np.issubdtype(y.dtype, np.floating):
            tolerance = 100 * updates * np.finfo(y.dtype).eps
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.max(np.abs(y)))
        else:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [6, 12, 60])
def test_updates_and_products_are_those_of_the_plain_code(kind, dtype, n, used):
    p, made = KINDS[kind](n), pairs(n, dtype, 25, seed=n)
    state = run(p, made, dtype)
    if kind != "all-shifts" or n <= orbit_update.LARGEST:
        assert sum(used) == 25 - kind.startswith("dense")  # whose first, which sets the scale, is plain
    with kernels.off():
        plain = run(p, made, dtype)
        expected = p.precondition(plain, made[0][1])
    assert_equal_to_rounding(state, plain, 25)
    got = p.precondition(plain, made[0][1])
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=50 * np.finfo(dtype).eps * np.max(np.abs(expected))
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    n=st.one_of(st.integers(1, 40), st.sampled_from([511, 512, 513, 1024, 1027])),
    kind=st.sampled_from(["diagonal", "xmat", "butterfly", "dense"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
    layout=st.sampled_from(["contiguous", "strided", "reversed", "column", "read-only"]),
    scale=st.sampled_from([None, 1.0]),
)
def test_any_size_and_any_layout(n, kind, dtype, seed, layout, scale):
    n += n % 2 if kind == "butterfly" else 0
    rng = np.random.default_rng(seed)
    p = KINDS[kind](n)
    state = p.init(n, like=np.zeros(1, dtype), scale=scale)
    for _ in range(3):
        v, h = rng.standard_normal((2, n)).astype(dtype)
        with kernels.off():
            plain = p.update(state, v, h, 0.2)
        state = p.update(state, *(laid_out(x, layout) for x in (v, h)), 0.2)
        assert_equal_to_rounding(state, plain, 1)
        state = plain


def laid_out(x, layout):
    """Return x with the same values elsewhere in memory."""
    if layout == "strided":
        return np.repeat(x, 2)[::2]
    if layout == "reversed":
        return x[::-1].copy()[::-1]
    if layout == "column":
        return np.asfortranarray(np.stack([x, x], axis=1))[:, 0] if x.size > 1 else x
    if layout == "read-only":
        x = x.copy()
        x.flags.writeable = False
    return x


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "klein", "dense"])
def test_in_place_gives_the_same_bits_and_keeps_the_buffers(kind):
    p, made = KINDS[kind](20), pairs(20, np.float32, 10, seed=1)
    state, expected = p.init(20, like=made[0][0]), run(p, made, np.float32)
    buffers = [id(x) for x in (*state.q.blocks, *state.held)]
    for v, h in made:
        state = p.update(state, v, h, 0.3, inplace=True)
    assert [id(x) for x in (*state.q.blocks, *state.held)] == buffers
    for x, y in zip(leaves(state), leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_update_leaves_the_old_state_alone():
    p, made = psgd.XMat(), pairs(10, np.float64, 3, seed=2)
    state = run(p, made[:2], np.float64)
    before = [x.copy() for x in leaves(state)]
    p.update(state, *made[2], 0.3)
    for x, y in zip(leaves(state), before, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["v", "h"])
def test_a_pair_that_is_not_finite_is_skipped_and_counted(bad, where):
    p, made = psgd.XMat(), pairs(9, np.float32, 3, seed=3)
    state = run(p, made[:2], np.float32)
    v, h = (x.copy() for x in made[2])
    (v if where == "v" else h)[4] = bad
    after = p.update(state, v, h, 0.3)
    assert (after.count, after.skipped) == (2, 1)
    for x, y in zip(leaves(after.q), leaves(state.q), strict=True):
        np.testing.assert_array_equal(x, y)


def test_zero_probes_are_skipped_and_zero_products_are_not():
    p, (pair,) = psgd.XMat(), pairs(8, np.float64, 1, seed=4)
    state = p.update(p.init(8, like=pair[0]), *pair, 0.3)
    zero = np.zeros(8)
    assert p.update(state, zero, zero, 0.3).skipped == 1
    grown = p.update(state, pair[0], zero, 0.3)
    assert grown.skipped == 0
    assert grown.count == 2
    with kernels.off():
        assert_equal_to_rounding(grown, p.update(state, pair[0], zero, 0.3), 1)


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "klein", "uneven", "much-damped"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scale_is_set_by_the_first_product_that_is_not_zero(kind, dtype, used):
    p, made = KINDS[kind](12), pairs(12, dtype, 4, seed=21)
    made[1] = (made[1][0], 0 * made[1][0])
    made = [(made[0][0] * np.nan, made[0][1]), made[1], made[2], made[3]]
    scaled = []
    for within in (contextlib.nullcontext, kernels.off):
        state = p.init(12, like=made[0][0])
        scaled.append([])
        with within():
            for v, h in made:
                state = p.update(state, v, h, 0.3)
                scaled[-1].append(state)
    for got, expected in zip(*scaled, strict=True):
        assert_equal_to_rounding(got, expected, 4)
    assert [bool(state.pending) for state in scaled[0]] == [True, True, False, False]
    assert used[:4] == [False, True, True, True]


def test_where_a_block_is_singular_no_scale_is_set_and_nothing_moves(used):
    p, (pair,) = psgd.XMat(), pairs(6, np.float64, 1, seed=22)
    state = p.init(6, like=pair[0])
    state.q.blocks[0][:, :, 1] = 0.0
    before = state.q.blocks[0].copy()
    with np.errstate(all="ignore"):
        for inplace in (False, True):
            after = p.update(state, *pair, 0.3, inplace=inplace)
            assert after.pending
            assert (after.count, after.skipped) == (0, 1)
            np.testing.assert_array_equal(after.q.blocks[0], before)
    assert not any(used)


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "butterfly", "klein"])
def test_a_run_in_place_allocates_nothing_of_size_n(kind):
    """From `init` on; NumPy tells tracemalloc what it allocates."""
    n = 2**20 + 4
    rng = np.random.default_rng(23)
    made = [tuple(rng.standard_normal((2, n)).astype(np.float32)) for _ in range(3)]
    p = KINDS[kind](n)
    p.precondition(run(p, made, np.float32), made[0][0])  # compiled
    state = p.init(n, like=made[0][0])
    tracemalloc.start()
    for v, h in made:
        state = p.update(state, v, h, 0.3, inplace=True)
    peak = tracemalloc.get_traced_memory()[1]
    y = p.precondition(state, made[0][0])
    peak_of_product = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n / 2  # a flag for each would be n bytes
    assert peak_of_product < y.nbytes + n / 2


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_scales_near_the_ends_of_float32(scale):
    p, made = psgd.XMat(damping=0.0), pairs(12, np.float32, 20, seed=5)
    made = [(v, h * np.float32(scale)) for v, h in made]
    state = run(p, made, np.float32)
    with kernels.off():
        assert_equal_to_rounding(state, run(p, made, np.float32), 20)
    p.check(state)


def test_a_singular_orbit_stays_and_the_others_move_on_both_paths():
    p = psgd.XMat()
    made = pairs(6, np.float64, 2, seed=6)
    state = run(p, made, np.float64)
    block = state.q.blocks[0].copy()
    block[:, :, 1] = 0.0
    state = state._replace(q=state.q._replace(blocks=(block,)))
    v, h = made[0]
    with np.errstate(all="ignore"):
        got = p.update(state, v, h, 0.3)
        with kernels.off():
            plain = p.update(state, v, h, 0.3)
    assert_equal_to_rounding(got, plain, 1)
    assert (got.count, got.skipped) == (2, 1)
    np.testing.assert_array_equal(got.q.blocks[0][:, :, 1], 0.0)
    assert np.all(np.any(got.q.blocks[0] != block, axis=(0, 1)) == [True, False, True])


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "butterfly", "klein"])
def test_many_threads_repeat_bit_for_bit_what_one_does(kind, monkeypatch):
    n = orbit_update.PARALLEL + 2 * 512 + 4
    rng = np.random.default_rng(7)
    made = [tuple(rng.standard_normal((2, n)).astype(np.float32)) for _ in range(3)]
    p = KINDS[kind](n)
    state = run(p, made, np.float32)
    again = run(p, made, np.float32)
    y = p.precondition(state, made[0][0])
    monkeypatch.setattr(orbit_update, "PARALLEL", 2 * n)
    serial = run(p, made, np.float32)
    for x, z, w in zip(leaves(state), leaves(again), leaves(serial), strict=True):
        np.testing.assert_array_equal(x, z)
        np.testing.assert_array_equal(x, w)
    np.testing.assert_array_equal(y, p.precondition(state, made[0][0]))


@pytest.mark.parametrize(
    "p",
    [
        psgd.XMat(geometry="QEQ"),
        psgd.XMat(steps="group"),
        psgd.XMat(normalizer=psgd.normalizers.Gradient()),
        psgd.Dense(geometry="QUAD"),
        psgd.Sparse(PermutationSubgroup.all_shifts(12)),
    ],
)
def test_what_has_no_kernel_goes_the_ordinary_way(p, used):
    run(p, pairs(12, np.float64, 3, seed=8), np.float64, step=0.1)
    assert not any(used)


@pytest.mark.parametrize("spoil", ["held", "gather", "block"])
def test_a_state_that_does_not_fit_never_gets_to_a_kernel(spoil, used):
    """They read and write without looking."""
    p, (pair,) = psgd.Sparse(PermutationSubgroup.klein(12)), pairs(12, np.float64, 1, seed=12)
    state = p.update(p.init(12, like=pair[0]), *pair, 0.3)
    if spoil == "held":
        state = state._replace(held=(state.held[0][:1],))
    elif spoil == "gather":
        state = state._replace(q=state.q._replace(gather=(state.q.gather[0][:3], state.q.gather[1])))
    else:
        state = state._replace(q=state.q._replace(blocks=(np.asfortranarray(state.q.blocks[0]),)))
    used.clear()
    with contextlib.suppress(ValueError, IndexError):
        p.update(state, *pair, 0.3)
    assert not any(used)


@dataclass(frozen=True)
class Gathered(OrbitGroup):
    """GL(n), of which nothing but K is said."""

    def subgroup(self, n):
        return PermutationSubgroup.all_shifts(n)


@dataclass(frozen=True)
class Plain(psgd.preconditioners.OrbitPreconditioner):
    """Fitted on it."""

    @property
    def group(self):
        return Gathered()


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_group_that_does_not_say_its_layout(n, used):
    p, made = Plain(), pairs(n, np.float64, 6, seed=n)
    state = run(p, made, np.float64)
    g = made[0][1]
    dense = p.matrix(state)
    np.testing.assert_allclose(p.precondition(state, g), dense @ g, rtol=0, atol=1e-13 * np.abs(dense).sum())
    assert used
    assert all(used)
    with kernels.off():
        assert_equal_to_rounding(state, run(p, made, np.float64), 6)


def test_bad_input_gets_the_same_message():
    p, (pair,) = psgd.XMat(), pairs(6, np.float64, 1, seed=9)
    state = p.update(p.init(6, like=pair[0]), *pair, 0.3)
    with pytest.raises(ValueError, match="`step` must lie in"):
        p.update(state, *pair, 1.0)
    with pytest.raises(ValueError, match="`h` must have the shape"):
        p.update(state, pair[0], np.stack([pair[1], pair[1]], axis=1), 0.3)
    with pytest.raises(TypeError, match="dtype"):
        p.update(state, pair[0].astype(np.float32), pair[1].astype(np.float32), 0.3)


def test_a_read_only_state_is_not_written_to():
    p, made = psgd.XMat(), pairs(6, np.float64, 2, seed=10)
    state = p.update(p.init(6, like=made[0][0]), *made[0], 0.3)
    for x in (*state.q.blocks, *state.held):
        x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        p.update(state, *made[1], 0.3, inplace=True)
    assert p.update(state, *made[1], 0.3).count == 2


def test_they_can_be_switched_off(used, monkeypatch):
    p, made = psgd.XMat(), pairs(6, np.float64, 3, seed=11)
    assert kernels.available()
    with kernels.off():
        assert not kernels.available()
        run(p, made, np.float64)
    assert not any(used)
    run(p, made, np.float64)
    assert any(used)
    used.clear()
    monkeypatch.setattr(switch, "compiled", lambda: False)
    run(p, made, np.float64)
    assert not any(used)


def test_the_environment_switches_them_off():
    code = "import sys, psgd_core; print(psgd_core.kernels.available(), 'numba' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PSGD_KERNELS": "off"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["False", "False"]


# -- PyTorch's tensors, in the memory that they have -------------------------------------------------------


def tensors(torch, tree):
    """Return a tree of NumPy arrays as tensors with memory of their own."""
    if isinstance(tree, tuple):
        parts = [tensors(torch, x) for x in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return torch.from_numpy(np.array(tree))


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "butterfly", "klein", "uneven", "dense"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inplace", [False, True])
def test_tensors_get_the_same_bits_as_arrays(kind, dtype, inplace, used):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    p, made = KINDS[kind](12), pairs(12, dtype, 5, seed=31)
    expected = run(p, made, dtype)
    state = p.init(12, like=torch.zeros(1, dtype=getattr(torch, np.dtype(dtype).name)))
    first = made[0] if kind == "dense" else None  # set the scale alike: a dense one's is for the plain code
    if first is not None:
        state = tensors(torch, run(p, made[:1], dtype))
    used.clear()
    for v, h in made[first is not None :]:
        old = state
        state = p.update(state, torch.from_numpy(v), torch.from_numpy(h), 0.3, inplace=inplace)
        assert (state.q.blocks[0] is old.q.blocks[0]) == inplace
    assert used
    assert all(used)
    assert all(type(x) is torch.Tensor for x in leaves(state))
    for x, y in zip(leaves(state), leaves(expected), strict=True):
        np.testing.assert_array_equal(x.numpy(), y)
    product = p.precondition(state, torch.from_numpy(made[0][1]))
    assert type(product) is torch.Tensor
    np.testing.assert_array_equal(product.numpy(), p.precondition(expected, made[0][1]))


def test_a_tensor_overwritten_in_place_cannot_be_differentiated_through_any_more():
    """Autograd saves tensors and counts their versions; memory written behind its back would go unnoticed."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    p, (pair, other) = psgd.XMat(), pairs(6, np.float64, 2, seed=32)
    state = p.update(p.init(6, like=torch.zeros(1, dtype=torch.float64)), *map(torch.from_numpy, pair), 0.3)
    g = torch.from_numpy(pair[1]).requires_grad_()
    product = p.precondition(state, g)
    assert product.requires_grad
    p.update(state, *map(torch.from_numpy, other), 0.3, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_gradients_flow_through_a_product_as_they_did():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    p, (pair,) = psgd.XMat(), pairs(7, np.float64, 1, seed=33)
    state = p.update(p.init(7, like=torch.zeros(1, dtype=torch.float64)), *map(torch.from_numpy, pair), 0.3)
    g = torch.from_numpy(pair[1]).requires_grad_()
    (p.precondition(state, g) @ g.detach()).backward()
    np.testing.assert_allclose(g.grad.numpy(), p.matrix(state).numpy() @ pair[1], rtol=1e-12)


@pytest.mark.filterwarnings("ignore:Converting a tensor", "ignore:`torch.jit.trace")
def test_transformed_and_foreign_tensors_go_the_ordinary_way(used):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch.fx.experimental.proxy_tensor import make_fx

    p, made = psgd.XMat(), pairs(6, np.float64, 3, seed=34)
    v, h = (torch.from_numpy(np.stack(x)) for x in zip(*made, strict=True))
    state = tensors(torch, run(p, made[:1], np.float64))

    def updated(v, h):
        return p.update(state, v, h, 0.3).q.blocks[0]

    expected = torch.stack([updated(*pair) for pair in zip(v, h, strict=True)])
    assert all(used)
    used.clear()
    torch.testing.assert_close(torch.func.vmap(updated)(v, h), expected)
    torch.testing.assert_close(torch.func.functionalize(updated)(v[0], h[0]), expected[0])
    torch.testing.assert_close(torch.func.jvp(updated, (v[0], h[0]), (v[1], h[1]))[0], expected[0])
    graph = make_fx(updated)(v[0], h[0])
    torch.testing.assert_close(graph(v[1], h[1]), expected[1])
    traced = torch.jit.trace(updated, (v[0], h[0]), check_trace=False)
    torch.testing.assert_close(traced(v[1], h[1]), expected[1])
    parameter = torch.nn.Parameter(v[0])
    torch.testing.assert_close(updated(parameter, h[0]), expected[0])
    torch.testing.assert_close(updated(v[0].requires_grad_(), h[0]), expected[0])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(h[0], h[1])
        assert torch.autograd.forward_ad.unpack_dual(updated(v[1], dual)).tangent is not None
    assert not any(used)


def test_tensors_that_are_strided_or_mixed_with_arrays(used):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    p, made = psgd.XMat(), pairs(8, np.float32, 2, seed=35)
    state = tensors(torch, run(p, made[:1], np.float32))
    v, h = map(torch.from_numpy, made[1])
    expected = p.update(state, v, h, 0.3)
    used.clear()
    got = p.update(state, torch.stack([v, v], dim=1)[:, 0], torch.repeat_interleave(h, 2)[::2], 0.3)
    assert used == [False]
    for x, y in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(x, y)
    with pytest.raises(TypeError, match="must come from one library"):
        p.update(state, v, made[1][1], 0.3)
    with pytest.raises(TypeError, match="must come from one library"):
        p.update(state, made[1][0], h, 0.3)
    with pytest.raises(TypeError, match="must come from one library"):
        p.precondition(state, made[1][0])


def test_what_is_kept_on_disk_for_one_thread_is_not_taken_for_all():
    """Numba finds it by the name of the function, whatever the options are."""
    from psgd_core.kernels.cpu import orbit_passes

    for name in ("usable", "update", "precondition"):
        one, all_threads = getattr(orbit_passes, name), getattr(orbit_passes, f"{name}_parallel")
        all_threads = all_threads.__wrapped__
        assert all_threads.targetoptions["parallel"]
        assert not one.targetoptions.get("parallel")
        names = {kernel._cache._impl.filename_base for kernel in (one, all_threads)}
        assert len(names) == 2
