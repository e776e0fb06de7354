"""Logistic regression on outer products: the model against explicit features, runs, the experiment."""

from __future__ import annotations

import io
import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from psgd_analysis.reproduce.claims import judge  # noqa: E402
from psgd_analysis.reproduce.data import load  # noqa: E402
from psgd_analysis.reproduce.experiment import SCALES, Job  # noqa: E402
from psgd_analysis.reproduce.experiments.logistic import EXPERIMENT, LOW_RANK, METHODS, NOISE  # noqa: E402
from psgd_analysis.reproduce.outer_products import OuterProducts  # noqa: E402
from psgd_analysis.reproduce.records import Record  # noqa: E402
from psgd_analysis.reproduce.training import Examples, NetworkTraining, examples_of  # noqa: E402

PIXELS, CLASSES, BATCH = 9, 4, 12


class Explicit:
    """The same regression with its features built, everything written out, in NumPy and float64."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.images = rng.random((BATCH, 3, 3))
        self.y = rng.integers(0, CLASSES, BATCH)
        self.w, self.v = rng.standard_normal((2, PIXELS, CLASSES, PIXELS))
        x = self.images.reshape(BATCH, PIXELS)
        self.features = np.einsum("bi,bj->bij", x, x).reshape(BATCH, -1)

    @staticmethod
    def columns(w: np.ndarray) -> np.ndarray:
        """Return weights (i, k, j) as a matrix of features (i, j) and classes k."""
        return w.transpose(0, 2, 1).reshape(PIXELS * PIXELS, CLASSES)

    @staticmethod
    def weights(m: np.ndarray) -> np.ndarray:
        return m.reshape(PIXELS, PIXELS, CLASSES).transpose(0, 2, 1)

    def logits(self) -> np.ndarray:
        return self.features @ self.columns(self.w)

    def softmax(self) -> np.ndarray:
        e = np.exp(self.logits())
        return e / e.sum(axis=1, keepdims=True)

    def residuals(self) -> np.ndarray:
        return (self.softmax() - np.eye(CLASSES)[self.y]) / BATCH

    def gradient(self) -> np.ndarray:
        return self.weights(self.features.T @ self.residuals())

    def product(self) -> np.ndarray:
        p, dz = self.softmax(), self.features @ self.columns(self.v)
        changes = np.stack([(np.diag(a) - np.outer(a, a)) @ b for a, b in zip(p, dz, strict=True)]) / BATCH
        return self.weights(self.features.T @ changes)


def evaluated(data: Explicit, w: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """Return the model, its logits, its loss, and the gradient with its graph, at some weights."""
    model = OuterProducts((1, 3, 3), CLASSES, side=3).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(w))
    z = model(torch.from_numpy(data.images)[:, None])
    loss = torch.nn.functional.cross_entropy(z, torch.from_numpy(data.y))
    (gradient,) = torch.autograd.grad(loss, model.weight, create_graph=True)
    return model, z, loss.detach(), gradient


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_regression_on_explicit_features(seed: int) -> None:
    data = Explicit(seed)
    model, z, loss, gradient = evaluated(data, data.w)
    (product,) = torch.autograd.grad(gradient, model.weight, torch.from_numpy(data.v))
    p = data.softmax()
    assert np.allclose(z.detach().numpy(), data.logits(), rtol=1e-12)
    assert math.isclose(float(loss), -np.log(p[np.arange(BATCH), data.y]).mean(), rel_tol=1e-12)
    assert np.allclose(gradient.detach().numpy(), data.gradient(), rtol=1e-10, atol=1e-14)
    assert np.allclose(product.numpy(), data.product(), rtol=1e-10, atol=1e-14)


def test_is_the_closed_form() -> None:
    """X^T diag(r_k) X, and the same of the residuals' changes: nothing as large as the features."""
    data = Explicit(4)
    _, _, _, gradient = evaluated(data, data.w)
    x = data.images.reshape(BATCH, PIXELS)
    for k in range(CLASSES):
        expected = x.T @ np.diag(data.residuals()[:, k]) @ x
        assert np.allclose(gradient.detach().numpy()[:, k, :], expected, rtol=1e-10, atol=1e-14)


