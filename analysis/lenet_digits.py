"""LeNet5 on scikit-learn's digits: PSGD's groups side by side, with SGD and Adam, over several seeds.

    python analysis/lenet_digits.py --out analysis/results/lenet_digits.md

Every layer is an affine matrix [W b] (convolutions as matrices on patches), 42,794 parameters in five of
them: 6 x 10, 16 x 55, 120 x 257, 84 x 121, 10 x 85. PSGD fits P to Hessian-vector products of the batch's own
loss (or to its gradients, "whitening", the probe integrated out), in all iterations at first and 3 % of them
from the middle on, as `descent.presets.stochastic` says. Each method's learning rate is the best of four by
the loss on a fifth of the training set, from a seed of its own; then it is trained from every seed on the
whole training set. Needs torch and scikit-learn.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

import psgd_core as psgd
from psgd_core.curvature import Exact, Functions, Whitening
from psgd_core.descent.presets import stochastic
from psgd_core.schedules import Cosine, WarmUp

SHAPES = ((6, 10), (16, 55), (120, 257), (84, 121), (10, 85))
BATCH = 64
Tree = list[torch.Tensor]


def patches(x: torch.Tensor) -> torch.Tensor:
    """Return the 3 x 3 patches of images (k, c, s, s) around every pixel, and 1: (k, 9 c + 1, s^2)."""
    columns = torch.nn.functional.unfold(x, 3, padding=1)
    return torch.cat([columns, torch.ones_like(columns[:, :1])], dim=1)


def logits(w: Tree, images: torch.Tensor) -> torch.Tensor:
    """Return the network's outputs, (k, 10), for images (k, 1, 8, 8)."""
    x = torch.tanh(w[0] @ patches(images)).reshape(-1, 6, 8, 8)
    x = torch.nn.functional.avg_pool2d(x, 2)
    x = torch.tanh(w[1] @ patches(x)).reshape(-1, 16 * 16)
    for i in (2, 3, 4):
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1) @ w[i].T
        x = torch.tanh(x) if i < 4 else x
    return x


