"""The optimisers of `psgd reproduce`: they descend, equal their libraries, and resume bit for bit."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from psgd_analysis.reproduce.optimizers import NAMES, Missing, Steps, about, make  # noqa: E402

MODULES = {"torch": "torch", "pytorch_optimizer": "pytorch_optimizer", "psgd-core": "psgd_core"}

RATES: dict[str, dict[str, Any]] = {
    "lbfgs": {"lr": 0.05},
    "adahessian": {"lr": 0.05},
    "shampoo": {"lr": 0.05},
    "scalable_shampoo": {"lr": 0.01, "start_preconditioning_step": 5, "preconditioning_compute_steps": 5},
    "muon": {"lr": 0.005},
    "apollo": {"lr": 0.01, "warmup_steps": 5},
    "padam": {"lr": 0.02},
    "sgd": {"lr": 0.1},
    "momentum": {"lr": 0.03},
    "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01},
    "adan": {"lr": 0.01},
    "adabelief": {"lr": 0.01},
    "adabound": {"lr": 0.01},
    "radam": {"lr": 0.02},
}
"""Settings in which 30 steps show something, where those of the library are for longer runs."""
WHITENING = [f"{name}_whitening" for name in NAMES if name.startswith("psgd_")]


def need(name: str) -> None:
    """Skip the test if the optimiser's library is not installed."""
    package = about(name).package
    if find_spec(MODULES[package]) is None:
        pytest.skip(f"{package} is not installed")


def settings_of(name: str) -> dict[str, Any]:
    own = {"lr": 0.003} if name.endswith("_whitening") else {"clip": 1.0} if name.startswith("psgd_") else {}
    return own | RATES.get(name, {})


def mlp() -> Any:
    layers = torch.nn.Linear(4, 12), torch.nn.Tanh(), torch.nn.Linear(12, 8), torch.nn.Tanh()
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))


def conv() -> Any:
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 6, 6)),
        torch.nn.Conv2d(1, 3, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(3, 4, 2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    )


NETS = {"mlp": (mlp, 4), "conv": (conv, 36)}


class Work:
    """A net, with batches of 32 out of 96 examples in three classes; the seed decides on all of it."""

    def __init__(self, net: str, seed: int = 0) -> None:
        made, inputs = NETS[net]
        rng = np.random.default_rng(seed)
        self.labels = torch.tensor(rng.integers(0, 3, 96))
        means = rng.standard_normal((3, inputs))
        x = means[self.labels.numpy()] + rng.standard_normal((96, inputs))
        self.inputs = torch.tensor(x, dtype=torch.float32)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = made()

    def loss(self, batch: int) -> Callable[[], tuple[Any, Any]]:
        rows = slice(32 * (batch % 3), 32 * (batch % 3) + 32)

        def evaluated() -> tuple[Any, Any]:
            z = self.model(self.inputs[rows])
            right = (z.argmax(dim=1) == self.labels[rows]).sum()
            return torch.nn.functional.cross_entropy(z, self.labels[rows]), {"right": right, "outputs": z}

        return evaluated

    def whole(self) -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(self.model(self.inputs), self.labels))

    def weights(self) -> Any:
        return torch.nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    def run(self, steps: Steps, begin: int, end: int) -> list[Any]:
        return [steps.step(self.loss(t))[0] for t in range(begin, end)]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", [*NAMES, *WHITENING])
def test_lowers_the_loss(name: str, net: str) -> None:
    need(name)
    ends = []
    for seed in range(3):
        work = Work(net, seed)
        before = work.whole()
        work.run(make(name, work.model, settings_of(name), seed), 0, 30)
        ends.append(work.whole() / before)
    assert max(ends) < 1, ends
    assert np.median(ends) < 0.9, ends


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", [*NAMES, *WHITENING])
def test_resumes_bit_for_bit(name: str, net: str) -> None:
    need(name)
    settings = settings_of(name)
    whole, first, second = Work(net), Work(net), Work(net, seed=1)
    steps = make(name, whole.model, settings, 7)
    values = whole.run(steps, 0, 12)
    left = make(name, first.model, settings, 7)
    seen = first.run(left, 0, 7)
    file = io.BytesIO()
    torch.save({"steps": left.state_dict(), "model": first.model.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.inputs, second.labels = first.inputs, first.labels
    second.model.load_state_dict(saved["model"])
    again = make(name, second.model, settings, 8)
    again.load_state_dict(saved["steps"])
    torch.rand(5)  # what others draw from the common generator changes nothing
    seen += second.run(again, 7, 12)
    assert torch.equal(second.weights(), whole.weights())
    assert torch.equal(torch.stack(seen), torch.stack(values))
    assert (again.gradients, again.products, again.skipped) == (
        steps.gradients,
        steps.products,
        steps.skipped,
    )


def test_names_and_settings_that_are_not_known() -> None:
    model = mlp()
    with pytest.raises(ValueError, match=r"`name` must be one of sgd, .*, got 'adm'"):
        make("adm", model, {}, 0)
    with pytest.raises(ValueError, match=r"`settings` of 'sgd' must be among lr, .*, got 'rate'"):
        make("sgd", model, {"rate": 1}, 0)
    with pytest.raises(ValueError, match=r"must be among .*, got 'rank'"):
        make("psgd_xmat", model, {"rank": 1}, 0)
    with pytest.raises(ValueError, match="fits no preconditioner"):
        make("sgd", model, {}, 0).rates(0.1, 0.1)
    adam = make("adam", model, {}, 0)
    with pytest.raises(ValueError, match=r"must be one of 'sgd', got one of 'adam'"):
        make("sgd", model, {}, 0).load_state_dict(adam.state_dict())


def test_a_missing_library_is_named(monkeypatch: Any) -> None:
    import importlib

    def gone(name: str) -> Any:
        if name == "torch":
            return torch
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(Missing, match=r"'adan' needs pytorch_optimizer, which is not installed; pip install"):
        make("adan", mlp(), {}, 0)
