"""What PSGD adds to a gradient step of a given model: the same model, batch and process, in rounds.

A step of PSGD here fits P in every tenth step, so that a sample of ten steps holds exactly the fits that the
paper's probability of 0.1 gives on average. What a step adds depends on where its pairs come from:

- ``exact`` and ``difference`` ask the model for a Hessian-vector product, or for one more gradient, in those
  steps. That alone adds 10 % of a gradient step or more, whatever the preconditioner costs;
- ``whitening`` needs no further evaluation: h is the gradient;
- ``own part`` is what psgd-core computes, given g and the pair: update, P g, the step, and all checks.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import psgd_core as psgd
from psgd_core.curvature import Exact, Forward, Functions, Source, Whitening

from .. import problems
from .contenders import Absent, Own, Setting
from .costs import KINDS, orbit_sizes
from .libraries import Library
from .timing import Clock, Limits, Rounds, Samples, Task, measure

EVERY = 10
"""One step in so many fits P."""

LR = 1e-6
"""Learning rate; small, so that x hardly moves and every step costs the same."""

SOURCES: dict[str, Source] = {"exact": Exact(), "difference": Forward(), "whitening": Whitening()}
"""Sources of pairs, by their names in tables."""

GRADIENT = "gradient step"


@dataclass(frozen=True)
class Model:
    """A function to descend on, and where to start."""

    name: str
    about: str
    start: Any
    functions: Functions


@dataclass(frozen=True)
class Overhead:
    """A step of PSGD on a model, against the gradient step of the same rounds."""

    model: Model
    setting: Setting
    contender: str
    source: str  # a key of SOURCES, or "own part"
    samples: Samples
    gradient: Samples
    share: float  # what is added, relative to the gradient step
    status: str = "ok"
    reason: str = ""


def logistic(library: Library, batch: int | None, seed: int) -> Model:
    """Return softmax regression on scikit-learn's digits, or on synthetic data of that size."""
    like, rng = library.asarray(np.zeros(1)), np.random.default_rng(seed)
    try:
        made: Any = problems.get("digits", batch=batch, like=like)
        data = "digits"
    except ImportError:
        features, labels = rng.random((1797, 64)), np.arange(1797) % 10
        made = problems.softmax_regression(features, labels, batch=batch, like=like)
        data = "synthetic"
    part = made.draw(rng)  # None without a batch size: all rows
    rows = made.features.shape[0] if batch is None else batch
    functions = Functions(
        gradient=lambda x: made.gradient(x, part),
        hvp=lambda x, v: made.hvp(x, v, part),
    )
    about = f"softmax regression, {data}, {rows} rows"
    return Model("logistic", about, made.start, functions)


def lenet5(library: Library, batch: int | None, seed: int) -> Model:
    """Return LeNet5 with ReLU and max pooling on synthetic 28 x 28 images, through torch's autograd."""
    if library.name != "torch":
        raise Absent("the model lenet5 runs on torch; give --backend torch")
    torch: Any = importlib.import_module("torch")
    nn = torch.nn.functional
    rows = 64 if batch is None else batch
    rng = np.random.default_rng(seed)
    images = library.asarray(rng.standard_normal((rows, 1, 28, 28)))
    labels = torch.asarray(rng.integers(0, 10, rows), device=images.device)
    shapes = [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 256), (120,), (84, 120), (84,), (10, 84), (10,)]
    sizes = [math.prod(shape) for shape in shapes]
    weights = [
        rng.standard_normal(size) * (len(shape) > 1) / math.prod(shape[1:]) ** 0.5
        for size, shape in zip(sizes, shapes, strict=True)
    ]

    def loss(x: Any) -> Any:
        w = [part.reshape(shape) for part, shape in zip(torch.split(x, sizes), shapes, strict=True)]
        z = nn.max_pool2d(nn.relu(nn.conv2d(images, w[0], w[1])), 2)
        z = nn.max_pool2d(nn.relu(nn.conv2d(z, w[2], w[3])), 2).flatten(1)
        z = nn.relu(nn.linear(z, w[4], w[5]))
        z = nn.relu(nn.linear(z, w[6], w[7]))
        return nn.cross_entropy(nn.linear(z, w[8], w[9]), labels)

    def gradient(x: Any) -> Any:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(loss(x), x)[0]

    def hvp(x: Any, v: Any) -> Any:
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(x), x, create_graph=True)
        return torch.autograd.grad(g, x, v)[0]

    about = f"LeNet5, synthetic images, batch {rows}"
    start = library.asarray(np.concatenate(weights))
    return Model("lenet5", about, start, Functions(gradient=gradient, hvp=hvp))


