"""Activations and pooling by name, smooth ones and such with kinks or jumps."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import hardtanh


class Sign(nn.Module):
    """The sign, with the straight-through gradient: that of hard tanh, 1 from -1 to 1 and 0 outside.

    So a gradient is not the derivative of any function, but can be differentiated again by the same rule.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return -1, 0 or 1, of the shape of x."""
        through = hardtanh(x)
        return through + (x.sign() - through).detach()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
    "hardtanh": nn.Hardtanh,
    "sign": Sign,
}
"""By the name that settings have. tanh and softplus are smooth; relu and hardtanh have kinks; sign jumps."""

POOLINGS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
"""By the name that settings have; called with the size of the window."""


def activation(name: str) -> nn.Module:
    """Return an activation.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


def pooling(name: str, size: int) -> nn.Module:
    """Return a pooling of square windows.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {', '.join(POOLINGS)}, got {name!r}")
    return POOLINGS[name](size)
