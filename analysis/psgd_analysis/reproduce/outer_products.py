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

from .data import DataSet
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
    size, side : int
        Images have size^2 pixels; x has side^2, means over squares of them. It is as long as the image then, so
        that learning rates stay what they are.
    classes : int

    Raises
    ------
    ValueError
        If `side` does not divide `size`.
    """

    def __init__(self, size: int, side: int, classes: int) -> None:
        super().__init__()
        if size % side:
            raise ValueError(f"`side` must divide {size}, that of the images, got {side}")
        self.square = size // side
        self.weight = torch.nn.Parameter(torch.zeros(side**2, classes, side**2))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, size, size) in [0, 1]."""
        pixels, classes, _ = self.weight.shape
        # an orthogonal projection: the length of the mean of s^2 equal pixels is kept by a factor s
        x = self.square * avg_pool2d(images[:, None], self.square).flatten(1)
        halves = (x @ self.weight.view(pixels, classes * pixels)).view(-1, classes, pixels)
        return torch.bmm(halves, x[:, :, None])[:, :, 0]


class Regression:
    """A run of the regression; see `experiment.Training`. A part is an epoch.

    What is drawn depends on seed and iteration alone, and is the same for all optimisers.

    Parameters
    ----------
    data : DataSet
        Of images (n, size, size), in bytes.
    settings : dict
        "side", see `OuterProducts`; "optimizer" and "options" as `optimizers.make` has them; "lr", which falls a hundredfold; "epochs",
        "batch"; and "noise": "Bernoulli" draws each pixel of each batch anew, 1 with its grey for a
        probability.
    seed : int
    """

    def __init__(self, data: DataSet, settings: Settings, seed: int) -> None:
        self.data, self.seed, self.parts = data, seed, int(settings["epochs"])
        self.noisy = {"none": False, "Bernoulli": True}[settings["noise"]]
        self.batch = min(int(settings["batch"]), len(data.train_y))
        self.length = len(data.train_y) // self.batch
        self.lr = Exponential(
            settings["lr"], DECAY * settings["lr"], over=max(1, self.parts * self.length - 1)
        )
        self.model = OuterProducts(data.train_x.shape[1], settings["side"], data.classes)
        options = {**settings["options"], "lr": settings["lr"]}
        self.steps = make(settings["optimizer"], self.model, options, seed)
        self.epoch, self.diverged = 0, False
        self.last: dict[str, Any] = {"best_error": 100.0}

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Whether more epochs are needed."""
        return "diverged" if self.diverged else "done" if self.epoch == self.parts else "going"

    @property
    def skipped(self) -> int:
        """How many pairs, or steps, were refused so far."""
        return self.steps.skipped

    def advance(self) -> dict[str, Any]:
        """Run an epoch; return the mean and the largest loss of its batches, and loss and error of the test.

        Losses of batches are those at the beginning of each step, with their noise. Errors are in per cent.
        """
        order = np.random.default_rng([self.seed, 0, self.epoch]).permutation(len(self.data.train_y))
        losses: list[float] = []
        for i in range(self.length):
            rows, t = order[i * self.batch : (i + 1) * self.batch], self.epoch * self.length + i
            self.steps.rates(float(self.lr(t)))
            losses.append(float(self.steps.step(self._loss(rows, t))[0]))
            if not math.isfinite(losses[-1]):
                break
        loss, error = self._tested()
        self.diverged = not math.isfinite(losses[-1] + loss)
        self.epoch += 1
        counts = {"gradients": self.steps.gradients, "products": self.steps.products}
        if self.diverged:
            self.last = counts
        else:
            seen = {"train_loss": sum(losses) / len(losses), "largest_loss": max(losses)}
            errors = {"test_error": error, "best_error": min(error, self.last["best_error"])}
            self.last = {**seen, "test_loss": loss, **errors, **counts}
        return {"epoch": self.epoch, **self.last}

    def final(self) -> dict[str, Any]:
        """Return what `advance` did at last, and the number of parameters."""
        return {**self.last, "parameters": self.model.weight.numel()}

    def save(self, file: IO[bytes]) -> None:
        """Write all that the next epoch depends on."""
        own = {"epoch": self.epoch, "diverged": self.diverged, "last": self.last}
        torch.save({"model": self.model.state_dict(), "steps": self.steps.state_dict(), **own}, file)

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote."""
        held = torch.load(file, weights_only=True)
        self.model.load_state_dict(held["model"])
        self.steps.load_state_dict(held["steps"])
        self.epoch, self.diverged, self.last = held["epoch"], held["diverged"], held["last"]

    def _loss(self, rows: np.ndarray, t: int) -> Callable[[], tuple[Tensor, None]]:
        """Return the loss of a batch, whose noise is drawn here."""
        x, y = greys(self.data.train_x[rows]), torch.from_numpy(self.data.train_y[rows])
        if self.noisy:
            draws = np.random.default_rng([self.seed, 1, t]).random(tuple(x.shape), dtype=np.float32)
            x = (torch.from_numpy(draws) < x).to(x.dtype)
        return lambda: (cross_entropy(self.model(x), y), None)

    @torch.no_grad()
    def _tested(self) -> tuple[float, float]:
        """Return the mean loss of the test images, and their error in per cent."""
        loss, wrong, count = 0.0, 0, len(self.data.test_y)
        for i in range(0, count, ROWS):
            y = torch.from_numpy(self.data.test_y[i : i + ROWS])
            z = self.model(greys(self.data.test_x[i : i + ROWS]))
            loss += float(cross_entropy(z, y, reduction="sum"))
            wrong += int((z.argmax(dim=1) != y).sum())
        return loss / count, 100 * wrong / count


def greys(images: np.ndarray) -> Tensor:
    """Return bytes as numbers in [0, 1], float32."""
    return torch.from_numpy(images.astype(np.float32) / 255)