def test_equals_finite_differences() -> None:
    data, e = Explicit(5), 1e-5
    model, _, _, gradient = evaluated(data, data.w)
    (product,) = torch.autograd.grad(gradient, model.weight, torch.from_numpy(data.v))
    _, _, up, after = evaluated(data, data.w + e * data.v)
    _, _, down, before = evaluated(data, data.w - e * data.v)
    slope = float((gradient.detach() * torch.from_numpy(data.v)).sum())
    assert math.isclose(float(up - down) / (2 * e), slope, rel_tol=1e-7)
    assert np.allclose(((after - before) / (2 * e)).detach().numpy(), product.numpy(), rtol=1e-5, atol=1e-8)


def test_fewer_pixels_are_an_orthogonal_projection() -> None:
    images = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    small, large = OuterProducts((1, 6, 6), 2, side=3), OuterProducts((1, 6, 6), 2, side=6)
    with torch.no_grad():  # class 0 is |x|^2
        small.weight[:, 0] = torch.eye(9)
        large.weight[:, 0] = torch.eye(36)
    means = images.reshape(5, 1, 3, 2, 3, 2).mean(dim=(3, 5), keepdim=True)
    assert torch.allclose(small(images), large(means.expand(5, 1, 3, 2, 3, 2).reshape(5, 1, 6, 6)), rtol=1e-5)
    assert bool((small(images)[:, 0] < large(images)[:, 0]).all())


@pytest.mark.parametrize(
    ("shape", "side"), [((1, 28, 28), 8), ((1, 28, 28), 0), ((3, 28, 28), 28), ((32,), 4)]
)
def test_other_examples_are_refused(shape: tuple[int, ...], side: int) -> None:
    with pytest.raises(ValueError, match=r"must (be that of grey, square images|divide 28)"):
        OuterProducts(shape, 10, side=side)


# -- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Examples:
    pytest.importorskip("sklearn")
    return examples_of(load("digits"), train=600)


def run_of(digits: Examples, cell: str, seed: int = 0, **other: Any) -> NetworkTraining:
    if find_spec("pytorch_optimizer") is None and cell.startswith("Ada"):
        pytest.skip("pytorch_optimizer is not installed")
    settings = next(c.settings for c in EXPERIMENT.plans["smoke"].cells if c.name == cell)
    return NetworkTraining({**settings, "batch": 50, **other}, seed, digits)


SMOKE = [cell.name for cell in EXPERIMENT.plans["smoke"].cells]


@pytest.mark.parametrize("cell", SMOKE)
def test_every_cell_learns_and_resumes_bit_for_bit(digits: Examples, cell: str) -> None:
    whole, left, file = run_of(digits, cell), run_of(digits, cell), io.BytesIO()
    first = left.advance()
    assert left.status == "going"
    left.save(file)
    file.seek(0)
    resumed = run_of(digits, cell)
    resumed.load(file)
    assert [first, resumed.advance()] == [whole.advance(), whole.advance()]
    assert whole.status == resumed.status == "done"
    assert torch.equal(whole.model.weight, resumed.model.weight)
    assert whole.final() == resumed.final()
    assert whole.final()["accuracy"] > 20  # 10 by chance, +- 1.5


def seen_by(run: NetworkTraining) -> list[Any]:
    """Return the batches of an epoch, as the model gets them."""
    found: list[Any] = []
    hook = run.model.register_forward_pre_hook(lambda _, given: found.append(given[0].clone()))
    run.advance()
    hook.remove()
    return found


