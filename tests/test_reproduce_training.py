"""The training loop of `psgd reproduce`: checkpoints, batches, rates, L2, measures."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("sklearn", reason="needs scikit-learn's digits")

from psgd_analysis.reproduce import data, training  # noqa: E402
from psgd_analysis.reproduce.experiment import Job  # noqa: E402
from psgd_analysis.reproduce.loop import Checkpoint, run  # noqa: E402
from psgd_analysis.reproduce.training import measures  # noqa: E402
from psgd_analysis.sweeps import Stopped  # noqa: E402

SMALL: dict[str, Any] = {
    "model": "mlp",
    "model_settings": {"hidden": [6]},
    "data": "digits",
    "train": 100,
    "test": 50,
    "batch": 32,
    "epochs": 3,
    "optimizer": "sgd",
    "lr": 0.1,
}
"""100 = 3 * 32 + 4: the last batch of an epoch is a small one."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.delenv("PSGD_DATA", raising=False)


def started(seed: int = 0, **changed: Any) -> training.NetworkTraining:
    return training.start(Job("test", "smoke", "cell", seed, {**SMALL, **changed}), None)


def finished(seed: int = 0, **changed: Any) -> tuple[training.NetworkTraining, list[dict[str, Any]]]:
    made = started(seed, **changed)
    metrics = []
    while made.status == "going":
        metrics.append(made.advance())
    return made, metrics


def parameters(made: training.NetworkTraining) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in made.model.parameters()])


class Seen(measures.Measure):
    """Keeps the places of all examples in the order in which they were trained on."""

    def __init__(self, made: training.NetworkTraining) -> None:
        super().__init__(made)
        self.places: list[int] = []

    def after_step(self, indices, correct):
        assert correct.shape == indices.shape
        self.places += indices.tolist()

    def after_part(self):
        return {"seen": len(self.places)}

    def final(self):
        return {"places": self.places}

    def state_dict(self):
        return {"places": self.places}

    def load_state_dict(self, state):
        self.places = state["places"]


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setitem(measures.MEASURES, "seen", Seen)
    return ["seen"]


# -- left and taken up again ---------------------------------------------------------------------------

RESUMED = {
    "sgd": {},
    "momentum": {"augment": [{"name": "bernoulli"}]},
    "adam": {"lr": [1e-2, 1e-3]},
    "adahessian": {},
    "kfac": {"lr": 0.01},
    "psgd_lowrank": {"step": [0.1, 0.01], "optimizer_settings": {"rank": 2, "update_probability": 0.5}},
    "psgd_xmat": {"step": 0.1, "optimizer_settings": {"momentum": 0.9}},
    "psgd_affine": {"step": 0.1, "optimizer_settings": {"clip": 10.0}},
    "psgd_xmat_whitening": {"lr": 0.01},
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_that_was_left_equals_one_that_was_not(tmp_path, seen, name):
    """After each part the process is as good as new: only the checkpoint goes from one to the next."""
    package = {"adahessian": "pytorch_optimizer", "kfac": "asdl"}.get(name, "torch")
    pytest.importorskip(package, reason=f"needs {package}")
    settings = {**SMALL, "optimizer": name, "measures": ["distance", *seen], **RESUMED[name]}
    job = Job("test", "smoke", name, 3, settings, dict([data.resolve("digits")]))
    start = lambda job: training.start(job, None)  # noqa: E731
    whole = run(job, start, Checkpoint(tmp_path / "whole", job.key), {})
    torn = Checkpoint(tmp_path / "torn", job.key)
    for _ in range(2):
        torch.manual_seed(int(np.random.default_rng().integers(1000)))  # which must not matter
        notes = []
        with pytest.raises(Stopped):
            run(job, start, torn, {}, note=notes.append, stopping=lambda notes=notes: bool(notes))
    resumed = run(job, start, torn, {})

    def timeless(record):
        return [{key: x for key, x in m.items() if key != "seconds"} for m in record.metrics]

    assert whole.status == resumed.status == "done"
    assert timeless(whole) == timeless(resumed)  # exactly
    assert whole.final == resumed.final
    assert whole.skipped == resumed.skipped
    assert len(whole.final["places"]) == 300


def test_a_checkpoint_holds_nothing_that_would_be_executed():
    made = started(optimizer="psgd_lowrank", measures=["uncertainty"])
    made.advance()
    file = io.BytesIO()
    made.save(file)
    file.seek(0)
    held = torch.load(file, weights_only=True)

    def leaves(x):
        if isinstance(x, dict | list | tuple):
            return [leaf for part in (x.values() if isinstance(x, dict) else x) for leaf in leaves(part)]
        return [x]

    kinds = {type(leaf) for leaf in leaves(held)}
    assert kinds <= {torch.Tensor, int, float, str, bool, type(None)}


def test_the_state_of_a_checkpoint_is_not_that_of_the_run():
    """What was saved stays as it was while the run goes on."""
    made = started()
    made.advance()
    first, second = io.BytesIO(), io.BytesIO()
    made.save(first)
    made.advance()
    other = started()
    first.seek(0)
    other.load(first)
    other.save(second)
    assert not np.array_equal(parameters(made), parameters(other))
    made.advance()
    other.advance()
    other.advance()
    np.testing.assert_array_equal(parameters(made), parameters(other))


# -- batches -------------------------------------------------------------------------------------------


def test_all_optimisers_of_a_seed_begin_alike_and_see_the_same_batches(seen):
    found = {}
    for name in ("sgd", "adam", "psgd_lowrank"):
        begun = parameters(started(7, optimizer=name))
        made, _ = finished(7, optimizer=name, lr=0.01, measures=seen)
        found[name] = begun.tolist(), made.final()["places"]
    assert found["sgd"] == found["adam"] == found["psgd_lowrank"]
    other, _ = finished(8, measures=seen)
    assert other.final()["places"] != found["sgd"][1]
    assert parameters(started(8)).tolist() != found["sgd"][0]


def test_an_epoch_takes_every_example_once(seen):
    made, metrics = finished(measures=seen)
    places = np.array(made.final()["places"]).reshape(3, 100)
    np.testing.assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(100), (3, 1)))
    assert len({tuple(epoch) for epoch in places.tolist()}) == 3
    assert [m["iterations"] for m in metrics] == [4, 8, 12]


