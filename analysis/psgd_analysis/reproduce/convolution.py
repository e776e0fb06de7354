"""A convolution for a network's input, whose second derivatives cost a fraction of PyTorch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional, grad


class InputConv2d(nn.Conv2d):
    """A plain convolution (stride 1, no padding) of inputs that are not differentiated.

    PyTorch's double backward of a convolution computes the derivative by the input, which nobody wants here,
    by its slowest method: a third of LeNet5's Hessian-vector product. It is left out.
    """

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__(inputs, outputs, size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution, (batch, outputs, height - size + 1, width - size + 1)."""
        if x.requires_grad:
            return super().forward(x)
        y: Tensor = _Convolution.apply(x, self.weight, self.bias)
        return y


class _Convolution(torch.autograd.Function):
    """``conv2d(x, weight, bias)``, constant in x."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.conv2d(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.shape = inputs[1].shape

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return None, _ByWeight.apply(x, g, ctx.shape), g.sum((0, 2, 3))

    @staticmethod
    def jvp(ctx: Any, _: Any, weight: Tensor, bias: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return functional.conv2d(x, weight, bias)


class _ByWeight(torch.autograd.Function):
    """The derivative by the weight, which is linear in g."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, shape: torch.Size) -> Tensor:
        found: Tensor = grad.conv2d_weight(x, list(shape), g)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.shape = inputs[2]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return None, functional.conv2d(x, direction), None

    @staticmethod
    def jvp(ctx: Any, _: Any, g: Tensor, __: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad.conv2d_weight(x, list(ctx.shape), g)
