"""A PyTorch loss as functions of one vector: for `psgd_core.minimize`, `psgd_core.PSGD.step`, and studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ...curvature import Functions
from .autograd import Looked, evaluate
from .flat import Flat, is_sharded, once
from .names import naming
from .silence import tell


def functions(closure: Callable[[], Tensor], params: Iterable[Tensor] | torch.nn.Module) -> Functions:
    """Return value, gradient and Hessian-vector product of a loss over the flattened parameters.

    They start from ``torch.nn.utils.parameters_to_vector(params).detach()``::

        f = functions(lambda: loss_function(model(x), y), model)
        result = psgd_core.minimize(f.both, x0, jac=True, hvp=f.hvp)
        torch.nn.utils.vector_to_parameters(result.x, model.parameters())

    Parameters
    ----------
    closure : callable
        Returns the loss, a scalar, without calling backward. It must be the same function each time: no
        dropout, a fixed batch.
    params : iterable of tensors, or a module
        A module stands for its parameters that require a gradient. All on one device; tied parameters count
        once.

    Returns
    -------
    Functions
        Of vectors in the widest of the parameters' dtypes, at least float32; `hvp` also takes (n, k) and
        evaluates the loss once for all k. Each call writes its point into the parameters, evaluates, and
        restores them.

    Raises
    ------
    TypeError, ValueError
        If there are no parameters, they are on several devices, complex or sparse; or `closure` returns
        anything but a differentiable scalar.
    """
    if isinstance(params, torch.nn.Module):
        named = once((name, p) for name, p in params.named_parameters() if p.requires_grad)
        wanted, names = [p for _, p in named], {"param_names": [name for name, _ in named]}
    else:
        wanted, names = once(p for p in params if p.requires_grad), {}
    if not wanted:
        raise ValueError("`params` must hold tensors that require a gradient, got none; set requires_grad")
    if any(map(is_sharded, wanted)):
        raise TypeError("`params` must be ordinary tensors, got a DTensor; PSGD takes sharded ones")
    group: dict[str, Any] = {"params": wanted, **names}
    with naming([group]):
        flat = Flat(wanted)
    looked, told = Looked(), set[int]()

    def at(x: Tensor, columns: list[Tensor]) -> Any:
        if tuple(x.shape) != (flat.n,):
            raise ValueError(f"`x` must have shape ({flat.n},), got {tuple(x.shape)}; flatten the parameters")
        before, probes = flat.vector(), [flat.parts(column) for column in columns]
        elsewhere = not torch.equal(before, x)
        try:
            if elsewhere:
                flat.write(x)
            with naming([group]):
                found = evaluate(closure, wanted, probes, once=True, looked=looked)
        finally:
            if elsewhere:
                flat.write(before)
        told.update(tell([group], found.grads, told))
        return found

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        here = at(x, [])
        return here.loss.reshape(()).to(flat.dtype), flat.vector(here.grads)

    def hvp(x: Tensor, v: Tensor) -> Tensor:
        columns = [v] if v.ndim == 1 else list(v.unbind(1))
        products = [flat.vector(product) for product in at(x, columns).products]
        return products[0] if v.ndim == 1 else torch.stack(products, dim=1)

    return Functions(
        gradient=lambda x: both(x)[1], value=lambda x: both(x)[0], hvp=hvp, both=both, batched=True
    )
