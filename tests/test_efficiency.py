"""`psgd efficiency`: its Hessians, its limits and its measures against dense algebra, and the command."""

from __future__ import annotations

import gzip
import json
import sys

import numpy as np
import pytest
import scipy.linalg

import psgd_core as psgd
from psgd_analysis import efficiency
from psgd_analysis.cli import run
from psgd_analysis.efficiency import CONTENDERS, TASKS, Factors, best_factors, networks, peers
from psgd_analysis.efficiency.limits import Expected, LeastSquares, Sampled
from psgd_analysis.efficiency.run import Drawn, measures
from psgd_analysis.efficiency.tasks import low_rank_family, of_matrix
from psgd_analysis.factors import criterion

N = 16


def dense(factors):
    """Q as a matrix."""
    return (np.eye(factors.d.size) + factors.u @ factors.v.T) * factors.d


def symmetric(rng, n, w):
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return (q * w) @ q.T


# -- the best low rank ---------------------------------------------------------------------------------------


def test_factors_act_as_their_matrix(rng):
    f = Factors(*rng.standard_normal((2, 7, 2)), np.exp(rng.standard_normal(7)))
    p, x = dense(f).T @ dense(f), rng.standard_normal((7, 3))
    np.testing.assert_allclose(f.precondition(x), p @ x, rtol=1e-10)
    np.testing.assert_allclose(f.solve(x), np.linalg.solve(p, x), rtol=1e-6, atol=1e-8)


def test_the_criterion_of_factors_and_its_derivative(rng):
    n, r = 6, 2
    v, h = rng.standard_normal((2, n, 9))
    x = 0.3 * rng.standard_normal(2 * n * r + n)
    value, slope = criterion(x, r, v, h)
    u, w = x[: 2 * n * r].reshape(2, n, r)
    q = dense(Factors(u, w, np.exp(x[2 * n * r :])))
    assert value == pytest.approx(np.sum((q @ h) ** 2) + np.sum(np.linalg.solve(q.T, v) ** 2), rel=1e-12)
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = 1e-6
        change = (criterion(x + e, r, v, h)[0] - criterion(x - e, r, v, h)[0]) / 2e-6
        assert slope[i] == pytest.approx(change, rel=1e-5, abs=1e-5 * np.max(np.abs(slope)))


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e5])
def test_every_start_finds_a_minimiser_that_can_be_reached(rng, unit):
    h = unit * low_rank_family(12, 2, 1.0, rng)
    found = best_factors(np.eye(12), h, 2, rng, starts=4)
    least = 2 * np.trace(h)
    assert found.value == pytest.approx(least, rel=1e-6)
    np.testing.assert_allclose(found.values, least, rtol=1e-6)
    q = dense(found.factors)
    np.testing.assert_allclose(q.T @ q @ h, np.eye(12), atol=1e-3)


def test_few_pairs_are_enough_for_it(rng):
    """20 pairs say all of a definite H with n = 20, r = 2 whose inverse can be reached."""
    h, v = low_rank_family(20, 2, 1.0, rng), rng.standard_normal((20, 20))
    q = dense(best_factors(v, h @ v, 2, rng, starts=2).factors)
    np.testing.assert_allclose(q.T @ q @ h, np.eye(20), atol=1e-3)


# -- closed forms and least squares --------------------------------------------------------------------------


def fed(fit, v, h):
    for x, y in zip(v.T, h.T, strict=True):
        fit.update(x, y)
    return fit


