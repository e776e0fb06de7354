"""Labels that are wrong, images that are blurred, pruning by forgetting, and the experiments made of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("sklearn", reason="needs scikit-learn's digits")

from scipy import stats  # noqa: E402

from psgd_analysis import generalisation  # noqa: E402
from psgd_analysis.reproduce import pruning  # noqa: E402
from psgd_analysis.reproduce.experiment import Job  # noqa: E402
from psgd_analysis.reproduce.experiments import experiment  # noqa: E402
from psgd_analysis.reproduce.training import Examples, NetworkTraining, examples_for  # noqa: E402
from psgd_analysis.reproduce.training.changes import changed  # noqa: E402

NAMES = ("noise", "blur", "stubborn", "forgetting")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    torch.set_num_threads(1)  # as `psgd reproduce` trains; PyTorch has crashed on these few images with two
    monkeypatch.delenv("PSGD_DATA", raising=False)


def pictures(count: int, copies: int = 1, classes: int = 10, size: int = 8) -> Examples:
    """Return random images, some copies of each one after the other, with random labels for each image."""
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.random((count, 3, size, size), dtype=np.float32))
    y = torch.from_numpy(rng.integers(0, classes, count))
    return Examples(x.repeat_interleave(copies, 0), y.repeat_interleave(copies), x[:7], y[:7], classes)


def done(training: Any) -> Any:
    while training.status == "going":
        training.advance()
    return training


# -- labels that are wrong -------------------------------------------------------------------------------

KINDS = ["uniform_noise", "instance_noise"]


@pytest.mark.parametrize("rate", [0.35, 0.54])
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_labels_are_wrong_as_asked_for(kind, rate):
    """Five deviations of the binomial law; what is not wrong, and the test set, is as it was."""
    given = pictures(20_000)
    found = changed(given, [{"name": kind, "rate": rate}], 3)
    wrong = (found.train_y != given.train_y).numpy()
    assert abs(wrong.sum() - rate * 20_000) < 5 * np.sqrt(20_000 * rate * (1 - rate))
    assert found.train_y.dtype == given.train_y.dtype
    assert torch.equal(found.train_x, given.train_x)
    assert torch.equal(found.test_y, given.test_y)
    assert set(found.train_y.tolist()) == set(range(10))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_uniform_noise_leaves_all_labels_or_none(rate):
    given = pictures(3_000)
    right = changed(given, [{"name": "uniform_noise", "rate": rate}], 3).train_y == given.train_y
    assert int(right.sum()) == (0 if rate else 3_000)


def test_uniform_noise_gives_each_class_each_other_label_alike():
    """46 % right and 6 % each other class, as in section 5.1: a chi-squared test of all 100 pairs."""
    given = pictures(60_000)
    found = changed(given, [{"name": "uniform_noise", "rate": 0.54}], 1)
    counts = np.zeros((10, 10))
    np.add.at(counts, (given.train_y.numpy(), found.train_y.numpy()), 1)
    law = np.full((10, 10), 0.06) + 0.40 * np.eye(10)
    wanted = law * counts.sum(axis=1, keepdims=True)
    statistic = ((counts - wanted) ** 2 / wanted).sum()
    assert 1e-6 < stats.chi2.sf(statistic, 90) < 1 - 1e-6


def test_instance_noise_depends_on_the_image_and_uniform_noise_does_not():
    """Of many copies of an image, the wrong ones mostly get the same wrong label, not so by chance."""
    given = pictures(100, copies=60, size=32)

    def agreement(kind: str) -> float:
        labels = changed(given, [{"name": kind, "rate": 0.54}], 2).train_y.reshape(100, 60)
        shares = []
        for own, mine in zip(given.train_y.reshape(100, 60)[:, 0], labels, strict=True):
            wrong = mine[mine != own]
            shares.append(float(wrong.bincount().max()) / len(wrong))
        return float(np.mean(shares))

    assert agreement("instance_noise") > 0.85
    assert agreement("uniform_noise") < 0.4


def test_instance_noise_gives_images_of_one_class_different_wrong_labels():
    given = pictures(4_000)
    found = changed(given, [{"name": "instance_noise", "rate": 0.9}], 2).train_y
    for own in range(10):
        wrong = found[(given.train_y == own) & (found != own)]
        assert float(wrong.bincount().max()) / len(wrong) < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_drawn_anew_for_each_seed_alone(kind):
    given = pictures(300)
    one, again, other = (changed(given, [{"name": kind, "rate": 0.5}], seed).train_y for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


# -- images that are blurred -----------------------------------------------------------------------------


def test_blur_is_what_pillow_makes_of_each_colour():
    """Reduced to 8 x 8 and enlarged again, in floats; the test images stay."""
    image = pytest.importorskip("PIL.Image")
    given = pictures(3, size=32)
    found = changed(given, [{"name": "blur"}], 0)
    for x, y in zip(given.train_x.flatten(0, 1).numpy(), found.train_x.flatten(0, 1).numpy(), strict=True):
        small = image.fromarray(x, mode="F").resize((8, 8), image.Resampling.BILINEAR)
        wanted = np.asarray(small.resize((32, 32), image.Resampling.BILINEAR))
        np.testing.assert_allclose(y, wanted, atol=2e-6)
    assert torch.equal(found.test_x, given.test_x)
    assert torch.equal(found.train_y, given.train_y)


def test_blur_keeps_what_is_flat_and_removes_what_is_fine():
    flat = torch.full((1, 1, 32, 32), 0.3)
    board = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).float().expand(1, 1, 32, 32)
    y = torch.zeros(1, dtype=torch.int64)
    for x, wanted in ((flat, 0.3), (board, 0.5)):
        found = changed(Examples(x, y, x, y, 2), [{"name": "blur", "size": 8}], 0).train_x
        np.testing.assert_allclose(found, np.full((1, 1, 32, 32), wanted), atol=0.02)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "uniform_noise", "rate": 1.5}, "`rate` must be a probability"),
        ({"name": "instance_noise", "rate": -0.1}, "`rate` must be a probability"),
        ({"name": "blur", "size": 9}, "`size` must be from 1"),
    ],
)
def test_what_cannot_be_done_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        changed(pictures(5), [change], 0)


def test_texts_have_no_wrong_labels():
    tokens = torch.zeros((4, 6), dtype=torch.int64)
    with pytest.raises(ValueError, match="a label for each"):
        changed(Examples(tokens, tokens, tokens, tokens, 3), [{"name": "uniform_noise", "rate": 0.5}], 0)


# -- what is measured, and what changes midway -----------------------------------------------------------

SOFTMAX = {"model": "softmax", "batch": 20, "optimizer": "sgd", "lr": 0.5, "epochs": 2}


def test_memorised_labels_and_true_accuracy_are_told_apart():
    """A linear model of more pixels than images learns all wrong labels by heart: so it is wrong of these."""
    noise = {"changes": [{"name": "uniform_noise", "rate": 0.5}], "measures": ["labels"]}
    given = pictures(60, size=12)
    made = done(NetworkTraining({**SOFTMAX, **noise, "epochs": 300}, 0, given))
    wrong = float((made.examples.train_y != given.train_y).double().mean())
    assert 0.2 < wrong < 0.8
    assert made.evaluate("train")[1] == 100
    assert made.final()["memorised"] == 100
    assert made.final()["true_accuracy"] == pytest.approx(100 * (1 - wrong))
    clean = done(NetworkTraining({**SOFTMAX, "measures": ["labels"]}, 0, given))
    assert clean.final()["memorised"] is None
    assert clean.final()["true_accuracy"] == pytest.approx(clean.evaluate("train")[1])


def test_a_phase_may_have_its_own_l2():
    """Of two runs that differ in the second phase's L2 alone, one step differs by its gradient."""
    given = pictures(20)
    phases = [{"parts": 1}, {"parts": 1, "l2": 0.3}]
    plain, own = (NetworkTraining({**SOFTMAX, **more}, 0, given) for more in ({}, {"phases": phases}))
    plain.advance()
    own.advance()
    before = [p.detach().clone() for p in plain.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, own.model.parameters(), strict=True))
    plain.advance()
    own.advance()
    for x, a, b in zip(before, plain.model.parameters(), own.model.parameters(), strict=True):
        np.testing.assert_allclose((a - b).detach(), 0.5 * 0.3 * x, atol=1e-6)


