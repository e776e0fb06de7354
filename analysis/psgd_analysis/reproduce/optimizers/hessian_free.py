"""Hessian-free optimisation (Martens, 2010) on each batch in turn.

A step d minimises ``g^T d + d^T (G + lambda I) d / 2`` by conjugate gradients, G the Gauss-Newton matrix,
from 0.95 times the step before. CG ends as Martens says: when the last tenth of its iterations (10 at least)
gained less than 0.0005 of the value each. lambda follows Levenberg and Marquardt's rule: 3/2 times larger
where the loss fell by less than a quarter of what ``g^T d + d^T G d / 2`` promised, 2/3 times smaller above
three quarters. Then d is shortened until the loss falls enough. Left out: his preconditioner of CG, and
his going back to earlier iterates of CG.

G is the Hessian of ``loss - <c, z>``, with z what the module returns and c the gradient there, held fixed:
the curvature of z drops out, and that of an L2 term in the loss stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...spectrum.torch_sources import linear_outputs
from ..twice import differentiable_twice
from .steps import Counting, Loss, detached, refuse_step
from .watching import evaluated

DEFAULTS: dict[str, Any] = {"lr": 1.0, "damping": 1.0, "iterations": 50, "tolerance": 5e-4, "carry": 0.95}
"""lr: of the whole step. damping: lambda at the start. iterations, tolerance: of CG. carry: how much of a
step the next one starts from.
"""


def defaults(name: str) -> dict[str, Any]:
    """Return the settings, with their defaults."""
    return DEFAULTS


SHORTENED = 0.8
"""By how much a step that is too long is shortened, at most 60 times."""


class HessianFree(Counting):
    """Hessian-free optimisation at work on a module.

    Parameters
    ----------
    name : str
    model : torch.nn.Module
    settings : dict
        All of `DEFAULTS`.
    seed : int
        Not used; nothing is drawn.
    """

    def __init__(self, name: str, model: torch.nn.Module, settings: Mapping[str, Any], seed: int) -> None:
        super().__init__(name, "torch")
        self._model, self._settings = model, dict(settings)
        self._params: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._lr, self._damping = float(settings["lr"]), float(settings["damping"])
        self._last = torch.zeros_like(self._flat(self._params))

    def rates(self, lr: float, step: float | None = None) -> None:
        """Set the factor of the whole step, 1 at first."""
        refuse_step(self.name, step)
        self._lr = lr

    def step(self, loss: Loss) -> tuple[Tensor, Any]:
        """Do one step; if no shorter one lowers the loss, nothing moves, and it counts as skipped."""
        # the direction
        value, more, g, product = self._model_of(loss)
        found, start = value.detach(), self._flat(self._params)
        if not bool(torch.isfinite(found)):
            self._refused += 1
            return found, detached(more)
        d, bend = self._direction(g, product)
        promised = float(g @ d + d @ bend / 2)
        # the damping, from the whole step
        reached = self._value_at(start + d, loss)
        ratio = (reached - float(found)) / promised if promised < 0 else 0.0
        if not ratio >= 0.25:  # also where it is not a number
            self._damping *= 3 / 2
        elif ratio > 0.75:
            self._damping *= 2 / 3
        # how far to go
        scale, slope, tries = self._lr, float(g @ d), 0
        if scale != 1:
            reached = self._value_at(start + scale * d, loss)
        while not reached <= float(found) + 0.01 * scale * slope and tries < 60:
            scale, tries = SHORTENED * scale, tries + 1
            reached = self._value_at(start + scale * d, loss)
        if not reached <= float(found):
            self._refused += 1
            self._write(start)
            d = torch.zeros_like(d)
        self._last = d
        return found, detached(more)

    def _model_of(self, loss: Loss) -> tuple[Tensor, Any, Tensor, Callable[[Tensor], Tensor]]:
        """Return (loss, more, gradient, the product of the Gauss-Newton matrix with a vector)."""
        params = self._params
        with differentiable_twice():
            value, more, z = evaluated(self.name, self._model, loss)
        g = self._flat(torch.autograd.grad(value, params, retain_graph=True, materialize_grads=True))
        self.gradients += 1
        rest = linear_outputs(value, z)
        slope = torch.autograd.grad(rest, params, create_graph=True, materialize_grads=True)
        sizes = [p.numel() for p in params]

        def product(v: Tensor) -> Tensor:
            self.products += 1
            parts = [part.reshape(p.shape) for part, p in zip(v.split(sizes), params, strict=True)]
            bent = [(s, part) for s, part in zip(slope, parts, strict=True) if s.requires_grad]
            outputs, directions = zip(*bent, strict=True)
            found = torch.autograd.grad(
                outputs, params, directions, retain_graph=True, materialize_grads=True
            )
            return self._flat(found)

        return value, more, g, product

    def _direction(self, g: Tensor, product: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return (the step d of conjugate gradients, G d)."""
        d = self._settings["carry"] * self._last
        bend = product(d) if bool(d.any()) else torch.zeros_like(d)
        residual = -g - bend - self._damping * d
        along, size, values = residual, residual @ residual, []
        for i in range(1, self._settings["iterations"] + 1):
            if not float(size) > 0:
                break
            turned = product(along)
            step = size / (along @ turned + self._damping * (along @ along))
            d, bend = d + step * along, bend + step * turned
            residual = residual - step * (turned + self._damping * along)
            size, before = residual @ residual, size
            along = residual + size / before * along
            # half the residual's product with d, and half the gradient's, make the value of the quadratic
            values.append(float((g - residual) @ d / 2))
            span = max(10, i // 10)
            gain = values[-1] - values[-1 - span] if i > span else None
            if gain is not None and values[-1] < 0 and gain / values[-1] < span * self._settings["tolerance"]:
                break
        return d, bend

    def _value_at(self, x: Tensor, loss: Loss) -> float:
        """Move there, and return the loss."""
        self._write(x)
        with torch.no_grad():
            return float(loss()[0])

    @staticmethod
    def _flat(tensors: Any) -> Tensor:
        return torch.cat([t.detach().reshape(-1) for t in tensors])

    def _write(self, x: Tensor) -> None:
        with torch.no_grad():
            for part, p in zip(x.split([p.numel() for p in self._params]), self._params, strict=True):
                p.copy_(part.reshape(p.shape))

    def _packed(self) -> dict[str, Any]:
        return {"lr": self._lr, "damping": self._damping, "last": self._last}

    def _unpack(self, own: Any) -> None:
        self._lr, self._damping = own["lr"], own["damping"]
        self._last = own["last"].to(self._last.device)
