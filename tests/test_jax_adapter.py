"""PSGD as optax transformations: the core's numbers, under jit, scan and vmap, with nothing on the host."""

from __future__ import annotations

import functools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")

import jax.numpy as jnp  # noqa: E402

import psgd_core as psgd  # noqa: E402
from psgd_core import descent  # noqa: E402
from psgd_core.adapters import jax as adapter  # noqa: E402
from psgd_core.descent import clips  # noqa: E402

PARAMS = {
    "w": np.linspace(-1.0, 1.0, 6).reshape(3, 2).astype("float32"),
    "b": np.asarray(0.5, "float32"),
}
BATCH = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")


@pytest.fixture(autouse=True)
def _quick_to_compile():
    """Nearly all the time here is XLA's, which the same numbers do not need."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def params():
    return jax.tree.map(jnp.asarray, PARAMS)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def loss(p, batch):
    y = jnp.tanh(batch @ p["w"] + p["b"])
    return jnp.mean((jnp.sum(y, axis=1) - batch[:, 0]) ** 2) + 1e-3 * jnp.sum(p["w"] ** 4)


def training(optimizer, ask=None):
    """Return a step under which everything is traced: (params, state), key -> (params, state), value."""
    ask = adapter.value_grad_hvp(loss) if ask is None else ask

    def step(carry, key):
        p, state = carry
        value, grad, hvp, probe = ask(p, key, BATCH)
        updates, state = optimizer.update(grad, state, p, hvp=hvp, probe=probe)
        return (optax.apply_updates(p, updates), state), value

    return step


def allclose(x, y, **tolerance):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerance)


# -- the helper --------------------------------------------------------------------------------------------


def test_products_against_dense_derivatives(x64):
    p = {"x": jnp.asarray([0.3, -0.2, 0.9]), "y": jnp.asarray([[1.5], [0.4]])}

    def f(p, scale):
        return scale * jnp.sum(jnp.sin(p["x"])) * jnp.sum(p["y"] ** 3) + jnp.prod(p["x"])

    flat, back = jax.flatten_util.ravel_pytree(p)
    key = jax.random.key(3)
    value, grad, hvp, probe = jax.jit(adapter.value_grad_hvp(f))(p, key, 2.0)
    hessian = jax.jit(jax.hessian(lambda x: f(back(x), 2.0)))(flat)
    ravel = lambda tree: np.asarray(jax.flatten_util.ravel_pytree(tree)[0])  # noqa: E731
    np.testing.assert_allclose(value, f(p, 2.0), rtol=1e-14)
    np.testing.assert_allclose(ravel(grad), jax.jit(jax.grad(lambda x: f(back(x), 2.0)))(flat), rtol=1e-13)
    np.testing.assert_allclose(ravel(hvp), hessian @ ravel(probe), rtol=1e-12, atol=1e-14)

    ask = jax.jit(adapter.value_grad_hvp(f, k=4, sampler=jax.random.rademacher))
    many = ask(p, key, scale=2.0)
    assert many.probe["y"].shape == (4, 2, 1)
    assert set(np.unique(many.probe["x"])) == {-1.0, 1.0}
    for i in range(4):
        v, h = (ravel(jax.tree.map(lambda x: x[i], t)) for t in (many.probe, many.hvp))  # noqa: B023
        np.testing.assert_allclose(h, hessian @ v, rtol=1e-12, atol=1e-14)
    allclose(many.grad, grad, rtol=1e-13)


def test_products_with_aux(params):
    ask = adapter.value_grad_hvp(lambda p, b: (loss(p, b), {"n": b.shape[0]}), has_aux=True)
    (value, aux), grad, hvp, probe = jax.jit(ask)(params, jax.random.key(0), BATCH)
    plain = jax.jit(adapter.value_grad_hvp(loss))(params, jax.random.key(0), BATCH)
    assert aux == {"n": 16}
    allclose((value, grad, hvp, probe), tuple(plain), rtol=1e-6, atol=1e-7)


# -- the core's numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preconditioner", "settings"),
    [
        (psgd.Diagonal(), {"step": 0.5}),
        (psgd.LowRank(2), {"momentum": 0.8, "clip": clips.AdaptiveNorm()}),
        (psgd.XMat(), {"clip": (clips.Norm(0.4), clips.Elements(0.1)), "momentum": 0.5}),
        (psgd.Dense(), {"step": psgd.schedules.Exponential(0.9, 0.1, over=10)}),
        (psgd.Diagonal(), {"step": 0.5, "replay": psgd.Replay(4, 3, 2)}),
    ],
    ids=["plain", "momentum", "clips", "schedule", "replay"],
)
def test_one_leaf_is_the_core(x64, preconditioner, settings):
    n = 6
    rng = np.random.default_rng(5)
    a = rng.standard_normal((n, n))
    hessian = a + a.T
    core = psgd.PSGD(
        preconditioner,
        lr=0.05,
        weight_decay=0.3,
        **{("step_size" if k == "step" else k): v for k, v in settings.items()},
    )
    optimizer = adapter.psgd(
        0.05, preconditioner, weight_decay=0.3, **{"clip": None, "momentum": 0.0, **settings}
    )
    x = rng.standard_normal(n)
    p, state = jnp.asarray(x.reshape(2, 3)), core.init(x)
    ours = optimizer.init(p)
    update = jax.jit(optimizer.update)
    for v in rng.standard_normal((15, n)):
        g, h = hessian @ x, hessian @ v
        x, state = core.update(state, x, g, pair=(v, h))
        grads = jnp.reshape(hessian @ p.reshape(-1), (2, 3))
        pair = (jnp.asarray(v.reshape(2, 3)), jnp.asarray(h.reshape(2, 3)))
        updates, ours = update(grads, ours, p, hvp=pair)
        p = optax.apply_updates(p, updates)
    np.testing.assert_allclose(p.reshape(-1), x, rtol=1e-11, atol=1e-12)


def test_all_leaves_in_one_vector_are_the_core(params):
    core = psgd.PSGD(psgd.XMat(), lr=0.1, momentum=0.9, clip=clips.AdaptiveNorm())
    optimizer = adapter.psgd(0.1, psgd.XMat(), per_leaf=False)
    ask = jax.jit(adapter.value_grad_hvp(loss))
    x, state, ours = PARAMS, core.init(PARAMS), optimizer.init(params)
    p, update = params, jax.jit(optimizer.update)
    for key in jax.random.split(jax.random.key(1), 5):
        _, grad, hvp, probe = ask(x, key, BATCH)
        updates, ours = update(grad, ours, p, hvp=hvp, probe=probe)
        p = optax.apply_updates(p, updates)
        grad, hvp, probe = jax.tree.map(np.asarray, (grad, hvp, probe))
        x, state = core.update(state, x, grad, pair=(probe, hvp))
    allclose(p, x, rtol=1e-5, atol=1e-6)
    assert isinstance(ours[0].leaves, adapter.LeafState)


def test_each_leaf_has_a_preconditioner_of_its_own(params):
    """Leaves of a function that is their sum go their own ways, as if alone."""
    f = lambda p: jnp.sum(jnp.cosh(2 * p["w"])) + jnp.sum(p["b"] ** 4)  # noqa: E731
    choose = lambda leaf: psgd.LowRank(3) if leaf.size > 4 else psgd.Dense()  # noqa: E731
    optimizer = adapter.scale_by_psgd(choose)
    _, grad, hvp, probe = jax.jit(adapter.value_grad_hvp(f))(params, jax.random.key(0))
    updates, state = optimizer.update(grad, optimizer.init(params), hvp=hvp, probe=probe)
    assert state.leaves["w"].preconditioner.u.shape == (3, 6)
    for name, p in (("w", psgd.LowRank(3)), ("b", psgd.Dense())):
        v, h, g = (np.asarray(t[name]).reshape(-1) for t in (probe, hvp, grad))
        fitted = p.update(p.init(v.shape[0], v), v, h, 0.1)
        np.testing.assert_allclose(updates[name].reshape(-1), p.precondition(fitted, g), rtol=1e-4)


def test_a_norm_is_that_of_all_leaves(params):
    grads = jax.tree.map(lambda x: 10 * jnp.ones_like(x), params)
    for clip in (0.5, (clips.Norm(0.5), clips.Elements(0.01))):
        optimizer = adapter.scale_by_psgd(psgd.Diagonal(), clip=clip)
        updates, _ = optimizer.update(grads, optimizer.init(params), hvp=grads, probe=grads)
        if clip == 0.5:
            np.testing.assert_allclose(
                sum(float(jnp.sum(u**2)) for u in jax.tree.leaves(updates)) ** 0.5, 0.5, rtol=1e-5
            )
        else:
            assert float(max(jnp.max(jnp.abs(u)) for u in jax.tree.leaves(updates))) <= 0.01


# -- the forms of a pair -----------------------------------------------------------------------------------


def test_forms_of_a_pair(params):
    optimizer = adapter.scale_by_psgd(psgd.Diagonal())
    state = optimizer.init(params)
    _, grad, hvp, probe = adapter.value_grad_hvp(loss)(params, jax.random.key(2), BATCH)
    update = functools.partial(optimizer.update, grad, state)
    expected = update(hvp=hvp, probe=probe)[0]
    allclose(update(hvp=(probe, hvp))[0], expected, rtol=1e-6)
    one = jax.tree.map(lambda x: x[None], (hvp, probe))
    allclose(update(hvp=one[0], probe=one[1])[0], expected, rtol=1e-6)
    seen = []
    lazily = jax.jit(lambda: update(hvp=lambda v: seen.append(v) or hvp, probe=probe))
    allclose(lazily()[0], expected, rtol=1e-6)
    jax.eval_shape(lambda: update(hvp=lambda v: seen.append(v) or hvp))
    assert seen[0] is probe
    assert jax.tree.map(jnp.shape, seen[1]) == jax.tree.map(jnp.shape, params)


def test_pairs_of_a_tree_that_is_a_tuple_of_two():
    params = (jnp.ones(3), jnp.ones(2))
    optimizer = adapter.scale_by_psgd(psgd.Diagonal())
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="`probe` must be given with `hvp`"):
        optimizer.update(params, state, hvp=params)
    optimizer.update(params, state, hvp=(params, params))


def test_without_products_gradients_are_whitened(x64):
    """P converges to ``E[g g^T]^{-1/2}``, here on a diagonal."""
    sizes = jnp.asarray([0.1, 1.0, 10.0])
    optimizer = adapter.scale_by_psgd(psgd.Diagonal(), psgd.schedules.Exponential(0.5, 0.01, over=2000))

    def step(state, key):
        g = sizes * jax.random.normal(key, (3,))
        return optimizer.update(g, state)[1], None

    keys = jax.random.split(jax.random.key(0), 3000)
    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, keys))(optimizer.init(jnp.zeros(3)))
    p = psgd.Diagonal().precondition(state.leaves.preconditioner, jnp.ones(3))
    np.testing.assert_allclose(p, 1 / sizes, rtol=0.15)


def test_given_probes_whiten_too(params):
    optimizer = adapter.scale_by_psgd(psgd.XMat())
    grad, probe = (adapter.draw_probe(jax.random.key(i), params) for i in (0, 1))
    _, state = optimizer.update(grad, optimizer.init(params), probe=probe)
    for name in params:
        v, g = (np.asarray(t[name]).reshape(-1) for t in (probe, grad))
        fitted = psgd.XMat().update(psgd.XMat().init(v.shape[0], v), v, g, 0.1)
        allclose(state.leaves[name].preconditioner.q.blocks, fitted.q.blocks, rtol=1e-4, atol=1e-6)


# -- when P is fitted --------------------------------------------------------------------------------------


def fits(optimizer, params, count):
    """Return the updates in which a callable product was asked for, counted by the preconditioner."""
    step = lambda s, _: (optimizer.update(params, s, hvp=lambda v: v)[1],) * 2  # noqa: E731
    _, states = jax.jit(lambda s: jax.lax.scan(step, s, length=count))(optimizer.init(params))
    done = np.asarray(states.leaves.preconditioner.count)
    return np.flatnonzero(np.diff(np.concatenate([[0], done])))


def test_every_and_probability():
    x = jnp.ones(3)
    make = functools.partial(adapter.scale_by_psgd, psgd.Diagonal())
    assert list(fits(make(every=4), x, 13)) == [0, 4, 8, 12]
    some = fits(make(probability=0.3, key=7), x, 400)
    assert some[0] == 0
    assert abs(len(some) - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5
    assert list(fits(make(probability=0.3, key=7), x, 400)) == list(some)
    fading = fits(make(probability=psgd.schedules.Exponential(1.0, 0.01, over=50)), x, 400)
    assert 3 < len(fading) < 30  # 15 expected, 4 the deviation


def test_products_are_skipped_with_the_fit():
    """What is asked in every fourth update is inside a branch, not computed and thrown away."""
    optimizer = adapter.scale_by_psgd(psgd.Diagonal(), every=4)
    x = jnp.ones(3)
    update = lambda g, s: optimizer.update(g, s, hvp=jnp.sinh)  # noqa: E731
    jaxpr = jax.make_jaxpr(update)(x, optimizer.init(x))
    assert "sinh" not in {e.primitive.name for e in jaxpr.jaxpr.eqns}
    assert "sinh" in set(primitives(jaxpr.jaxpr))


# -- tracing -----------------------------------------------------------------------------------------------


def primitives(jaxpr):
    """Yield the names of all primitives of a jaxpr, and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


