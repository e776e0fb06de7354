"""How large a step is in JAX, beside the same written by hand; and reductions of short arrays."""

from __future__ import annotations

import numpy as np
import pytest
from test_tools import tool

import psgd_core as psgd
from psgd_core.arrays import short, vectors
from psgd_core.arrays.sums import norm

jax = pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax.numpy as jnp  # noqa: E402

from psgd_core.adapters import jax as adapter  # noqa: E402

jax_step = tool("jax_step")


MOST = {"LowRank": 2.6, "Diagonal": 4.4, "Kronecker": 4.6}
"""Operations over those by hand, of which the model has most; by the first word of a name."""


@pytest.mark.parametrize("name", jax_step.CASES)
def test_a_step_has_no_more_operations_than_so_many_times_those_by_hand(name):
    """What is more: the first scale, damping, checks, counts, and the change of gauge; for each leaf."""
    ours, by_hand = (jax_step.count(make()) for make in jax_step.CASES[name])
    assert by_hand < ours < MOST[name.partition(",")[0].partition("(")[0]] * by_hand


def test_leaves_of_one_kind_are_traced_once(monkeypatch):
    """So many equal layers cost no more time before XLA than one."""
    seen, kind = [], psgd.Diagonal
    advance = kind._advance

    def counted(self, state, v, *rest):
        seen.append(v.shape)
        return advance(self, state, v, *rest)

    monkeypatch.setattr(kind, "_advance", counted)
    jax.clear_caches()
    case = jax_step.of_adapter(kind())
    jax.make_jaxpr(case.step)(*jax_step.arguments(case))
    sizes = [w.size for w in case.params.values()]
    assert len(set(sizes)) < len(sizes)
    assert sorted(seen) == sorted({(size, 1) for size in sizes})


# -- short arrays ----------------------------------------------------------------------------------------

VALUES = {
    "one": [-3.0],
    "zeros": [0.0, 0.0],
    "large": [2e38, -2e38, 1e-30],
    "small": [1e-30, -3e-30],
    "some": np.random.default_rng(0).standard_normal(1000).tolist(),
    "NaN alone": [float("nan")],
    "infinite alone": [-float("inf")],
    "NaN": [1.0, float("nan"), 2.0],
    "infinite": [1.0, -float("inf"), 2.0],
}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_short_reductions(values, jitted):
    x, exact = jnp.asarray(values, jnp.float32), np.asarray(values, np.float64)
    assert short.is_short(x)
    functions = [norm, vectors.largest, vectors.finite, vectors.finite_here]
    size, top, *finite = (jax.jit(f)(x) if jitted else f(x) for f in functions)
    usable = np.isfinite(exact).all()
    assert [bool(f) for f in finite] == [usable] * 2
    assert bool(jnp.isfinite(size)) == bool(jnp.isfinite(top)) == usable
    if usable:
        tolerance = 4 * np.sqrt(exact.size) * np.finfo(np.float32).eps
        np.testing.assert_allclose(size, np.linalg.norm(exact), rtol=tolerance)
        assert float(top) == np.abs(exact).astype(np.float32).max()


def test_norms_of_several_parts_short_and_long(rng):
    parts = [rng.standard_normal(shape) for shape in [(3, 4), (), (2 * short.SHORT,), (7,)]]
    got = norm(*[jnp.asarray(part, jnp.float32) for part in parts])
    exact = np.linalg.norm(np.concatenate([part.ravel() for part in parts]))
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_norms_can_be_differentiated_and_batched(rng):
    x = rng.standard_normal((5, 6)).astype(np.float32)
    wanted = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(jax.vmap(jax.grad(norm))(jnp.asarray(x)), wanted, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.jacfwd(norm))(jnp.asarray(x)), wanted, rtol=1e-5)
    np.testing.assert_array_equal(jax.grad(norm)(jnp.zeros(3)), np.zeros(3))


def test_updates_can_be_differentiated_by_the_gradient(rng):
    """P g is linear in g, and P symmetric: the derivative of w P g is P w."""
    optimizer = adapter.scale_by_psgd(psgd.Diagonal())
    g, w, v, h = (jnp.asarray(rng.standard_normal(50), jnp.float32) for _ in range(4))
    state = optimizer.init(g)

    def moved(g):
        return optimizer.update(g, state, hvp=h, probe=v)[0]

    np.testing.assert_allclose(jax.grad(lambda g: w @ moved(g))(g), moved(w), rtol=1e-5)


def test_a_short_norm_is_one_loop():
    """XLA takes other sums of so many numbers apart: then this would say nothing any more."""

    def loops(f):
        return jax_step.loops(jax.jit(f).lower(jnp.ones(1000)).compile())

    assert loops(norm) <= 2
    assert loops(lambda x: (norm(x), vectors.largest(x), vectors.finite(x))) <= 5
