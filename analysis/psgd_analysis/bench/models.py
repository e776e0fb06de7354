"""Models whose whole steps are measured: what is evaluated in a step, and how PSGD is put to work on it.

On torch a model is a module, stepped by `torch.optim.Optimizer` and PSGD's own (`module_models`). On the
other libraries it is a function of one vector, stepped by `psgd_core.PSGD`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import psgd_core as psgd
from psgd_core.curvature import Exact, Forward, Functions, Source, Whitening

from .. import problems
from .contenders import Absent, Setting
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


class Function(Model):
    """A function of a vector."""

    tensors = False

    def __init__(self, about: str, library: Library, start: Any, functions: Functions) -> None:
        self.about, self.library, self.start, self.functions = about, library, start, functions
        self.n = int(start.shape[0])

    def gradient(self) -> Step:
        """Return the evaluation of the gradient alone."""
        return lambda: self.functions.gradient(self.start)

    def product(self) -> Step:
        """Return the evaluation of the gradient and of a Hessian-vector product."""
        v = self.library.asarray(np.random.default_rng(0).standard_normal(self.n))
        return lambda: (self.functions.gradient(self.start), self.functions.products(self.start, v))

    def other(self, name: str, settings: dict[str, Any], seed: int) -> Step:
        """Return the steps of SGD, by hand."""
        if name != "sgd":
            raise Absent(f"{name} takes steps of torch's modules; give --backend torch")
        held = [self.start]

        def step() -> None:
            held[0] = held[0] - LR * self.functions.gradient(held[0])

        return step

    def psgd(self, setting: Setting, pairs: Pairs) -> Step:
        """Return the steps of `psgd_core.PSGD`."""
        p = setting.preconditioner()
        loop = psgd.PSGD(preconditioner=p, lr=LR, every=pairs.every, source=pairs.source)
        rng = np.random.default_rng(setting.seed)
        held, count = [(self.start, loop.init(self.start))], [0]

        def step() -> None:
            x, state = held[0]
            fit = loop.due(count[0])
            count[0] += 1
            probe = loop.probes.draw(rng, x) if fit else None
            held[0] = loop.step(state, x, self.functions, probe, fit=fit)

        return step


def logistic(library: Library, batch: int | None, seed: int) -> Model:
    """Return softmax regression on scikit-learn's digits, or on synthetic data of that size."""
    rng, torch = np.random.default_rng(seed), library.name == "torch"
    like = np.zeros(1) if torch else library.asarray(np.zeros(1))
    try:
        made: Any = problems.get("digits", batch=batch, like=like)
        data = "digits"
    except ImportError:
        features, labels = rng.random((1797, 64)), np.arange(1797) % 10
        made = problems.softmax_regression(features, labels, batch=batch, like=like)
        data = "synthetic"
    part = made.draw(rng)  # None without a batch size: all rows
    about = f"softmax regression, {data}, {made.features.shape[0] if batch is None else batch} rows"
    if torch:
        from . import module_models

        x, y = (z if part is None else z[part] for z in (made.features[:, :-1], made.targets.argmax(1)))
        return module_models.linear(about, library, x, y, made.targets.shape[1])
    functions = Functions(
        gradient=lambda x: made.gradient(x, part),
        hvp=lambda x, v: made.hvp(x, v, part),
    )
    return Function(about, library, made.start, functions)


def lenet5(library: Library, batch: int | None, seed: int) -> Model:
    """Return LeNet5 with ReLU and max pooling on synthetic 28 x 28 images."""
    if library.name != "torch":
        raise Absent("the model lenet5 runs on torch; give --backend torch")
    from . import module_models

    rows = 64 if batch is None else batch
    return module_models.lenet5(f"LeNet5, synthetic images, batch {rows}", library, rows, seed)


MODELS: dict[str, Callable[[Library, int | None, int], Model]] = {"logistic": logistic, "lenet5": lenet5}


def prepared(names: Sequence[str], libraries: Sequence[Library], batch: int | None, seed: int) -> list[Model]:
    """Return models by their names, on all libraries.

    Raises
    ------
    Absent
        If a model does not run on a library.
    """
    if names and any(library.name == "jax" for library in libraries):
        raise Absent("models are measured step by step, which jax is not made for; give another --backend")
    return [MODELS[name](library, batch, seed) for library in libraries for name in names]
