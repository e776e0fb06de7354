"""Value, gradient, Hessian-vector product and probe from a loss function, by forward over reverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...arrays.arguments import require_count
from .sharding import place_like

Tree = Any


class Products(NamedTuple):
    """What a step needs of its loss, all on the same sample."""

    value: Any  # the loss; (loss, aux) with has_aux
    grad: Tree
    hvp: Tree  # H v, in the structure of the parameters; with k probes stacked along a leading axis
    probe: Tree  # v


def value_grad_hvp(
    loss: Callable[..., Any],
    *,
    has_aux: bool = False,
    k: int | None = None,
    sampler: Callable[..., jax.Array] = jax.random.normal,
) -> Callable[..., Products]:
    """Return a function that evaluates value, gradient, Hessian-vector product and probe of `loss`.

    Parameters
    ----------
    loss : callable
        ``loss(params, *args, **kwargs)``, a real scalar, differentiable twice.
    has_aux : bool
        Whether it returns (value, aux), as in `jax.value_and_grad`.
    k : int, optional
        Draw k probes and average them in one update: leaves of `hvp` and `probe` get a leading axis of k.
    sampler : callable
        ``sampler(key, shape, dtype)``; `jax.random.rademacher` suits `Diagonal`.

    Returns
    -------
    callable
        ``f(params, key, *args, **kwargs) -> Products``. One forward-mode pass through the gradient: about
        the cost of two gradients, and k + 1 of them for k probes.
    """
    if not callable(loss):
        raise TypeError(f"`loss` must be callable, got {type(loss).__name__}; pass loss(params, *args)")

    def evaluate(params: Tree, key: jax.Array, *args: Any, **kwargs: Any) -> Products:
        probe = draw_probe(key, params, k=k, sampler=sampler)

        def both(p: Tree) -> tuple[tuple[Any, Tree], Any]:
            value, grad = jax.value_and_grad(loss, has_aux=has_aux)(p, *args, **kwargs)
            return (value[0], grad) if has_aux else (value, grad), value[1] if has_aux else ()

        def along(v: Tree) -> tuple[Any, Tree, Tree, Any]:
            (value, grad), (_, hvp), aux = jax.jvp(both, (params,), (v,), has_aux=True)
            return value, grad, hvp, aux

        if k is None:
            value, grad, hvp, aux = along(probe)
        else:
            value, grad, hvp, aux = jax.vmap(along, out_axes=(None, None, 0, None))(probe)
        return Products((value, aux) if has_aux else value, grad, hvp, probe)

    return evaluate


def draw_probe(
    key: jax.Array,
    params: Tree,
    *,
    k: int | None = None,
    sampler: Callable[..., jax.Array] = jax.random.normal,
) -> Tree:
    """Return random probes in the structure, shapes and dtypes of `params`.

    Parameters
    ----------
    key : JAX key
    params : pytree of arrays
    k : int, optional
        Stack k of them along a leading axis.
    sampler : callable
        ``sampler(key, shape, dtype)``.
    """
    lead = () if k is None else (require_count("k", k, "None draws one probe"),)
    leaves, structure = jax.tree.flatten(params)
    for leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"`params` must hold arrays of floats only, got {dtype or type(leaf).__name__}; "
                "leave others out, and let the loss close over them"
            )
    drawn = [
        place_like(sampler(one, (*lead, *leaf.shape), leaf.dtype), leaf)
        for one, leaf in zip(jax.random.split(key, max(len(leaves), 1)), leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, drawn)
