"""PSGD on the affine matrices ``[W b]`` of a module's layers, Li's preconditioner of Table 1.

A convolution's kernel counts as the matrix that acts on patches. Each matrix has a Kronecker product
``Q_2 ⊗ Q_1``; what belongs to no layer with weights has one of its own, in its own shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import psgd_core
from psgd_core.adapters.torch import PSGD

from .psgd import DEFAULTS as SHARED
from .psgd import normalizer, of_the_loop
from .steps import Counting, Loss, detached

DEFAULTS: dict[str, Any] = SHARED | {"factors": "dense"}
"""factors: of the matrices, as for `psgd_core.Kronecker`, also a pair of them."""


def defaults(name: str) -> dict[str, Any]:
    """Return the settings, with their defaults."""
    return DEFAULTS


LAYERS = (torch.nn.Linear, torch.nn.Conv2d)
"""What is an affine map of features, or of patches."""


class Affine(Counting):
    """PSGD at work on the matrices [W b] of a module, all in one group; momentum as in `Preconditioned`.

    Parameters
    ----------
    name : str
    model : torch.nn.Module
    settings : dict
        All of `DEFAULTS`.
    seed : int
        Of the probes.
    """

    def __init__(self, name: str, model: torch.nn.Module, settings: Mapping[str, Any], seed: int) -> None:
        super().__init__(name, "psgd-core")
        if settings["source"] not in ("hvp", "whitening"):
            raise ValueError(
                f"`source` must be 'hvp' or 'whitening' for {name!r}, got {settings['source']!r}"
            )
        self._exact = settings["source"] == "hvp"
        # which parameters make a matrix: (W, b), (W,), or one of another kind of layer by itself
        self._groups: list[tuple[Tensor, ...]] = []
        self._matrices: set[int] = set()
        seen: set[int] = set()
        for layer in model.modules():
            own = [p for p in layer.parameters(recurse=False) if p.requires_grad and id(p) not in seen]
            seen |= {id(p) for p in own}
            whole = type(layer) in LAYERS and own and own[0] is layer.weight
            if whole:
                self._matrices.add(len(self._groups))
            self._groups += [tuple(own)] if whole else [(p,) for p in own]
        self._params: list[Tensor] = [p for group in self._groups for p in group]
        self._joined = [torch.nn.Parameter(x.detach().clone()) for x in self._join(self._params)]
        pair: Any = settings["factors"]
        factors = pair if isinstance(pair, str) else tuple(pair)
        options: Any = {"normalizer": normalizer(settings)}
        blocks = psgd_core.Blocks.of(
            self._joined,
            lambda s: psgd_core.Kronecker(s, factors if len(s) == 2 else "auto", **options),
        )
        self._optimizer = PSGD(self._joined, blocks, rng=seed, **of_the_loop(settings))

    @property
    def skipped(self) -> int:
        """Steps and pairs left out so far because something in them was not finite."""
        state = self._optimizer.group_state()
        return 0 if state is None else int(state.skipped) + int(state.preconditioner.skipped)

    def rates(self, lr: float, step: float | None = None) -> None:
        """Set mu, and the step size of the fitting."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
            if step is not None:
                group["step"] = step

    def step(self, loss: Loss) -> tuple[Tensor, Any]:
        """Do one step."""
        exact = self._exact and self._optimizer.due()
        # gradient and product, in the module's parameters
        value, more = loss()
        grads = torch.autograd.grad(value, self._params, create_graph=exact, materialize_grads=True)
        self.gradients += 1
        pair: dict[str, Any] = {}
        if exact:
            v = self._optimizer.probe()
            h = torch.autograd.grad(grads, self._params, self._apart(v), materialize_grads=True)
            self.products += 1
            pair = {"v": v, "h": self._join(h)}
        # the step, in the matrices
        with torch.no_grad():
            for x, here, g in zip(self._joined, self._join(self._params), self._join(grads), strict=True):
                x.copy_(here)
                x.grad = g.detach()
            self._optimizer.step(**pair)
            for p, there in zip(self._params, self._apart(self._joined), strict=True):
                p.copy_(there)
        return value.detach(), detached(more)

    def _join(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors like the parameters as matrices [W b]."""
        rest, found = iter(tensors), []
        for i, group in enumerate(self._groups):
            own = [next(rest) for _ in group]
            if i in self._matrices:
                own = [torch.cat([part.reshape(part.shape[0], -1) for part in own], dim=1)]
            found += own
        return found

    def _apart(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """Return matrices [W b] as tensors like the parameters."""
        found: list[Tensor] = []
        for i, (group, matrix) in enumerate(zip(self._groups, matrices, strict=True)):
            if i in self._matrices:
                parts = matrix.split([p.numel() // p.shape[0] for p in group], dim=1)
                found += [part.reshape(p.shape) for part, p in zip(parts, group, strict=True)]
            else:
                found.append(matrix)
        return found

    def _packed(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def _unpack(self, own: Any) -> None:
        self._optimizer.load_state_dict(own)
