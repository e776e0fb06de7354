"""The checks on problems that move and on kinks: what they are made of, against closed forms and laws."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy import ndimage  # noqa: E402

import psgd_core as psgd  # noqa: E402
from psgd_analysis.reproduce import activations, drifting, models  # noqa: E402
from psgd_analysis.reproduce.claims import UNTESTED  # noqa: E402
from psgd_analysis.reproduce.drifting import Drift, DriftTraining, summary  # noqa: E402
from psgd_analysis.reproduce.experiment import Job  # noqa: E402
from psgd_analysis.reproduce.experiments import experiment  # noqa: E402
from psgd_analysis.reproduce.records import Record  # noqa: E402
from psgd_analysis.reproduce.training import Examples, NetworkTraining, products  # noqa: E402
from psgd_analysis.reproduce.training.changes import changed  # noqa: E402

# -- tasks made of images ------------------------------------------------------------------------------------


def images(side: int = 6, colours: int = 2, n: int = 5) -> Examples:
    """Random images, no two pixels alike."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.permutation(2 * n * colours * side**2).reshape(2, n, colours, side, side))
    y = torch.from_numpy(rng.integers(0, 3, n))
    return Examples(x[0].float(), y, x[1].float(), y, 3)


def permuted(examples: Examples, task: int, seed: int = 0) -> Examples:
    return changed(examples, [{"name": "permute", "task": task}], seed)


def rotated(examples: Examples, degrees: float) -> Examples:
    return changed(examples, [{"name": "rotate", "degrees": degrees}], 0)


def test_a_permutation_moves_the_pixels_of_all_images_alike_and_can_be_undone() -> None:
    given = images()
    found = permuted(given, 2)
    # read the permutation off one channel of one image, and see that it is one
    before, after = given.train_x[0, 0].flatten().tolist(), found.train_x[0, 0].flatten().tolist()
    order = [before.index(value) for value in after]
    assert sorted(order) == list(range(36)) != order
    back = np.argsort(order)
    for x, y in ((given.train_x, found.train_x), (given.test_x, found.test_x)):
        restored = y.flatten(-2)[..., torch.from_numpy(back)].reshape(x.shape)
        assert torch.equal(restored, x)
    assert torch.equal(found.train_y, given.train_y)


def test_tasks_and_seeds_have_their_own_permutations_and_the_first_task_none() -> None:
    given = images()
    assert torch.equal(permuted(given, 0).train_x, given.train_x)
    found = [permuted(given, task, seed).train_x for task in (1, 2, 3) for seed in (0, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert torch.equal(permuted(given, 3).test_x, permuted(given, 3).test_x)


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -1])
def test_rotation_by_quarters_is_that_of_numpy(side: int, quarters: int) -> None:
    given = images(side)
    found = rotated(given, 90 * quarters)
    for x, y in ((given.train_x, found.train_x), (given.test_x, found.test_x)):
        expected = np.rot90(x.numpy(), quarters, axes=(2, 3))
        np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-4 * float(x.max()))


@pytest.mark.parametrize("degrees", [30.0, 45.0, 200.0])
def test_rotation_by_any_angle_is_that_of_scipy(degrees: float) -> None:
    given = images(20)
    found = rotated(given, degrees).test_x.numpy()
    expected = ndimage.rotate(given.test_x.numpy(), degrees, axes=(3, 2), reshape=False, order=1)
    inside = np.s_[:, :, 5:15, 5:15]  # what comes from outside is treated otherwise
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3 * float(given.test_x.max()))
    assert found[0, 0, 0, 0] == 0 or degrees == 200.0


def test_only_square_images_are_turned() -> None:
    flat = Examples(torch.zeros(2, 1, 4, 6), torch.zeros(2), torch.zeros(2, 1, 4, 6), torch.zeros(2), 2)
    with pytest.raises(ValueError, match="square"):
        rotated(flat, 90.0)


