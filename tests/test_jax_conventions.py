"""What JAX's users take for granted: donation, placement, one compilation, optax's wrappers, models."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")

import jax.numpy as jnp  # noqa: E402
from registry import PRECONDITIONERS  # noqa: E402

import psgd_core as psgd  # noqa: E402
from psgd_core.adapters import jax as adapter  # noqa: E402
from psgd_core.descent import clips  # noqa: E402

BATCH = np.random.default_rng(0).standard_normal((8, 3)).astype("float32")


@pytest.fixture(autouse=True)
def _quick_to_compile():
    """Nearly all the time here is XLA's, which the same numbers do not need."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def start():
    """New parameters: a matrix, a vector and a number."""
    return {"w": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "v": {"b": jnp.ones(2), "c": jnp.float32(0.5)}}


def loss(p, batch=BATCH):
    y = jnp.tanh(batch @ p["w"] + p["v"]["b"]) * p["v"]["c"]
    return jnp.mean((jnp.sum(y, axis=1) - batch[:, 0]) ** 2) + 1e-2 * sum(
        jnp.sum(x**4) for x in jax.tree.leaves(p)
    )


def product(p, f=loss):
    """Return v -> H v at p, for trees of the structure of p."""
    return lambda v: jax.jvp(jax.grad(f), (p,), (v,))[1]


def step_of(optimizer, f=loss, **jit):
    ask = adapter.value_grad_hvp(f)

    def step(p, state, key):
        _, grad, hvp, probe = ask(p, key)
        updates, state = optimizer.update(grad, state, p, hvp=hvp, probe=probe)
        return optax.apply_updates(p, updates), state

    return jax.jit(step, **jit)


def equal(x, y, **tolerance):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), **{"rtol": 0, **tolerance})


# -- buffers -----------------------------------------------------------------------------------------------


def buffers(*trees):
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(trees)]


CORE = {
    **{name: (row.preconditioner, row.n) for name, row in PRECONDITIONERS.items()},
    "Kronecker": (psgd.Kronecker((2, 3)), 6),
    "Kronecker, affine": (psgd.Kronecker((2, 3), factors=("dense", "affine")), 6),
    "Blocks": (psgd.Blocks(((2, psgd.LowRank(1)), (4, psgd.Kronecker((2, 2))))), 6),
}


@pytest.mark.parametrize(("preconditioner", "n"), CORE.values(), ids=CORE.keys())
def test_no_buffer_is_shared_by_preconditioners_states(preconditioner, n):
    like = jnp.zeros(n)
    states = [preconditioner.init(n, like, scale=scale) for scale in (None, None, 2.0)]
    found = buffers(like, *states)
    assert len(set(found)) == len(found)
    assert not any(x.committed for x in jax.tree.leaves(states))


@pytest.mark.parametrize(
    "clip",
    [None, clips.TrustRadius(), (clips.TrustRadius(), clips.AdaptiveNorm()), clips.AdaptiveNorm()],
    ids=["none", "radius", "both", "running"],
)
def test_no_buffer_is_shared_by_loops_states(clip):
    loop, x = psgd.PSGD(psgd.LowRank(1), momentum=0.5, clip=clip), jnp.arange(4.0)
    found = buffers(x, loop.init(x), loop.init(x))
    assert len(set(found)) == len(found)
    g, value = x + 1, jnp.float32(3.0)

    def step(state, x):
        return loop.update(state, x, g, pair=(g, 2 * g), value=value)

    expected = step(loop.init(x), x)
    donating = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(2):
        equal(donating(loop.init(x), x + 0), expected, rtol=1e-5)
    found = buffers(expected, x, g, value)  # outside jit, what a step returns may be donated as well
    assert len(set(found)) == len(found)


OPTIMIZERS = {
    "default": functools.partial(adapter.psgd, 0.1),
    "by shape": functools.partial(
        adapter.scale_by_psgd,
        lambda leaf: psgd.Kronecker(leaf.shape) if leaf.ndim == 2 else psgd.LowRank(0),
        momentum=0.5,
        key=jax.random.key(4, impl="rbg"),
    ),
    "one vector": functools.partial(adapter.psgd, 0.1, psgd.LowRank(3), per_leaf=False, scale=1.5),
    "now and then": functools.partial(adapter.psgd, 0.1, every=2, probability=0.5, clip=1.0),
}
optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


