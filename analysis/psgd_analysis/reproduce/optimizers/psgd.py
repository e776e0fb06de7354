"""PSGD with each of its groups, by `psgd_core.adapters.torch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import psgd_core as psgd
from psgd_core.adapters.torch import PSGD, Affine, blocks_of
from psgd_core.preconditioners import normalizers

from ..twice import differentiable_twice
from .steps import Counting, Loss, detached

DEFAULTS: dict[str, Any] = {
    "lr": 0.1,
    "step": 0.1,
    "clip": None,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "decay": "decoupled",
    "source": "hvp",
    "update_probability": 1.0,
    "every": 1,
    "scale": None,
    "normalizer": "running",
    "geometry": None,
}
"""Settings of all of them. clip: a limit on the norm of ``P m``, or None. source: "hvp",
"forward_over_reverse", "finite_difference" or "whitening". scale: Q starts as this multiple of the identity;
None lets the first pair set it. normalizer, geometry: of the preconditioner; None takes the geometry that is
its default.
"""

MORE: dict[str, dict[str, Any]] = {
    "psgd_lowrank": {"rank": 10, "diagonal": "right"},
    "psgd_kron": {"factors": "dense"},
    "psgd_affine": {"factors": "dense"},
}
"""Settings of some. factors: of each matrix, as for `psgd_core.Kronecker`: a name or a pair of names."""

NORMALIZERS: dict[str, normalizers.Normalizer] = {
    "running": normalizers.Running(),
    "sample": normalizers.Sample(),
    "gradient": normalizers.Gradient(),
}

DENSE = 5_000
"""Parameters for which a dense P is still made: 100 MB in float32."""


def defaults(name: str) -> dict[str, Any]:
    """Return the settings of a method, with their defaults."""
    return MORE.get(name, {}) | DEFAULTS


def preconditioner(
    name: str, model: torch.nn.Module, settings: Mapping[str, Any]
) -> psgd.Preconditioner[Any]:
    """Return the preconditioner of a method.

    Raises
    ------
    ValueError
        For invalid settings, and for a dense P of too many parameters.
    """
    if settings["normalizer"] not in NORMALIZERS:
        raise ValueError(
            f"`normalizer` must be one of {list(NORMALIZERS)}, got {settings['normalizer']!r}; "
            "'running' is psgd_core's default"
        )
    options: Any = {"normalizer": NORMALIZERS[settings["normalizer"]]}
    if settings["geometry"] is not None:
        options["geometry"] = settings["geometry"]
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if name == "psgd_dense" and n > DENSE:
        raise ValueError(f"`model` must have at most {DENSE} parameters for 'psgd_dense', got {n}")

    def product(kind: type[psgd.Kronecker]) -> Callable[[tuple[int, ...]], psgd.Kronecker]:
        factors = settings["factors"]
        return lambda shape: kind(shape, factors if isinstance(factors, str) else tuple(factors), **options)

    def vector(shape: tuple[int, ...]) -> psgd.Diagonal:
        return psgd.Diagonal(**options)

    made: dict[str, Callable[[], psgd.Preconditioner[Any]]] = {
        "psgd_lowrank": lambda: (
            psgd.LowRank(settings["rank"], settings["diagonal"], **options)
            if settings["rank"]
            else psgd.Diagonal(**options)
        ),
        "psgd_xmat": lambda: psgd.XMat(**options),
        "psgd_diagonal": lambda: psgd.Diagonal(**options),
        "psgd_dense": lambda: psgd.Dense(**options),
        "psgd_kron": lambda: blocks_of(model, product(psgd.Kronecker), vector),
        "psgd_affine": lambda: blocks_of(model, product(psgd.Kronecker), vector, affine=product(Affine)),
    }
    return made[name]()


class Preconditioned(Counting):
    """PSGD at work on a module, all parameters in one group.

    Its momentum is the average ``m <- beta m + (1 - beta) g``, the paper's form, but that the past weighs
    ``min(beta, t / (t + 1))``, so that m is unbiased from the first step on.

    Parameters
    ----------
    name : str
    model : torch.nn.Module
    settings : dict
        All of `defaults`.
    seed : int
        Of the probes.
    """

    def __init__(self, name: str, model: torch.nn.Module, settings: Mapping[str, Any], seed: int) -> None:
        super().__init__(name, "psgd-core")
        named = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
        shared = ("lr", "step", "clip", "momentum", "weight_decay", "decay", "update_probability", "every")
        self._exact = settings["source"] in ("hvp", "forward_over_reverse")
        self._optimizer = PSGD(
            named,
            preconditioner(name.removesuffix("_whitening"), model, settings),
            curvature=settings["source"],
            scale=settings["scale"],
            rng=seed,
            **{key: settings[key] for key in shared},
        )

    @property
    def skipped(self) -> int:
        """Steps and pairs left out so far because something in them was not finite."""
        state = self._optimizer.group_state()
        return 0 if state is None else int(state.skipped) + int(state.preconditioner.skipped)

    @property
    def fitted(self) -> tuple[psgd.Preconditioner[Any], Any] | None:
        """The preconditioner and its state, whose arrays are the engine's; None before the first step."""
        state = self._optimizer.group_state()
        if state is None:
            return None
        return self._optimizer.param_groups[0]["preconditioner"], state.preconditioner

    def rates(self, lr: float, step: float | None = None) -> None:
        """Set mu, and the step size of the fitting."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
            if step is not None:
                group["step"] = step

    def step(self, loss: Loss) -> tuple[Tensor, Any]:
        """Do one step."""

        def counted() -> tuple[Tensor, Any]:
            self.gradients += 1
            return loss()

        if self._exact and self._optimizer.due():
            self.products += 1
            with differentiable_twice():
                value, more = self._optimizer.step(counted)
        else:
            value, more = self._optimizer.step(counted)
        return value, detached(more)

    def _packed(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def _unpack(self, own: Any) -> None:
        self._optimizer.load_state_dict(own)