def test_retention_is_what_evaluating_every_task_says() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((3, 1, 4, 4))
    y = np.arange(120) % 3
    x = torch.from_numpy(centres[y] + 0.3 * rng.standard_normal((120, 1, 4, 4))).float()
    given = Examples(x[:90], torch.from_numpy(y[:90]), x[90:], torch.from_numpy(y[90:]), 3)
    tasks = [[], [{"name": "permute", "task": 1}], [{"name": "rotate", "degrees": 90}]]
    settings = {
        **{"model": "softmax", "data": "digits", "batch": 30, "iterations": 24, "parts": 6},
        **{"optimizer": "psgd_lowrank", "optimizer_settings": {"rank": 2}, "lr": 0.5, "step": 0.1},
        "phases": [{"parts": 2, "changes": task} for task in tasks],
        "measures": {"retention": {"level": 80.0}},
    }

    def run() -> NetworkTraining:
        return NetworkTraining(settings, 0, given)

    whole, table, metrics = run(), [], []
    changing = whole._changing
    tests = [changed(given, task, changing) for task in tasks]
    for _ in range(6):
        metrics.append(whole.advance())
        logits = [whole.model(test.test_x).argmax(1) for test in tests]
        table.append([100 * float((z == given.test_y).double().mean()) for z in logits])
    found = whole.final()
    assert [m["task"] for m in metrics] == [1, 1, 2, 2, 3, 3]
    assert metrics[0]["earlier_accuracy"] is None
    assert metrics[4]["earlier_accuracy"] == pytest.approx(np.mean(table[4][:2]))
    own = [table[1][0], table[3][1], table[5][2]]
    assert found["average_accuracy"] == pytest.approx(np.mean(table[5]))
    assert found["present_accuracy"] == pytest.approx(np.mean(own))
    assert found["backward_transfer"] == pytest.approx(np.mean(np.array(table[5][:2]) - own[:2]))
    later = [table[2][1], table[3][1], table[4][2], table[5][2]]
    assert found["online_accuracy"] == pytest.approx(np.mean(later))
    first = [next((4 * (k + 1) for k in (0, 1) if later[2 * i + k] >= 80), 8) for i in (0, 1)]
    assert found["recovery"] == np.mean(first)
    assert found["recovered"] == all(max(later[2 * i : 2 * i + 2]) >= 80 for i in (0, 1))
    assert min(own) > 60  # of three classes
    # left anywhere, also between tasks, it goes on bit for bit
    for left_after in (1, 2, 3):
        first_run, again, file = run(), run(), io.BytesIO()
        for _ in range(left_after):
            first_run.advance()
        first_run.save(file)
        file.seek(0)
        again.load(file)
        assert [again.advance() for _ in range(6 - left_after)] == metrics[left_after:]
        assert again.final() == found


# -- a problem that moves ------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"seed": 3, "n": 4, "kappa": 10.0, "batch": 3}


def test_the_target_is_that_of_many_batches_products() -> None:
    drift = Drift(**SMALL, period=50)
    rng, root = np.random.default_rng(0), np.linalg.cholesky(drift.hessian(60))
    rows = rng.standard_normal((20_000, 3, 4)) @ root.T
    w = rows.transpose(0, 2, 1) @ rows / 3
    seconds = w @ w
    error = np.std(seconds, axis=0) / np.sqrt(len(seconds))
    p = np.asarray(drift.target(60).minimizer)
    assert np.all(np.abs(np.mean(seconds, axis=0) - np.linalg.inv(p @ p)) < 5 * error)


@pytest.mark.parametrize("speed", [0.0, 1e-9])
def test_batches_are_drawn_from_the_population(speed: float) -> None:
    drift, x = Drift(**SMALL, period=10_000, speed=speed), np.arange(4.0)
    samples = [drift.sample(t) for t in range(4_000)]
    grads = np.array([drifting.gradient(x, a, y) for a, y, _ in samples])
    products = np.array([drifting.product(x, x, a, y) for a, y, _ in samples])
    h = drift.hessian(0)
    for found, expected in ((grads, h @ (x - drift.optimum(0))), (products, h @ x)):
        error = found.std(axis=0) / np.sqrt(len(found))
        assert np.all(np.abs(found.mean(axis=0) - expected) < 5 * error)
    # the probes are white
    v = np.array([v for *_, v in samples])
    np.testing.assert_allclose(v.T @ v / len(v), np.eye(4), atol=0.12)


def test_gradient_and_product_are_derivatives_of_the_loss() -> None:
    a, y, v = Drift(**SMALL, period=50).sample(0)
    x, step = np.ones(4), 1e-4

    def loss(x: np.ndarray) -> float:
        return float(np.mean((a @ x - y) ** 2) / 2)

    slope = (loss(x + step * v) - loss(x - step * v)) / (2 * step)
    assert drifting.gradient(x, a, y) @ v == pytest.approx(slope, rel=1e-6)
    bend = (loss(x + step * v) - 2 * loss(x) + loss(x - step * v)) / step**2
    assert v @ drifting.product(x, v, a, y) == pytest.approx(bend, rel=1e-4)