@optimizers
def test_a_fresh_state_is_donated_twice_and_compiled_once(make):
    optimizer, keys = make(), jax.random.split(jax.random.key(1), 3)
    step, ends = step_of(optimizer, donate_argnums=(0, 1)), []
    for _ in range(2):
        p = start()
        state = optimizer.init(p)
        found = buffers(p, state, optimizer.init(p))
        assert len(set(found)) == len(found)
        for key in keys:
            before = jax.tree.leaves((p, state))
            p, state = step(p, state, key)
            assert all(x.is_deleted() for x in before)
        ends.append(jax.tree.map(np.asarray, (p, state)))
    equal(*ends)
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("name", "committed"), [(name, False) for name in OPTIMIZERS] + [("default", True), ("one vector", True)]
)
def test_a_step_changes_no_type(name, committed):
    def types(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type, x.committed, x.sharding), tree)

    p = jax.device_put(start(), jax.devices()[0]) if committed else start()
    optimizer = OPTIMIZERS[name]()
    state = optimizer.init(p)
    assert {x.committed for x in jax.tree.leaves(state)} == {committed}
    _, grad, hvp, probe = adapter.value_grad_hvp(loss)(p, jax.random.key(0))
    for pair in ({"hvp": hvp, "probe": probe}, {"hvp": product(p)}, {}):
        assert types(optimizer.update(grad, state, p, **pair)[1]) == types(state)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    for made in (jax.jit(optimizer.init)(p), jax.eval_shape(optimizer.init, p)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), made) == kinds


ON_DEVICES = r"""
import jax, jax.numpy as jnp, optax, psgd_core as psgd
from psgd_core.adapters.jax import psgd as make, value_grad_hvp
there = jax.devices()[1]
for optimizer in (optax.with_extra_args_support(optax.adam(0.1)), make(0.1), make(0.1, psgd.LowRank(1))):
    p = {"a": jnp.ones(4), "b": jnp.ones((2, 2))}
    state = optimizer.init(p)
    x = jax.device_put(jnp.arange(4.0), there)  # the data alone say where to work
    _, grad, hvp, probe = value_grad_hvp(lambda p: jnp.sum((p["a"] * x) ** 2) + jnp.sum(p["b"] ** 2))(
        p, jax.random.key(0)
    )
    updates, state = optimizer.update(grad, state, p, hvp=hvp, probe=probe)
    assert updates["a"].devices() == {there}, updates["a"].devices()
    p = jax.device_put(p, there)
    put = [leaf for leaf in jax.tree.leaves(optimizer.init(p)) if leaf.committed]
    assert {device for leaf in put for device in leaf.devices()} == {there}
    with jax.default_device(there):
        state = optimizer.init({"a": jnp.ones(4), "b": jnp.ones((2, 2))})
    assert {d for leaf in jax.tree.leaves(state) for d in leaf.devices()} == {there}
x = jnp.ones(4)
p = psgd.LowRank(1)
state = p.update(p.init(4, x), x, x, 0.1)  # made nowhere in particular, outside jit
assert p.update(state, *[jax.device_put(x, there)] * 2, 0.1).d.devices() == {there}
try:
    make(0.1).init([jax.device_put(x, device) for device in jax.devices()[:2]])
except ValueError as error:
    print(error)
"""


def test_on_several_devices():
    """Free parameters go where the data are, as with optax's own; in a process with several devices."""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "`params` must lie on one device or on one mesh" in done.stdout


# -- what optax hides --------------------------------------------------------------------------------------

