"""What controls entropy in the loss, calibration, and claims about doses: each against what it is for."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from scipy import special, stats

torch = pytest.importorskip("torch", reason="needs PyTorch")

from psgd_analysis.reproduce.claims import CONFIRMED, OPPOSITE, REFUTED, UNTESTED  # noqa: E402
from psgd_analysis.reproduce.doses import slope  # noqa: E402
from psgd_analysis.reproduce.experiment import Job  # noqa: E402
from psgd_analysis.reproduce.records import Record  # noqa: E402
from psgd_analysis.reproduce.training import Examples, NetworkTraining  # noqa: E402
from psgd_analysis.reproduce.training.calibration import (  # noqa: E402
    BINS,
    LIMITS,
    calibration,
    calibration_error,
    fitted_temperature,
)
from psgd_analysis.reproduce.training.losses import IGNORED, Objective, Tempered, loss  # noqa: E402

# -- the loss ------------------------------------------------------------------------------------------------

OBJECTIVES = [
    {},
    {"entropy": 0.7},
    {"entropy": -0.7},
    {"smoothing": 0.2},
    {"smoothing": 1.0, "entropy": 0.1},
]


def drawn(n=7, classes=5, size=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return size * rng.standard_normal((n, classes)), rng.integers(0, classes, n)


def by_hand(z, y, entropy=0.0, smoothing=0.0):
    """The loss from scipy's softmax and entropy, example by example."""
    p = special.softmax(z, axis=1)
    wanted = (1 - smoothing) * np.eye(z.shape[1])[y] + smoothing / z.shape[1]
    return float(np.mean(-(wanted * np.log(p)).sum(1) - entropy * stats.entropy(p, axis=1)))


@pytest.mark.parametrize("own", OBJECTIVES)
def test_the_loss_is_cross_entropy_and_what_is_added(own):
    z, y = drawn()
    found = Objective(**own)(torch.tensor(z), torch.tensor(y))
    assert float(found) == pytest.approx(by_hand(z, y, **own), rel=1e-12)
    # a text's logits have one more axis, and places that are not asked for count nowhere
    hidden = np.concatenate([y, [IGNORED]])
    longer = np.concatenate([z, np.full((1, 5), 3.0)])
    found = Objective(**own)(torch.tensor(longer).reshape(2, 4, 5), torch.tensor(hidden).reshape(2, 4))
    assert float(found) == pytest.approx(by_hand(z, y, **own), rel=1e-12)


@pytest.mark.parametrize("own", OBJECTIVES)
def test_gradients_and_products_are_those_of_finite_differences(own):
    z, y = drawn()
    labels = torch.tensor(y)

    def value(logits):
        return Objective(**own)(logits, labels)

    x = torch.tensor(z, requires_grad=True)
    assert torch.autograd.gradcheck(value, x)
    assert torch.autograd.gradgradcheck(value, x)


def test_a_sure_prediction_has_finite_derivatives():
    x = torch.tensor([[800.0, 0.0, -800.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(Objective(entropy=1.0)(x, torch.tensor([0])), x)
    assert torch.isfinite(gradient).all()


def test_without_anything_added_it_is_the_plain_loss():
    z, y = map(torch.tensor, drawn())
    assert torch.equal(Objective()(z, y), loss(z, y))


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"temperature": float("inf")}, "`temperature`"),
        ({"entropy": float("nan")}, "`entropy` must be finite"),
        ({"smoothing": 1.5}, "`smoothing` must be from 0 to 1"),
    ],
)
def test_wrong_objectives_are_refused(own, word):
    with pytest.raises(ValueError, match=word):
        Objective(**own)


# -- calibration ---------------------------------------------------------------------------------------------


def brute_force(confidence, correct, edges):
    """The expected calibration error by a loop over bins (low, high]."""
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.sum() * abs(correct[inside].mean() - confidence[inside].mean())
    return total / confidence.size


