"""Runs of stages, what is measured of solutions, of memory and of time, and the experiments made of them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from psgd_analysis import generalisation  # noqa: E402
from psgd_analysis.reproduce import costs, subsets  # noqa: E402
from psgd_analysis.reproduce.claims import CONFIRMED, REFUTED, UNTESTED, better  # noqa: E402
from psgd_analysis.reproduce.curvature import GRID, Curvature  # noqa: E402
from psgd_analysis.reproduce.experiment import Job, never  # noqa: E402
from psgd_analysis.reproduce.experiments import experiment  # noqa: E402
from psgd_analysis.reproduce.records import Record  # noqa: E402
from psgd_analysis.reproduce.sizes import state_bytes, step_bytes  # noqa: E402
from psgd_analysis.reproduce.stages import Stage, Stages  # noqa: E402
from psgd_analysis.reproduce.training import Examples, NetworkTraining, solutions  # noqa: E402
from psgd_analysis.reproduce.within import at_most_times, better_within, where_known  # noqa: E402

# -- stages --------------------------------------------------------------------------------------------------


class Walk:
    """A random walk from somewhere, in need of its generator."""

    skipped = 1

    def __init__(self, x: Any, parts: int, seed: int, fatal: int = 99) -> None:
        self.x, self.parts, self.done, self.fatal = x, parts, 0, fatal
        self.rng = torch.Generator().manual_seed(seed)

    @property
    def status(self) -> str:
        if not bool(torch.isfinite(self.x).all()):
            return "diverged"
        return "done" if self.done == self.parts else "going"

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, float]:
        self.x = self.x + torch.randn(3, generator=self.rng)
        self.done += 1
        if self.done == self.fatal:
            self.x = self.x * torch.nan
        return {"x": float(self.x[0])}

    def final(self) -> dict[str, Any]:
        return {"x": self.x, "mean": float(self.x.mean())}

    def save(self, file: Any) -> None:
        torch.save({"x": self.x, "done": self.done, "rng": self.rng.get_state()}, file)

    def load(self, file: Any) -> None:
        held = torch.load(file, weights_only=True)
        self.x, self.done = held["x"], held["done"]
        self.rng.set_state(held["rng"])


def walks(fatal: int = 99) -> Stages:
    """Three walks; the second starts from where the first ended, the third from both."""
    stages = (
        Stage("a", 2, lambda found: Walk(torch.zeros(3), 2, 0)),
        Stage("b", 3, lambda found: Walk(found["a"]["x"], 3, 1, fatal), lambda walk: {"y": 2 * walk.x}),
        Stage("c", 1, lambda found: Walk(found["a"]["x"] + found["b"]["y"], 1, 2)),
    )
    return Stages(
        stages, lambda found: {k: [float(z) for z in next(iter(v.values()))] for k, v in found.items()}
    )


def walked(stages: Stages) -> list[dict[str, Any]]:
    metrics = []
    while stages.status == "going":
        metrics.append(stages.advance())
    return metrics


def test_a_stage_starts_from_what_those_before_found() -> None:
    found = walks()
    metrics = walked(found)
    assert found.parts == len(metrics) == 6
    assert [m["stage"] for m in metrics] == ["a", "a", "b", "b", "b", "c"]
    steps = [torch.Generator().manual_seed(k) for k in range(3)]
    a = sum(torch.randn(3, generator=steps[0]) for _ in range(2))
    b = 2 * (a + torch.randn(3, generator=steps[1]))
    for _ in range(2):
        b = b + 2 * torch.randn(3, generator=steps[1])
    c = a + b + torch.randn(3, generator=steps[2])
    for name, want in (("a", a), ("b", b), ("c", c)):
        np.testing.assert_allclose(found.final()[name], want.numpy(), rtol=1e-5, atol=1e-6)
    assert found.skipped == 3


@pytest.mark.parametrize("left_after", range(1, 7))
def test_stages_that_were_left_go_on_bit_for_bit(left_after: int) -> None:
    whole = walks()
    metrics = walked(whole)
    first, again, file = walks(), walks(), io.BytesIO()
    for _ in range(left_after):
        first.advance()
    first.save(file)
    file.seek(0)
    again.load(file)
    assert again.status == first.status
    assert walked(again) == metrics[left_after:]
    assert again.final() == whole.final()
    assert again.skipped == whole.skipped


def test_a_stage_that_diverges_ends_all() -> None:
    found = walks(fatal=2)
    assert len(walked(found)) == 4
    assert found.status == "diverged"
    assert list(found.final()) == ["a"]


# -- curvature -----------------------------------------------------------------------------------------------


def small() -> tuple[Any, Any]:
    """A net of 43 parameters and its loss on 20 examples, and its parameters as one vector."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
        x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 3, (20,))
    return model, lambda: torch.nn.functional.cross_entropy(model(x), y)


