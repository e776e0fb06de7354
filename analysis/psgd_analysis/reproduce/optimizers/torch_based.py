"""Optimisers of `torch.optim` and `pytorch_optimizer`, which follow the same protocol."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..twice import differentiable_twice
from .randomness import Own
from .steps import Counting, Loss, detached, refuse_step


class FromClass(Counting):
    """An optimiser class at work: gradients by backward, then its ``step()``.

    Parameters
    ----------
    name, package : str
    kind : type
        The class, a `torch.optim.Optimizer`.
    model : torch.nn.Module
    settings : dict
        Keyword arguments of the class; lists stand for tuples. And "clip", a limit on the norm of the
        gradient.
    seed : int
        For methods that draw; they have a generator of their own.
    """

    def __init__(
        self,
        name: str,
        package: str,
        kind: type,
        model: torch.nn.Module,
        settings: Mapping[str, Any],
        seed: int,
    ) -> None:
        super().__init__(name, package)
        own = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        self._clip: Any = own.pop("clip", None)
        self._params: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._optimizer: torch.optim.Optimizer = self._made(kind, model, own)
        self._base: list[float] = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._random = Own(seed)

    def _made(self, kind: type, model: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = kind(self._params, **settings)
        return made

    def rates(self, lr: float, step: float | None = None) -> None:
        """Set the learning rate; further groups keep their ratio to the first."""
        refuse_step(self.name, step)
        for i, group in enumerate(self._optimizer.param_groups):
            group["lr"] = lr if i == 0 else self._base[i] * (lr / self._base[0])

    def step(self, loss: Loss) -> tuple[Tensor, Any]:
        """Do one step; a loss that is not finite, on which some fail, changes nothing."""
        self._optimizer.zero_grad(set_to_none=True)
        value, more = loss()
        if not bool(torch.isfinite(value.detach())):
            self._refused += 1
            return value.detach(), detached(more)
        self._differentiate(value)
        self.gradients += 1
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._params, self._clip)
        with self._random:
            self._optimizer.step()
        return value.detach(), detached(more)

    def _differentiate(self, value: Tensor) -> None:
        value.backward()

    def _packed(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict(), "random": self._random.state()}

    def _unpack(self, own: Any) -> None:
        self._optimizer.load_state_dict(own["optimizer"])
        self._random.restore(own["random"])


class LineSearching(FromClass):
    """L-BFGS, which evaluates the loss several times in a step, each time on the same batch."""

    def step(self, loss: Loss) -> tuple[Tensor, Any]:
        """Do one step."""
        seen: list[Any] = []

        def closure() -> Tensor:
            self._optimizer.zero_grad(set_to_none=True)
            value, more = loss()
            value.backward()
            seen.append((value.detach(), detached(more)))
            return value.detach()

        optimizer: Any = self._optimizer
        optimizer.step(closure)
        self.gradients += len(seen)
        value, more = seen[0]
        return value, more


class DoubleBackward(FromClass):
    """AdaHessian, which differentiates the gradients again."""

    def _differentiate(self, value: Tensor) -> None:
        # as backward(create_graph=True), without the reference cycle through .grad that PyTorch warns of
        grads = torch.autograd.grad(value, self._params, create_graph=True)
        for p, g in zip(self._params, grads, strict=True):
            p.grad = g
        optimizer: Any = self._optimizer
        if self.gradients % optimizer.update_period == 0:
            self.products += optimizer.num_samples

    def step(self, loss: Loss) -> tuple[Tensor, Any]:
        """Do one step."""
        with differentiable_twice():
            found = super().step(loss)
        self._optimizer.zero_grad(set_to_none=True)  # with the graphs
        return found


class Orthogonalising(FromClass):
    """Muon, as its library advises: hidden matrices by Muon; embeddings, head and vectors by AdamW."""

    def _made(self, kind: type, model: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
        layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        outside = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)] + layers[-1:]
        apart = {id(p) for m in outside for p in m.parameters()}
        hidden = [p for p in self._params if p.ndim >= 2 and id(p) not in apart]
        chosen = {id(p) for p in hidden}
        others = [p for p in self._params if id(p) not in chosen]
        groups = [{"params": hidden, "use_muon": True}, {"params": others, "use_muon": False}]
        made: torch.optim.Optimizer = kind([g for g in groups if g["params"]], **settings)
        return made


class Blockwise(FromClass):
    """ScalableShampoo, whose state is in objects: their tensors are kept."""

    _HELD: ClassVar = {
        "pre_conditioner": ("statistics", "pre_conditioners"),
        "graft": ("momentum", "statistics"),
    }

    def _packed(self) -> dict[str, Any]:
        packed = super()._packed()
        plain = {}
        for key, state in packed["optimizer"]["state"].items():
            plain[key] = dict(state)
            for name, fields in self._HELD.items():
                held = vars(state[name])
                plain[key][name] = {field: held[field] for field in fields if field in held}
        return packed | {"optimizer": {**packed["optimizer"], "state": plain}}

    def _unpack(self, own: Any) -> None:
        # make the objects, as a first step does, and fill them
        optimizer: Any = self._optimizer
        objects: dict[int, dict[str, Any]] = {}
        for p in self._params:
            p.grad = torch.zeros_like(p)
        for group in optimizer.param_groups:
            optimizer.init_group(group)
        for i, p in enumerate(self._params):
            objects[i] = {name: optimizer.state[p][name] for name in self._HELD}
            p.grad = None
        super()._unpack(own)
        for i, p in enumerate(self._params):
            state = optimizer.state[p]
            for name, made in objects[i].items():
                vars(made).update(state.get(name, {}))
                if name in state:
                    state[name] = made


def arguments(kind: type) -> list[str]:
    """Return the names of the settings that an optimiser of a class takes."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(kind).parameters.values()
    own = [p.name for p in found if p.kind in kinds and p.name not in ("params", "maximize")]
    return [*own, "clip"]