PLAIN = functools.partial(adapter.scale_by_psgd, psgd.Diagonal(), momentum=0.5)
MASK = {"w": True, "v": False}  # a prefix: hides a subtree
LABELS = {"w": "ours", "v": {"b": "others", "c": "ours"}}
HIDING = {
    "a subtree": (lambda: optax.masked(PLAIN(), MASK), ["w"]),
    "by a function": (
        lambda: optax.masked(PLAIN(), lambda p: jax.tree.map(lambda x: x.ndim < 2, p)),
        ["b", "c"],
    ),
    "inside a chain": (
        lambda: optax.masked(
            optax.chain(optax.scale(1.0), PLAIN()), {"w": True, "v": {"b": False, "c": True}}
        ),
        ["w", "c"],
    ),
    "labels": (
        lambda: optax.multi_transform({"ours": PLAIN(), "others": optax.sgd(0.1)}, LABELS),
        ["w", "c"],
    ),
    "frozen": (
        lambda: optax.partition({"ours": PLAIN(), "others": optax.set_to_zero()}, LABELS),
        ["w", "c"],
    ),
    "twice": (
        lambda: optax.masked(
            optax.partition({"ours": PLAIN(), "others": optax.set_to_zero()}, {"w": "ours", "v": "others"}),
            {"w": True, "v": {"b": True, "c": False}},
        ),
        ["w"],
    ),
}


def leaves_named(tree, names):
    return {name: tree["w"] if name == "w" else tree["v"][name] for name in names}


@pytest.mark.parametrize(("make", "names"), HIDING.values(), ids=HIDING.keys())
def test_hidden_parameters(make, names):
    """What is seen moves as if it were alone, from whole trees of products; functions get whole trees."""
    optimizer, p = make(), start()
    _, grad, hvp, probe = adapter.value_grad_hvp(loss)(p, jax.random.key(3))
    alone = PLAIN()
    seen = functools.partial(leaves_named, names=names)
    expected, _ = alone.update(seen(grad), alone.init(seen(p)), hvp=seen(hvp), probe=seen(probe))
    state = optimizer.init(p)
    for pair in ({"hvp": hvp, "probe": probe}, {"hvp": (probe, hvp)}):
        equal(seen(optimizer.update(grad, state, p, **pair)[0]), expected, rtol=1e-5)

    asked = []

    def ask(v):
        asked.append(v)
        return product(p)(v)

    given = {"hvp": product(p), "probe": probe}
    equal(seen(optimizer.update(grad, state, p, **given)[0]), expected, rtol=1e-4)
    outside = optimizer.update(grad, state, p, hvp=ask)[0]
    inside = jax.jit(lambda: optimizer.update(grad, state, p, hvp=ask)[0])()
    equal(seen(inside), seen(outside), rtol=1e-4)
    for v in asked:
        assert jax.tree.map(jnp.shape, v) == jax.tree.map(jnp.shape, p)
    for name, x in leaves_named(asked[0], ["w", "b", "c"]).items():
        assert bool(jnp.any(x != 0)) == (name in names)


def test_optax_may_hide_products_too():
    p = start()
    _, grad, hvp, probe = adapter.value_grad_hvp(loss)(p, jax.random.key(3))
    optimizers = [optax.masked(PLAIN(), MASK, mask_compatible_extra_args=flag) for flag in (False, True)]
    plain, compatible = (functools.partial(o.update, grad, o.init(p), p) for o in optimizers)
    equal(compatible(hvp=hvp, probe=probe)[0], plain(hvp=hvp, probe=probe)[0])
    asked = []
    compatible(hvp=lambda v: asked.append(v) or product(p)(v), probe=probe)
    equal(asked, [{"w": probe["w"], "v": jax.tree.map(jnp.zeros_like, p["v"])}])


def test_a_function_where_nobody_knows_what_is_hidden():
    optimizer = PLAIN()
    hidden = {"w": jnp.ones(3), "b": optax.MaskedNode()}
    state = optimizer.init(hidden)
    with pytest.raises(ValueError, match=r"`probe` must be given where `hvp` is a function and .* got None"):
        optimizer.update(hidden, state, hvp=lambda v: v)
    whole = {"w": jnp.ones(3), "b": jnp.ones(2)}
    seen = []
    optimizer.update(hidden, state, hvp=lambda v: seen.append(v) or v, probe=whole)
    equal(seen, [whole])


def test_products_that_do_not_fit_what_is_seen():
    optimizer, p = optax.masked(PLAIN(), MASK), start()
    for wrong in ({"w": p["w"]}, {**p, "w": None}, {**p, "w": {"x": p["w"]}}, {**p, "w": 1.0}, [p["w"]]):
        with pytest.raises(ValueError, match=r"`hvp` must have the structure of the gradients"):
            optimizer.update(p, optimizer.init(p), p, hvp=wrong, probe=p)


