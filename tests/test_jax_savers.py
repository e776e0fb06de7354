"""States through the savers that JAX's users have: the types that they take, and numbers that come back."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import psgd_core as psgd  # noqa: E402
from psgd_core.adapters import jax as adapter  # noqa: E402


def choose(leaf):
    return psgd.LowRank(1) if leaf.ndim == 1 else psgd.Kronecker(leaf.shape)


OPTIMIZERS = {
    "momentum and a clip": adapter.psgd(0.1, choose),
    "nothing kept": adapter.scale_by_psgd(psgd.Diagonal(steps="group")),
    "a key of another kind": adapter.psgd(0.1, key=jax.random.key(3, impl="rbg")),
    "index arrays": adapter.psgd(0.1, psgd.Sparse(psgd.PermutationSubgroup.klein(4))),
    "one vector": adapter.psgd(0.1, psgd.XMat(), per_leaf=False),
    "masked": optax.masked(adapter.psgd(0.1), {"a": True, "b": False}),
    "injected": optax.inject_hyperparams(adapter.psgd)(0.1),
}
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def start(*, sharded=False):
    p = {"a": jnp.linspace(0.0, 1.0, 4), "b": jnp.ones((2, 2))}
    if sharded:
        mesh = Mesh(np.asarray(jax.devices()[:1]), ("x",))
        p["a"] = jax.device_put(p["a"], NamedSharding(mesh, PartitionSpec("x")))
    return p


def trained(optimizer, p):
    return optimizer.update(p, optimizer.init(p), p, hvp=p, probe=p)[1]


def same(found, state):
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def plain(x):
    """Whether x is made of NamedTuples, tuples, dicts with names, and arrays without a type of their own."""
    if isinstance(x, dict):
        return all(isinstance(key, str) for key in x) and all(map(plain, x.values()))
    if isinstance(x, tuple):
        return all(map(plain, x))
    return isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.extended)


@optimizers
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_states_are_plain(optimizer, sharded):
    state = optimizer.init(start(sharded=sharded))
    assert plain(state)
    leaves, structure = jax.tree.flatten(state)
    assert len({jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}) == len(
        leaves
    )
    same(jax.tree.unflatten(structure, leaves), state)


@optimizers
def test_flax(optimizer):
    serialization = pytest.importorskip("flax.serialization", reason="flax is not installed")
    p = start()
    state, fresh = trained(optimizer, p), optimizer.init(p)
    same(serialization.from_bytes(fresh, serialization.to_bytes(state)), state)
    same(serialization.from_state_dict(fresh, serialization.to_state_dict(state)), state)


@optimizers
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_orbax(optimizer, sharded, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")
    p = start(sharded=sharded)
    state = trained(optimizer, p)
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", state)
        saver.wait_until_finished()
        found = saver.restore(tmp_path / "state", optimizer.init(p))
    same(found, state)
    same(optimizer.update(p, found, p, hvp=lambda v: v)[1], optimizer.update(p, state, p, hvp=lambda v: v)[1])


@optimizers
def test_equinox(optimizer, tmp_path):
    equinox = pytest.importorskip("equinox", reason="equinox is not installed")
    p = start()
    state = trained(optimizer, p)
    equinox.tree_serialise_leaves(tmp_path / "state", state)
    same(equinox.tree_deserialise_leaves(tmp_path / "state", optimizer.init(p)), state)


def test_equinox_modules():
    """A module is a callable pytree with None for what is filtered away: it trains, donated."""
    equinox = pytest.importorskip("equinox", reason="equinox is not installed")
    model = equinox.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    p, rest = equinox.partition(model, equinox.is_inexact_array)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), "float32")

    def loss(p):
        return jnp.mean((jax.vmap(equinox.combine(p, rest))(x)[:, 0] - x[:, 1]) ** 2)

    optimizer, ask, first = adapter.psgd(0.1), adapter.value_grad_hvp(loss), float(loss(p))

    @equinox.filter_jit(donate="all")
    def step(p, state, key):
        _, grad, hvp, probe = ask(p, key)
        updates, state = optimizer.update(grad, state, p, hvp=hvp, probe=probe)
        return equinox.apply_updates(p, updates), state

    state = optimizer.init(p)
    p = jax.tree.map(jnp.copy, p)
    for key in jax.random.split(jax.random.key(0), 40):
        p, state = step(p, state, key)
    assert loss(p) < 0.5 * first
    updates, _ = optimizer.update(p, state, p, hvp=lambda v: jax.jvp(jax.grad(loss), (p,), (v,))[1])
    assert type(updates) is type(model)


@optimizers
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_a_file_of_ours_goes_where_the_parameters_lie(optimizer, sharded, tmp_path):
    """Saved whole; resumed on the devices of the parameters, laid out as there."""
    state = trained(optimizer, start())
    psgd.save(tmp_path / "state", state)
    p = start(sharded=sharded)
    fresh = optimizer.init(p)
    found = adapter.reshard(psgd.load(tmp_path / "state"), p)
    assert jax.tree.structure(found) == jax.tree.structure(fresh)
    for x, y, z in zip(*map(jax.tree.leaves, (found, state, fresh)), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        assert x.dtype == y.dtype
        assert x.sharding.is_equivalent_to(z.sharding, x.ndim)
        assert x.committed == sharded


def test_only_orders_that_agree_are_renamed():
    """A leaf sharded over its columns runs through them shard by shard, wherever it comes to lie."""
    optimizer = adapter.scale_by_psgd(psgd.XMat())
    p = start(sharded=True)["a"]
    state = optimizer.init(p)
    by_columns = state._replace(leaves=state.leaves._replace(layout={"1x2": ()}))
    whole = jnp.zeros((2, 2), p.dtype)
    mesh = p.sharding.mesh
    rows, columns = (
        jax.device_put(whole, NamedSharding(mesh, PartitionSpec(*spec))) for spec in (("x",), (None, "x"))
    )
    for place in (rows, columns):
        assert adapter.reshard(by_columns, place).leaves.layout == {"1x2": ()}
        assert adapter.reshard(state._replace(leaves=state.leaves._replace(layout={})), place).leaves.layout


def test_a_state_of_other_parameters_is_refused():
    state, p = OPTIMIZERS["nothing kept"].init(start()), start(sharded=True)
    with pytest.raises(ValueError, match="`params` must have the structure of those that the state was"):
        adapter.reshard(state, {"a": p["a"]})