def test_all_optimisers_see_the_same_batches_and_noise(digits: Examples) -> None:
    one, other, quiet = (run_of(digits, cell, 3) for cell in ("SGD" + NOISE, LOW_RANK + NOISE, "SGD"))
    noisy, same, clean = (seen_by(run)[:12] for run in (one, other, quiet))
    assert all(torch.equal(a, b) for a, b in zip(noisy, same, strict=True))
    assert {float(x) for batch in noisy for x in batch.unique()} == {0.0, 1.0}
    again = seen_by(one)[:12]
    assert not any(torch.equal(a, b) for a, b in zip(noisy, again, strict=True))
    # the greys of the same batches, without noise, are its probabilities
    images, drawn = torch.cat(clean), torch.cat(noisy)
    assert bool((drawn[images == 0] == 0).all())
    assert bool((drawn[images == 1] == 1).all())
    for low, high in ((0.05, 0.35), (0.35, 0.65), (0.65, 0.95)):
        here = (images > low) & (images < high)
        spread = 0.5 / float(here.sum()) ** 0.5
        assert abs(float(drawn[here].mean() - images[here].mean())) < 5 * spread


def test_seeds_differ_and_counts_are_those_of_the_methods(digits: Examples) -> None:
    ends = []
    for seed in (0, 1):
        run = run_of(digits, LOW_RANK, seed, epochs=1)
        run.advance()
        ends.append(run.final())
    assert ends[0]["train_loss"] != ends[1]["train_loss"]
    assert (ends[0]["gradients"], ends[0]["products"]) == (12, 12)
    slow = run_of(digits, "L-BFGS", epochs=1)
    slow.advance()
    assert 12 < slow.final()["gradients"] <= 120
    assert slow.final()["products"] == 0


def test_a_run_whose_loss_is_not_finite_has_diverged(digits: Examples) -> None:
    run = run_of(digits, "SGD", lr=1e38)
    run.advance()
    assert run.status == "diverged"


# -- the experiment ------------------------------------------------------------------------------------------


def test_cells_are_the_same_at_all_scales_but_for_size() -> None:
    by_scale = [EXPERIMENT.plans[scale].cells for scale in SCALES]
    size = {"model_settings", "epochs", "batch"}
    for cells in zip(*by_scale, strict=True):
        assert len({cell.name for cell in cells}) == 1
        rest = [{k: v for k, v in cell.settings.items() if k not in size} for cell in cells]
        assert rest[0] == rest[1] == rest[2]
    assert len(set(SMOKE)) == len(SMOKE)
    assert set(EXPERIMENT.columns[0].paper) <= set(SMOKE)


def records(errors: dict[str, float]) -> list[Record]:
    """Return reduced runs with these errors, and training losses that are a hundredth of them."""
    found = []
    for cell in EXPERIMENT.plans["reduced"].cells:
        for seed in range(3):
            error = errors.get(cell.name, 3.0) * (1 + 1e-3 * seed + 1e-5 * seed**2)
            job = Job("logistic", "reduced", cell.name, seed, cell.settings, {"mnist": "0"})
            ends = {"accuracy": 100 - error, "train_loss": error / 100}
            metrics = [{"seconds": i + 0.5, **ends} for i in (0, 1)]
            found.append(Record.of(job, "done", final=ends, metrics=metrics))
    return found


def test_claims_and_figures_are_of_these_cells() -> None:
    good = {LOW_RANK: 0.2, "L-BFGS": 1.2, LOW_RANK + NOISE: 1.0, "AdaBelief" + NOISE: 2.0}
    bad = {LOW_RANK: 5.0, "L-BFGS": 4.0, LOW_RANK + NOISE: 5.0, "AdaBelief" + NOISE: 4.0}
    verdicts = [[j.verdict for _, j in judge(EXPERIMENT, records(x), "reduced")] for x in (good, bad)]
    assert verdicts[0] == ["confirmed"] * 9 + ["not tested at this scale"]
    assert verdicts[1] == ["not confirmed"] * 9 + ["not tested at this scale"]
    for draw in EXPERIMENT.figures.values():
        assert all(len(axes.lines) >= len(METHODS) for axes in draw(records(good)).axes)
        assert not draw([]).axes[0].lines