def loss(w: Tree, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy."""
    return torch.nn.functional.cross_entropy(logits(w, images), labels)


def start(seed: int) -> Tree:
    """Return random weights of variance 1 / inputs, and biases of 0."""
    rng = np.random.default_rng(seed)
    found = []
    for rows, columns in SHAPES:
        w = rng.standard_normal((rows, columns)) / (columns - 1) ** 0.5
        w[:, -1] = 0
        found.append(torch.tensor(w, dtype=torch.float32))
    return found


def products(w: Tree, v: Tree, *sample: torch.Tensor) -> Tree:
    """Return the Hessian of the loss times v."""
    gradient = torch.func.grad(lambda w: loss(w, *sample))
    return list(torch.func.jvp(gradient, (w,), (v,))[1])


FUNCTIONS = Functions(gradient=torch.func.grad(loss), hvp=products)

Preconditioner = Callable[[], psgd.Preconditioner]
N = sum(rows * columns for rows, columns in SHAPES)

GROUPS: dict[str, Preconditioner] = {
    "Kronecker, dense": lambda: psgd.Blocks.of(start(0), lambda s: psgd.Kronecker(s, "dense")),
    "Kronecker, dense x normalisation": lambda: psgd.Blocks.of(
        start(0), lambda s: psgd.Kronecker(s, ("dense", "normalization"))
    ),
    "Kronecker, dense, Lyapunov": lambda: psgd.Blocks.of(
        start(0), lambda s: psgd.Kronecker(s, "dense", geometry="Lyapunov")
    ),
    "Kronecker, dense, whitening": lambda: psgd.Blocks.of(start(0), lambda s: psgd.Kronecker(s, "dense")),
    "Kronecker, diagonal": lambda: psgd.Blocks.of(start(0), lambda s: psgd.Kronecker(s, "diagonal")),
    "XMat": psgd.XMat,
    "LowRank(10)": lambda: psgd.LowRank(10),
    "Diagonal": psgd.Diagonal,
}
RATES = dict.fromkeys(GROUPS, (1.0, 0.3, 0.1, 0.03)) | {
    "Kronecker, dense, whitening": (0.1, 0.03, 0.01, 0.003),
    "SGD": (1.0, 0.3, 0.1, 0.03),
    "Adam": (3e-2, 1e-2, 3e-3, 1e-3),
}


def psgd_steps(name: str, w: Tree, rate: float, draw: Callable, iterations: int, seed: int) -> Tree:
    """Return the weights after PSGD."""
    warm = max(1, iterations // 20)
    source = Whitening(integrated=True) if "whitening" in name else Exact()
    lr = WarmUp(Cosine(rate, over=iterations), over=warm)
    optimizer = stochastic(GROUPS[name](), iterations, lr=lr, momentum=0.9, source=source)
    state, rng = optimizer.init(w), np.random.default_rng((seed, 1))
    flat = torch.zeros(N)
    for t in range(iterations):
        fit = optimizer.due(t, rng)
        v = optimizer.probes.draw(rng, flat) if fit else None
        w, state = optimizer.step(state, w, FUNCTIONS.at(*draw()), v, fit=fit)
    return w


def torch_steps(name: str, w: Tree, rate: float, draw: Callable, iterations: int, seed: int) -> Tree:
    """Return the weights after torch's SGD with momentum 0.9, or Adam, on the same schedule of rates."""
    w = [x.clone().requires_grad_(True) for x in w]
    own: Any = torch.optim.SGD(w, rate, momentum=0.9) if name == "SGD" else torch.optim.Adam(w, rate)
    schedule = WarmUp(Cosine(1.0, over=iterations), over=max(1, iterations // 20))
    for t in range(iterations):
        for group in own.param_groups:
            group["lr"] = rate * float(schedule(t))
        own.zero_grad()
        loss(w, *draw()).backward()
        own.step()
    return [x.detach() for x in w]


def train(name: str, rate: float, data: Any, seed: int, epochs: int) -> tuple[Tree, float]:
    """Return the weights, and the seconds that they took."""
    images, labels = data
    rng = np.random.default_rng((seed, 0))

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.from_numpy(rng.choice(len(labels), BATCH, replace=False))
        return images[chosen], labels[chosen]

    steps = psgd_steps if name in GROUPS else torch_steps
    begun = time.perf_counter()
    w = steps(name, start(seed), rate, draw, epochs * len(labels) // BATCH, seed)
    return w, time.perf_counter() - begun


def digits() -> tuple[Any, Any]:
    """Return (images, labels) to train and to test on: four fifths and one fifth of 1,797."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = torch.tensor(found.images[order] / 16 - 0.5, dtype=torch.float32)[:, None]
    labels = torch.tensor(found.target[order])
    cut = 4 * len(labels) // 5
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def best_rate(name: str, data: Any, epochs: int) -> float:
    """Return the learning rate with the least loss on the last fifth of the data, trained on the rest."""
    images, labels = data
    cut = 4 * len(labels) // 5
    losses = []
    for rate in RATES[name]:
        w, _ = train(name, rate, (images[:cut], labels[:cut]), 1000, epochs)
        losses.append(float(loss(w, images[cut:], labels[cut:])))
    return RATES[name][int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data, test = digits()
    rows = []
    for name in RATES:
        rate = best_rate(name, data, asked.epochs)
        errors, losses, seconds = [], [], []
        for seed in range(asked.seeds):
            w, spent = train(name, rate, data, seed, asked.epochs)
            wrong = (logits(w, test[0]).argmax(dim=1) != test[1]).float().mean()
            errors.append(100 * float(wrong))
            losses.append(float(loss(w, *data)))
            seconds.append(spent)
        rows.append(
            f"| {name} | {rate:g} | {np.mean(errors):.2f} ± {np.std(errors):.2f} "
            f"| {np.mean(losses):.1e} ({min(losses):.1e} to {max(losses):.1e}) | {np.mean(seconds):.1f} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("numpy", "torch", "scikit-learn"))
    text = "\n".join(
        [
            "# LeNet5 on scikit-learn's digits",
            "",
            (__doc__ or "").split("\n\n", 2)[2].strip(),
            "",
            "```sh",
            f"python {' '.join(sys.argv)}",
            "```",
            "",
            f"Python {platform.python_version()}, {versions}; one thread; seeds 0 to {asked.seeds - 1}, "
            f"{asked.epochs} epochs in batches of {BATCH}, float32. Errors: mean and standard deviation.",
            "",
            "| method | learning rate | test error, % | training loss (least to largest) | seconds |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    if asked.out is None:
        print(text)
    else:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