FORBIDDEN = ("callback", "device_put", "infeed", "outfeed", "host", "io_")


@pytest.mark.parametrize(
    "preconditioner",
    [psgd.Diagonal(), psgd.XMat(), psgd.LowRank(2), psgd.Dense()],
    ids=lambda p: type(p).__name__,
)
def test_a_step_stays_on_the_device(preconditioner):
    p = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    optimizer = adapter.psgd(0.1, preconditioner, every=2, weight_decay=0.1)
    state = optimizer.init(p)
    jaxpr = jax.make_jaxpr(training(optimizer))((p, state), jax.random.key(0))
    names = set(primitives(jaxpr.jaxpr))
    assert {"cond", "tanh", "dot_general"} <= names  # the walk goes down into branches and the loss
    assert not [name for name in names if any(bad in name for bad in FORBIDDEN)]


def test_the_walk_finds_callbacks():
    def hidden(x):
        back = lambda x: jax.pure_callback(np.sin, x, x)  # noqa: E731
        return jax.lax.cond(x > 0, back, lambda x: x, x)

    assert "pure_callback" in set(primitives(jax.make_jaxpr(hidden)(1.0).jaxpr))


def test_scan_and_vmap_are_separate_runs(params):
    """Ten seeds under vmap and scan are ten runs, one step at a time."""
    optimizer = adapter.psgd(0.05, psgd.XMat(), probability=0.5, weight_decay=0.1)
    step, seeds, steps = training(optimizer), range(10), 6

    def run(seed):
        key = jax.random.key(seed)
        state = optimizer.init(params)
        state = (state[0]._replace(key=jax.random.key_data(jax.random.fold_in(key, 1))), *state[1:])
        keys = jax.random.split(key, steps)
        return (params, state), keys

    many = jax.jit(jax.vmap(lambda seed: jax.lax.scan(step, *run(seed))))
    (together, states), values = many(jnp.asarray(list(seeds)))
    one = jax.jit(step)
    for seed in seeds:
        carry, keys = run(seed)
        for i, key in enumerate(keys):
            carry, value = one(carry, key)
            np.testing.assert_allclose(values[seed, i], value, rtol=2e-5)
        allclose(jax.tree.map(lambda x: x[seed], together), carry[0], rtol=1e-4, atol=1e-5)  # noqa: B023
        assert states[0].count[seed] == steps
    assert np.unique(np.asarray(values)[:, -1]).size == 10  # the seeds do differ