def test_closed_forms_are_those_of_the_orbits(rng):
    task = TASKS["xmat/outside/8/gaussian"].make(0)
    v, h = task.draw(rng, 60)
    one, other = (fed(kind(task), v, h).p for kind in (Expected, Sampled))
    for i in range(N // 2):
        at = [i, N - 1 - i]
        x, y = h[at], v[at]
        root = np.real(scipy.linalg.fractional_matrix_power(x @ x.T / 60, -0.5))
        np.testing.assert_allclose(one[np.ix_(at, at)], root, rtol=1e-9)
        p = other[np.ix_(at, at)]
        np.testing.assert_allclose(p @ x @ x.T @ p, y @ y.T, rtol=1e-8, atol=1e-8)
    assert np.count_nonzero(one) == 2 * N


@pytest.mark.parametrize("signs", [1, -1])
def test_least_squares_are_exact_from_n_pairs_on(rng, signs):
    w = np.geomspace(1, 50, 9) * np.where(np.arange(9) % 2, signs, 1)
    h = symmetric(rng, 9, w)
    v = rng.standard_normal((9, 9))
    task = of_matrix("LowRank", h, rank=2)
    np.testing.assert_allclose(
        fed(LeastSquares(task), v, h @ v).p, symmetric_inverse(h), rtol=1e-6, atol=1e-8
    )
    early = fed(LeastSquares(task), v[:, :4], h @ v[:, :4]).p
    assert np.all(np.linalg.eigvalsh((early + early.T) / 2) > 0)


def symmetric_inverse(h):
    """``|H|^{-1}``."""
    return np.linalg.inv(np.real(scipy.linalg.sqrtm(h @ h)))


def test_least_squares_are_the_best_symmetric_h_for_noisy_products(rng):
    v, h = rng.standard_normal((2, 5, 30))
    fit = fed(LeastSquares(of_matrix("LowRank", np.eye(5))), v, h)
    basis = []
    for i in range(5):
        for j in range(i + 1):
            e = np.zeros((5, 5))
            e[i, j] = e[j, i] = 1
            basis.append(e)
    columns = np.stack([(e @ v).ravel() for e in basis], 1)
    best = np.tensordot(np.linalg.lstsq(columns, h.ravel())[0], basis, 1)
    np.testing.assert_allclose(fit.p, symmetric_inverse(best), rtol=1e-8, atol=1e-9)


# -- the tasks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in TASKS if name.startswith(("diag", "xmat", "sparse", "dense"))]
)
def test_tasks_of_groups_are_what_they_say(name):
    _, place, negative, probe = name.split("/")
    task = TASKS[name].make(3)
    w = np.linalg.eigvalsh(task.hessian)
    assert np.sum(w < 0) == int(negative)
    assert np.max(np.abs(w)) / np.min(np.abs(w)) == pytest.approx(100, rel=1e-6)
    label = np.empty(N, dtype=int)
    for i, orbit in enumerate(orbit for members in task.orbits for orbit in members.T):
        label[orbit] = i
    apart = label[:, None] != label[None, :]
    assert (np.max(np.abs(task.hessian * apart)) < 1e-12) == (place == "inside") == task.inside
    v, h = task.draw(np.random.default_rng(0), 5)
    np.testing.assert_allclose(h, task.hessian @ v)
    assert np.all(np.abs(v) == 1) == (probe == "rademacher")
    expected = psgd.criterion.group_minimizer(task.hessian, task.orbits)
    np.testing.assert_allclose(task.minimizer, expected)
    assert type(task.group) is type(efficiency.tasks.preconditioner(task.kind, N, 0).group)


@pytest.mark.parametrize("negative", [0, 4, 8])
@pytest.mark.parametrize("place", ["inside", "outside"])
def test_tasks_of_products_are_what_they_say(place, negative):
    task = TASKS[f"kronecker/{place}/{negative}/gaussian"].make(3)
    w = np.linalg.eigvalsh(task.hessian)
    assert np.sum(w < 0) == negative
    assert np.max(np.abs(w)) / np.min(np.abs(w)) == pytest.approx(100, rel=1e-6)
    pieces = task.hessian.reshape(4, 4, 4, 4).transpose(0, 2, 1, 3).reshape(16, 16)
    assert (np.linalg.matrix_rank(pieces, tol=1e-9) == 1) == (place == "inside") == task.inside
    assert np.allclose(task.minimizer, symmetric_inverse(task.hessian), rtol=1e-6) == task.inside


@pytest.mark.parametrize(("name", "low", "high"), [("lowrank/25", 20, 30), ("lowrank/600", 400, 800)])
def test_the_low_rank_family(name, low, high):
    task = TASKS[name].make(1)
    assert low <= np.linalg.cond(task.hessian) <= high
    np.testing.assert_allclose(task.minimizer @ task.hessian, np.eye(20), atol=1e-9)
    assert np.array_equal(task.hessian, TASKS[name].make(1).hessian)
    assert not np.array_equal(task.hessian, TASKS[name].make(2).hessian)


def test_the_networks_hessian_is_that_of_its_loss(rng):
    features, targets = rng.standard_normal((12, 3)), np.eye(4)[rng.integers(0, 4, 12)]
    first, second = rng.standard_normal((4, 5)), rng.standard_normal((6, 4))
    x = np.concatenate([first.ravel(), second.ravel()])

    def loss(x):
        a, b = x[:20].reshape(4, 5), x[20:].reshape(6, 4)
        z = np.tanh(features @ a[:-1] + a[-1])
        logits = z @ b[:-1] + b[-1]
        chosen = np.sum(logits * targets, axis=1)
        return np.mean(np.log(np.sum(np.exp(logits), axis=1)) - chosen) + networks.L2 / 2 * x @ x

    h = networks.tanh_hessian(features, targets, first, second)
    for _ in range(6):
        p, q = 1e-3 * rng.standard_normal((2, x.size))
        second_difference = loss(x + p + q) - loss(x + p - q) - loss(x - p + q) + loss(x - p - q)
        assert p @ h @ q == pytest.approx(second_difference / 4, rel=1e-3, abs=1e-11)