@pytest.mark.parametrize("n", [1, 14, 15, 997])
def test_calibration_error_is_that_of_a_loop_over_bins(n):
    rng = np.random.default_rng(n)
    confidence = rng.uniform(0.1, 1, n) ** 0.3
    correct = rng.random(n) < confidence**2
    width = brute_force(confidence, correct, [m / BINS for m in range(BINS + 1)])
    assert calibration_error(confidence, correct) == pytest.approx(width, abs=1e-12)
    if n >= BINS:
        # as many in each: the first n % 15 bins have one more
        sizes = [n // BINS + (m < n % BINS) for m in range(BINS)]
        ends = np.cumsum(sizes) - 1
        edges = [0.0, *np.sort(confidence)[ends]]
        mass = brute_force(confidence, correct, edges)
        assert calibration_error(confidence, correct, equal_mass=True) == pytest.approx(mass, abs=1e-12)


def test_confidences_on_an_edge_belong_to_the_bin_below():
    edge = np.array([1 / BINS, 2 / BINS, 14 / BINS, 1.0])
    correct = np.array([True, False, True, True])
    wanted = brute_force(edge, correct, [m / BINS for m in range(BINS + 1)])
    assert calibration_error(edge, correct) == pytest.approx(wanted)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_perfect_calibration_and_overconfidence_by_known_amounts(equal_mass):
    right = np.repeat([False, True], [200, 800])
    assert calibration_error(np.full(1000, 0.8), right, equal_mass=False) == pytest.approx(0, abs=1e-12)
    # confidences of 0.55, 0.65, .., with exactly that share right, or a tenth less
    sure = np.repeat([0.55, 0.65, 0.75, 0.85, 0.95], 600)
    for less in (0.0, 0.1):
        correct = np.concatenate(
            [np.arange(600) % 20 < round(20 * (c - less)) for c in (0.55, 0.65, 0.75, 0.85, 0.95)]
        )
        found = calibration_error(sure, correct, equal_mass=equal_mass)
        assert found == pytest.approx(less, abs=1e-12)


def test_the_numbers_of_predictions_are_those_of_their_definitions():
    z, y = drawn(300, 4)
    p = special.softmax(z, axis=1)
    found = calibration(z, y)
    right, best = p[np.arange(300), y], p.max(1)
    others = np.where(np.eye(4)[y] == 1, -1.0, p).max(1)
    wanted = {
        "accuracy": 100 * np.mean(p.argmax(1) == y),
        "nll": -np.log(right).mean(),
        "brier": np.mean([(right[i] - 1) ** 2 + sum(np.delete(p[i], y[i]) ** 2) for i in range(300)]),
        "entropy": stats.entropy(p, axis=1).mean(),
        "confidence": best.mean(),
        "margin": (right - others).mean(),
        "ece": calibration_error(best, p.argmax(1) == y),
        "ece_mass": calibration_error(best, p.argmax(1) == y, equal_mass=True),
    }
    assert found == {key: pytest.approx(value, rel=1e-10) for key, value in wanted.items()}


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_of_logits_that_were_scaled_is_found(true):
    """Labels drawn from softmax(z): of 40,000 the temperature is known to about a hundredth."""
    rng = np.random.default_rng(1)
    z = 2 * rng.standard_normal((40_000, 5))
    y = (rng.random((len(z), 1)) > special.softmax(z, axis=1).cumsum(1)).sum(1)
    assert fitted_temperature(true * z, y) == pytest.approx(true, rel=0.06)
    around = [by_hand(true * z / t, y) for t in (0.9 * true, fitted_temperature(true * z, y), 1.1 * true)]
    assert around[1] == min(around)


def test_where_all_is_right_the_temperature_ends_at_its_limit():
    z = np.eye(3)[[0, 1, 2, 0]]
    assert LIMITS[0] <= fitted_temperature(z, np.array([0, 1, 2, 0])) < 1.2 * LIMITS[0]


# -- in a training -------------------------------------------------------------------------------------------


def examples(n=120):
    """Three noisy patterns of 6 x 6 pixels, a fifth of them with another label."""
    rng = torch.Generator().manual_seed(0)
    means = torch.rand(3, 1, 6, 6, generator=rng)
    y = torch.randint(0, 3, (2 * n,), generator=rng)
    x = means[y] + 0.4 * torch.randn(2 * n, 1, 6, 6, generator=rng)
    y[::5] = torch.randint(0, 3, (len(y[::5]),), generator=rng)
    return Examples(x[:n], y[:n], x[n:], y[n:], 3)


MLP = {"model": "mlp", "model_settings": {"hidden": [12]}, "batch": 20, "epochs": 8}
SGD = {**MLP, "optimizer": "sgd", "lr": 0.3}
PSGD = {**MLP, "optimizer": "psgd_lowrank", "optimizer_settings": {"rank": 2}, "lr": 0.1, "step": 0.1}


def trained(settings, parts=8, training=None):
    training = training or NetworkTraining(settings, 0, examples())
    for _ in range(parts):
        training.advance()
    return training


@pytest.mark.parametrize("optimizer", [SGD, PSGD])
def test_the_temperature_is_that_of_what_predicts(optimizer):
    settings = {
        **optimizer,
        "loss": {"temperature": 2.5},
        "measures": ["calibration", "uncertainty", "train"],
    }
    training = trained(settings)
    assert isinstance(training.model, Tempered)
    found, data = training.final(), examples()
    with torch.no_grad():
        z = training.model.model(data.test_x).double().numpy() / 2.5
    wanted = calibration(z, data.test_y.numpy())
    for key in ("nll", "entropy", "accuracy", "ece", "brier"):
        assert found[key] == pytest.approx(wanted[key], rel=1e-5)
    assert found["test_loss"] == pytest.approx(wanted["nll"], rel=1e-5)
    assert found["test_entropy_mean"] == pytest.approx(wanted["entropy"], rel=1e-5)


def test_a_temperature_makes_sgds_steps_those_of_scaled_logits():
    """The gradient of l(z / T) is 1 / T that of l at z / T: one step of softmax regression, by hand."""
    settings = {"model": "softmax", "optimizer": "sgd", "lr": 0.3, "batch": 120, "epochs": 1}
    training = NetworkTraining({**settings, "loss": {"temperature": 4.0}}, 0, examples())
    before = training.model.model[1].weight.detach().double().clone()
    x = examples().train_x.flatten(1).double()
    z = x @ before.T + training.model.model[1].bias.detach().double()
    residual = torch.softmax(z / 4, 1) - torch.nn.functional.one_hot(examples().train_y, 3)
    trained(settings, 1, training)
    after = training.model.model[1].weight.detach().double()
    np.testing.assert_allclose(after, before - 0.3 / 4 * residual.T @ x / 120, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD, PSGD])