def test_state_is_a_pytree_that_goes_on(params):
    """Flattened, through NumPy and back: the run goes on bit for bit."""
    optimizer = adapter.psgd(0.05, psgd.LowRank(0), momentum=0.5)
    step, keys = jax.jit(training(optimizer)), jax.random.split(jax.random.key(0), 4)
    carry = (params, optimizer.init(params))
    for key in keys[:2]:
        carry, _ = step(carry, key)
    leaves, structure = jax.tree.flatten(carry)
    again = jax.tree.unflatten(structure, [jnp.asarray(np.asarray(x).copy()) for x in leaves])
    for key in keys[2:]:
        carry, _ = step(carry, key)
        again, _ = step(again, key)
    allclose(again, carry, rtol=0, atol=0)


# -- optax's own tools -------------------------------------------------------------------------------------


def test_works_with_optax(params):
    """Partitions (which mask), accumulation, injected hyperparameters, schedules."""
    tools = {
        "partition": optax.partition(
            {"matrix": optax.MultiSteps(adapter.psgd(0.1, psgd.Diagonal()), 2), "other": optax.adam(1e-2)},
            {"w": "matrix", "b": "other"},
        ),
        "inject": optax.inject_hyperparams(adapter.psgd, static_args=("momentum", "every"))(
            learning_rate=optax.cosine_decay_schedule(0.1, 10), step=0.2, preconditioner=psgd.Diagonal()
        ),
        "chain": optax.chain(
            adapter.scale_by_psgd(psgd.Diagonal(), optax.exponential_decay(0.5, 10, 0.5)),
            optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.1, 10)),
        ),
    }
    for name, optimizer in tools.items():
        state = optimizer.init(params)

        @jax.jit
        def step(p, state, optimizer=optimizer):
            grads = jax.grad(loss)(p, BATCH)
            updates, state = optimizer.update(grads, state, p)
            return optax.apply_updates(p, updates), state

        p, state = step(*step(params, state))
        assert float(loss(p, BATCH)) != float(loss(params, BATCH)), name
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(p)), name


