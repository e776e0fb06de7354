"""Delayed XOR: its data by brute force, its networks by finite differences, its runs beside NumPy's loop."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest

import psgd_core as psgd

jax = pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax.numpy as jnp  # noqa: E402

from psgd_analysis.reproduce import loop  # noqa: E402
from psgd_analysis.reproduce.experiments.xor import EXPERIMENT, LENGTHS, RANKS, cell  # noqa: E402
from psgd_analysis.reproduce.recurrent import Network, delayed_xor, logistic  # noqa: E402
from psgd_analysis.reproduce.recurrent_optimizers import (  # noqa: E402
    AdaHessian,
    HessianFree,
    Loss,
    Preconditioned,
    optimizer,
)
from psgd_analysis.reproduce.recurrent_training import XorTraining  # noqa: E402
from psgd_analysis.spectrum.jax_sources import gauss_newton  # noqa: E402

PSGD, SGD = ({**c.settings, "iterations": 50, "part": 20} for c in EXPERIMENT.plans["smoke"].cells[:2])
"""What the smoke scale compiles too, but shorter."""


# -- data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [5, 32, 112])
def test_labels_say_whether_the_marked_signs_differ(length):
    x, y = (np.asarray(a) for a in delayed_xor(jax.random.key(length), length, 500))
    assert x.shape == (length, 500, 2)
    assert set(np.unique(x[..., 0])) == {-1.0, 1.0}
    for i in range(500):
        marked = np.flatnonzero(x[:, i, 1])
        a, b = (bool(x[t, i, 0] > 0) for t in (marked[0], marked[-1]))
        assert y[i] == (1 if a != b else -1)
        assert len(marked) in (1, 2)
        assert marked[0] <= 0.1 * length
        assert int(0.1 * length) <= marked[-1] < 0.5 * length
    assert 0.3 < (y > 0).mean() < 0.7
    assert len({t for i in range(500) for t in np.flatnonzero(x[:, i, 1])}) >= 0.4 * length


# -- networks --------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_loss(kind, w, x, y):
    """The loss of one sequence after another, written from the networks' definitions."""
    losses = []
    for sequence, label in zip(np.moveaxis(x, 1, 0), y, strict=True):
        state = memory = np.zeros(w["output"].size)
        for given in sequence:
            total = np.einsum("i,igj->gj", given, w["input"]) + np.einsum("i,igj->gj", state, w["recurrent"])
            total = total + w["bias"]
            if kind == "RNN":
                state = np.tanh(total[0])
            else:
                enter, keep, leave = sigmoid(total[:3])
                memory = keep * memory + enter * np.tanh(total[3])
                state = leave * np.tanh(memory)
        losses.append(np.log1p(np.exp(-label * (state @ w["output"] + w["offset"]))))
    return np.mean(losses)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_gradient_and_product_against_finite_differences(kind):
    with jax.enable_x64(True):
        network = Network(kind, units=3)
        start, weights_of = network.start(0)
        rng = np.random.default_rng(1)
        x = np.asarray(start, dtype=np.float64) + 0.3 * rng.standard_normal(start.size)
        sequences, labels = (np.asarray(a, dtype=np.float64) for a in delayed_xor(jax.random.key(2), 5, 7))

        def loss(at):
            return logistic(network.read(weights_of(at), jnp.asarray(sequences)), jnp.asarray(labels))

        def plain(at):
            weights = {name: np.asarray(w) for name, w in weights_of(at).items()}
            return plain_loss(kind, weights, sequences, labels)

        def update(state, x, g, pair):
            return x, {"g": g, "v": pair[0], "h": pair[1]}

        step = jax.jit(lambda at, key: Preconditioned(SimpleNamespace(update=update)).step((), at, loss, key))
        value, _, found = step(jnp.asarray(x), jax.random.key(3))
        found = {name: np.asarray(array) for name, array in found.items()}
        assert abs(value - plain(x)) < 1e-12
        size, near = 1e-4, 1e-2
        gradient = [(plain(x + size * e) - plain(x - size * e)) / (2 * size) for e in np.eye(x.size)]
        np.testing.assert_allclose(found["g"], gradient, atol=1e-7)
        # along v, the second difference of the loss is v^T H v; and that of the gradient is H v
        v = found["v"] / np.linalg.norm(found["v"])
        curvature = (plain(x + near * v) - 2 * plain(x) + plain(x - near * v)) / near**2
        assert found["v"] @ found["h"] == pytest.approx(found["v"] @ found["v"] * curvature, rel=1e-3)
        g = jax.jit(jax.grad(loss))
        h = (g(jnp.asarray(x + size * v)) - g(jnp.asarray(x - size * v))) / (2 * size)
        np.testing.assert_allclose(found["h"], np.asarray(h) * np.linalg.norm(found["v"]), atol=1e-6)


