"""The models whose whole steps are measured.

On torch a model is a module, stepped by `torch.optim.Optimizer` and PSGD's own (`module_models`). On the
other libraries it is a function of one vector, stepped by `psgd_core.PSGD`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import psgd_core as psgd
from psgd_core.curvature import Functions

from .. import problems
from .contenders import Absent, Setting
from .libraries import Library
from .model import LR, Model, Pairs, Step


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