def test_trains(params):
    optimizer = adapter.psgd(0.1, psgd.XMat(), 0.3)
    keys = jax.random.split(jax.random.key(0), 150)
    _, values = jax.jit(lambda c: jax.lax.scan(training(optimizer), c, keys))(
        (params, optimizer.init(params))
    )
    assert float(values[-1]) < 0.02 * float(values[0])


# -- dtypes and extremes -----------------------------------------------------------------------------------


def test_bfloat16_with_float32_state(params):
    small = {"w": params["w"].astype("bfloat16"), "b": params["b"]}
    optimizer = adapter.psgd(0.1, psgd.Diagonal())
    state = optimizer.init(small)
    ask = adapter.value_grad_hvp(lambda p: jnp.sum(jnp.cosh(p["w"].astype("float32"))) + jnp.sum(p["b"] ** 2))
    _, grad, hvp, probe = ask(small, jax.random.key(0))
    assert hvp["w"].dtype == probe["w"].dtype == "bfloat16"
    updates, state = optimizer.update(grad, state, small, hvp=hvp, probe=probe)
    assert updates["w"].dtype == "bfloat16"
    kept = jax.tree.leaves(state[0].leaves)
    assert {str(x.dtype) for x in kept} == {"float32", "int32", "bool"}


def test_float64_beside_float32(x64):
    mixed = {"a": jnp.ones(3, "float32"), "b": jnp.ones(2, "float64")}
    for per_leaf in (True, False):
        optimizer = adapter.psgd(0.1, psgd.Diagonal(), per_leaf=per_leaf)
        updates, _ = optimizer.update(mixed, optimizer.init(mixed), mixed)
        assert (updates["a"].dtype, updates["b"].dtype) == ("float32", "float64")