def test_everything_hidden():
    """A label that nothing has, and optax's own look into states: nothing to do, and no fault."""
    p = start()
    optimizer = optax.partition({"ours": PLAIN(), "rest": optax.sgd(0.5)}, {"w": "rest", "v": "rest"})
    updates, state = optimizer.update(p, optimizer.init(p), p, hvp=p, probe=p)
    equal(updates, jax.tree.map(lambda x: -0.5 * x, p))
    optimizer.update(p, state, p, hvp=lambda v: v)
    plain = PLAIN()
    kept = plain.init(p)
    doubled = optax.tree_map_params(plain, lambda x: 2 * x, kept)
    equal(doubled.leaves, jax.tree.map(lambda x: 2 * x, kept.leaves))
    equal(doubled.key, kept.key)


# -- optax's other wrappers --------------------------------------------------------------------------------


def test_injected_settings_are_the_settings():
    fading = optax.linear_schedule(0.5, 0.1, 4)
    settings = {
        "learning_rate": 0.1,
        "step": fading,
        "momentum": 0.7,
        "weight_decay": 0.01,
        "scale": 0.5,
        "key": 5,
    }
    plain, injected = adapter.psgd(**settings), optax.inject_hyperparams(adapter.psgd)(**settings)
    p, q = start(), start()
    state, other = plain.init(p), injected.init(q)
    equal(other.inner_state, state)
    one, two = step_of(plain), step_of(injected)
    for key in jax.random.split(jax.random.key(0), 3):
        p, state = one(p, state, key)
        q, other = two(q, other, key)
    equal(q, p, rtol=1e-5)
    assert two._cache_size() == 1
    other.hyperparams["learning_rate"] = jnp.float32(0.0)  # what injecting is for
    other.hyperparams["weight_decay"] = jnp.float32(0.0)
    equal(two(q, other, key)[0], q)


def test_injected_intervals():
    optimizer, p, counts = optax.inject_hyperparams(adapter.psgd)(0.1, every=3), jnp.ones(4), []
    state, update = optimizer.init(p), jax.jit(optimizer.update)
    equal(state.inner_state, adapter.psgd(0.1).init(p))
    for _ in range(5):
        _, state = update(p, state, p)
        counts.append(int(state.inner_state[0].leaves.preconditioner.count))
    assert counts == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda o: optax.apply_if_finite(o, 2),
        lambda o: optax.MultiSteps(o, 2),
        lambda o: optax.chain(optax.clip_by_global_norm(1.0), o),
        lambda o: optax.inject_hyperparams(lambda lr: optax.chain(o, optax.scale(lr)))(0.5),
    ],
    ids=["finite", "accumulated", "chained", "injected outside"],
)
def test_wrapped(wrap):
    """Donated and compiled once, with products on the way in; twice the same."""
    optimizer, ends = wrap(adapter.psgd(0.1, psgd.XMat())), []
    step = step_of(optimizer, donate_argnums=(0, 1))
    for _ in range(2):
        p = start()
        state = optimizer.init(p)
        for key in jax.random.split(jax.random.key(0), 4):
            p, state = step(p, state, key)
        ends.append(jax.tree.map(np.asarray, p))
    equal(*ends)
    assert step._cache_size() == 1
    assert loss(ends[0]) < loss(start())


# -- parameters that are models ----------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    """A pytree that may be called, as Equinox's modules."""

    w: jax.Array
    b: jax.Array | None = None
    size: int = dataclasses.field(default=2, metadata={"static": True})

    def __call__(self, x):
        return self.w @ x if self.b is None else self.w @ x + self.b


class Called(NamedTuple):
    first: Model
    second: jax.Array

    def __call__(self, x):
        return self.first(x) + self.second


