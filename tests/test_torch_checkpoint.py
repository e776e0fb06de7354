"""Checkpoints of the PyTorch optimiser: what goes on from them is, bit for bit, what had not stopped."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD  # noqa: E402
from psgd_core.descent import clips  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

X = np.random.default_rng(5).standard_normal((32, 5))


class Run:
    """A model, its optimiser and scheduler, of given settings."""

    def __init__(self, *, dtype=torch.float32, seed=0, rng=0, lr=0.3, **settings):
        torch.manual_seed(seed)
        nn = torch.nn
        self.model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).to(dtype)
        self.x = torch.tensor(X, dtype=dtype)
        groups = [
            {"params": list(self.model[0].parameters()), "lr": 2 * lr},
            {"params": list(self.model[2].parameters()), "preconditioner": psgd.XMat(), "weight_decay": 0.01},
        ]
        settings = {"update_probability": 0.5, **settings}
        self.optimizer = PSGD(groups, psgd.LowRank(rank=3), lr=lr, rng=rng, **settings)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.97)

    def loss(self):
        return torch.nn.functional.mse_loss(self.model(self.x), self.x[:, :1] * self.x[:, 1:2])

    def go(self, steps):
        for _ in range(steps):
            self.optimizer.step(self.loss)
            self.scheduler.step()
        return self

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def saved(self):
        """Return what `torch.save` and a safe `torch.load` make of all states."""
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def load(self, saved):
        for name, part in self.parts().items():
            part.load_state_dict(saved[name])
        return self

    def end(self):
        return torch.nn.utils.parameters_to_vector(self.model.parameters()).detach()


@pytest.mark.parametrize("engine", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"clip": clips.AdaptiveNorm(), "step": psgd.schedules.Exponential(0.9, 0.1, over=30)},
        {"clip": clips.TrustRadius(), "momentum": 0},
        {"clip": (clips.Elements(1.0), clips.Norm(2.0)), "curvature": "whitening", "lr": 0.02},
        {"clip": 0.5, "probes": psgd.curvature.Gaussian(2)},
        {"replay": psgd.Replay(5, 3)},
        {"global_clip": (clips.AdaptiveNorm(1.1, 0.5), clips.Norm(3.0)), "clip": None, "scale": 0.1},
        {"every": 4, "update_probability": 1.0},
    ],
    ids=["running", "trust", "chain", "number", "replay", "global", "every"],
)
def test_a_resumed_run_goes_on_bit_for_bit(settings, dtype, engine):
    settings = {**settings, "dtype": dtype, "engine": engine}
    run = Run(**settings).go(13)
    saved = run.saved()
    others = [Run(seed=9, rng=9, **settings).load(saved), copy.deepcopy(run), pickle.loads(pickle.dumps(run))]
    middle = run.end()
    run.go(12)
    assert not torch.equal(run.end(), middle)
    for other in others:
        assert torch.equal(other.go(12).end(), run.end())
    file = io.BytesIO()  # of what was saved, the run changed nothing
    torch.save(saved, file)
    assert torch.equal(Run(seed=9, **settings).load(saved).end(), middle)


def test_engines_go_on_from_each_others_checkpoints():
    saved = Run(engine="numpy", dtype=torch.float64).go(10).saved()
    ends = [Run(engine=e, dtype=torch.float64, seed=4).load(saved).go(10).end() for e in ("torch", "numpy")]
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_a_generator_of_the_users_goes_on_too():
    run = Run(rng=torch.Generator().manual_seed(11)).go(5)
    own = torch.Generator().manual_seed(12)
    other = Run(rng=own).load(run.saved())
    assert torch.equal(other.go(5).end(), run.go(5).end())
    assert torch.equal(own.get_state(), run.optimizer._generator.get_state())


def test_a_checkpoint_before_the_first_step():
    fresh = Run()
    assert torch.equal(Run(seed=3).load(fresh.saved()).go(3).end(), fresh.go(3).end())


def test_groups_without_gradient_are_saved_as_they_are():
    used, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))

    def optimizer():
        return PSGD([{"params": [used]}, {"params": [unused]}], psgd.Diagonal())

    first, second = optimizer(), optimizer()
    with pytest.warns(UserWarning, match="No gradient reaches 1 of 2 parameters"):
        first.step(lambda: torch.sum(used**2))
    second.load_state_dict(first.state_dict())
    assert second.group_state(0) is not None
    assert second.group_state(1) is None


def test_settings_come_back_and_a_step_does_not_change_what_was_saved():
    run = Run().go(4)
    saved = run.optimizer.state_dict()
    kept = copy.deepcopy(saved)
    other = Run(lr=0.7, momentum=0.1)
    other.optimizer.load_state_dict(saved)
    for old, new in zip(run.optimizer.param_groups, other.optimizer.param_groups, strict=True):
        names = ("lr", "momentum", "weight_decay", "preconditioner", "clip")
        assert all(old[name] == new[name] for name in names)
    run.go(3)
    other.go(3)
    same(kept, saved)


def same(one, other):
    """Compare what two checkpoints hold for each group, bit for bit."""
    assert one["state"].keys() == other["state"].keys()
    for key, held in one["state"].items():
        torch.testing.assert_close(held, other["state"][key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("settings", [{"clip": None}, {"momentum": 0}, {"clip": 0.3}], ids=str)
def test_settings_that_are_numbers_are_taken_over_with_their_state(settings):
    saved = Run(**settings).go(3).saved()
    assert torch.equal(Run(**settings).load(saved).go(3).end(), Run(**settings).go(6).end())
    numbers = {"momentum": 0.5, **({"clip": 0.1} if "clip" in settings else {})}
    assert torch.equal(Run(**numbers).load(saved).go(3).end(), Run(**settings).go(6).end())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ({"version": 99}, "version 1 or older, got 99"),
        ({"dtype": torch.float64}, "saved as torch.float64 of shape .* here"),
        (
            {"clip": clips.AdaptiveNorm(3.0)},
            r"`clip of group 0` must be the one that was saved, .* factor = 3.0, got 2.0 here",
        ),
        (
            {"global_clip": clips.AdaptiveNorm(3.0)},
            "`global_clip` must be the one that was saved, but it belongs to AdaptiveNorm, got None",
        ),
        (
            {"step": psgd.schedules.Cosine(0.5, 9)},
            "`step of group 0` must be the one that was saved, but it belongs to Cosine, got 0.1",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_does_not_fit_is_refused_and_changes_nothing(make, message):
    run, version = Run().go(2), make.pop("version", None)
    before, saved = run.saved()["optimizer"], Run(**make).go(1).saved()["optimizer"]
    if version is not None:
        saved["psgd"]["version"] = version
    with pytest.raises(ValueError, match=message):
        run.optimizer.load_state_dict(saved)
    after = run.saved()["optimizer"]
    assert before["param_groups"] == after["param_groups"]
    same(before, after)
    assert torch.equal(before["psgd"]["generator"]["state"], after["psgd"]["generator"]["state"])


def test_checkpoints_from_before_scales_and_global_clips_are_loaded():
    run = Run().go(4)
    saved = run.saved()
    del saved["optimizer"]["psgd"]["global_clip"]
    for group in saved["optimizer"]["param_groups"]:
        del group["scale"]
    assert torch.equal(Run(seed=3).load(saved).go(4).end(), run.go(4).end())


def test_the_checkpoint_of_another_optimiser_is_refused():
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="`state_dict` must be one of PSGD's, got one with keys"):
        PSGD([p]).load_state_dict(torch.optim.SGD([p]).state_dict())


def test_another_preconditioner_or_shape_is_refused():
    a, b = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(5))
    first = PSGD([a], psgd.LowRank(rank=2))
    first.step(lambda: torch.sum(a**2))
    with pytest.raises(ValueError, match="it belongs to LowRank, got XMat"):
        PSGD([a], psgd.XMat()).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match=r"has rank = 2, got 3 here"):
        PSGD([a], psgd.LowRank(rank=3)).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match=r"of group 0 was saved as torch.float32 of shape \(4,\)"):
        PSGD([b], psgd.LowRank(rank=2)).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="parameter group"):
        PSGD([a, b], psgd.LowRank(rank=2)).load_state_dict(first.state_dict())
