"""Logistic regression on the outer products of images, ``x (x) x``, which are never built (appendix E.3).

With D pixels there are ``D^2`` features for each of C classes. The logits are ``z_k = x^T W_k x``: of B images,
one product (B, D) (D, C D), and what autograd makes of them is the closed form, the gradient ``X^T diag(r_k) X``
in one product (D, B) (B, C D), and a Hessian-vector product in two more. Building the features costs seven
times as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from psgd_core.schedules import Exponential

from .experiment import Settings
from .optimizers import make

ROWS = 1000
"""Images at a time where no gradient is needed."""

DECAY = 0.01
"""Of the learning rate, from the first iteration to the last."""


class OuterProducts(torch.nn.Module):
    """``z_k = x^T W_k x``, from W = 0 and without a bias.

    Parameters
    ----------
    pixels, classes : int
        W has shape (pixels, classes, pixels).
    """

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(pixels, classes, pixels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, pixels)."""
        pixels, classes, _ = self.weight.shape
        halves = (x @ self.weight.view(pixels, classes * pixels)).view(-1, classes, pixels)
        return torch.bmm(halves, x[:, :, None])[:, :, 0]


class Images:
    """Training and test images as vectors in [0, 1], float32, with labels; pooled to fewer pixels if asked.

    Parameters
    ----------
    train, test : (images, labels)
        Images (N, side, side) in [0, 1]; labels (N,), integers from 0.
    side : int
        Larger images are averaged over squares of pixels, down to this side.

    Raises
    ------
    ValueError
        If `side` does not divide that of larger images.
    """

    def __init__(self, train: tuple[Any, Any], test: tuple[Any, Any], side: int) -> None:
        self.x, self.y = _vectors(*train, side)
        self.test_x, self.test_y = _vectors(*test, side)
        self.classes = int(self.y.max()) + 1


def _vectors(images: Any, labels: Any, side: int) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    if x.shape[-1] > side:
        if x.shape[-1] % side:
            raise ValueError(f"`side` must divide that of the images, {x.shape[-1]}, got {side}")
        x = avg_pool2d(x[:, None], x.shape[-1] // side)
    return x.reshape(len(x), -1), torch.from_numpy(np.array(labels, dtype=np.int64))


class Regression:
    """A run of the regression; see `experiment.Training`. A part is an epoch.

    What is drawn depends on seed and iteration alone, and is the same for all optimisers.

    Parameters
    ----------
    images : Images
    settings : dict
        "optimizer" and "options" as `optimizers.make` has them; "lr", which falls a hundredfold; "epochs",
        "batch"; and "noise": "Bernoulli" draws each pixel of each batch anew, 1 with its grey for a
        probability.
    seed : int
    """

    def __init__(self, images: Images, settings: Settings, seed: int) -> None:
        self.images, self.seed, self.parts = images, seed, int(settings["epochs"])
        self.noisy = {"none": False, "Bernoulli": True}[settings["noise"]]
        self.batch = min(int(settings["batch"]), len(images.y))
        self.length = len(images.y) // self.batch
        self.lr = Exponential(settings["lr"], DECAY * settings["lr"], over=max(1, self.parts * self.length - 1))
        self.model = OuterProducts(images.x.shape[1], images.classes)
        options = {**settings["options"], "lr": settings["lr"]}
        self.steps = make(settings["optimizer"], self.model, options, seed)
        self.epoch, self.best, self.diverged = 0, math.inf, False

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Whether more epochs are needed."""
        return "diverged" if self.diverged else "done" if self.epoch == self.parts else "going"

    @property
    def skipped(self) -> int:
        """How many pairs, or steps, were refused so far."""
        return self.steps.skipped

    def advance(self) -> dict[str, Any]:
        """Run an epoch; return the mean and the largest loss of its batches, and loss and error of the test."""
        order = np.random.default_rng([self.seed, 0, self.epoch]).permutation(len(self.images.y))
        losses: list[float] = []
        for i in range(self.length):
            rows = torch.from_numpy(order[i * self.batch : (i + 1) * self.batch])
            t = self.epoch * self.length + i
            self.steps.rates(float(self.lr(t)))
            losses.append(float(self.steps.step(self._loss(rows, t))[0]))
            if not math.isfinite(losses[-1]):
                self.diverged = True
                break
        self.epoch += 1
        counts = {"gradients": self.steps.gradients, "products": self.steps.products}
        loss, error = self._measured(self.images.test_x, self.images.test_y)
        if not math.isfinite(loss):
            self.diverged = True
        if self.diverged:
            return {"epoch": self.epoch, **counts}
        self.best = min(self.best, error)
        seen = {"train_loss": sum(losses) / len(losses), "largest_loss": max(losses)}
        return {"epoch": self.epoch, **seen, "test_loss": loss, "test_error": error, **counts}

    def final(self) -> dict[str, Any]:
        """Return losses, errors in per cent, and what was evaluated; the training set is without noise."""
        size = {"parameters": self.model.weight.numel()}
        if self.diverged:
            return size
        train, train_error = self._measured(self.images.x, self.images.y)
        test, error = self._measured(self.images.test_x, self.images.test_y)
        errors = {"train_error": train_error, "test_error": error, "best_error": self.best}
        counts = {"gradients": self.steps.gradients, "products": self.steps.products}
        return {"train_loss": train, "test_loss": test, **errors, **counts, **size}

    def save(self, file: IO[bytes]) -> None:
        """Write all that the next epoch depends on."""
        own = {"epoch": self.epoch, "best": self.best, "diverged": self.diverged}
        held = {"model": self.model.state_dict(), "steps": self.steps.state_dict(), **own}
        torch.save(held, file)

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote."""
        held = torch.load(file, weights_only=True)
        self.model.load_state_dict(held["model"])
        self.steps.load_state_dict(held["steps"])
        self.epoch, self.best, self.diverged = held["epoch"], held["best"], held["diverged"]

    def _loss(self, rows: Tensor, t: int) -> Callable[[], tuple[Tensor, None]]:
        """Return the loss of a batch, which is drawn once."""
        x, y = self.images.x[rows], self.images.y[rows]
        if self.noisy:
            draws = np.random.default_rng([self.seed, 1, t]).random(tuple(x.shape), dtype=np.float32)
            x = (torch.from_numpy(draws) < x).to(x.dtype)
        return lambda: (cross_entropy(self.model(x), y), None)

    @torch.no_grad()
    def _measured(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Return the mean loss, and the error in per cent."""
        loss, wrong = 0.0, 0
        for part, labels in zip(x.split(ROWS), y.split(ROWS), strict=True):
            z = self.model(part)
            loss += float(cross_entropy(z, labels, reduction="sum"))
            wrong += int((z.argmax(dim=1) != labels).sum())
        return loss / len(y), 100 * wrong / len(y)