def test_parts_only_divide_a_run(seen):
    """With constant rates, ten iterations are the same in one part and in three."""
    without = {key: x for key, x in SMALL.items() if key != "epochs"}
    ends = {}
    for parts in (1, 3, 10):
        settings = {**without, "iterations": 10, "parts": parts, "measures": seen}
        made = training.start(Job("test", "smoke", "cell", 0, settings), None)
        assert made.parts == parts
        counts = []
        while made.status == "going":
            counts.append(made.advance()["iterations"])
        assert counts == [(i + 1) * 10 // parts for i in range(parts)]
        ends[parts] = parameters(made)
    np.testing.assert_array_equal(ends[1], ends[3])
    np.testing.assert_array_equal(ends[1], ends[10])


def test_sizes_of_the_sets():
    made = started()
    assert (len(made.examples.train_x), len(made.examples.test_x)) == (100, 50)
    whole = started(train=1500, test=297)
    assert (len(whole.examples.train_x), len(whole.examples.test_x)) == (1500, 297)
    # a part of the set, without repetition, the same for all seeds and with labels that belong to it
    pairs = whole.examples.train_x, whole.examples.train_y
    rows = {tuple(x.ravel().tolist()): int(y) for x, y in zip(*pairs, strict=True)}
    part = [tuple(x.ravel().tolist()) for x in made.examples.train_x]
    assert len(set(part)) == 100
    assert [rows[x] for x in part] == made.examples.train_y.tolist()
    assert torch.equal(started(5).examples.train_x, made.examples.train_x)
    assert float(whole.examples.train_x.max()) == 1.0
    with pytest.raises(ValueError, match="`train` must be from 1 to 1500 with this data, got 1501"):
        started(train=1501)


def test_a_part_of_the_examples():
    whole = started().examples
    part = whole.of(np.array([7, 2]))
    assert torch.equal(part.train_x, whole.train_x[[7, 2]])
    assert part.train_y.tolist() == [int(whole.train_y[7]), int(whole.train_y[2])]
    assert part.test_x is whole.test_x
    made = training.NetworkTraining(SMALL, 0, part)
    assert made.advance()["iterations"] == 1


def test_a_text_is_cut_into_pieces():
    made = started(
        model="transformer", model_settings={"width": 8, "heads": 2, "depth": 1},
        data="chain", length=16, train=40, test=10,
    )  # fmt: skip
    x, y = made.examples.train_x, made.examples.train_y
    assert x.shape == y.shape == (40, 16)
    assert torch.equal(x[:, 1:], y[:, :-1])
    metrics = made.advance()
    assert metrics["train_loss"] == pytest.approx(math.log(27), abs=0.7)
    assert 0 <= metrics["accuracy"] <= 100


# -- the step ------------------------------------------------------------------------------------------


def test_one_epoch_of_sgd_by_hand(seen):
    """An independent loop over the same batches: losses, accuracies and parameters."""
    made = started(epochs=1, lr=0.3, measures=seen)
    initial = [p.detach().clone().double() for p in made.model.parameters()]
    metrics = made.advance()
    w1, b1, w2, b2 = (p.numpy() for p in initial)
    x = made.examples.train_x.reshape(100, -1).double().numpy()
    y = made.examples.train_y.numpy()

    def forward(inputs, labels):
        hidden = np.tanh(inputs @ w1.T + b1)
        z = hidden @ w2.T + b2
        z = z - z.max(1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return hidden, p, -np.log(p[np.arange(len(labels)), labels]), p.argmax(1) == labels

    places, losses, right = np.array(made.final()["places"]), [], []
    for at in np.split(places, [32, 64, 96]):
        hidden, p, loss, correct = forward(x[at], y[at])
        losses += loss.tolist()
        right += correct.tolist()
        slope = (p - np.eye(10)[y[at]]) / len(at)
        back = (slope @ w2) * (1 - hidden**2)
        w1, b1 = w1 - 0.3 * back.T @ x[at], b1 - 0.3 * back.sum(0)
        w2, b2 = w2 - 0.3 * slope.T @ hidden, b2 - 0.3 * slope.sum(0)
    got = np.concatenate([a.ravel() for a in (w1, b1, w2, b2)])
    np.testing.assert_allclose(parameters(made), got, atol=1e-5)
    assert metrics["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["train_accuracy"] == pytest.approx(100 * np.mean(right))
    tested = forward(made.examples.test_x.reshape(50, -1).double().numpy(), made.examples.test_y.numpy())
    assert metrics["test_loss"] == pytest.approx(np.mean(tested[2]), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(100 * np.mean(tested[3]))


def test_l2_is_weight_decay_for_sgd():
    decayed, its_metrics = finished(optimizer_settings={"weight_decay": 0.1})
    penalised, metrics = finished(l2=0.1)
    plain, _ = finished()
    np.testing.assert_allclose(parameters(penalised), parameters(decayed), atol=1e-6)
    assert np.abs(parameters(plain) - parameters(decayed)).max() > 1e-2
    # losses are reported without the penalty
    for mine, other in zip(metrics, its_metrics, strict=True):
        assert mine["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)


class Noted:
    """Stands in for an optimiser that does nothing but note its rates."""

    def __init__(self):
        self.noted: list[Any] = []

    def rates(self, lr, step=None):
        self.noted.append((lr, step))

    def step(self, loss):
        value, more = loss()
        return value.detach(), more

    products = gradients = skipped = 0


def noted(**settings: Any) -> np.ndarray:
    made = started(**settings)
    made.steps = Noted()
    for _ in range(made.parts):
        made.advance()
    return np.array(made.steps.noted, dtype=float).T


def test_rates_against_closed_forms():
    t = np.arange(10)
    lr, step = noted(epochs=10, lr=[0.1, 0.001], step=[0.1, 0.01])  # E.1 of the paper
    np.testing.assert_allclose(lr, 0.1 * 0.01 ** (t / 9))
    np.testing.assert_allclose(step, 0.1 * 0.1 ** (t / 9))
    lr, step = noted(epochs=10, lr={"cosine": [0.2, 0.0]})
    np.testing.assert_allclose(lr, 0.1 * (1 + np.cos(np.pi * t / 10)))
    assert np.isnan(step).all()  # left alone
    lr, _ = noted(epochs=10, lr={"stages": [0.5, 0.05, 0.005], "at": [3, 7]})
    np.testing.assert_allclose(lr, [0.5] * 3 + [0.05] * 4 + [0.005] * 3)
    lr, _ = noted(epochs=1, lr=[0.1, 0.001])
    np.testing.assert_allclose(lr, [0.1])


@pytest.mark.parametrize("lr", [[0.1], "fast", {"linear": [1, 2]}, None, True, [0.1, 0.01, 0.001]])
def test_odd_rates(lr):
    with pytest.raises(ValueError, match="`lr` must be a number, "):
        started(lr=lr)


def test_diverged(tmp_path):
    made, metrics = finished(lr=1e38, measures=["distance", "uncertainty"])
    assert made.status == "diverged"
    assert len(metrics) == 1
    assert not math.isfinite(metrics[0]["test_loss"])
    job = Job("test", "smoke", "cell", 0, {**SMALL, "lr": 1e38, "measures": ["uncertainty"]})
    record = run(job, lambda job: training.start(job, None), Checkpoint(tmp_path, job.key), {})
    assert record.status == "diverged"
    assert '"test_loss": null' in record.line()
    # and still so after a crash
    file = io.BytesIO()
    made.save(file)
    file.seek(0)
    again = started(lr=1e38, measures=["distance", "uncertainty"])
    again.load(file)
    assert again.status == "diverged"


def test_a_step_that_is_left_out_is_no_divergence():
    """PSGD refuses steps that are not finite, and the run goes on."""
    made = started(optimizer="psgd_xmat", epochs=2)
    made.examples.train_x[int(made.batches._order[0])] = math.nan  # in the first batch of four
    metrics = made.advance()
    assert made.skipped > 0
    assert made.status == "going"
    assert math.isnan(metrics["train_loss"])


# -- what is measured ----------------------------------------------------------------------------------


def test_measures_against_their_definitions():
    from scipy.stats import entropy

    made = started(epochs=2, lr=0.5, measures=["uncertainty", "distance", "train"])
    begun = parameters(made).astype(np.float64)
    metrics = [made.advance(), made.advance()]
    found = made.final()
    moved = np.linalg.norm(parameters(made) - begun)
    assert found["distance"] == pytest.approx(moved, rel=1e-6)
    assert found["relative_distance"] == pytest.approx(moved / np.linalg.norm(begun), rel=1e-6)
    for split in ("test", "train"):
        x, y = getattr(made.examples, f"{split}_x"), getattr(made.examples, f"{split}_y").numpy()
        with torch.no_grad():
            p = torch.softmax(made.model(x).double(), 1).numpy()
        entropies = entropy(p, axis=1)
        for which, value in (("min", entropies.min()), ("mean", entropies.mean()), ("max", entropies.max())):
            assert found[f"{split}_entropy_{which}"] == pytest.approx(value, rel=1e-4)
        own = p[np.arange(len(y)), y]
        others = np.where(np.eye(10)[y] > 0, -1.0, p).max(1)
        assert found[f"{split}_margin_mean"] == pytest.approx((own - others).mean(), abs=1e-5)
        if split == "train":
            assert found["whole_train_loss"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
            assert found["whole_train_accuracy"] == pytest.approx(100 * (own > others).mean())
    assert found["accuracy"] == metrics[-1]["accuracy"]
    assert found["best_accuracy"] == max(m["accuracy"] for m in metrics)
    assert found["iterations"] == found["gradients"] == 8
    assert found["products"] == 0
    assert found["parameters"] == 784 * 6 + 6 + 60 + 10


def test_products_are_counted():
    made, metrics = finished(optimizer="psgd_lowrank", step=0.1)
    assert [m["products"] for m in metrics] == [4, 8, 12]
    assert made.final()["products"] == 12


def test_large_sets_are_evaluated_in_blocks():
    made = started(train=1200)
    x, y = made.examples.train_x, made.examples.train_y
    with torch.no_grad():
        z = made.model(x)
    loss, accuracy = made.evaluate("train")
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(z, y)), rel=1e-5)
    assert accuracy == pytest.approx(100 * float((z.argmax(1) == y).double().mean()))
    assert [len(labels) for _, labels in made.logits("train")] == [500, 500, 200]


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epoch": 3}, "`settings` must be among .*, got 'epoch'"),
        ({"iterations": 5, "parts": 1}, "either 'epochs', or 'iterations' and 'parts'"),
        ({"parts": 2}, "either 'epochs', or 'iterations' and 'parts'"),
        ({"measures": ["weather"]}, "`measures` must be among .*, got 'weather'"),
        ({"model": "resnet152"}, "`name` must be one of lenet5"),
        ({"optimizer": "magic"}, "`name` must be one of"),
        ({"data": "imagenet"}, "`name` must be one of mnist"),
    ],
)
def test_odd_settings(changed, words):
    with pytest.raises(ValueError, match=words):
        started(**changed)


def test_data_must_be_what_was_planned():
    job = Job("test", "smoke", "cell", 0, SMALL, {"digits": "0" * 64})
    with pytest.raises(ValueError, match="'digits' is not what the run was planned with"):
        training.start(job, None)