def test_what_is_not_finite_moves_nothing(params):
    optimizer = adapter.scale_by_psgd(psgd.Diagonal(), momentum=0.9, clip=clips.AdaptiveNorm())
    good = jax.tree.map(jnp.ones_like, params)
    _, state = optimizer.update(good, optimizer.init(params), hvp=good, probe=good)
    bad = {**good, "b": good["b"] * jnp.nan}  # one leaf spoils the step for all
    updates, after = optimizer.update(bad, state, hvp=good, probe=good)
    allclose(updates, jax.tree.map(jnp.zeros_like, params), rtol=0)
    assert (int(after.skipped), int(after.count)) == (1, 2)
    allclose(after.clip, state.clip, rtol=0)
    allclose([x.momentum for x in after.leaves.values()], [x.momentum for x in state.leaves.values()], rtol=0)
    _, after = optimizer.update(good, state, hvp=bad, probe=good)  # a bad pair: P stays, x moves
    assert int(after.leaves["b"].preconditioner.skipped) == 1
    assert int(after.skipped) == 0


def test_zero_gradients():
    optimizer, params = adapter.psgd(0.1), jnp.ones(3)
    zero = jnp.zeros(3)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(zero, state, params)
    allclose(updates, zero, rtol=0)


# -- engines -----------------------------------------------------------------------------------------------