def dense(model: Any, loss: Any) -> np.ndarray:
    """The Hessian, column by column by double backward."""
    params = list(model.parameters())
    grads = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), params, create_graph=True)])
    rows = [torch.autograd.grad(g, params, retain_graph=True, materialize_grads=True) for g in grads]
    return np.array([torch.cat([p.reshape(-1) for p in row]).numpy() for row in rows])


def test_curvature_is_that_of_the_dense_hessian() -> None:
    model, loss = small()
    values = np.linalg.eigvalsh(dense(model, loss))
    n = values.size
    found = Curvature(top=4, trace=3 * n, probes=60, steps=n, width=0.1).of(loss, model)
    np.testing.assert_allclose(found["eigenvalues"], values[::-1][:4], rtol=1e-3)
    assert found["eigenvalue"] == found["eigenvalues"][0]
    np.testing.assert_allclose(found["trace"], values.sum(), rtol=1e-5)
    np.testing.assert_allclose(found["least"], values[0], rtol=1e-3)
    resolved_negative = np.array(found["density_negative"]) * (GRID[1] - GRID[0])
    assert found["negative"] == pytest.approx(resolved_negative.sum(), rel=1e-3)
    # shares come from 60 random vectors: five standard errors
    share = np.mean(values < -found["floor"])
    error = 5 * np.sqrt(2 / (n + 2) * share * (1 - share) / 60)
    assert abs(found["negative"] - share) < error + 0.01
    resolved = np.nansum(np.array(found["density"], dtype=float)) * (GRID[1] - GRID[0])
    assert abs(resolved + np.mean(np.abs(values) < 10.0 ** GRID[0]) - 1) < 0.1
    assert Curvature().of(loss, model) == Curvature().of(loss, model)


def test_the_trace_comes_with_its_error() -> None:
    model, loss = small()
    exact = np.trace(dense(model, loss))
    found = [Curvature(trace=12, seed=seed).sharpness(loss, model) for seed in range(15)]
    scores = [(f["trace"] - exact) / f["trace_error"] for f in found]
    assert 0.3 < np.sqrt(np.median(np.square(scores))) < 2


# -- memory --------------------------------------------------------------------------------------------------


def test_bytes_of_a_state_are_those_of_its_arrays() -> None:
    x = torch.zeros(10, dtype=torch.float64)
    state = {
        "a": [x, 3, "text"],
        "b": {"c": (x, torch.zeros(4)), "d": np.zeros(2), "e": torch.zeros(9, dtype=torch.uint8)},
    }
    assert state_bytes(state) == 80 + 16 + 16
    model = torch.nn.Linear(7, 3)
    adam = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 7)).sum().backward()
    adam.step()
    assert state_bytes(adam.state_dict()) == 2 * 24 * 4 + 2 * 4  # both moments, and a counter for W and b


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident peaks need Linux")
def test_memory_of_steps_grows_with_the_state() -> None:
    settings = {"model": "mlp", "model_settings": {"hidden": [2000]}, "batch": 8, "steps": 2}
    shape, n = (1, 28, 28), 785 * 2000 + 2001 * 10
    sgd = step_bytes({**settings, "optimizer": "sgd"}, shape, 10)
    adam = step_bytes({**settings, "optimizer": "adam"}, shape, 10)
    assert sgd is not None
    assert adam is not None
    # SGD has the gradient; Adam two moments besides, and temporaries of up to two layers
    # Linux counts pages in batches, on each processor, and is off by some
    slack = 2**18
    assert sgd > 4 * n - slack
    assert 2 * 4 * n - slack < adam - sgd < 5 * 4 * n + slack


