"""Hessians, Gauss-Newton and Fisher matrices of PyTorch's losses, on one batch or on all of a loader's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import array_api_compat

from ..arrays import Array
from .batches import Batches, Reduction, arguments, inputs_and_targets
from .checks import checked
from .curvatures import Curvature, Head, Hessian, half_squares, require_curvature
from .operators import HessianOperator

ADVICE = (
    "call eval() on the model, for dropout and BatchNorm; make loaders with shuffle=False and without "
    "drop_last; and draw nothing at random in the loss"
)
"""What to do about a loss that is not the same every time."""


def from_torch(
    loss: Callable[..., Any],
    parameters: Any,
    *,
    data: Iterable[Any] | None = None,
    reduction: Reduction = "mean",
    name: str = "Hessian of the loss",
) -> HessianOperator:
    """Return the Hessian of a PyTorch loss with respect to parameters, flattened and concatenated in order.

    Parameters
    ----------
    loss : callable
        Evaluates the loss, a scalar tensor, from the parameters as they are, without calling backward. It
        takes no arguments, or those of a batch of `data`. It is called once per product and batch, and must
        be the same function every time: the first product is asked for twice to see to it. Random numbers
        from PyTorch's own generators, as dropout draws them, are the same in every product, and a warning
        says so.
    parameters : torch.nn.Module, or iterable of tensors
        A module stands for its parameters that require a gradient. All of one dtype and device. Tied
        parameters, given twice, count once.
    data : iterable of batches, optional
        A DataLoader, or a list: whatever can be gone through again. The members of a tuple or list are the
        loss's arguments; anything else is its only one. The Hessian is that of the loss on all of them, a sum
        in their order.
    reduction : {"mean", "sum"}
        How the loss comes from the examples of a batch. Means are weighted by the number of examples, the
        length of the first tensor of the batch, so that the Hessian is that of the mean over all.

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
        the same function every time; or `data` are an iterator, which ends after one pass.
    """
    if data is None:
        return _operator(lambda batch, number: loss(), parameters, None, name)
    batches = Batches(data, reduction)
    return _operator(lambda batch, number: loss(*arguments(batch)), parameters, batches, name)


def from_torch_model(
    model: Callable[[Any], Any],
    loss: Callable[[Any, Any], Any],
    data: Iterable[Any],
    *,
    curvature: Curvature = Hessian(),  # noqa: B008
    parameters: Any = None,
    reduction: Reduction = "mean",
    name: str | None = None,
) -> HessianOperator:
    """Return a curvature matrix of ``loss(model(inputs), targets)`` over all batches of (inputs, targets).

    Parameters
    ----------
    model : torch.nn.Module or callable
        Of the inputs of a batch, which are moved to the parameters' device; returns a tensor with a row for
        each example.
    loss : callable
        Such as ``torch.nn.functional.cross_entropy``, or a module of `torch.nn`.
    data : iterable of (inputs, targets)
        A DataLoader, or a list such as ``[(x, y)]``: whatever can be gone through again.
    curvature : Hessian, GaussNewton, Fisher or EmpiricalFisher
        See `psgd_analysis.spectrum.curvatures`; the last three leave the curvature of the outputs out.
    parameters : torch.nn.Module, or iterable of tensors, optional
        With respect to which; those of the model by default.
    reduction : {"mean", "sum"}
        As the loss has it; means are weighted by the number of examples, as in `from_torch`.

    Returns
    -------
    HessianOperator
        As `from_torch`. A product costs one evaluation of model and loss, a gradient, and for each column
        another one, over all batches.

    Raises
    ------
    TypeError, ValueError
        As `from_torch`; or if the loss is not the negative log-likelihood that a Fisher matrix asks for.
    """
    import torch

    require_curvature(curvature)
    if parameters is None and not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"`parameters` must be given where `model` is no torch.nn.Module, got {type(model).__name__}; "
            "pass the module, or the tensors that it uses"
        )
    batches = Batches(data, reduction)

    def evaluated(batch: Any, number: int) -> Any:
        inputs, targets = _moved(inputs_and_targets(batch), operator.like.device)
        z = model(inputs)
        if isinstance(curvature, Hessian):
            return loss(z, targets)
        if not isinstance(z, torch.Tensor) or z.ndim == 0:
            raise TypeError(
                f"`model` must return a tensor with a row for each example, got {_shape(z)}; wrap it in a "
                "function that does"
            )
        return linear_outputs(_bent(curvature, z, lambda outputs: loss(outputs, targets), batches, number), z)

    if name is None:
        name = f"{type(curvature).__name__} of {type(model).__name__}"
    operator = _operator(evaluated, model if parameters is None else parameters, batches, name)
    return operator


def linear_outputs(value: Any, z: Any) -> Any:
    """Return ``value - <c, z>``, c the derivative of `value` by z: its Hessian is the Gauss-Newton matrix.

    In it the curvature of the outputs z drops out; that of terms which do not depend on z, such as an L2 term
    in the loss, stays.

    Parameters
    ----------
    value : tensor
        A scalar, with a graph.
    z : tensor
        In its graph.
    """
    import torch

    (c,) = torch.autograd.grad(value, z, retain_graph=True)
    return value - (c * z).sum()


def _bent(curvature: Any, z: Any, loss: Callable[[Any], Any], batches: Batches, number: int) -> Any:
    """Return a function of the outputs, evaluated, whose second derivative is the curvature's B."""
    import torch

    def gradient(at: Any, graph: bool = False) -> tuple[Any, Any]:
        here = at.detach().requires_grad_()
        return here, torch.autograd.grad(loss(here), here, create_graph=graph)[0]

    def product(at: Any, u: Any) -> Any:
        here, slope = gradient(at, graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(u)
        return torch.autograd.grad(slope, here, u, materialize_grads=True)[0]

    head = Head(lambda at: gradient(at)[1], product, batches.mean)
    directions = curvature.directions(z.detach(), head, number)
    return loss(z) if directions is None else half_squares(z, directions)


def _operator(
    loss: Callable[[Any, int], Any], parameters: Any, batches: Batches | None, name: str
) -> HessianOperator:
    """Return the Hessian of a loss of a batch and its number; without batches, of one of None and 0."""
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
    here: list[Any] = [None, 0]
    told: list[bool] = []

    def scalar() -> Any:
        value = loss(*here)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise ValueError(f"`loss` must return a scalar tensor, got {_shape(value)}; reduce it")
        return value

    f, still = functions(scalar, parameters if module else leaves), Still(leaves[0].device)
    passing = Still(leaves[0].device, speaks=False)  # loaders draw a seed with every pass

    def on(batch: Any, number: int, v: Any) -> Any:
        here[:] = [batch, number]
        with still:
            return f.products(torch.cat([p.detach().reshape(-1) for p in leaves]), v)

    def product(v: Any) -> Any:
        if batches is None:
            return on(None, 0, v)
        with passing:
            total = batches.sum(lambda batch, number: on(batch, number, v))
        if batches.count > 1 and not told:
            told.append(True)
            _warn_of_mixing(parameters)
        return total

    n = sum(p.numel() for p in leaves)
    like = leaves[0].detach().new_zeros(0)
    return HessianOperator(n, like, checked(product, name, ADVICE), name)


def _warn_of_mixing(parameters: Any) -> None:
    """Warn of modules that make an example's outputs depend on the others of its batch."""
    import torch

    if not isinstance(parameters, torch.nn.Module):
        return
    nn = torch.nn
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    if any(isinstance(module, kinds) and module.training for module in parameters.modules()):
        warnings.warn(
            "BatchNorm in training mode takes the statistics of each batch, so that the sum over batches "
            "depends on how the data are cut, and is not that of all; call eval() on the model",
            stacklevel=6,
        )


def _moved(x: Any, device: Any) -> Any:
    """Return nested lists, tuples and dicts with their tensors on a device."""
    if array_api_compat.is_torch_array(x):
        return x.to(device)
    if isinstance(x, dict):
        return {key: _moved(value, device) for key, value in x.items()}
    if type(x) in (list, tuple):
        return type(x)(_moved(value, device) for value in x)
    return x


def _shape(x: Array) -> str:
    return f"shape {tuple(x.shape)}" if hasattr(x, "shape") else type(x).__name__
