"""PSGD with each of its groups, by `psgd_core.adapters.torch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import psgd_core as psgd
from psgd_core.adapters.torch import PSGD
from psgd_core.preconditioners import normalizers

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
    "normalizer": "running",
}
"""Settings of all of them; "rank" and "diagonal" for LowRank besides."""

NORMALIZERS: dict[str, normalizers.Normalizer] = {
    "running": normalizers.Running(),
    "sample": normalizers.Sample(),
    "gradient": normalizers.Gradient(),
}

DENSE = 5_000
"""Parameters for which a dense P is still made: 100 MB in float32."""


def defaults(name: str) -> dict[str, Any]:
    """Return the settings of a method, with their defaults."""
    return ({"rank": 10, "diagonal": "right"} if name == "psgd_lowrank" else {}) | DEFAULTS


def normalizer(settings: Mapping[str, Any]) -> normalizers.Normalizer:
    """Return the normaliser that the settings name.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if settings["normalizer"] not in NORMALIZERS:
        raise ValueError(
            f"`normalizer` must be one of {list(NORMALIZERS)}, got {settings['normalizer']!r}; "
            "'running' is psgd_core's default"
        )
    return NORMALIZERS[settings["normalizer"]]


def of_the_loop(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that PSGD's loop takes, by the names it has for them."""
    shared = ("lr", "step", "clip", "momentum", "weight_decay", "decay", "update_probability")
    return {"curvature": settings["source"], **{key: settings[key] for key in shared}}


def preconditioner(
    name: str, model: torch.nn.Module, settings: Mapping[str, Any]
) -> psgd.Preconditioner[Any]:
    """Return the preconditioner of a method.

    Raises
    ------
    ValueError
        For invalid settings, and for a dense P of too many parameters.
    """
    options: Any = {"normalizer": normalizer(settings)}
    named = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    n = sum(p.numel() for _, p in named)
    if name == "psgd_dense" and n > DENSE:
        raise ValueError(f"`model` must have at most {DENSE} parameters for 'psgd_dense', got {n}")
    made: dict[str, Callable[[], psgd.Preconditioner[Any]]] = {
        "psgd_lowrank": lambda: (
            psgd.LowRank(settings["rank"], settings["diagonal"], **options)
            if settings["rank"]
            else psgd.Diagonal(**options)
        ),
        "psgd_xmat": lambda: psgd.XMat(**options),
        "psgd_diagonal": lambda: psgd.Diagonal(**options),
        "psgd_dense": lambda: psgd.Dense(**options),
        "psgd_kron": lambda: psgd.Blocks.of(named, lambda s: psgd.Kronecker(s, **options)),
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
        self._exact = settings["source"] == "hvp"
        self._optimizer = PSGD(
            named,
            preconditioner(name.removesuffix("_whitening"), model, settings),
            rng=seed,
            **of_the_loop(settings),
        )

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
        seen: list[Any] = []

        def closure() -> Tensor:
            value, more = loss()
            seen.append(detached(more))
            return value

        if self._exact and self._optimizer.due():
            self.products += 1
        value = self._optimizer.step(closure)
        self.gradients += len(seen)
        return value, seen[0]

    def _packed(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def _unpack(self, own: Any) -> None:
        self._optimizer.load_state_dict(own)
