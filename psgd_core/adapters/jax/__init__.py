"""PSGD as optax gradient transformations, over any pytree, under one ``jax.jit``.

`scale_by_psgd` is the mathematics, `psgd` the complete optimiser, and `value_grad_hvp` evaluates what a
training step needs of its loss::

    optimizer = psgd(0.1, preconditioner=psgd_core.XMat())
    evaluate = value_grad_hvp(loss)

    @jax.jit
    def train_step(params, state, key, batch):
        value, grads, hvp, probe = evaluate(params, key, batch)
        updates, state = optimizer.update(grads, state, params, hvp=hvp, probe=probe)
        return optax.apply_updates(params, updates), state, value

Without ``hvp`` the gradients are whitened instead, in any optax training loop. The same step runs under
``lax.scan`` and ``vmap``; nothing in it calls back to the host.

Fresh states may be donated: no buffer is in two of them. They are made of NamedTuples, tuples, dicts and
arrays, as flax and orbax take them, and are committed to a device only if the parameters are.

Each leaf of the parameters has its own state, and no array is as large as the whole model. Where a leaf is
sharded (`jax.sharding.NamedSharding`), `init`, called outside ``jit``, shards its state alike, and an update
costs small all-reduces, and collective-permutes for the flips of `XMat` and the shifts of `Butterfly`; on
CPUs, of leaves of up to 4096 elements, all-gathers of a number from each shard as well.
`Sparse` gathers; so do `XMat` and `Butterfly` on a leaf whose size is not a multiple of twice the number of
its shards; `Dense` has its whole matrix on each device. A leaf sharded over other than its leading axes is
flattened shard by shard instead of row by row, which pairs other parameters, and works as well. `reshard`
puts a state on other devices, such as one from a checkpoint.
"""

from __future__ import annotations

try:
    import jax as _jax
    import optax as _optax
except ImportError as error:
    raise ImportError(
        f"`psgd_core.adapters.jax` needs jax and optax, and {error.name} is not installed; "
        "pip install jax optax"
    ) from error

from .leaves import LeafState
from .products import Products, draw_probe, value_grad_hvp
from .resharding import reshard
from .rule import ScaleByPSGDState
from .transform import psgd, scale_by_psgd

__all__ = [
    "LeafState",
    "Products",
    "ScaleByPSGDState",
    "draw_probe",
    "psgd",
    "reshard",
    "scale_by_psgd",
    "value_grad_hvp",
]

del _jax, _optax