def test_entropy_follows_what_the_loss_asks_for(optimizer):
    """Up with penalty and smoothing, down where confidence is rewarded; the loss that is told stays plain."""
    entropies, losses = {}, {}
    for name, own in {
        "none": {},
        "up": {"entropy": 0.5},
        "down": {"entropy": -0.5},
        "smoothed": {"smoothing": 0.4},
    }.items():
        training = trained({**optimizer, "loss": own, "measures": ["calibration"]})
        entropies[name], losses[name] = training.final()["entropy"], training.final()["train_loss"]
    assert entropies["down"] < 0.8 * entropies["none"]
    assert entropies["up"] > 1.2 * entropies["none"]
    assert entropies["smoothed"] > 1.2 * entropies["none"]
    assert all(value > 0.2 for value in losses.values())  # with - 0.5 H in it, one would be about 0


@pytest.mark.parametrize("optimizer", [SGD, PSGD])
def test_a_temperature_after_training_changes_entropy_and_leaves_accuracy(optimizer):
    settings = {**optimizer, "loss": {"entropy": -0.5}, "measures": ["calibration"]}
    found = trained(settings).final()
    assert found["scaled_accuracy"] == found["accuracy"]
    assert found["fitted_temperature"] > 1.2  # it was trained to be too sure
    assert found["scaled_entropy"] > 1.2 * found["entropy"]
    assert found["scaled_nll"] < found["nll"]


def test_each_half_has_the_temperature_of_the_other_half():
    training = trained({**SGD, "measures": ["calibration"]})
    data, found = examples(), training.final()
    with torch.no_grad():
        z, y = training.model(data.test_x).double().numpy(), data.test_y.numpy()
    even, odd = fitted_temperature(z[::2], y[::2]), fitted_temperature(z[1::2], y[1::2])
    z[::2], z[1::2] = z[::2] / odd, z[1::2] / even
    assert found["scaled_nll"] == pytest.approx(by_hand(z, y), rel=1e-5)
    assert found["fitted_temperature"] == pytest.approx(np.sqrt(even * odd), rel=1e-5)


@pytest.mark.parametrize("own", [{"temperature": 0.5}, {"entropy": 0.3, "smoothing": 0.1}])
def test_a_training_with_its_own_loss_is_taken_up_bit_for_bit(own):
    settings = {**PSGD, "loss": own, "measures": ["calibration"]}
    whole, left = trained(settings), trained(settings, 3)
    file = io.BytesIO()
    left.save(file)
    file.seek(0)
    again = NetworkTraining(settings, 0, examples())
    again.load(file)
    trained(settings, 5, again)
    assert again.final() == whole.final()


# -- doses ---------------------------------------------------------------------------------------------------

DOSES = ("low", "middle", "high")


def dosed(count=5, response=2.0, noise=0.1, curve=0.0, seed=0):
    """Runs of which y is a line in x, each seed from a level of its own."""
    rng = np.random.default_rng(seed)
    found = []
    for s in range(count):
        level = 30 * rng.standard_normal()
        for name, dose in zip(DOSES, (0.1, 0.5, 1.2), strict=True):
            x = dose + 0.05 * rng.standard_normal()
            y = level + response * x + curve * (x - 0.5) ** 2 + noise * rng.standard_normal()
            job = Job("e", "reduced", name, s, {"name": name})
            found.append(Record.of(job, "done", final={"x": x, "y": y}))
    return found