def test_the_eigenvectors_jump_when_they_should_and_nothing_else_changes() -> None:
    drift = Drift(**SMALL, period=50)
    values = np.geomspace(1, 0.1, 4)[::-1]
    for t in (0, 49, 50, 99, 100, 10_000):
        np.testing.assert_allclose(np.linalg.eigvalsh(drift.hessian(t)), values, rtol=1e-12)
        assert drift.excess(t, drift.optimum(t)) == pytest.approx(0, abs=1e-25)
        off = np.ones(4)
        assert drift.excess(t, drift.optimum(t) + off) == pytest.approx(off @ drift.hessian(t) @ off / 2)
    jumps = [t for t in range(200) if not np.array_equal(drift.hessian(t), drift.hessian(t + 1))]
    assert jumps == [49, 99, 149, 199]
    assert np.linalg.norm(drift.optimum(49)) == pytest.approx(np.linalg.norm(drift.optimum(50)))


def test_a_vector_turns_by_the_angle_that_was_asked_for() -> None:
    drift = Drift(**SMALL, period=50, speed=1e-3)
    for t in (0, 7, 3_000):
        moved = drift.basis(t + 1) - drift.basis(t)
        assert np.linalg.norm(moved) / 2 == pytest.approx(1e-3, rel=1e-5)  # sqrt(n) = 2
        np.testing.assert_allclose(drift.basis(t).T @ drift.basis(t), np.eye(4), atol=1e-12)


RUN: dict[str, Any] = {"n": 4, "kappa": 10.0, "batch": 16, "period": 400, "periods": 2, "part": 20}

METHODS: dict[str, dict[str, Any]] = {
    "memory": {"optimizer": "psgd", "fit": "memory", "memory": 100, "lr": 0.3},
    "all": {"optimizer": "psgd", "fit": "memory", "memory": "all", "lr": 0.3},
    "step": {"optimizer": "psgd", "fit": "step", "step": 0.1, "lr": 0.3},
    "closed form": {"optimizer": "psgd", "fit": "closed form", "step": 0.02, "lr": 0.3},
    "sgd": {"optimizer": "sgd", "lr": 0.3},
    "adam": {"optimizer": "adam", "lr": 0.03},
}


@pytest.mark.parametrize("method", ["memory", "step", "closed form"])
def test_p_gets_to_the_target_is_thrown_off_by_a_jump_and_recovers(method: str) -> None:
    run = DriftTraining({**RUN, **METHODS[method]}, 0)
    distances = [run.advance()["distance"] for _ in range(run.parts)]
    before, after, end = distances[19], distances[20], distances[-1]
    assert max(before, end) < 0.3
    assert after > 2 * before
    found = run.final()
    assert 20 <= found["recovery"] < 400
    assert found["rest"] < found["error"]
    assert found["products"] == 800


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_after_a_jump_and_a_run_goes_on_bit_for_bit(method: str) -> None:
    settings = {**RUN, "periods": 2, "period": 100, **METHODS[method]}
    whole, left, again, file = (*(DriftTraining(settings, 1) for _ in range(3)), io.BytesIO())
    metrics = [whole.advance() for _ in range(whole.parts)]
    assert whole.status == "done"
    assert metrics[-1]["excess"] < 0.5 * metrics[5]["excess"]
    for _ in range(6):
        left.advance()
    left.save(file)
    file.seek(0)
    again.load(file)
    assert [again.advance() for _ in range(4)] == metrics[6:]
    assert again.final() == whole.final()


def test_the_baseline_does_the_step_of_the_formula() -> None:
    run = drifting.Baseline({"optimizer": "sgd", "lr": 0.3}, np.zeros(4))
    a, y, v = Drift(**SMALL, period=50).sample(0)
    x = np.array([1.0, 2.0, 3.0, 4.0])
    expected = x - 0.3 * drifting.gradient(x, a, y)
    np.testing.assert_allclose(run.step(x, a, y, v), expected, rtol=1e-12)