# -- pruning ---------------------------------------------------------------------------------------------


def test_exactly_the_most_forgettable_are_kept():
    rng = np.random.default_rng(0)
    events = rng.integers(0, 4, 200).astype(float)
    entropies = rng.random(200)
    found = {"forgetting": torch.from_numpy(events), "entropies": torch.from_numpy(entropies)}
    for share, count in ((0.5, 100), (0.3, 60), (0.1, 20), (0.001, 1)):
        kept = pruning.most_forgettable(found, share)
        wanted = sorted(range(200), key=lambda i: (events[i], entropies[i]))[200 - count :]
        assert sorted(kept) == sorted(wanted)


PRUNED = {
    **{"model": "softmax", "data": "digits", "train": 120, "test": 50, "batch": 32, "epochs": 3},
    **{"optimizer": "psgd_lowrank", "optimizer_settings": {"rank": 2}, "lr": 0.1, "step": 0.1, "l2": 0.01},
    "keep": [0.5, 0.1],
    "reference": {"optimizer": "sgd", "optimizer_settings": None, "lr": 0.5, "step": None, "l2": None},
}


def test_a_pruning_run_is_its_trainings_done_by_hand():
    job = Job("forgetting", "smoke", "a", 4, PRUNED)
    whole = done(pruning.start(job, None))
    found = whole.final()
    examples = examples_for(job, None)
    settings = {key: x for key, x in PRUNED.items() if key not in ("keep", "reference")}
    first = done(NetworkTraining({**settings, "measures": ["forgetting"]}, 4, examples))
    scores = first.measures["forgetting"].result.finite_scores
    with torch.no_grad():
        entropies = generalisation.entropy(first.model(examples.train_x).double()).numpy()
    assert found["accuracy"] == first.final()["accuracy"]
    for name, count in (("50", 60), ("10", 12)):
        kept = np.lexsort((entropies, scores))[-count:]
        own = done(NetworkTraining(settings, 4, examples.of(np.sort(kept))))
        assert found[f"accuracy_{name}"] == own.final()["accuracy"]
    bare = {key: settings[key] for key in ("model", "data", "train", "test", "batch", "epochs")}
    plain = {**bare, **PRUNED["reference"], "measures": ["forgetting"]}
    other = done(NetworkTraining(plain, 4 + pruning.ANOTHER, examples))
    others = other.measures["forgetting"].result.finite_scores
    assert found["order_spearman"] == pytest.approx(stats.spearmanr(scores, others).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(entropies, scores).statistic)
    assert whole.parts == 3 * 5