MODELS = {
    "without bias": lambda: Model(jnp.ones((2, 2))),
    "with": lambda: Model(jnp.ones((2, 2)), jnp.zeros(2)),
    "nested": lambda: Called(Model(jnp.ones((2, 2))), jnp.ones(2)),
    "in a list": lambda: [Model(jnp.ones((2, 2)))],
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_products_of_models_are_no_functions(make):
    model, x = make(), jnp.asarray([1.0, 2.0])

    def f(m):
        y = (m[0] if isinstance(m, list) else m)(x)
        return jnp.sum((y - 1) ** 4) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(m))

    optimizer = adapter.psgd(0.05, psgd.Diagonal())
    _, grad, hvp, probe = adapter.value_grad_hvp(f)(model, jax.random.key(0))
    update = functools.partial(optimizer.update, grad, optimizer.init(model), model)
    expected, _ = update(hvp=hvp, probe=probe)
    assert type(expected) is type(model)
    equal(update(hvp=(probe, hvp))[0], expected)
    for ask in (product(model, f), jax.tree_util.Partial(product(model, f))):
        equal(update(hvp=ask, probe=probe)[0], expected, rtol=1e-4)


def test_a_product_of_another_model():
    model = Model(jnp.ones((2, 2)))
    optimizer = adapter.psgd(0.1)
    for wrong in (Model(model.w, jnp.ones(2)), Model(model.w, size=3)):
        with pytest.raises(ValueError, match="`hvp` must have the structure of the gradients"):
            optimizer.update(model, optimizer.init(model), model, hvp=wrong, probe=model)


@pytest.mark.parametrize("engine", ["jax", "numpy"])
@pytest.mark.parametrize("per_leaf", [True, False])
def test_a_function_that_returns_nothing_does_not_whiten(engine, per_leaf):
    optimizer, p = adapter.psgd(0.1, psgd.Diagonal(), engine=engine, per_leaf=per_leaf), start()
    state = optimizer.init(p)
    with pytest.raises(TypeError, match="`hvp` must return the product H v, got None"):
        optimizer.update(p, state, p, hvp=lambda v: None)
    if engine == "jax":
        with pytest.raises(TypeError, match="`hvp` must return the product H v, got None"):
            jax.jit(lambda g, s: optimizer.update(g, s, p, hvp=lambda v: None))(p, state)


@pytest.mark.parametrize("which", ["hvp", "probe"])
def test_complex_pairs_are_refused(which):
    optimizer, p = adapter.psgd(0.1, psgd.Diagonal()), start()
    pair = {"hvp": p, "probe": p, which: jax.tree.map(lambda x: x + 1j, p)}
    with pytest.raises(TypeError, match=f"`{which}` must be real, got .*complex64"):
        optimizer.update(p, optimizer.init(p), p, **pair)


