"""What a gradient and a Hessian-vector product cost in PyTorch, by double backward and forward over reverse.

In seconds of processor time, of one thread; ratios are medians within rounds.

    PYTHONPATH=analysis python tools/products.py [model ...]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from psgd_analysis.reproduce import models
from psgd_analysis.reproduce.twice import differentiable_twice
from psgd_core.adapters.torch.autograd import evaluate

ROUNDS, BATCH, LENGTH, WORDS = 15, 64, 64, 64


def plain_lenet5() -> nn.Module:
    """Return LeNet5 with PyTorch's own convolution of its input."""
    model = models.make("lenet5", (1, 28, 28), 10, {}, 0)
    first = nn.Conv2d(1, 6, 5)
    first.load_state_dict(model[0].state_dict())
    model[0] = first
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: models.make("mlp", (1, 28, 28), 10, {"hidden": (256, 256)}, 0),
    "lenet5": plain_lenet5,
    "lenet5, input convolution apart": lambda: models.make("lenet5", (1, 28, 28), 10, {}, 0),
    "resnet": lambda: models.make("resnet", (3, 32, 32), 10, {"widths": (16, 32, 64), "blocks": 1}, 0),
    "rnn": lambda: models.make("rnn", (LENGTH,), WORDS, {}, 0),
    "lstm": lambda: models.make("lstm", (LENGTH,), WORDS, {}, 0),
    "transformer": lambda: models.make("transformer", (LENGTH,), WORDS, {}, 0),
}


def batch(name: str) -> tuple[Tensor, Tensor]:
    """Return inputs and labels."""
    generator = torch.Generator().manual_seed(0)
    if name in ("rnn", "lstm", "transformer"):
        text = torch.randint(WORDS, (BATCH // 4, LENGTH + 1), generator=generator)
        return text[:, :-1], text[:, 1:]
    shape = (3, 32, 32) if name == "resnet" else (1, 28, 28)
    return torch.randn(BATCH, *shape, generator=generator), torch.randint(10, (BATCH,), generator=generator)


def measured(name: str) -> tuple[float, float, float]:
    """Return milliseconds of a gradient, double backward over it, and forward over reverse over that."""
    model, (x, y) = MODELS[name](), batch(name)
    params = list(model.parameters())
    v = [torch.randn_like(p) for p in params]
    looked: set[Any] = set()

    def loss() -> Tensor:
        return cross_entropy(model(x).flatten(0, -2), y.flatten())

    ways: list[Callable[[], Any]] = [
        lambda: evaluate(loss, params, looked=looked),
        lambda: evaluate(loss, params, [v], once=True, looked=looked),
        lambda: evaluate(loss, params, [v], once=True, forward=True, looked=looked),
    ]
    seconds: list[list[float]] = [[], [], []]
    with differentiable_twice():
        for way in ways:
            way()
        for _ in range(ROUNDS):
            for way, into in zip(ways, seconds, strict=True):
                before = time.process_time()
                way()
                into.append(time.process_time() - before)
    gradient, double, forward = seconds
    return (
        1000 * statistics.median(gradient),
        statistics.median(b / a for a, b in zip(gradient, double, strict=True)),
        statistics.median(c / b for b, c in zip(double, forward, strict=True)),
    )


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| model | gradient | with product, double backward | with product, forward over reverse |")
    print("|---|---|---|---|")
    for name in sys.argv[1:] or MODELS:
        gradient, double, forward = measured(name)
        print(
            f"| {name} | {gradient:.1f} ms | x {double:.2f} | x {double * forward:.2f} ({forward:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