def test_how_distances_are_summed_up() -> None:
    jumps = [[9, 9, 9, 9], [3, 0.4, 0.2, 0.2], [3, 3, 2, 1]]
    found = summary([x for row in jumps for x in row], each=4, part=10)
    assert found["recovery"] == (20 + 40) / 2  # the second jump counts as a period
    assert found["rest"] == pytest.approx(np.sqrt(np.mean([0.2**2, 0.2**2, 2**2, 1])))
    assert found["error"] == pytest.approx(np.sqrt(np.mean(np.square(jumps[1:]))))
    nothing = {"error": None, "rest": None, "recovery": None}
    assert summary([None] * 12, 4, 10) == summary([1.0] * 4, 4, 10) == nothing
    with pytest.raises(ValueError, match="`part` must divide the period"):
        DriftTraining({**RUN, "part": 30, **METHODS["sgd"]}, 0)


# -- kinks ---------------------------------------------------------------------------------------------------


def test_the_gradient_goes_straight_through_a_sign_from_minus_one_to_one() -> None:
    x = torch.tensor([-3.0, -1.5, -0.9, -0.1, 0.2, 0.99, 1.01, 40.0], requires_grad=True)
    y = activations.Sign()(x)
    assert y.tolist() == [-1, -1, -1, -1, 1, 1, 1, 1]
    (slope,) = torch.autograd.grad((y * torch.arange(1.0, 9.0)).sum(), x)
    assert slope.tolist() == [0, 0, 3, 4, 5, 6, 0, 0]


def net(activation: str) -> tuple[Any, Any]:
    """A network in float64 and its loss; two hidden layers, so that gradients pass through an activation."""
    model = models.make("mlp", (1, 2, 2), 3, {"hidden": (8, 8), "activation": activation}, 0).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((20, 1, 2, 2), generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (20,), generator=generator)
    return model, lambda: torch.nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("activation", list(activations.ACTIVATIONS))
def test_exact_products_are_symmetric_and_belong_to_the_gradient_but_for_the_sign(activation: str) -> None:
    model, loss = net(activation)
    f = psgd.adapters.torch.functions(loss, model)
    here = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    n = len(here)
    hessian = f.hvp(here, torch.eye(n, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    assert products.asymmetry(np.eye(n), hessian) < 1e-10
    # small enough to cross no kink, but with the sign every crossing counts
    step = 1e-3 if activation == "sign" else 1e-7
    columns = np.eye(n)
    slopes = [(f.gradient(here + step * e) - f.gradient(here - step * e)) / (2 * step) for e in
              torch.from_numpy(columns)]  # fmt: skip
    jacobian = torch.stack(slopes, dim=1).numpy()
    off = np.linalg.norm(jacobian - hessian) / np.linalg.norm(hessian)
    if activation == "sign":
        assert off > 0.3
        assert products.asymmetry(np.eye(n), jacobian) > 0.1
    else:
        assert off < 1e-5


@pytest.mark.parametrize("pooling", list(activations.POOLINGS))
def test_exact_products_are_the_limit_of_differences_where_no_kink_is_crossed(pooling: str) -> None:
    """However far both are apart at the step of a difference in float32."""
    model = models.make("lenet5", (1, 16, 16), 3, {"pooling": pooling}, 0).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, 1, 16, 16), generator=generator, dtype=torch.float64)
    f = psgd.adapters.torch.functions(
        lambda: torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])), model
    )
    here = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    v = torch.randn(len(here), generator=generator, dtype=torch.float64)
    exact, step = f.hvp(here, v), 1e-8
    difference = (f.gradient(here + step * v) - f.gradient(here - step * v)) / (2 * step)
    assert torch.linalg.norm(difference - exact) < 1e-4 * torch.linalg.norm(exact)