def test_gradients_of_other_parameters_than_those_of_the_state():
    optimizer, p = adapter.psgd(0.1, psgd.Diagonal()), {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = optimizer.init(p)
    for other in ({"a": p["a"]}, {**p, "c": p["a"]}, (p["a"],)):
        with pytest.raises(
            ValueError, match="`updates` must have the structure of the parameters that `init`"
        ):
            optimizer.update(other, state)


# -- outside jit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["jax", "numpy"])
def test_a_function_that_raises_changes_nothing(engine):
    optimizer = adapter.psgd(0.1, psgd.XMat(), engine=engine, probability=0.7)
    p, grads = start(), jax.tree.map(jnp.ones_like, start())
    _, state = optimizer.update(grads, optimizer.init(p), p, hvp=product(p))
    kept = jax.tree.map(lambda x: np.array(x, copy=True), state)

    def fails(v):
        raise RuntimeError("no product today")

    state = state[0]._replace(count=state[0].count * 0), *state[1:]  # the first update fits for certain
    kept = kept[0]._replace(count=kept[0].count * 0), *kept[1:]
    expected = optimizer.update(grads, state, p, hvp=product(p))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no product today"):
            optimizer.update(grads, state, p, hvp=fails)
    equal(state, kept)
    equal(optimizer.update(grads, state, p, hvp=product(p)), expected)


def test_functions_are_asked_where_p_is_fitted_alone():
    optimizer, p, calls = adapter.scale_by_psgd(psgd.Diagonal(), every=3), start(), []
    state = other = optimizer.init(p)
    update = jax.jit(lambda g, s: optimizer.update(g, s, hvp=product(p)))
    for i in range(5):
        moves, state = optimizer.update(p, state, hvp=lambda v: calls.append(i) or product(p)(v))  # noqa: B023
        same, other = update(p, other)
        equal(moves, same, rtol=1e-4, atol=1e-6)
    assert calls == [0, 3]


def test_a_state_of_numpy_arrays_goes_on():
    """As savers give them back."""
    optimizer, p = adapter.psgd(0.1), start()
    state = optimizer.init(p)
    host = jax.tree.map(np.asarray, state)
    for ask in ({"hvp": product(p)}, {"hvp": p, "probe": p}):
        equal(optimizer.update(p, host, p, **ask), optimizer.update(p, state, p, **ask))


# -- keys and leaves ---------------------------------------------------------------------------------------


def test_keys():
    expected = jax.random.key_data(jax.random.key(7))
    for key in (7, np.int64(7), jnp.uint32(7), jax.random.key(7), jax.random.PRNGKey(7), expected):
        equal(PLAIN(key=key).init(jnp.ones(2)).key, expected)
    equal(PLAIN().init(jnp.ones(2)).key, jax.random.key_data(jax.random.key(0)))
    for wrong in (
        "seven",
        1.5,
        jax.random.split(jax.random.key(0)),
        np.zeros(3, "float32"),
        jnp.zeros(5, "uint32"),
    ):
        with pytest.raises(TypeError, match="`key` must be an int or one JAX key, got"):
            PLAIN(key=wrong)


def test_seeds_under_vmap():
    """A batch of optimisers, each with a key of its own, is the optimisers one by one."""
    p = start()

    def run(seed):
        optimizer = PLAIN(key=seed)
        return optimizer.update(p, optimizer.init(p))[0]

    many = jax.vmap(run)(jnp.arange(3))
    for seed in range(3):
        equal(jax.tree.map(lambda x: x[seed], many), run(seed), rtol=1e-4)  # noqa: B023


def test_leaves_of_16_bits_beside_none_and_numbers():
    p = {
        "half": jnp.ones((2, 2), "float16"),
        "brain": jnp.ones(3, "bfloat16"),
        "none": None,
        "number": jnp.asarray(2.0),
        "all": [jnp.ones(3), ()],
    }
    f = lambda p: sum(jnp.sum(x.astype("float32") ** 4) for x in jax.tree.leaves(p))  # noqa: E731
    optimizer = adapter.psgd(0.1, psgd.XMat())
    state = optimizer.init(p)
    step = step_of(optimizer, f)
    for key in jax.random.split(jax.random.key(0), 3):
        before = jax.tree.map(lambda x: (x.shape, x.dtype), (p, state))
        p, state = step(p, state, key)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), (p, state)) == before
    assert f(p) < 4 + 3 + 16 + 3
    assert {str(x.dtype) for x in jax.tree.leaves(state)} == {"float32", "int32", "bool", "uint32"}


@pytest.mark.parametrize("leaf", [2.0, np.arange(3), jnp.ones(2, bool), "text", jnp.tanh, 3 + 0j])
def test_leaves_that_have_no_derivatives(leaf):
    p = {"x": jnp.ones(2), "other": leaf}
    with pytest.raises(TypeError, match="`params` must hold arrays of floats only, got"):
        adapter.value_grad_hvp(lambda p: jnp.sum(p["x"] ** 2))(p, jax.random.key(0))
    with pytest.raises(TypeError, match=r"`params\['other'\]` must be an array of real floats, got"):
        PLAIN().init(p)


def test_leaves_of_8_bits_are_refused():
    with pytest.raises(TypeError, match=r"`params\['x'\]` must be an array of real floats, got float8"):
        PLAIN().init({"x": jnp.ones(3, "float8_e4m3fn")})


def test_rematerialised_losses():
    """`jax.checkpoint` changes no product."""
    p, key = start(), jax.random.key(0)
    equal(
        jax.jit(adapter.value_grad_hvp(jax.checkpoint(loss)))(p, key),
        jax.jit(adapter.value_grad_hvp(loss))(p, key),
        rtol=1e-5,
        atol=1e-6,
    )