def test_the_network_on_iris_is_indefinite(rng):
    pytest.importorskip("sklearn")
    w = np.linalg.eigvalsh(networks.tanh_network(rng))
    assert w.size == 171
    assert w[0] < 0 < w[-1]


def test_lenets_products_are_symmetric(tmp_path, monkeypatch, rng):
    pytest.importorskip("torch")
    monkeypatch.setattr(networks, "IMAGES", 6)
    images = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 7, dtype=np.uint8)
    for name, header, data in (
        ("images-idx3", (2051, 7, 28, 28), images),
        ("labels-idx1", (2049, 7), labels),
    ):
        content = np.array(header, dtype=">i4").tobytes() + data.tobytes()
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    n, product = networks.lenet(tmp_path, 0)
    assert n == 44_426
    v = rng.standard_normal((n, 2))
    h = product(v)
    assert v[:, 0] @ h[:, 1] == pytest.approx(v[:, 1] @ h[:, 0], rel=1e-3)
    np.testing.assert_allclose(product(v @ np.array([[2.0], [1.0]]))[:, 0], 2 * h[:, 0] + h[:, 1], atol=1e-4)


# -- the measures --------------------------------------------------------------------------------------------


class Known:
    """A P that is given."""

    def __init__(self, p):
        self.p = p

    def precondition(self, x):
        return self.p @ x

    def solve(self, x):
        return np.linalg.solve(self.p, x)


def test_measures_are_those_of_dense_matrices(rng):
    h = symmetric(rng, 6, np.array([1.0, -2, 3, -4, 5, 6]))
    target, p = symmetric_inverse(h), symmetric(rng, 6, np.geomspace(1, 9, 6))
    task = of_matrix("LowRank", h, minimizer=target)
    drawn = Drawn(task, 0, 1)
    found = measures(Known(p), task, drawn)
    w = np.abs(np.linalg.eigvals(p @ h))
    assert found["kappa"] == pytest.approx(np.max(w) / np.min(w))
    logs = np.log(np.linalg.eigvals(np.linalg.inv(target) @ p).real)
    assert found["distance"] == pytest.approx(np.linalg.norm(logs) / 6**0.5)
    least = 2 * np.trace(np.linalg.inv(target))
    assert found["criterion"] == pytest.approx(np.trace(p @ h @ h + np.linalg.inv(p)) / least)
    found = measures(Known(target), task, drawn)
    assert found["criterion"] == pytest.approx(1)
    assert found["kappa"] == pytest.approx(1)
    assert measures(Known(-p), task, drawn) == {}


def test_what_is_too_large_is_measured_on_held_out_products(rng):
    h = symmetric(rng, 6, np.arange(1.0, 7))
    task = efficiency.Task("LowRank", 6, lambda v: h @ v)
    drawn = Drawn(task, 0, 1)
    v, y = drawn.held_out
    assert v.shape == (6, 64)
    p = symmetric(rng, 6, np.geomspace(1, 9, 6))
    value = sum(b @ p @ b + a @ np.linalg.solve(p, a) for a, b in zip(v.T, y.T, strict=True))
    rho = np.linalg.norm(v) / np.linalg.norm(y)
    expected = value / (rho * np.sum(y * y) + np.sum(v * v) / rho)
    assert measures(Known(p), task, drawn)["criterion"] == pytest.approx(expected)
    assert measures(Known(rho * np.eye(6)), task, drawn)["criterion"] == pytest.approx(1)


@pytest.mark.parametrize(
    "name",
    ["xmat/inside/8/gaussian", "dense/inside/0/gaussian", "kronecker/inside/0/gaussian", "lowrank/25"],
)
def test_every_contender_learns_from_the_pairs(name):
    """After 100 pairs all are closer than after 30 (50), and the limits closer than the fits."""
    task = TASKS[name].make(0)
    drawn, ends = Drawn(task, 0, 100), {}
    for contender in CONTENDERS:
        if contender.suits(task):
            result = efficiency.measure(name, task, contender, 0, drawn)
            first, last = (result.at("distance", mark) for mark in drawn.marks)
            assert last < first or last < 1e-5, contender.name
            ends[contender.name] = last
    limit = ends.get("minimiser on the pairs", ends.get("(mean hh')^-1/2"))
    assert limit < ends.get("EQ, step 0.1", ends.get("LowRank, step 0.2"))
    if name.startswith("xmat"):
        assert ends["ClosedForm"] == pytest.approx(ends["(mean hh')^-1/2"], rel=0.2)
        assert ends["ClosedForm, sampled"] == pytest.approx(ends["minimiser on the pairs"], rel=1e-6)


# -- the peers -----------------------------------------------------------------------------------------------