def test_numpy_engine_is_the_same(params):
    carries = {}
    for engine in ("jax", "numpy"):
        optimizer = adapter.psgd(0.1, psgd.XMat(), engine=engine, probability=0.6)
        carry = (params, optimizer.init(params))
        for key in jax.random.split(jax.random.key(0), 6):
            carry, _ = training(optimizer)(carry, key)
        carries[engine] = carry
    allclose(carries["numpy"][0], carries["jax"][0], rtol=2e-4, atol=1e-5)
    state = carries["numpy"][1][0]
    assert isinstance(state.leaves["w"].momentum, np.ndarray)
    assert isinstance(carries["numpy"][0]["w"], jax.Array)


def test_numpy_engine_reads_in_place():
    from psgd_core.adapters.jax.engines import engine_named

    engine, n = engine_named("numpy"), 1_000_000
    x = jnp.arange(n, dtype="float32")
    tracemalloc.start()
    view = engine.inward(x)
    assert tracemalloc.get_traced_memory()[1] < 10_000
    assert view.__array_interface__["data"][0] == x.unsafe_buffer_pointer()
    given = engine.outward(view)  # one copy, to memory that starts where JAX wants it, which JAX then keeps
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4 * n <= peak < 4 * n + 20_000
    np.testing.assert_array_equal(given, x)


