"""Where Hessians come from: an Hvp function, a file, a problem, a PyTorch loss, a JAX function.

PyTorch and JAX are imported only when their functions are called. Nothing here keeps a graph or fills a
``.grad``: every product differentiates afresh, and frees its graph when it returns. Whether a function
is the same every time is looked at once, in its first product.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_compat

from ..arrays import Array
from ..problems import Problem, load_hessian
from .checks import repeatable
from .operators import HessianOperator, from_matrix


def from_hvp(
    hvp: Callable[[Array], Array], n: int, like: Array, *, columns: bool = False, name: str = "H"
) -> HessianOperator:
    """Return the Hessian whose products a function computes.

    Parameters
    ----------
    hvp : callable
        ``hvp(v)`` for v of shape (n,); with `columns`, for v of shape (n, k), a product per column.
    n : int
    like : array
        Its library, dtype and device are those of v; its values do not matter.
    columns : bool
        Whether `hvp` takes several columns at once, which is faster wherever it can.

    Notes
    -----
    `hvp` gets a v of its own, which it may write to, and what it returns is copied, so that it may return the
    same buffer every time. Its first product is asked for twice: both must be the same up to rounding.
    """
    if not callable(hvp):
        raise TypeError(f"`hvp` must be a function of v, got {type(hvp).__name__}; use `from_matrix`")

    def product(v: Array) -> Array:
        out = hvp(_own(v))
        operator.require(f"the product of {name}", out, "make the Hvp return an array like its argument")
        if out.ndim != v.ndim:
            raise ValueError(
                f"the product of {name} must have the shape of `v`, {tuple(v.shape)}, got "
                f"{tuple(out.shape)}; say `columns=True` if the Hvp is one of columns"
            )
        return _own(out)

    def column_by_column(v: Array) -> Array:
        xp = array_api_compat.array_namespace(v)
        return xp.stack([product(v[:, i]) for i in range(v.shape[1])], axis=1)

    if array_api_compat.is_array_api_obj(like):
        like = array_api_compat.array_namespace(like).reshape(like, (-1,))[:0]
    operator = HessianOperator(n, like, repeatable(product if columns else column_by_column, name), name)
    return operator


def from_file(
    path: str | os.PathLike[str], *, key: str | None = None, like: Array | None = None
) -> HessianOperator:
    """Return the symmetric matrix in a `.npy`, `.npz` or `.mtx` file, see `problems.load_hessian`.

    Singular matrices are accepted: they have a spectrum, though no ``|H|^{-1}``.
    """
    return from_matrix(load_hessian(path, key=key, like=like, singular_ok=True), Path(path).name)


def from_problem(problem: Problem, x: Array | None = None, sample: Any = None) -> HessianOperator:
    """Return the Hessian of a problem of `psgd_analysis.problems` at x (by default its starting point)."""
    point = problem.start if x is None else x
    return HessianOperator(
        problem.n, point[:0], lambda v: problem.hvp(point, v, sample), f"Hessian of {problem.name}"
    )


def from_torch(
    loss: Callable[[], Any], parameters: Any, *, name: str = "Hessian of the loss"
) -> HessianOperator:
    """Return the Hessian of a PyTorch loss with respect to parameters, flattened and concatenated in order.

    Parameters
    ----------
    loss : callable
        Without arguments; evaluates the loss, a scalar tensor, from the parameters as they are, without
        calling backward. It is called once per product, and must be the same function every time: the first
        product is asked for twice to see to it. Random numbers from PyTorch's own generators, as dropout
        draws them, are the same in every product, and a warning says so.
    parameters : torch.nn.Module, or iterable of tensors
        A module stands for its parameters that require a gradient. All of one dtype and device. Tied
        parameters, given twice, count once.

    Returns
    -------
    HessianOperator
        Products by differentiating twice. Parameters that the loss does not use have zero rows, and a warning
        names them. ``.grad``, PyTorch's generators and the buffers of the modules that are called (the
        averages of BatchNorm) are left alone; works under ``torch.no_grad``.

    Raises
    ------
    TypeError, ValueError
        If there is no tensor that requires a gradient, their dtypes differ, the loss is not a scalar, or not
        the same function every time.
    """
    import torch

    from psgd_core.adapters.torch import functions

    from .stillness import Still

    # the parameters, tied ones once
    module = isinstance(parameters, torch.nn.Module)
    given = parameters.parameters() if module else list(parameters)
    leaves = list(dict.fromkeys(p for p in given if p.requires_grad))
    if not leaves:
        raise ValueError(
            "`parameters` must hold tensors that require a gradient, got none; set requires_grad"
        )
    if len({(p.dtype, p.device) for p in leaves}) > 1:
        kinds = ", ".join(sorted({f"{p.dtype} on {p.device}" for p in leaves}))
        raise ValueError(f"`parameters` must be of one dtype and device, got {kinds}; convert the module")

    def scalar() -> Any:
        value = loss()
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise ValueError(f"`loss` must return a scalar tensor, got {_shape(value)}; reduce it")
        return value

    f, still = functions(scalar, parameters if module else leaves), Still(leaves[0].device)

    def product(v: Any) -> Any:
        with still:
            return f.products(torch.cat([p.detach().reshape(-1) for p in leaves]), v)

    n = sum(p.numel() for p in leaves)
    return HessianOperator(n, leaves[0].detach().new_zeros(0), repeatable(product, name), name)


def from_jax(fun: Callable[[Any], Any], x: Any, *, name: str = "Hessian of the function") -> HessianOperator:
    """Return the Hessian of a JAX function at x, an array or a pytree of arrays (flattened in its order).

    Products are forward over reverse, ``jvp(grad(fun))``, compiled once for each number of columns.
    """
    import jax
    from jax.flatten_util import ravel_pytree

    point, unravel = ravel_pytree(x)
    gradient = jax.grad(lambda z: fun(unravel(z)))

    def one(v: Any) -> Any:
        return jax.jvp(gradient, (point,), (v,))[1]

    return HessianOperator(point.shape[0], point[:0], jax.jit(jax.vmap(one, in_axes=1, out_axes=1)), name)


def _own(x: Array) -> Array:
    """Return a copy of an array."""
    return array_api_compat.array_namespace(x).asarray(x, copy=True)


def _shape(x: Any) -> str:
    return f"shape {tuple(x.shape)}" if hasattr(x, "shape") else type(x).__name__