@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_names_choose_activation_and_pooling(name: str) -> None:
    x = torch.randn((2, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    options: list[dict[str, Any]] = [{"activation": a} for a in activations.ACTIVATIONS]
    if name == "lenet5":
        options += [{"activation": "relu", "pooling": "average"}]
    found = [models.make(name, (1, 28, 28), 10, o, 0)(x) for o in options]
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    usual = models.make(name, (1, 28, 28), 10, {}, 0)(x)
    assert torch.equal(usual, found[0 if name == "mlp" else 2])  # tanh; ReLU and the maximum
    with pytest.raises(ValueError, match=r"`activation` must be one of tanh, .* got 'step'"):
        models.make(name, (1, 28, 28), 10, {"activation": "step"}, 0)


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="`pooling` must be one of max, average, got 'median'"):
        models.make("lenet5", (1, 28, 28), 10, {"pooling": "median"}, 0)


def test_asymmetry_tells_symmetric_skew_and_other_matrices_apart() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((300, 300))
    v = rng.standard_normal((300, 40))
    assert products.asymmetry(v, (a + a.T) @ v) < 1e-12
    assert products.asymmetry(v, (a - a.T) @ v) == pytest.approx(2)
    assert products.asymmetry(v, a @ v) == pytest.approx(2**0.5, rel=0.1)
    assert products.asymmetry(v, 0 * v) is None


def test_the_shape_of_p_does_not_depend_on_its_scale_and_is_least_at_the_minimiser() -> None:
    values = np.array([1.0, 2.0, -3.0, 10.0])
    v, p = 2 * np.hstack([np.eye(4), -np.eye(4)]), psgd.Diagonal(damping=0)  # mean v v^T = I
    h = values[:, None] * v
    best = p.init(4, v[0], pairs=(v, h))
    least = products.shape(p, best, v, h)
    # sum |h| of the minimiser, against sqrt(n sum h^2) of the identity
    assert least == pytest.approx(np.sum(np.abs(values)) / np.sqrt(4 * np.sum(values**2)))
    for scale in (0.01, 1.0, 7.0):
        assert products.shape(p, p.init(4, v[0], scale=scale), v, h) == pytest.approx(1.0)
    assert products.decades(p, best) == pytest.approx(1.0, rel=1e-3)
    assert products.shape(p, best, v, 0 * h) is None


def digits() -> Examples:
    """Random images with labels that a linear map tells."""
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((120, 1, 4, 4))).float()
    y = (x.flatten(1) @ torch.from_numpy(rng.standard_normal((16, 3))).float()).argmax(1)
    return Examples(x[:80], y[:80], x[80:], y[80:], 3)


@pytest.mark.parametrize("activation", ["tanh", "sign"])
def test_products_of_a_training_are_those_of_its_model(activation: str) -> None:
    settings = {
        **{"model": "mlp", "model_settings": {"hidden": [8, 8], "activation": activation}, "data": "digits"},
        **{"optimizer": "psgd_diagonal", "lr": 0.1, "step": 0.1, "batch": 20, "epochs": 3},
        "measures": {"products": {"examples": 30, "probes": 6}},
    }
    run = NetworkTraining(settings, 0, digits())
    for _ in range(3):
        run.advance()
    found = run.final()
    v, exact, differences = run.measures["products"].products()  # type: ignore[attr-defined]
    # exact products are the model's Hessian, column by column in float64
    model, given = run.model.double(), digits()
    params = list(model.parameters())
    loss = torch.nn.functional.cross_entropy(model(given.test_x[:30].double()), given.test_y[:30])
    grads = torch.autograd.grad(loss, params, create_graph=True)
    g = torch.cat([x.reshape(-1) for x in grads])
    columns = [torch.autograd.grad(g @ torch.from_numpy(c), params, retain_graph=True) for c in v.T]
    expected = np.array([torch.cat([x.reshape(-1) for x in c]).numpy() for c in columns]).T
    np.testing.assert_allclose(exact, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    off = np.linalg.norm(differences - exact, axis=0) / np.linalg.norm(exact, axis=0)
    assert found["difference"] == pytest.approx(np.median(off))
    assert found["exact_asymmetry"] < 1e-3
    if activation == "tanh":
        assert found["difference"] < 0.05
        assert found["difference_criterion"] == pytest.approx(found["criterion"], rel=0.05)
    else:
        assert found["difference"] > 0.1
    assert 0 < found["criterion"] < 1.5
    assert found["zero_products"] == 0
    assert found["refused"] == 0
    assert found["range"] > 0


# -- the experiments -----------------------------------------------------------------------------------------


class Everything(dict[str, Any]):
    """The numbers of a run that has whatever it is asked for."""

    def get(self, key: str, default: Any = None) -> float:
        return 1.0


@pytest.mark.parametrize("name", ["drift", "tasks", "kinks"])
def test_claims_name_cells_that_there_are(name: str) -> None:
    e = experiment(name)
    for scale in ("reduced", "faithful"):
        names = [cell.name for cell in e.plans[scale].cells]
        records = [
            Record.of(Job(name, scale, n, seed, {}), "done", final=Everything())
            for n in names
            for seed in range(3)
        ]
        for claim in e.claims:
            found = claim.judge(records)
            assert found.verdict != UNTESTED, (claim.text, found.measured)