def test_units_that_fill_up_the_lanes_change_nothing():
    network = Network("LSTM", units=16)  # none are added
    x, weights_of = network.start(0)
    narrow = Network("LSTM", units=15)
    w = weights_of(x)
    cut = {
        "input": w["input"][..., :15],
        "recurrent": w["recurrent"][:15, :, :15],
        "bias": w["bias"][:, :15],
        "output": w["output"][:15],
        "offset": w["offset"],
    }
    emptied = {
        "input": w["input"].at[..., 15:].set(0),
        "recurrent": w["recurrent"].at[15:].set(0).at[..., 15:].set(0),
        "bias": w["bias"].at[:, 15:].set(0),
        "output": w["output"].at[15:].set(0),
        "offset": w["offset"],
    }
    sequences, _ = delayed_xor(jax.random.key(0), 8, 20)
    np.testing.assert_allclose(narrow.read(cut, sequences), network.read(emptied, sequences), rtol=1e-5)


@pytest.mark.parametrize("given", [{"cell": "GRU"}, {"optimizer": "Newton"}, {"iterations": 0}])
def test_unknown_settings_get_a_sentence(given):
    with pytest.raises(ValueError, match=f"`{next(iter(given))}` must be"):
        XorTraining({**PSGD, **given}, 0)


# -- steps -----------------------------------------------------------------------------------------------


def test_steps_are_those_of_the_numpy_loop_on_the_same_pairs():
    with jax.enable_x64(True):
        network = Network("RNN", units=4)
        start, weights_of = network.start(0)
        mine = optimizer({**PSGD, "rank": 3})
        other = psgd.PSGD(psgd.LowRank(3), lr=0.01, step_size=0.3, clip=1.0)

        def loss(at, sequences, labels):
            return logistic(network.read(weights_of(at), sequences), labels)

        @jax.jit
        def step(state, x, key, *batch):
            return mine.step(state, x, lambda at: loss(at, *batch), key)

        @jax.jit
        def pair(x, key, *batch):
            v, g = jax.random.normal(key, x.shape, x.dtype), jax.grad(loss)
            return g(x, *batch), v, jax.jvp(lambda at: g(at, *batch), (x,), (v,))[1]

        x = jnp.asarray(np.asarray(start, dtype=np.float64))
        y = np.asarray(x)
        state, other_state = mine.init(x), other.init(y)
        for i in range(20):
            batch, key = delayed_xor(jax.random.key(i), 5, 16), jax.random.key(100 + i)
            _, x, state = step(state, x, key, *batch)
            g, v, h = map(np.asarray, pair(y, key, *batch))
            y, other_state = other.update(other_state, y, g, pair=(v, h))
        assert not np.allclose(y, start, atol=1e-3)
        np.testing.assert_allclose(np.asarray(x), y, atol=1e-9)


def test_adahessian_is_that_of_pytorch_optimizer():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs = pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is not installed")
    with jax.enable_x64(True):
        # of a diagonal quadratic every probe gives the diagonal itself
        rng = np.random.default_rng(0)
        diagonal, x = rng.uniform(0.5, 5, 6), rng.standard_normal(6)
        mine = AdaHessian(lr=0.1, clip=1e9)
        a, state = jnp.asarray(x), mine.init(jnp.asarray(x))
        b = torch.nn.Parameter(torch.tensor(x))
        other = theirs.AdaHessian([b], lr=0.1)
        for i in range(10):
            _, a, state = mine.step(
                state, a, lambda at: (jnp.asarray(diagonal) * at**2).sum() / 2, jax.random.key(i)
            )
            other.zero_grad()
            (torch.tensor(diagonal) * b**2).sum().div(2).backward(create_graph=True)
            other.step()
        assert not np.allclose(x, np.asarray(a), atol=0.1)
        np.testing.assert_allclose(np.asarray(a), b.detach().numpy(), rtol=1e-6)


def test_hessian_free_solves_the_damped_gauss_newton_system():
    with jax.enable_x64(True):
        network = Network("RNN", units=2)
        start, weights_of = network.start(0)
        x = jnp.asarray(np.asarray(start, dtype=np.float64) * 3)
        sequences, labels = delayed_xor(jax.random.key(0), 5, 16)
        loss = Loss(lambda at: network.read(weights_of(at), sequences), labels)
        # dense: J^T diag(p (1 - p)) J / batch
        jacobian = np.asarray(jax.jacfwd(loss.outputs)(x))
        p = sigmoid(np.asarray(loss.outputs(x)))
        dense = jacobian.T @ np.diag(p * (1 - p)) @ jacobian / len(p)
        product = gauss_newton(loss.outputs, lambda z: logistic(z, loss.labels), x)
        found = np.stack([np.asarray(product(jnp.asarray(e))) for e in np.eye(x.size)], axis=1)
        np.testing.assert_allclose(found, dense, atol=1e-12)
        method = HessianFree(products=3 * x.size, damping=0.5)
        value, after, damping = method.step(method.init(x), x, loss, None)
        move = np.linalg.solve(dense + 0.5 * np.eye(x.size), -np.asarray(jax.grad(loss)(x)))
        np.testing.assert_allclose(np.asarray(after - x), move, atol=1e-5)
        assert loss(after) < value
        assert float(damping) in (0.5, 0.75, pytest.approx(1 / 3))