def test_a_failure_in_the_process_that_measures_memory_is_told() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        step_bytes({"model": "no such model", "optimizer": "sgd", "batch": 2}, (1, 28, 28), 10)


# -- measures of a training ----------------------------------------------------------------------------------


def examples(n: int = 60) -> Examples:
    """Three noisy patterns of 6 x 6 pixels, a fifth of them with another label."""
    rng = torch.Generator().manual_seed(0)
    means = torch.rand(3, 1, 6, 6, generator=rng)
    y = torch.randint(0, 3, (n + 30,), generator=rng)
    x = means[y] + 0.5 * torch.randn(n + 30, 1, 6, 6, generator=rng)
    y[::5] = torch.randint(0, 3, (len(y[::5]),), generator=rng)
    return Examples(x[:n], y[:n], x[n:], y[n:], 3)


SETTINGS: dict[str, Any] = {"model": "softmax", "optimizer": "sgd", "lr": 0.3, "batch": 16, "epochs": 6}


def trained(settings: dict[str, Any], parts: int = 6) -> NetworkTraining:
    training = NetworkTraining(settings, 0, examples())
    for _ in range(parts):
        training.advance()
    return training


def reopened(training: Any, again: Any) -> Any:
    """Take another one to where a training is."""
    file = io.BytesIO()
    training.save(file)
    file.seek(0)
    again.load(file)
    return again


def test_forgetting_is_counted_as_examples_are_presented() -> None:
    training = NetworkTraining({**SETTINGS, "measures": ["forgetting"]}, 0, examples())
    history: list[list[bool]] = [[] for _ in range(60)]
    step = training.one_step

    def watched(indices: Any) -> Any:
        loss, correct, asked = step(indices)
        for i, right in zip(indices.tolist(), correct.tolist(), strict=True):
            history[i].append(right)
        return loss, correct, asked

    training.one_step = watched  # type: ignore[method-assign]
    for part in range(6):
        training.advance()
        if part == 2:
            training = reopened(
                training, NetworkTraining({**SETTINGS, "measures": ["forgetting"]}, 0, examples())
            )
            step, training.one_step = training.one_step, watched  # type: ignore[method-assign]
    events = [sum(a and not b for a, b in itertools.pairwise(h)) for h in history]
    learned = [any(h) for h in history]
    assert all(len(h) == 6 for h in history)
    assert sum(events) > 0
    found = training.final()
    assert found["never_learned"] == pytest.approx(1 - np.mean(learned))
    assert found["unforgettable"] == np.mean([a and not e for a, e in zip(learned, events, strict=True)])
    assert found["forgetting_events"] == pytest.approx(np.mean(np.array(events)[learned]))


def test_the_hessian_is_taken_at_the_end_and_at_a_loss() -> None:
    measures = {"hessian": {"examples": 40, "level": 0.95, "trace": 333, "probes": 1, "steps": 5, "top": 2}}
    settings = {**SETTINGS, "measures": measures}
    training = NetworkTraining(settings, 0, examples())
    data = examples()

    def exact() -> np.ndarray:
        """The softmax's own formula: sum of (diag p - p p^T) ⊗ [x 1][x 1]^T."""
        x = data.train_x[:40].flatten(1).double()
        p = torch.softmax(training.model(data.train_x[:40]).double(), 1).detach()
        x1 = torch.cat([x, torch.ones(40, 1)], 1)
        blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        return torch.einsum("nij,nk,nl->ikjl", blocks, x1, x1).reshape(111, 111).numpy() / 40

    for part in range(6):
        training.advance()
        if part == 3:
            training = reopened(training, NetworkTraining(settings, 0, examples()))
    found = training.final()
    values = np.linalg.eigvalsh(exact())
    np.testing.assert_allclose(found["eigenvalues"], values[::-1][:2], rtol=1e-3)
    np.testing.assert_allclose(found["trace"], values.sum(), rtol=1e-4)
    assert found["level_loss"] <= 0.95
    assert found["hessian_loss"] < found["level_loss"]
    assert found == trained(settings).final()


