"""What the training loop asks of every optimiser, and what all of them share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from ...installing import requirement

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor

Loss = Callable[[], "tuple[Tensor, Any]"]
"""Evaluates the batch's loss, with its graph, by a call of the module; returns (loss, more)."""


class Missing(ImportError):
    """An optimiser's library is not installed.

    Parameters
    ----------
    method : str
        The optimiser.
    package : str
        As pip knows it.
    install : str
        The command.
    """

    def __init__(self, method: str, package: str, install: str) -> None:
        super().__init__(f"{method!r} needs {package}, which is not installed; {install}")
        self.method, self.package, self.install = method, package, install


class Steps(Protocol):
    """An optimiser at work on a module."""

    name: str
    version: str
    """Of the library it comes from: "pytorch_optimizer 4.1.0"."""
    gradients: int
    """Gradients evaluated so far, each with a value of the loss."""
    products: int
    """Products of a Hessian, or Gauss-Newton matrix, with a vector so far."""

    @property
    def skipped(self) -> int:
        """Pairs and steps that were left out so far, because they were not finite or were refused."""

    def step(self, loss: Loss) -> tuple[Tensor, Any]:
        """Do one step; return the loss where it began, without its graph, and what `loss` returned with it.

        Parameters
        ----------
        loss : callable
            Returns (mean loss of the batch with its graph, more). It is called as often as the method needs,
            and must return the same each time if nothing was changed.
        """

    def rates(self, lr: float, step: float | None = None) -> None:
        """Set the learning rate and, for PSGD, the step size of the fitting (None leaves it)."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run is resumed from: tensors, numbers and texts in dicts, lists and tuples."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; the run then goes on bit for bit."""


class Counting:
    """The name, the counters and the checkpoint of an optimiser; subclasses keep the rest in `_packed`.

    Parameters
    ----------
    name : str
    package : str
        The distribution it comes from.
    """

    def __init__(self, name: str, package: str) -> None:
        self.name = name
        self.version = f"{package} {metadata.version(package)}"
        self.gradients = self.products = self._refused = 0

    @property
    def skipped(self) -> int:
        """Pairs and steps left out so far."""
        return self._refused

    def _packed(self) -> dict[str, Any]:
        """Return what only this optimiser holds."""
        raise NotImplementedError

    def _unpack(self, own: Any) -> None:
        """Take it up again."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run is resumed from."""
        counts = {"gradients": self.gradients, "products": self.products, "refused": self._refused}
        return {"name": self.name, "counts": counts, "own": self._packed()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Raises
        ------
        ValueError
            If it is another optimiser's.
        """
        if state.get("name") != self.name:
            raise ValueError(f"`state` must be one of {self.name!r}, got one of {state.get('name')!r}")
        self._unpack(state["own"])
        counts = state["counts"]
        self.gradients, self.products = counts["gradients"], counts["products"]
        self._refused = counts["refused"]


def library(method: str, module: str, package: str) -> ModuleType:
    """Return a library's module.

    Raises
    ------
    Missing
        If it is not installed.
    """
    extra = "torch" if package == "torch" else "reproduce"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Missing(method, package, requirement(extra)) from error


def refuse_step(name: str, step: float | None) -> None:
    """Raise ValueError if a step size is given to a method that fits nothing."""
    if step is not None:
        raise ValueError(f"`step` must be None for {name!r}, which fits no preconditioner, got {step}")


def detached(more: Any) -> Any:
    """Return the same without graphs: tensors, also those in tuples, lists and dicts."""
    if isinstance(more, Mapping):
        return {key: detached(value) for key, value in more.items()}
    if isinstance(more, tuple | list):
        return type(more)(detached(value) for value in more)
    return more.detach() if hasattr(more, "detach") else more
