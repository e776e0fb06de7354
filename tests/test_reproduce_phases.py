"""Phases of a run, changes of its data, and batch normalisation, each against what it is for."""

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("sklearn", reason="needs scikit-learn's digits")

from psgd_analysis.reproduce import data, models, optimizers, training  # noqa: E402
from psgd_analysis.reproduce.experiment import Job  # noqa: E402
from psgd_analysis.reproduce.experiments import NAMES, experiment  # noqa: E402
from psgd_analysis.reproduce.training import changes, examples_of  # noqa: E402
from psgd_analysis.reproduce.training.device import name_of  # noqa: E402
from psgd_analysis.reproduce.training.phases import phases_of  # noqa: E402
from psgd_analysis.reproduce.training.rates import rate_of  # noqa: E402

SMALL = {"model": "softmax", "data": "digits", "batch": 50, "epochs": 4, "train": 200, "test": 50}
SGD = {"optimizer": "sgd", "lr": 0.1}
PSGD = {"optimizer": "psgd_lowrank", "optimizer_settings": {"rank": 2}, "lr": 0.05, "step": 0.1}


def started(seed=0, **own):
    job = Job("test", "smoke", "cell", seed, {**SMALL, **SGD, **own})
    return training.start(job, None)


@pytest.fixture
def reversed_labels(monkeypatch):
    def change(examples, rng, by):
        return type(examples)(
            examples.train_x, (examples.train_y + by) % 10, examples.test_x, examples.test_y, 10
        )

    monkeypatch.setitem(changes.CHANGES, "shifted", change)
    return {"name": "shifted", "by": 1}


def test_a_phase_has_its_own_rates_and_the_others_those_of_the_run():
    settings = {**SGD, "lr": [1.0, 0.001], "phases": [{"parts": 2}, {"parts": 2, "lr": [0.5, 0.25]}]}
    first, second = phases_of(settings, 4)
    assert [first.lr(k) for k in (0, 1)] == pytest.approx([1.0, 0.1])
    assert [second.lr(k) for k in (2, 3)] == pytest.approx([0.5, 0.25])
    assert (first.starts, second.starts) == (True, False)
    whole = phases_of({**settings, "phases": [{"parts": 1}, {"parts": 3}]}, 4)[1]
    assert [whole.lr(k) for k in (1, 2, 3)] == pytest.approx([0.1, 0.01, 0.001])


def test_a_new_optimiser_takes_nothing_of_the_first_and_the_model_goes_on():
    run = started(**PSGD, phases=[{"parts": 2}, {"parts": 2, **SGD}])
    for _ in range(2):
        run.advance()
    before = [p.detach().clone() for p in run.model.parameters()]
    assert run.steps.name == "psgd_lowrank"
    products = run.final()["products"]
    run.advance()
    assert run.steps.name == "sgd"
    assert run.final()["products"] == products == 8
    assert run.final()["gradients"] == 12
    assert any(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_run_of_phases_is_taken_up_bit_for_bit(parts, reversed_labels):
    settings = {
        **PSGD,
        "phases": [{"parts": 2, "changes": [reversed_labels]}, {"parts": 2, "optimizer": "adam", "lr": 0.01}],
    }
    whole, left, taken_up = (started(**settings) for _ in range(3))
    for _ in range(4):
        whole.advance()
    for _ in range(parts):
        left.advance()
    file = io.BytesIO()
    left.save(file)
    file.seek(0)
    taken_up.load(file)
    for _ in range(4 - parts):
        taken_up.advance()
    assert taken_up.final() == whole.final()
    assert taken_up.status == "done"


def test_labels_change_back_with_the_phase(reversed_labels):
    run = started(phases=[{"parts": 1, "changes": [reversed_labels]}, {"parts": 3}])
    given = examples_of(data.load("digits"), train=200, test=50)
    assert torch.equal(run.examples.train_y, (given.train_y + 1) % 10)
    run.advance()
    run.advance()
    assert torch.equal(run.examples.train_y, given.train_y)


def test_all_optimisers_get_the_same_changes_and_each_seed_its_own(monkeypatch):
    def draw(examples, rng):
        order = torch.from_numpy(rng.permutation(len(examples.train_x)))
        return examples.of(order)

    monkeypatch.setitem(changes.CHANGES, "mixed", draw)
    one = started(changes=[{"name": "mixed"}])
    other = started(**{**PSGD, "changes": [{"name": "mixed"}]})
    third = started(seed=1, changes=[{"name": "mixed"}])
    assert torch.equal(one.examples.train_y, other.examples.train_y)
    assert not torch.equal(one.examples.train_y, third.examples.train_y)


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({"phases": [{"parts": 3}]}, "4 parts together"),
        ({"phases": [{"parts": 4, "batch": 7}]}, "'batch'"),
        ({"changes": [{"name": "nothing"}]}, "'nothing'"),
        ({"augment": [{"name": "nothing"}]}, "'nothing'"),
    ],
)
def test_wrong_settings_are_refused(own, word):
    with pytest.raises(ValueError, match=word):
        started(**own)