MODELS: dict[str, Callable[[Library, int | None, int], Model]] = {"logistic": logistic, "lenet5": lenet5}


def overhead(
    model: Model,
    setting: Setting,
    own: Sequence[Own],
    limits: Limits,
    copy: Task,
    *,
    clock: Clock,
    allow_noise: bool = False,
) -> list[Overhead]:
    """Return what PSGD with one preconditioner adds to a gradient step.

    Parameters
    ----------
    model : Model
    setting : Setting
        For n of the model.
    own : sequence of Own
        With kernels, without, or both.
    limits : Limits
    copy : Task
        The yardstick of drift.
    clock : callable
    allow_noise : bool
        Report what is too noisy, marked.
    """
    wait = setting.library.waiter()
    # the gradient step and every kind of PSGD step, timed in the same rounds
    tasks = [Task(GRADIENT, _gradient_step(model), wait, EVERY)]
    origin: dict[str, tuple[str, str]] = {}
    for contender in own:
        for source in (*SOURCES, "own part"):
            name = f"{contender.name}, {source}"
            origin[name] = contender.name, source
            call = _step(model, setting, source)
            tasks.append(Task(name, call, wait, EVERY, contender.within))
    rounds = measure(tasks, copy, limits, clock)
    return [
        _compared(model, setting, rounds, name, *origin[name], limits, allow_noise=allow_noise)
        for name in origin
    ]


def _compared(
    model: Model,
    setting: Setting,
    rounds: Rounds,
    name: str,
    contender: str,
    source: str,
    limits: Limits,
    *,
    allow_noise: bool,
) -> Overhead:
    noise = rounds.noise(name, limits) or rounds.noise(GRADIENT, limits)
    ratio = rounds.ratio(name, GRADIENT)
    return Overhead(
        model,
        setting,
        contender,
        source,
        rounds.samples[name],
        rounds.samples[GRADIENT],
        share=ratio if source == "own part" else ratio - 1,
        status="too noisy" if noise and not allow_noise else "ok",
        reason=noise,
    )


def _gradient_step(model: Model) -> Callable[[], Any]:
    held = [model.start]

    def step() -> Any:
        held[0] = held[0] - LR * model.functions.gradient(held[0])
        return held[0]

    return step


def _step(model: Model, setting: Setting, source: str) -> Callable[[], Any]:
    """Return the call of one step of PSGD, every tenth of which fits P."""
    p = setting.preconditioner()
    loop = psgd.PSGD(preconditioner=p, lr=LR, every=EVERY, source=SOURCES.get(source, Exact()))
    rng: Any = np.random.default_rng(setting.seed)
    if setting.library.name == "torch":
        torch: Any = importlib.import_module("torch")
        rng = torch.Generator(device=setting.library.torch_device).manual_seed(setting.seed)
    x = model.start
    held, count = [(x, loop.init(x))], [0]
    g = model.functions.gradient(x)
    v = loop.probes.draw(rng, x)
    pair = (v, model.functions.products(x, v))

    def step() -> Any:
        x, state = held[0]
        fit = loop.due(count[0])
        count[0] += 1
        if source == "own part":
            held[0] = loop.update(state, x, g, pair=pair if fit else None)
        else:
            probe = loop.probes.draw(rng, x) if fit else None
            held[0] = loop.step(state, x, model.functions, probe, fit=fit)
        return held[0][0]

    return step


def prepared(
    names: Sequence[str],
    libraries: Sequence[Library],
    kinds: Sequence[tuple[str, int]],
    batch: int | None,
    seed: int,
) -> list[tuple[Model, Setting]]:
    """Return models with what they are to be measured with, for all combinations.

    Parameters
    ----------
    names : sequence of str
        Keys of `MODELS`.
    libraries : sequence of Library
    kinds : sequence of (str, int)
        Preconditioner and rank.
    batch : int, optional
    seed : int

    Raises
    ------
    ValueError, Absent
        If a model does not run on a library, or a preconditioner does not fit its size.
    """
    found = []
    for library in libraries:
        if library.name == "jax" and names:
            raise Absent(
                "models are measured step by step, which jax is not made for; give another --backend"
            )
        for name in names:
            model = MODELS[name](library, batch, seed)
            n = model.start.shape[0]
            for kind, rank in kinds:
                if kind == "kronecker":
                    raise Absent(
                        "models have one vector of parameters, kronecker has a tensor; give another -p"
                    )
                if KINDS[kind].orbit is not None:
                    orbit_sizes(kind, n)
                found.append((model, Setting(kind, n, library, rank, seed)))
    return found
