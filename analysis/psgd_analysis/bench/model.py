"""What a model is whose whole steps are measured: what a step must evaluate, and who takes steps on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from psgd_core.curvature import Exact, Forward, Source, Whitening

from .contenders import Setting
from .libraries import Library

Step = Callable[[], Any]
"""Does one step, or one evaluation."""

OFTEN = 10
"""The paper fits P with probability 0.1; here every tenth step does, so that ten steps cost the same."""

LR = 1e-6
"""Learning rate; small, so that x hardly moves and every step costs the same."""

GRADIENT, PRODUCT = "the gradient alone", "gradient and Hessian-vector product alone"
"""What a step needs at least: a gradient, and where P is fitted to an exact pair a product as well."""


@dataclass(frozen=True)
class Pairs:
    """Where the pairs of PSGD come from, and in which steps."""

    name: str
    source: Source
    every: int = 1

    @property
    def needs(self) -> dict[str, float]:
        """How many evaluations of each kind a step needs, on average."""
        part = 1 / self.every
        if isinstance(self.source, Exact):
            return {PRODUCT: part} | ({GRADIENT: 1 - part} if part < 1 else {})
        return {GRADIENT: 1 + part if isinstance(self.source, Forward) else 1.0}


PAIRS = (
    Pairs("exact pairs", Exact()),
    Pairs(f"exact pairs, every {OFTEN}th step", Exact(), OFTEN),
    Pairs(f"differences, every {OFTEN}th step", Forward(), OFTEN),
    Pairs("whitening", Whitening()),
    Pairs(f"whitening, every {OFTEN}th step", Whitening(), OFTEN),
)


class Model(ABC):
    """Something to train.

    Attributes
    ----------
    about : str
        What it is, in words.
    library : Library
    n : int
        Number of parameters.
    tensors : bool
        Whether its parameters are tensors, which a `Kronecker` fits.
    """

    about: str
    library: Library
    n: int
    tensors: ClassVar[bool]

    @abstractmethod
    def gradient(self) -> Step:
        """Return the evaluation of the gradient alone."""

    @abstractmethod
    def product(self) -> Step:
        """Return the evaluation of the gradient and of a Hessian-vector product."""

    @abstractmethod
    def other(self, name: str, settings: dict[str, Any], seed: int) -> Step:
        """Return the steps of another optimiser, by its name among `reproduce.optimizers`.

        Raises
        ------
        Absent
            If it is not installed, or is not for such models.
        """

    @abstractmethod
    def psgd(self, setting: Setting, pairs: Pairs) -> Step:
        """Return the steps of PSGD."""