def test_seconds_and_memory_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solutions, "step_bytes", lambda settings, shape, classes: 10**6 * settings["batch"])
    settings = {**SETTINGS, "optimizer": "adam", "lr": 0.01, "measures": ["seconds", "memory"]}
    found = trained(settings).final()
    assert found["state_mb"] == (2 * 111 + 2) * 4 / 1e6
    assert found["step_mb"] == 16
    assert found["step_ms"] > 0


# -- subsets of high and low entropy -------------------------------------------------------------------------


def test_entropies_are_resolved_far_below_float32() -> None:
    model = torch.nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        model.weight[:] = torch.tensor([[60.0], [0.0], [0.0]])
    (found,) = subsets.entropies_of(model, torch.ones(1, 1)).tolist()
    assert found == pytest.approx(2 * 61 * np.exp(-60.0), rel=1e-6)


def test_entropy_by_forgetting_events() -> None:
    entropies = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    found = subsets.compared(entropies, np.array([0, 0, 0, 1, 3, 20.0]))
    assert found["by_events"] == [
        [3, pytest.approx(0.15), pytest.approx(0.2), pytest.approx(0.25)],
        [1, *[pytest.approx(0.4)] * 3],
        [0, None, None, None],
        [2, pytest.approx(0.6), pytest.approx(0.7), pytest.approx(0.8)],
    ]
    assert found["kendall"] == pytest.approx(12 / np.sqrt(15 * 12))  # tau-b: 12 pairs agree, 3 are tied
    assert "spearman" not in subsets.compared(entropies, np.zeros(6))


def entropy_job() -> Job:
    settings = {"model": "softmax", "data": "digits", "train": 120, "batch": 32, "epochs": 2, "size": 20}
    own = {
        "optimizer": "psgd_lowrank",
        "optimizer_settings": {"rank": 2, "clip": 1.0},
        "lr": 0.1,
        "step": 0.1,
    }
    return Job("entropy", "smoke", "a", 3, {**settings, **own})


def test_networks_are_trained_on_what_the_oracle_is_sure_and_unsure_of() -> None:
    pytest.importorskip("sklearn")
    whole = subsets.start(entropy_job(), None)
    metrics = walked(whole)
    assert [m["stage"] for m in metrics] == ["full"] * 2 + ["high"] * 2 + ["low"] * 2
    assert [m["iterations"] for m in metrics] == [4, 8, 1, 2, 1, 2]
    found = whole.final()
    # the oracle once more, by hand
    settings = {k: v for k, v in entropy_job().settings.items() if k != "size"}
    own = subsets.examples_for(entropy_job(), None)
    oracle = NetworkTraining(settings, 3, own)
    oracle.advance()
    oracle.advance()
    entropies = generalisation.entropy(oracle.model(own.train_x).detach().double()).numpy()
    order = np.argsort(entropies)
    assert found["low_entropy_full"] == pytest.approx(entropies[order[:20]].mean())
    assert found["high_entropy_full"] == pytest.approx(entropies[order[-20:]].mean())
    low = NetworkTraining(settings, 3, own.of(np.sort(order[:20])))
    low.advance()
    low.advance()
    assert found["accuracy_low"] == low.final()["accuracy"]
    # left anywhere, it goes on bit for bit
    for left_after in range(1, 6):
        first = subsets.start(entropy_job(), None)
        for _ in range(left_after):
            first.advance()
        again = reopened(first, subsets.start(entropy_job(), None))
        assert walked(again) == metrics[left_after:]
        assert again.final() == found


# -- costs ---------------------------------------------------------------------------------------------------


def cost_job(loss: float) -> Job:
    settings = {"model": "softmax", "data": "digits", "train": 128, "batch": 32, "epochs": 8, "blocks": 3}
    return Job("cost", "smoke", "a", 0, {**settings, "optimizer": "adam", "lr": 0.01, "loss": loss})