FAKE = """
def update_precond_lra_newton(UVd, bounds, v, h, lr):
    UVd[0].zero_()
    UVd[2].fill_(2.0)

def update_precond_dense_eq(q, bound, v, h, lr):
    q.mul_(0).diagonal().add_(3.0)
"""


@pytest.fixture
def modules():
    """Take out again what a test imports from its checkouts."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("psgd_jax", "package_of")) or name == "psgd":
            del sys.modules[name]


def test_a_checkout_of_a_peer_takes_part(tmp_path, modules):
    pytest.importorskip("torch")
    (tmp_path / "psgd.py").write_text(FAKE)
    rows, absent = peers.found({"psgd_torch": tmp_path})
    mine = {row.name: row for row in rows if row.name.startswith("psgd_torch")}
    assert list(mine) == ["psgd_torch LRA", "psgd_torch Dense"]
    assert "psgd_torch" not in absent
    x, low, whole = np.ones((20, 1)), TASKS["lowrank/25"].make(0), TASKS["dense/inside/0/gaussian"].make(0)
    assert [row.suits(low) for row in mine.values()] == [True, False]
    assert [row.suits(whole) for row in mine.values()] == [False, True]
    fit = mine["psgd_torch LRA"].make(low, 0)
    fit.update(x[:, 0], x[:, 0])
    np.testing.assert_allclose(fit.precondition(x), 4 * x)
    np.testing.assert_allclose(fit.solve(x), x / 4)
    fit = mine["psgd_torch Dense"].make(whole, 0)
    fit.update(x[:16, 0], x[:16, 0])
    np.testing.assert_allclose(fit.precondition(x[:16]), 9 * x[:16])
    np.testing.assert_allclose(fit.solve(x[:16]), x[:16] / 9)


def test_a_module_of_a_package_is_imported_alone(tmp_path, modules):
    folder = tmp_path / "package_of_a_peer"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('what it imports is not there')")
    (folder / "inner.py").write_text("from package_of_a_peer.other import x")
    (folder / "other.py").write_text("x = 5")
    assert peers.module_at(tmp_path, "package_of_a_peer.inner").x == 5
    assert str(tmp_path) not in sys.path


# -- the command ---------------------------------------------------------------------------------------------


def test_a_small_run(tmp_path, capsys):
    arguments = ["efficiency", "xmat/inside/8/gaussian", "lowrank/25", "--seeds", "2", "--products", "50"]
    assert run([*arguments, "-c", "*step 0.?", "-c", "ClosedForm", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "xmat/inside/8/gaussian: distance to the minimiser after so many products" in " ".join(out.split())
    assert "8 runs in" in out
    data = json.loads((tmp_path / "efficiency.json").read_text(encoding="utf-8"))
    assert data["command"].startswith("psgd efficiency xmat/inside/8/gaussian")
    assert {r["contender"] for r in data["results"]} == {
        "EQ, step 0.1", "ClosedForm", "LowRank, step 0.2", "LowRank, step 0.5",
    }  # fmt: skip
    assert {r["seed"] for r in data["results"]} == {0, 1}
    first = data["results"][0]
    assert first["pairs"] == [30, 50]
    assert first["kappa"] == 100
    assert first["seconds"] > 0
    page = (tmp_path / "efficiency.md").read_text(encoding="utf-8")
    assert "![Accuracy by products](efficiency.png)" in page
    assert "medians of 2 seeds" in page
    assert str(tmp_path) not in page + json.dumps(data)  # no folder of this machine
    assert (tmp_path / "efficiency.png").read_bytes().startswith(b"\x89PNG")


def test_listing_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["efficiency", "--list"]) == 0
    out = capsys.readouterr().out
    assert "lowrank/600" in out
    assert "dense/inside/4" not in out  # not of the default run
    assert "ClosedForm, sampled" in out
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "`TASK` must be one that --list shows, or match one, got 'nothing'"),
        (["lenet5"], "lenet5 needs --data"),
        (["-c", "nobody"], "`--contender` must be one that --list shows, or match one, got 'nobody'"),
        (["--peer-path", "psgd_torch"], "`--peer-path` must be NAME=DIR"),
        (["--peer-path", "psgd_torch=/not/there"], "`--peer-path` must name a folder, got '/not/there'"),
        (["--seeds", "0"], "seeds"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert run(["efficiency", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_run_that_breaks_leaves_earlier_results_alone(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    (tmp_path / "efficiency.json").write_text("earlier")
    monkeypatch.setattr("psgd_analysis.efficiency.command.until_interrupted", broken)
    with pytest.raises(RuntimeError, match="broken"):
        run(["efficiency", "diagonal/inside/0/gaussian", "--out", str(tmp_path)])
    assert (tmp_path / "efficiency.json").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["efficiency.json"]
