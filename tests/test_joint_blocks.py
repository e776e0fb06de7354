"""Blocks that move together are each fitted as by itself, on every library; tensors of the host by NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fitted_pairs import leaves
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import compiled_jax_only

import psgd_core as psgd
from psgd_core import Blocks, Diagonal, Kronecker, kernels, normalizers
from psgd_core.preconditioners import joint
from psgd_core.preconditioners.counters import SHRINK

SHAPES = [(3,), (4, 6), (5,), (4, 6), (2, 2, 3), (), (4, 6), (2, 2, 3), (7, 3)]


def made(shapes=SHAPES, choose=None):
    return Blocks.of([np.zeros(shape) for shape in shapes], **({} if choose is None else {"choose": choose}))


def places(p):
    edges = np.cumsum([0, *(n for n, _ in p.parts)])
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def each_alone(p, states, v, h, step):
    """Update each block by itself, as its own preconditioner does; v may be None."""
    return [
        part.update(state, None if v is None else v[here], h[here], step)
        for (_, part), state, here in zip(p.parts, states, places(p), strict=True)
    ]


def assert_same(p, state, alone, g, tol, numpy=np.asarray):
    got = numpy(state)
    for part, other, (n, own), here in zip(got.parts, alone, p.parts, places(p), strict=True):
        for name in ("pending", "off_scale", "count", "skipped"):
            assert int(getattr(part, name)) == int(getattr(other, name)), (own, name)
        for x, y in zip((part.damping, *part.held), (other.damping, *other.held), strict=True):
            np.testing.assert_allclose(x, y, rtol=tol)
        expected, found = (own.precondition(x, g[here].astype(x.damping.dtype)) for x in (other, part))
        np.testing.assert_allclose(found, expected, atol=tol * abs(expected).max(), err_msg=f"{own} {n}")


def on_numpy(backend):
    """Return a function that takes a state to NumPy."""
    return lambda state: psgd.arrays.trees.mapped(backend.numpy, state)


@compiled_jax_only
def test_blocks_that_move_together_end_where_each_does_alone(backend):
    """Through the first scale, a block without products, jumps of single blocks, and pairs left out."""
    p, rng = made(), np.random.default_rng(5)
    here = places(p)
    curvature = np.exp(rng.uniform(-1, 1, p.n))
    like = np.zeros(1, backend.dtype_name)
    alone = [part.init(n, like) for n, part in p.parts]
    state = p.init(p.n, backend.asarray(like))
    update = backend.jit(lambda s, v, h: p.update(s, v, h, 0.2))
    for i in range(5 + 2 * SHRINK):
        v = rng.standard_normal((p.n, 2))
        h = curvature[:, None] * v
        if i == 0:
            h[here[1]] = h[here[2]] = 0.0  # their scales stay due
        if i >= 4:
            h[here[0]] *= 1e4  # one vector, and one of three tensors of a shape
            h[here[3]] *= 1e4
        if i == 2:
            h = h * np.nan
        v, h = v.astype(like.dtype), h.astype(like.dtype)
        alone = each_alone(p, alone, v, h, 0.2)
        state = update(state, backend.asarray(v), backend.asarray(h))
    assert int(on_numpy(backend)(state).skipped) == 1
    assert_same(p, state, alone, rng.standard_normal(p.n), 3e4 * backend.eps, on_numpy(backend))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@compiled_jax_only
def test_what_cannot_move_holds_back_nothing_else(backend):
    p, rng = made(), np.random.default_rng(6)
    here, like = places(p), np.zeros(1, backend.dtype_name)
    v, h = rng.standard_normal((2, p.n)).astype(like.dtype)
    size = np.finfo(backend.dtype_name).max
    h[here[0]] = h[here[3]] = 0.1 * size  # Q h is not finite there
    state = p.init(p.n, backend.asarray(like), scale=30.0)
    new = backend.jit(lambda s, v, h: p.update(s, v, h, 0.2))(state, backend.asarray(v), backend.asarray(h))
    new = on_numpy(backend)(new)
    counts = [int(part.count) for part in new.parts]
    assert [int(part.skipped) for part in new.parts] == [1 - count for count in counts]
    assert counts == [0, 1, 1, 0, 1, 1, 1, 1, 1]
    for i in (1, 2, 6):
        n, part = p.parts[i]
        alone = part.init(n, like, scale=30.0)
        alone = part.update(alone, v[here[i]], h[here[i]], 0.2)
        got, expected = (part.precondition(s, np.ones(n, s.damping.dtype)) for s in (new.parts[i], alone))
        np.testing.assert_allclose(got, expected, rtol=1e3 * backend.eps)


CHOICES = {
    "dense": lambda s: Kronecker(s, "dense", normalizer=normalizers.Gradient()),
    "triangular": lambda s: Kronecker(s, "triangular", damping=0.1),
    "mixed": lambda s: Kronecker(s, ("diagonal", "affine"), normalizer=normalizers.Sample()),
    "normalization": lambda s: Kronecker(s, ("dense", "normalization")),
    "lyapunov": lambda s: Kronecker(s, "dense", geometry="Lyapunov"),
    "vectors": lambda s: Diagonal(damping=0.1, geometry="QUAD"),
    "undamped": lambda s: Diagonal(damping=0, normalizer=normalizers.Sample()),
    "one step": lambda s: Diagonal(steps="group"),
}


@given(st.sampled_from(sorted(CHOICES)), st.integers(0, 2**31), st.sampled_from([1, 3]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_all_that_may_be_joined_and_what_may_not(name, seed, k, whitens):
    rng = np.random.default_rng(seed)
    shapes = [tuple(int(s) for s in rng.integers(1, 6, 2)) for _ in range(rng.integers(1, 4))]
    shapes = [shapes[i] for i in rng.integers(0, len(shapes), 6)]
    p = made(shapes, CHOICES[name])
    alone = [part.init(n, np.zeros(1)) for n, part in p.parts]
    state = p.init(p.n, np.zeros(1))
    for _ in range(4):
        v, h = rng.standard_normal((2, p.n, k))
        v = None if whitens else v
        alone, state = each_alone(p, alone, v, h, 0.3), p.update(state, v, h, 0.3)
    assert_same(p, state, alone, rng.standard_normal(p.n), 1e-9, lambda x: x)


@pytest.mark.parametrize("shape", [(70, 80), (130, 140), (33, 2, 35)])
def test_stacks_of_every_size_of_factor(shape, monkeypatch):
    """On both sides of the sizes from which products, solves and bounds go another way."""
    p, rng = made([shape, (5,), shape]), np.random.default_rng(7)
    assert [len(members) for _, members in p._joint] == [2]
    alone, state = [part.init(n, np.zeros(1)) for n, part in p.parts], p.init(p.n, np.zeros(1))
    for _ in range(3):
        v, h = rng.standard_normal((2, p.n))
        alone, state = each_alone(p, alone, v, h, 0.3), p.update(state, v, h, 0.3)
    assert_same(p, state, alone, rng.standard_normal(p.n), 1e-10, lambda x: x)


def test_large_tensors_and_other_classes_move_alone():
    class Own(Kronecker):
        pass

    large = Kronecker((300, 300))
    assert large.n > joint.LARGEST
    skewed, other = Kronecker((9, 2), "dense"), Kronecker((2, 2), geometry="QUAD")
    for part in (large, Own((2, 2)), psgd.LowRank(1), skewed, other):
        assert joint.together(part) is None
    assert joint.together(Kronecker((2, 2))) is joint.stacked


def test_consuming_a_state_gives_the_same_bits(rng):
    p = made()
    old = p.init(p.n, np.zeros(1), scale=1.0)
    for _ in range(3):
        v, h = rng.standard_normal((2, p.n))
        new = p.update(old, v, h, 0.2)
        old = p.update(old, v, h, 0.2, inplace=True)
        for x, y in zip(leaves(new), leaves(old), strict=True):
            np.testing.assert_array_equal(x, y)


# -- PyTorch's tensors on the host ---------------------------------------------------------------------------

FITTED = {"blocks": made(), "kronecker": Kronecker((12, 9)), "scalar": Kronecker(())}


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("inplace", [False, True])
def test_numpy_computes_for_tensors_what_torch_does(name, inplace, rng):
    torch = pytest.importorskip("torch")
    p = FITTED[name]
    own = there = p.init(p.n, torch.zeros(1, dtype=torch.float64))
    there = psgd.arrays.trees.mapped(torch.clone, there)
    for i in range(4):
        v, h = (torch.from_numpy(x) for x in rng.standard_normal((2, p.n)))
        h = h * float("nan") if i == 2 else h
        with kernels.off():
            there = p.update(there, v, h, torch.tensor(0.3, dtype=torch.float64))
        before = leaves(own)
        own = p.update(own, v, h, torch.tensor(0.3, dtype=torch.float64), inplace=inplace)
        kept = [x is y for x, y in zip(before, leaves(own), strict=True) if x.ndim > 0]
        assert all(kept) if inplace else not any(kept)
    for x, y in zip(leaves(own), leaves(there), strict=True):
        assert type(x) is torch.Tensor
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-10, atol=1e-12)
    for verb in ("precondition", "apply", "apply_transpose", "solve", "solve_transpose"):
        with kernels.off():
            expected = getattr(p, verb)(there, h + v)
        np.testing.assert_allclose(getattr(p, verb)(own, h + v), expected, rtol=1e-9, equal_nan=True)


def test_what_autograd_records_stays_with_torch(rng):
    torch = pytest.importorskip("torch")
    p = Kronecker((3, 4))
    state = p.init(p.n, torch.zeros(1, dtype=torch.float64), scale=2.0)
    g = torch.from_numpy(rng.standard_normal(12)).requires_grad_()
    (slope,) = torch.autograd.grad(p.precondition(state, g).sum(), g)
    np.testing.assert_allclose(slope, np.full(12, 4.0))
    taught = state._replace(factors=tuple(q.clone().requires_grad_() for q in state.factors))
    assert p.precondition(taught, torch.ones(12, dtype=torch.float64)).requires_grad
    assert not p.precondition(state, torch.ones(12, dtype=torch.float64)).requires_grad


def test_errors_speak_of_tensors():
    torch = pytest.importorskip("torch")
    p = made()
    state = p.init(p.n, torch.zeros(1))
    with pytest.raises(TypeError, match=r"torch\.float64"):
        p.precondition(state, torch.zeros(p.n, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"shape \(\d+,\)"):
        p.update(state, torch.zeros(3), torch.zeros(3), 0.1)