def test_a_training_ends_at_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(
        costs, "step_bytes", lambda settings, *_: 300 if settings["optimizer"] == "adam" else 200
    )
    whole = costs.start(cost_job(1.5), None)
    metrics = walked(whole)
    found = whole.final()
    losses = [m["train_loss"] for m in metrics if m["stage"] == "training"]
    assert len([m for m in metrics if m["stage"] == "steps"]) == 3
    assert all(loss > 1.5 for loss in losses[:-1])
    assert losses[-1] <= 1.5
    assert found["reached"]
    assert found["steps_to_loss"] == 4 * len(losses)
    assert found["seconds_to_loss"] == pytest.approx(found["steps_to_loss"] * found["step_ms"] / 1000)
    assert found["step_ratio"] == pytest.approx(found["step_ms"] / found["sgd_ms"])
    assert found["memory_ratio"] == 1.5
    # a run that was left has the same training and goes on with the times it has
    first = costs.start(cost_job(1.5), None)
    for _ in range(4):
        first.advance()
    again = reopened(first, costs.start(cost_job(1.5), None))
    assert walked(again) == metrics[4:]
    assert again.final()["step_ms"] == first.final()["step_ms"]
    # one that does not reach the loss ends after its epochs
    never = costs.start(cost_job(0.0), None)
    assert len(walked(never)) == 3 + 8
    assert not never.final()["reached"]
    assert "seconds_to_loss" not in never.final()


# -- claims within runs --------------------------------------------------------------------------------------


def test_numbers_of_the_same_runs_are_compared() -> None:
    noise = np.random.default_rng(0).standard_normal(8)
    finals = [{"a": 5.0 + 3 * z, "b": 4.0 + 3 * z + 0.1 * (z > 0)} for z in noise]
    records = [
        Record.of(Job("e", "reduced", cell, seed, {}), "done", final=final)
        for seed, final in enumerate(finals)
        for cell in ("A", "B")
    ]
    assert better_within("A", "a", "b")(records).verdict == CONFIRMED
    assert better_within("A", "b", "a")(records).verdict == REFUTED
    assert better_within("A", "a", "b", larger=False)(records).verdict == REFUTED
    assert better_within("A", "a", "b")(records[:2]).verdict == UNTESTED
    assert better_within("A", "a", "b")(records[2:4]).verdict == UNTESTED


def test_runs_without_a_number_can_be_left_out() -> None:
    """Otherwise a run that never got to a loss would count as worse there."""
    records = [
        Record.of(
            Job("e", "reduced", cell, seed, {}), "done", final={"x": x + seed / (9 + x)} if x or seed else {}
        )
        for cell, x in (("A", 1.0), ("B", 0.0))
        for seed in range(4)
    ]
    assert where_known("x", better("x", "A", "B"))(records).verdict == CONFIRMED
    assert "3 paired seeds" in where_known("x", better("x", "A", "B"))(records).measured
    none = [r for r in records if r.cell == "A" or r.seed == 0]
    assert where_known("x", better("x", "A", "B"))(none).verdict == UNTESTED


def test_numbers_without_chance_need_one_run() -> None:
    records = [
        Record.of(Job("e", "reduced", cell, seed, {}), "done", final={"x": x, "y": x + seed})
        for cell, x in (("A", 3.0), ("B", 2.0))
        for seed in range(2)
    ]
    assert at_most_times("x", "A", "B", 1.5)(records[1:3]).verdict == CONFIRMED
    assert at_most_times("x", "A", "B", 1.4)(records).verdict == REFUTED
    assert at_most_times("x", "A", "C", 1.4)(records).verdict == UNTESTED
    with pytest.raises(ValueError, match="same in all runs"):
        at_most_times("y", "A", "B", 1.4)(records)


# -- the experiments -----------------------------------------------------------------------------------------


class Everything(dict[str, Any]):
    """The numbers of a run that has whatever it is asked for."""

    def get(self, key: str, default: Any = None) -> float:
        return 1.0


@pytest.mark.parametrize("name", ["entropy", "solutions", "rank", "cost"])
def test_claims_name_cells_that_there_are(name: str) -> None:
    e = experiment(name)
    for scale in ("reduced", "faithful"):
        names = [cell.name for cell in e.plans[scale].cells]
        assert len(set(names)) == len(names)
        records = [
            Record.of(Job(name, scale, n, seed, {}), "done", final=Everything())
            for n in names
            for seed in range(3)
        ]
        for claim in e.claims:
            found = claim.judge(records)
            assert found.verdict != UNTESTED, (claim.text, found.measured)
        for contest in e.contests:
            assert set(contest.psgd) | set(contest.baselines) <= set(names)