# -- the experiments -------------------------------------------------------------------------------------

SMOKE = [(name, cell.name) for name in NAMES for cell in experiment(name).plans["smoke"].cells]


def started(name: str, cell: str, **own: Any) -> Any:
    e = experiment(name)
    settings = next(c.settings for c in e.plans["smoke"].cells if c.name == cell)
    return e.start(Job(name, "smoke", cell, 0, {**settings, **own}), None)


@pytest.mark.parametrize(("name", "cell"), SMOKE)
def test_every_smoke_cell_is_taken_up_bit_for_bit(name, cell):
    """Left after the first part, and after the one in which data and optimiser change."""
    small = {"train": 128, "test": 40}
    whole = started(name, cell, **small)
    metrics = []
    while whole.status == "going":
        metrics.append(whole.advance())
    left = started(name, cell, **small)
    for i, wanted in enumerate(metrics):
        assert left.advance() == wanted
        file = io.BytesIO()
        left.save(file)
        file.seek(0)
        left = started(name, cell, **small)
        left.load(file)
        if i == 1:
            break
    while left.status == "going":
        left.advance()
    assert left.status == whole.status == "done"
    assert left.final() == whole.final()


@pytest.mark.parametrize("name", NAMES)
def test_all_cells_of_one_kind_of_data_have_the_same(name):
    """The same seed: the same wrong labels, blurred images and first parameters, whatever the optimiser."""
    cells = [c for n, c in SMOKE if n == name and "by image" not in c and "never" not in c]
    runs = [started(name, cell) for cell in cells]
    if name == "forgetting":  # the first training of each
        runs = [run.stages[0].start({}) for run in runs]
    assert len(runs) > 1
    for run in runs:
        assert torch.equal(run.examples.train_x, runs[0].examples.train_x)
        assert torch.equal(run.examples.train_y, runs[0].examples.train_y)
        for a, b in zip(run.model.parameters(), runs[0].model.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("method", ["SGD", "Adam", "PSGD LRA"])
def test_the_cells_learn_from_the_stand_in(method):
    """Without noise and at the cells' first rates: the loss falls well below that of chance, 2.303."""
    rate = started("noise", method).settings["lr"]["cosine"][0]
    clean: dict[str, Any] = {"changes": [], "augment": [], "measures": []}
    learned = done(started("noise", method, train=800, batch=32, epochs=8, lr=rate, **clean))
    assert learned.final()["train_loss"] < 2.1


def test_labels_are_clean_and_images_sharp_in_the_second_half():
    for name, cell in SMOKE:
        if name not in ("blur", "stubborn") or "never" in cell:
            continue
        run = started(name, cell)
        given = run.given
        key = "train_x" if name == "blur" else "train_y"
        assert not torch.equal(getattr(run.examples, key), getattr(given, key))
        done(run)
        assert torch.equal(getattr(run.examples, key), getattr(given, key))