def test_all_cells_of_a_seed_see_the_same_batches_and_start():
    first = [XorTraining({**settings, "iterations": 1}, 3).advance()["loss"] for settings in (PSGD, SGD)]
    assert first[0] == first[1]
    assert XorTraining({**PSGD, "iterations": 1}, 4).advance()["loss"] != first[0]


# -- runs ------------------------------------------------------------------------------------------------


def run(folder, settings, stop_after=None):
    """Run through `loop.run`, left after some parts and taken up again by a new training if asked to."""
    job = EXPERIMENT.jobs("smoke", [0], {})[0]
    job = type(job)(**{**vars(job), "settings": settings})
    last = []

    def start(job):
        last.append(XorTraining(job.settings, job.seed))
        return last[-1]

    checkpoint = loop.Checkpoint(folder, job.key)
    if stop_after:
        with pytest.raises(loop.Stopped):
            loop.run(job, start, checkpoint, {}, stopping=iter([False] * (stop_after - 1) + [True]).__next__)
    record = loop.run(job, start, checkpoint, {})
    file = io.BytesIO()
    last[-1].save(file)
    return record, file.getvalue()


@pytest.mark.parametrize("settings", [PSGD, SGD], ids=["PSGD", "SGD"])
def test_a_run_that_was_left_ends_bit_for_bit_as_one_that_was_not(tmp_path, settings):
    whole, end = run(tmp_path / "whole", settings)
    again, same = run(tmp_path / "again", settings, stop_after=2)
    assert [m["iterations"] for m in whole.metrics] == [20, 40, 50]
    assert [m["loss"] for m in whole.metrics] == [m["loss"] for m in again.metrics]
    assert whole.final == again.final
    assert end == same


def test_a_checkpoint_of_other_settings_is_refused():
    file = io.BytesIO()
    XorTraining(PSGD, 0).save(file)
    file.seek(0)
    with pytest.raises(ValueError, match="must hold a run with these settings"):
        XorTraining({**PSGD, "units": 7}, 0).load(file)


def test_a_run_that_leaves_all_numbers_ends_as_diverged():
    training = XorTraining({**SGD, "lr": 1e38, "clip": None}, 0)
    while training.status == "going":
        training.advance()
    assert training.status == "diverged"
    assert training.final()["solved"] is False


# -- the experiment --------------------------------------------------------------------------------------


def test_cells_have_names_of_their_own_and_the_paper_s_numbers():
    for plan in EXPERIMENT.plans.values():
        names = [c.name for c in plan.cells]
        assert len(set(names)) == len(names)
    rates = EXPERIMENT.columns[0].paper
    assert [rates[cell("RNN", 32, "PSGD", rank=r).name] for r in RANKS] == ["0.1", "0.4", "0.8", "1", "1"]
    assert [rates[cell("LSTM", length, "SGD").name] for length in LENGTHS] == ["1", "0", "0", "0"]
    faithful = {c.name for c in EXPERIMENT.plans["faithful"].cells}
    assert set(rates) <= faithful
    assert [rates[cell("LSTM", length, "AdaHessian").name] for length in LENGTHS] == ["1", "1", "0.8", "0"]
    assert {c.name for c in EXPERIMENT.plans["reduced"].cells} <= faithful


def test_psgd_solves_the_easy_length_of_the_smoke_scale(tmp_path):
    found = {}
    jobs = [job for job in EXPERIMENT.jobs("smoke", [0, 1, 2], {}) if "PSGD" in job.cell]
    for job in jobs:
        record = loop.run(
            job, lambda job: EXPERIMENT.start(job, None), loop.Checkpoint(tmp_path, job.key), {}
        )
        assert record.status == "done"
        assert record.skipped == 0
        found.setdefault(job.cell, []).append(record.final)
    psgd_s = found["RNN, T = 6, PSGD, r = 10, step 0.3"]
    assert all(final["solved"] and final["loss"] < 0.1 for final in psgd_s)
    assert all(final["products"] == final["iterations"] < 1000 for final in psgd_s)
