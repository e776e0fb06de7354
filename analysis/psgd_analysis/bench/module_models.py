"""Models as PyTorch modules, with the optimisers of `psgd_analysis.reproduce` and PSGD's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from psgd_core.adapters.torch import PSGD
from psgd_core.curvature import Whitening

from ..reproduce import models, optimizers
from .contenders import Absent, Setting
from .libraries import Library
from .model import LR, Model, Pairs, Step


class Module(Model):
    """A classifier and one batch; every contender has a copy of its own."""

    tensors = True

    def __init__(self, about: str, library: Library, make: Callable[[], torch.nn.Module], x: Any, y: Any):
        self.about, self.library = about, library
        self._make, self._x = make, library.asarray(x)
        self._y = torch.asarray(np.asarray(y), dtype=torch.long, device=library.torch_device)
        self.n = sum(p.numel() for p in make().parameters())

    def _fresh(self) -> tuple[torch.nn.Module, list[Tensor], Callable[[], Tensor]]:
        """Return a module, its parameters and its loss."""
        module = self._make().to(self.library.torch_device, getattr(torch, self.library.dtype))
        return module, list(module.parameters()), lambda: cross_entropy(module(self._x), self._y)

    def gradient(self) -> Step:
        """Return the evaluation of the gradient alone."""
        _, params, loss = self._fresh()
        return lambda: torch.autograd.grad(loss(), params)

    def product(self) -> Step:
        """Return the evaluation of the gradient and of a Hessian-vector product, by double backward."""
        _, params, loss = self._fresh()
        generator = torch.Generator(self.library.torch_device).manual_seed(0)
        v = [torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device) for p in params]

        def evaluate() -> Any:
            grads = torch.autograd.grad(loss(), params, create_graph=True)
            return grads, torch.autograd.grad(grads, params, v)

        return evaluate

    def other(self, name: str, settings: dict[str, Any], seed: int) -> Step:
        """Return the steps of another optimiser, by its name among `reproduce.optimizers`."""
        module, _, loss = self._fresh()
        try:
            made = optimizers.make(name, module, settings, seed)
        except optimizers.Missing as error:
            raise Absent(f"not installed (pip install {error.package})") from error
        made.rates(LR)
        return lambda: made.step(lambda: (loss(), None))

    def psgd(self, setting: Setting, pairs: Pairs) -> Step:
        """Return the steps of `psgd_core.adapters.torch.PSGD`; whitening takes what backward leaves."""
        module, _, loss = self._fresh()
        optimizer = PSGD(
            module.named_parameters(),
            "kronecker" if setting.kind == "kronecker" else setting.preconditioner(),
            lr=LR,
            curvature=pairs.source,
            every=pairs.every,
            rng=setting.seed,
        )
        if not isinstance(pairs.source, Whitening):
            return lambda: optimizer.step(loss)

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return step


def linear(about: str, library: Library, x: np.ndarray, y: np.ndarray, classes: int) -> Module:
    """Return softmax regression, starting from 0."""

    def make() -> torch.nn.Module:
        module = torch.nn.Linear(x.shape[1], classes)
        for p in module.parameters():
            torch.nn.init.zeros_(p)
        return module

    return Module(about, library, make, x, y)


def lenet5(about: str, library: Library, rows: int, seed: int) -> Module:
    """Return LeNet5 on a batch of noise."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((rows, 1, 28, 28)), rng.integers(0, 10, rows)
    return Module(about, library, lambda: models.make("lenet5", (1, 28, 28), 10, {}, seed), x, y)
