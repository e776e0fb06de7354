"""KFAC (Martens and Grosse, 2015; Grosse and Martens, 2016, for convolutions) with the factors of `asdl`.

A layer's Fisher matrix is taken for ``A ⊗ B``, A the mean of ``a a^T`` over its inputs, B of ``g g^T`` over
the gradients at its outputs; a step is ``-(B + (r / pi) I)^{-1} G (A + r pi I)^{-1}``, with r^2 the damping
and pi^2 the ratio of the mean eigenvalues of A and B. Biases get B's inverse alone, and parameters of other
layers their gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import asdl
import torch
from asdl.symmatrix import Kron
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..convolution import InputConv2d
from .steps import Counting, Loss, detached, refuse_step
from .watching import evaluated

DEFAULTS: dict[str, Any] = {
    "lr": 0.1,
    "momentum": 0.0,
    "damping": 0.01,
    "forget": 0.05,
    "every": 1,
    "fisher": "mc",
    "clip": None,
}
"""forget: the weight of the newest batch in A and B, at least 1/k in the k-th update. every: steps from one
update of A, B and their inverses to the next. fisher: "mc", from labels drawn from the model, which must end
in a softmax; or "empirical", from the data's labels. clip: limit on the norm of the preconditioned gradient.
"""


def defaults(name: str) -> dict[str, Any]:
    """Return the settings, with their defaults."""
    return DEFAULTS


LAYERS = (torch.nn.Linear, torch.nn.Conv2d, InputConv2d)
"""What has a Kronecker product."""


class KFAC(Counting):
    """KFAC at work on a module.

    Parameters
    ----------
    name : str
    model : torch.nn.Module
    settings : dict
        All of `DEFAULTS`.
    seed : int
        Of the labels drawn.
    """

    def __init__(self, name: str, model: torch.nn.Module, settings: Mapping[str, Any], seed: int) -> None:
        super().__init__(name, "asdfghjkl")
        if settings["fisher"] not in ("mc", "empirical"):
            raise ValueError(f"`fisher` must be 'mc' or 'empirical', got {settings['fisher']!r}")
        if not settings["every"] >= 1:
            raise ValueError(f"`every` must be an int >= 1, got {settings['every']!r}; 1 is every step")
        self._model, self._settings = model, dict(settings)
        self._params: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.SGD(self._params, settings["lr"], settings["momentum"])
        self._generator = torch.Generator(self._params[0].device).manual_seed(seed)
        layers = {key: m for key, m in model.named_modules() if type(m) in LAYERS}
        self._layers = {key: m for key, m in layers.items() if m.weight.requires_grad}
        self._factors: dict[str, Kron] = {}
        self._taken = self._updates = 0

    def rates(self, lr: float, step: float | None = None) -> None:
        """Set the learning rate."""
        refuse_step(self.name, step)
        self._optimizer.param_groups[0]["lr"] = lr

    def step(self, loss: Loss) -> tuple[Tensor, Any]:
        """Do one step; a loss or gradient that is not finite changes nothing.

        Factors that cannot be inverted leave the inverses before in place, and count as skipped.
        """
        # the gradient, and the batch's factors where they are due
        fit = self._taken % self._settings["every"] == 0
        new: dict[str, tuple[Tensor, Tensor]] = {}
        self._taken += 1
        self._optimizer.zero_grad(set_to_none=True)
        if fit:
            value, more, new = self._with_factors(loss)
        else:
            value, more = loss()
        if self._settings["fisher"] == "mc" or not fit:
            value.backward()
            self.gradients += 1
        # precondition it in place, and step
        grads = [p.grad for p in self._params if p.grad is not None]
        if not all(bool(torch.isfinite(g).all()) for g in [value.detach(), *grads]):
            self._refused += 1
            return value.detach(), detached(more)
        if fit:
            self._average(new)
        with torch.no_grad():
            for key, layer in self._layers.items():
                bias = None if layer.bias is None else layer.bias.grad
                self._factors[key].mvp(layer.weight.grad, bias, use_inv=True, inplace=True)
        if self._settings["clip"] is not None:
            torch.nn.utils.clip_grad_norm_(self._params, self._settings["clip"])
        self._optimizer.step()
        return value.detach(), detached(more)

    def _with_factors(self, loss: Loss) -> tuple[Tensor, Any, dict[str, tuple[Tensor, Tensor]]]:
        """Return (loss, more, the factors (A, B) of the batch for each layer)."""
        rules = [(kind, asdl.SHAPE_KRON) for kind in LAYERS]
        with warnings.catch_warnings(), asdl.no_centered_cov(self._model, rules) as taken:
            # its hooks miss some gradients at inputs, which are not asked for
            warnings.filterwarnings("ignore", message="Using a non-full backward hook")
            value, more, z = evaluated(self.name, self._model, loss)
            count = z.shape[0]
            if self._settings["fisher"] == "mc":
                chances = torch.softmax(z.detach(), dim=-1)
                drawn = torch.multinomial(chances.nan_to_num(1.0), 1, generator=self._generator)[:, 0]
                cross_entropy(z, drawn, reduction="sum").backward(retain_graph=True)
                self._optimizer.zero_grad(set_to_none=True)
                share = 1.0 / count
            else:
                value.backward()  # of the mean: count times less than of each example
                share = float(count)
            self.gradients += 1
            found = {key: taken.cov_symmatrix(m, pop=True).kron for key, m in self._layers.items()}
        return value, more, {key: (kron.A / count, kron.B * share) for key, kron in found.items()}

    def _average(self, new: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Take the batch's factors into the averages, and invert those."""
        self._updates += 1
        weight = max(self._settings["forget"], 1 / self._updates)
        for key, (a, b) in new.items():
            held = self._factors.get(key)
            if held is not None:
                a, b = held.A.lerp(a, weight), held.B.lerp(b, weight)  # noqa: PLW2901
            try:
                inverses = self._inverses(a, b)
            except torch.linalg.LinAlgError:  # too near to singular for its damping
                if held is None:
                    raise
                self._refused += 1
                inverses = held.A_inv, held.B_inv
            self._factors[key] = Kron(a, b, *inverses)

    def _inverses(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the damped inverses of the factors."""
        damping = self._settings["damping"]
        # copies, to which the library adds the damping; it leaves out factors that are 0, of dead layers
        tried = Kron(a.clone(), b.clone())
        tried.update_inv(damping)
        pairs = ((tried.A_inv, a), (tried.B_inv, b))
        first, second = (torch.eye(len(x)).to(x) / damping if inv is None else inv for inv, x in pairs)
        return first, second

    def _packed(self) -> dict[str, Any]:
        return {
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "taken": self._taken,
            "updates": self._updates,
            "factors": {key: [f.A, f.B, f.A_inv, f.B_inv] for key, f in self._factors.items()},
        }

    def _unpack(self, own: Any) -> None:
        self._optimizer.load_state_dict(own["optimizer"])
        self._generator.set_state(own["generator"].cpu())
        self._taken, self._updates = own["taken"], own["updates"]
        self._factors = {key: Kron(*tensors) for key, tensors in own["factors"].items()}