# -- residual networks and their normalisation -----------------------------------------------------------


def test_the_residual_networks_are_those_of_the_paper():
    def count(**own):
        return sum(p.numel() for p in models.make("resnet", (3, 32, 32), 10, own, 0).parameters())

    assert count(widths=(16, 32, 64), blocks=1) == 78_042
    # torchvision's resnet18 has 11,689,512: another first layer, a head of 1000 classes
    assert count() == 11_689_512 - 3 * 64 * (49 - 9) - 513 * (1000 - 10)
    assert count() - count(shortcuts=False) == sum(
        a * b + 2 * b for a, b in ((64, 128), (128, 256), (256, 512))
    )


RESNET = {"model": "resnet", "model_settings": {"widths": [4, 8], "blocks": 1}, "train": 60, "batch": 30}


@pytest.mark.parametrize(
    "own",
    [
        SGD,
        PSGD,
        {**PSGD, "optimizer_settings": {"rank": 2, "source": "finite_difference"}},
        {"optimizer": "hessian_free", "lr": 1.0},
        {"optimizer": "lbfgs", "lr": 0.1},
    ],
)
def test_running_statistics_move_once_per_step(own):
    """Whatever an optimiser evaluates: the first batch's statistics are those of one forward pass."""
    run = started(**RESNET, **own)
    plain = models.make("resnet", (1, 28, 28), 10, RESNET["model_settings"], 0)
    plain.load_state_dict(run.model.state_dict())
    indices = run.batches.next()
    plain(run.examples.train_x[indices])
    run.one_step(indices)
    wanted, found = dict(plain.named_buffers()), dict(run.model.named_buffers())
    means = [name for name in wanted if name.endswith("running_mean")]
    assert means
    for name in means:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-6)
    assert {m.momentum for m in run.model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_optimisers_that_keep_the_rate_they_were_made_with_get_the_first_one():
    """AdaBound's final rate and Apollo's warm-up go by it; a library's default would be another."""
    pytest.importorskip("pytorch_optimizer")
    seen = set()
    for name in NAMES:
        for plan in experiment(name).plans.values():
            for own in [cell.settings for cell in plan.cells if "optimizer" in cell.settings]:
                if own["optimizer"] not in ("adabound", "apollo"):
                    continue
                steps = optimizers.make(
                    own["optimizer"], torch.nn.Linear(2, 1), own.get("optimizer_settings", {}), 0
                )
                kept = getattr(steps._optimizer, "base_lrs", None) or [steps._optimizer.lr]
                assert kept == [rate_of("lr", own["lr"], own["epochs"])(0)], (name, own)
                seen.add(own["optimizer"])
    assert seen == {"adabound", "apollo"}


def test_a_record_says_where_it_was_trained(monkeypatch):
    monkeypatch.setenv("PSGD_DEVICE", "cpu")
    made = started()
    made.advance()
    assert made.final()["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", {torch.device("cuda:1"): "Some GPU"}.__getitem__)
    assert name_of(torch.device("cuda:1")) == "cuda, Some GPU"
    monkeypatch.setenv("PSGD_DEVICE", "the fast one")
    with pytest.raises(ValueError, match=r"PSGD_DEVICE.*got 'the fast one'"):
        started()