def test_numpy_engine_does_not_trace(params):
    optimizer = adapter.psgd(0.1, engine="numpy")
    state = optimizer.init(params)
    with pytest.raises(TypeError, match=r"got a traced one; share it outside `jax.jit`"):
        jax.jit(lambda g: optimizer.update(g, state, params))(params)


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"preconditioner": 3}, "`preconditioner` must be a Preconditioner or a function"),
        ({"step": 1.5}, r"must lie in \(0, 1\), got 1.5"),
        ({"momentum": 1.0}, r"`momentum` must lie in \[0, 1\)"),
        ({"clip": clips.TrustRadius()}, "`clip` must not go back to earlier points"),
        ({"clip": "tight"}, "`clip` must be a Clip"),
        ({"every": 0}, "`every` must be a positive int"),
        ({"probability": 2.0}, "`probability` must lie in"),
        ({"engine": "numba"}, "`engine` must be one of 'jax', 'numpy', 'cupy', got 'numba'"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises((TypeError, ValueError), match=match):
        adapter.scale_by_psgd(**settings)


def test_a_clip_that_is_nobodys(params):
    class Own(clips.Clip):
        pass

    with pytest.raises(ValueError, match=r"made of Norm, AdaptiveNorm and Elements .*; pass per_leaf=False"):
        adapter.scale_by_psgd(clip=Own())
    adapter.scale_by_psgd(clip=Own(), per_leaf=False)


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ({}, "`params` must hold at least one array"),
        ({"i": np.arange(3)}, r"`params\['i'\]` must be an array of real floats, got int64; optax.masked"),
        ({"c": np.ones(2, complex)}, "must be an array of real floats, got complex128"),
        ([1.0], r"`params\[0\]` must be an array of real floats, got float"),
        ({"e": np.zeros((0, 3), "float32")}, r"`params\['e'\]` must not be empty, got"),
    ],
)
def test_bad_parameters(tree, match):
    with pytest.raises((TypeError, ValueError), match=match):
        adapter.scale_by_psgd().init(tree)


def test_a_leaf_too_small_is_named(params):
    with pytest.raises(ValueError, match=r"`rank` must be below n = 1, got 5; .* \(for params\['b'\], of 1"):
        adapter.scale_by_psgd(psgd.LowRank(5)).init({"b": params["b"]})
    with pytest.raises(TypeError, match=r"must return a Preconditioner for params\['b'\], got None"):
        adapter.scale_by_psgd(lambda leaf: None).init({"b": params["b"]})


def test_bad_pairs(params):
    optimizer = adapter.scale_by_psgd()
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"`hvp` must have the structure of the gradients"):
        optimizer.update(params, state, hvp={"w": params["w"]}, probe=params)
    wrong = {**params, "b": params["w"]}
    with pytest.raises(ValueError, match=r"`probe` must have the shapes of the gradients"):
        optimizer.update(params, state, hvp=params, probe=wrong)
    with pytest.raises(ValueError, match="`probe` must be given with `hvp`, got None"):
        optimizer.update(params, state, hvp=params)


def test_gradients_under_other_keys(params):
    """As many leaves of the same sizes, so that nothing else would tell."""
    optimizer = adapter.scale_by_psgd()
    state = optimizer.init(params)
    other = {f"{key}_": x for key, x in params.items()}
    with pytest.raises(
        ValueError, match="`updates` must have the structure of the parameters that `init` saw"
    ):
        optimizer.update(other, state)


def test_bad_losses(params):
    with pytest.raises(TypeError, match="`loss` must be callable"):
        adapter.value_grad_hvp(3.0)
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match="`k` must be a positive int, got"):
            adapter.value_grad_hvp(loss, k=k)(params, jax.random.key(0), BATCH)


def test_missing_libraries():
    for name in ("optax", "jax"):
        script = (
            f"import sys; sys.modules[{name!r}] = None\n"
            "import psgd_core\n"
            "try:\n    psgd_core.adapters.jax\nexcept ImportError as error:\n    print(error)"
        )
        out = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        assert f"needs jax and optax, and {name} is not installed; pip install jax optax" in out


def test_public_names_alone():
    """Only optax's public interface: what lies under ``_src`` moves."""
    import inspect
    from pathlib import Path

    for file in Path(inspect.getfile(adapter)).parent.glob("*.py"):
        text = file.read_text()
        assert "_src" not in text
        assert "optax._" not in text
    assert descent.PSGD is psgd.PSGD