def test_a_slope_is_the_mean_of_regressions_within_seeds():
    records = dosed()
    slopes = [
        stats.linregress(
            [r.final["x"] for r in records if r.seed == s], [r.final["y"] for r in records if r.seed == s]
        ).slope
        for s in range(5)
    ]
    found = slope("y", "x", DOSES)(records)
    assert found.verdict == CONFIRMED
    half = stats.t.ppf(0.975, 4) * stats.sem(slopes)
    assert f"slope {np.mean(slopes):.2f} [{np.mean(slopes) - half:.2f}, {np.mean(slopes) + half:.2f}]" in (
        found.measured
    )
    assert "best on average: high" in found.measured


def test_a_slope_has_three_outcomes():
    assert slope("y", "x", DOSES, larger=False)(dosed()).measured.startswith(OPPOSITE)
    assert slope("y", "x", DOSES, larger=False)(dosed(response=-2)).verdict == CONFIRMED
    against = slope("y", "x", DOSES)(dosed(response=-2))
    assert (against.verdict, against.measured.startswith(OPPOSITE)) == (REFUTED, True)
    assert slope("y", "x", DOSES)(dosed(response=0, noise=1)).measured.startswith("undecided")


def test_a_slope_per_tenfold():
    records = [dataclasses.replace(r, final={**r.final, "x": 10 ** r.final["x"]}) for r in dosed()]
    plain, tenfold = slope("y", "x", DOSES)(dosed()), slope("y", "x", DOSES, log=True)(records)
    assert tenfold.measured.split(" per ")[0] == plain.measured.split(" per ")[0]
    assert "per tenfold" in tenfold.measured
    zero = [dataclasses.replace(r, final={**r.final, "x": 0.0}) for r in records]
    assert slope("y", "x", DOSES, log=True)(zero).verdict == UNTESTED


def test_the_best_dose_in_between_is_named():
    assert "best on average: middle" in slope("y", "x", DOSES)(dosed(response=1, curve=-9)).measured


def test_few_false_confirmations_where_nothing_follows():
    """An interval of 95 % lies above zero in 2.5 % of cases: of 200, 12 or more are rarer than 1 in 100."""
    found = [slope("y", "x", DOSES)(dosed(4, 0.0, 1.0, seed=s)).verdict == CONFIRMED for s in range(200)]
    assert sum(found) < 12


def test_seeds_without_all_doses_are_left_out_and_too_few_decide_nothing():
    records = dosed(4)
    lost = [
        dataclasses.replace(r, status="diverged", final={}) if r.seed == 3 and r.cell == "low" else r
        for r in records
    ]
    found = slope("y", "x", DOSES)(lost)
    assert found.verdict == CONFIRMED
    assert "left out: 1" in found.measured
    assert slope("y", "x", DOSES)([r for r in lost if r.seed]).verdict == UNTESTED
    assert slope("y", "x", (*DOSES, "none"))(records).verdict == UNTESTED
    same = [dataclasses.replace(r, final={**r.final, "x": 1.0}) for r in records]
    assert "do not change" in slope("y", "x", DOSES)(same).measured
    with pytest.raises(ValueError, match="at least 3 doses"):
        slope("y", "x", DOSES[:2])


# -- the experiment ------------------------------------------------------------------------------------------


def test_lines_have_all_doses_in_order_and_claims_name_cells_that_there_are():
    from psgd_analysis.reproduce.experiments import calibration as e

    assert e.line("SGD", "clean", "temperature")[2] == "SGD, clean"
    rng = np.random.default_rng(0)
    for scale in ("reduced", "faithful"):
        cells = {c.name: c.settings for c in e.EXPERIMENT.plans[scale].cells}
        for control, key in (("temperature", "temperature"), ("entropy term", "entropy")):
            for method, kind in itertools.product(e.METHODS, e.LABELS):
                line = [cells[name] for name in e.line(method, kind, control)]
                doses = [getattr(Objective(**own["loss"]), key) for own in line]
                assert doses == sorted(set(doses))
                # all but the loss is the same
                assert all({**own, "loss": 0} == {**line[0], "loss": 0} for own in line)
        records = [
            Record.of(
                Job("calibration", scale, name, seed, settings),
                "done",
                final={key: float(rng.random()) for key in ("accuracy", "entropy")},
            )
            for name, settings in cells.items()
            for seed in range(3)
        ]
        for claim in e.EXPERIMENT.claims:
            assert claim.judge(records).verdict != UNTESTED, claim.text
