"""Sums over parts on a Dask cluster: those of one process, wherever the parts are and whoever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

dask = pytest.importorskip("dask", reason="needs the extra `dask`")
distributed = pytest.importorskip("distributed", reason="needs the extra `dask`")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")

import psgd_core as psgd  # noqa: E402
from psgd_core.adapters import dask as adapter  # noqa: E402
from psgd_core.adapters.dask import summed  # noqa: E402
from psgd_core.curvature import Functions  # noqa: E402

PARTS = 8
SIZE = 400
"""Images of digits; 65 inputs, 10 classes."""
PATIENCE = 300
"""Seconds that Dask gets to replace a worker: long, for machines that do much else."""


def load(i, parts=PARTS):
    """Return a part of the images, with a 1 as their last input, and their classes as one-hot rows."""
    images, labels = datasets.load_digits(return_X_y=True)
    inputs = np.hstack([images[:SIZE] / 16, np.ones((SIZE, 1))])
    return tuple(np.array_split(x, parts)[i] for x in (inputs, np.eye(10)[labels[:SIZE]]))


def probabilities(w, inputs):
    logits = inputs @ w
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def value(w, part):
    inputs, labels = part
    return -np.sum(labels * np.log(probabilities(w, inputs))) / SIZE


def gradient(w, part):
    inputs, labels = part
    return inputs.T @ (probabilities(w, inputs) - labels) / SIZE


def hvp(w, v, part):
    inputs, _ = part
    p, along = probabilities(w, inputs), inputs @ v
    return inputs.T @ (p * (along - np.sum(p * along, axis=1, keepdims=True))) / SIZE


SOFTMAX = Functions(gradient=gradient, value=value, hvp=hvp)
W = np.random.default_rng(1).standard_normal((65, 10)) / 10


@pytest.fixture(scope="module")
def client():
    """A cluster of two processes on this machine."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found


@pytest.fixture
def both_workers(client):
    """Their addresses; one that died is there again, and answers."""
    limit, answers = time.monotonic() + PATIENCE, {}
    while len(answers) < 2 and time.monotonic() < limit:
        with contextlib.suppress(OSError):
            answers = client.run(os.getpid)
    return sorted(client.nthreads())


@pytest.fixture(scope="module")
def inside():
    """A cluster of two workers in this process, for what needs no others."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as found,
    ):
        yield found


def run(functions):
    """Return the result of 12 iterations."""
    return psgd.minimize(
        functions.both,
        np.zeros((65, 10)),
        jac=True,
        hvp=functions.hvp,
        preconditioner=psgd.LowRank(5),
        maxiter=12,
    )


# -- what is found -----------------------------------------------------------------------------------------


def test_a_trajectory_is_that_of_one_process(client, both_workers):
    whole = load(0, parts=1)
    alone = run(
        Functions(
            gradient=gradient,
            hvp=lambda w, v: hvp(w, v, whole),
            both=lambda w: (value(w, whole), gradient(w, whole)),
        )
    )
    found = run(summed(SOFTMAX, client.map(load, range(PARTS), pure=False), client=client))
    assert alone.fun < 0.5 * alone.history["fun"][0]
    np.testing.assert_allclose(found.history["fun"], alone.history["fun"], rtol=1e-10)
    np.testing.assert_allclose(found.x, alone.x, rtol=1e-8, atol=1e-10)
    assert found.nhev == alone.nhev > 2


def test_bits_do_not_depend_on_the_workers(client, both_workers):
    found = []
    for workers in (both_workers, both_workers[:1], both_workers[1:]):
        parts = client.map(load, range(PARTS), workers=workers, pure=False)
        found.append(summed(SOFTMAX, parts, client=client).gradient(W))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("count", [1, 3, 20])
def test_any_number_of_parts_is_the_whole_to_rounding(inside, count):
    whole, v = load(0, parts=1), np.ones_like(W)
    functions = summed(SOFTMAX, inside.map(partial(load, parts=count), range(count)), client=inside)
    assert np.isclose(functions.value(W), value(W, whole), rtol=1e-14)
    np.testing.assert_allclose(functions.gradient(W), gradient(W, whole), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(functions.hvp(W, v), hvp(W, v, whole), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy"])
def test_trees_libraries_and_samples(inside, library):
    """What is added are trees of any arrays; what `at` binds comes after the part."""
    xp = pytest.importorskip(library)
    x = {"a": xp.asarray([0.0, 1.0, 2.0]), "b": [xp.asarray([1.0, 1.0])]}

    def scaled(x, part, sample):
        return {"a": x["a"] * part * sample, "b": [x["b"][0] * part]}

    functions = summed(Functions(gradient=scaled), [dask.delayed(float(i)) for i in range(5)], client=inside)
    found = functions.at(2.0).gradient(x)
    assert type(found["a"]) is type(x["a"])
    np.testing.assert_array_equal(np.asarray(found["a"]), [0, 20, 40])
    np.testing.assert_array_equal(np.asarray(found["b"][0]), [10, 10])


def test_collections_in_step(inside):
    """Several collections are taken part by part, and several probes in one call."""
    array = pytest.importorskip("dask.array")
    a, b = np.random.default_rng(0).standard_normal((2, 10, 3))
    functions = summed(
        Functions(
            gradient=lambda x, a, b: a.T @ (a @ x) + np.sum(b, axis=0),
            hvp=lambda x, v, a, b: a.T @ (a @ v),
            both=lambda x, a, b: (np.sum(a @ x), x),
            batched=True,
        ),
        array.from_array(a, chunks=(4, 3)),
        array.from_array(b, chunks=(4, 3)),
        client=inside,
    )
    x, v = np.arange(3.0), np.ones((3, 2))
    np.testing.assert_allclose(functions.gradient(x), a.T @ (a @ x) + b.sum(axis=0))
    np.testing.assert_allclose(functions.products(x, v), a.T @ (a @ v))
    assert functions.value is None
    np.testing.assert_allclose(functions.both(x)[0], np.sum(a @ x))


def test_the_order_of_the_sum_is_that_of_pairs():
    terms = list(np.random.default_rng(0).standard_normal(21) * 10.0 ** np.arange(21))

    def pairs(terms):
        if len(terms) == 1:
            return terms[0]
        return pairs([sum(terms[i : i + 2]) for i in range(0, len(terms), 2)])

    groups = [adapter._added(terms[i : i + adapter.FAN]) for i in range(0, 21, adapter.FAN)]
    assert adapter._added(groups) == pairs(terms)


# -- what moves ----------------------------------------------------------------------------------------------


def test_parts_stay_where_they_are(client, both_workers):
    """On one of two workers, the other idle: it is given no part, however small."""
    home = both_workers[0]
    parts = client.map(load, range(PARTS), workers=[home], pure=False)
    functions = summed(SOFTMAX, parts, client=client)
    for scale in range(3):
        functions.gradient(scale * W)
    assert set(client.who_has(parts).values()) == {(home,)}


def test_a_point_is_sent_once(inside, monkeypatch):
    sent, scatter = [], inside.scatter
    monkeypatch.setattr(inside, "scatter", lambda data, **kw: sent.append(data[0]) or scatter(data, **kw))
    functions = summed(SOFTMAX, inside.map(partial(load, parts=2), range(2)), client=inside)
    x = W.copy()
    functions.both(x)
    functions.hvp(x.copy(), W)
    functions.value(x)
    assert len(sent) == 2  # x and v
    x[0, 0] += 1  # the same array, another point
    moved = functions.value(x)
    assert len(sent) == 3
    assert np.isclose(moved, value(x, load(0, parts=1)), rtol=1e-14)


# -- what goes wrong -----------------------------------------------------------------------------------------


def once(marker, w, part):
    """Return the gradient, unless no worker has died yet: then this one does."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return gradient(w, part)
    os.kill(os.getpid(), signal.SIGKILL)


def always(w, part):
    os.kill(os.getpid(), signal.SIGKILL)


def fails(w, part):
    raise OSError("no such file")


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_worker_killed_in_the_middle_costs_no_bit(client, both_workers, tmp_path):
    parts = client.map(load, range(PARTS), pure=False)
    expected = summed(SOFTMAX, parts, client=client).gradient(W)
    marker = tmp_path / "died"
    functions = summed(Functions(gradient=partial(once, marker)), parts, client=client, patience=PATIENCE)
    assert np.array_equal(functions.gradient(W), expected)
    assert marker.exists()
    assert both_workers != sorted(client.nthreads())


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_so_does_one_killed_before_it_is_missed(client, both_workers):
    """The scheduler still counts on it when the point is sent."""
    functions = summed(SOFTMAX, client.map(load, range(PARTS), pure=False), client=client, patience=PATIENCE)
    expected = functions.hvp(W, W)
    os.kill(client.run(os.getpid)[both_workers[0]], signal.SIGKILL)
    assert np.array_equal(functions.hvp(W, 2 * W), 2 * expected)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_data_that_nothing_can_make_again_are_missed(client, both_workers, tmp_path):
    parts = client.scatter([load(i) for i in range(4)], hash=False)
    dies = Functions(gradient=partial(once, tmp_path / "died"))
    functions = summed(dies, parts, client=client, patience=PATIENCE)
    with pytest.raises(RuntimeError, match=r"part \d was lost with its worker; load it by client\.submit"):
        functions.gradient(W)


def test_an_error_of_the_function_is_the_users(inside):
    functions = summed(Functions(gradient=fails), inside.map(load, range(3)), client=inside)
    with pytest.raises(OSError, match="no such file"):
        functions.gradient(W)


def test_no_workers_are_not_waited_for_for_ever():
    with (
        distributed.LocalCluster(
            n_workers=0, processes=False, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as empty,
    ):
        functions = summed(SOFTMAX, empty.map(load, range(2)), client=empty, patience=0.1)
        with pytest.raises(RuntimeError, match=r"must have a cluster with workers, got none for 0\.1 s"):
            functions.gradient(W)


def test_bad_arguments(inside):
    array = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match="`functions` must be a Functions"):
        summed(gradient, [dask.delayed(1)], client=inside)
    with pytest.raises(TypeError, match=r"`data` must be a Dask collection or a list of futures"):
        summed(SOFTMAX, [np.ones(3)], client=inside)
    with pytest.raises(ValueError, match=r"same number of parts, one or more, got \[2, 1\]"):
        summed(SOFTMAX, [dask.delayed(1), dask.delayed(2)], [dask.delayed(1)], client=inside)
    with pytest.raises(ValueError, match="one or more, got \\[\\]"):
        summed(SOFTMAX, client=inside)
    with pytest.raises(ValueError, match="along the first axis only"):
        summed(SOFTMAX, array.ones((4, 4), chunks=2), client=inside)
    with pytest.raises(ValueError, match="`patience` must be"):
        summed(SOFTMAX, [dask.delayed(1)], client=inside, patience=-1)
    with pytest.raises(TypeError, match=r"`client` must be a distributed\.Client"):
        summed(SOFTMAX, [dask.delayed(1)], client="tcp://127.0.0.1:9")


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_function_that_ends_workers_is_found_out(client, both_workers, monkeypatch):
    monkeypatch.setattr(adapter, "TRIES", 1)
    parts = client.map(load, range(2), pure=False)
    functions = summed(Functions(gradient=always), parts, client=client, patience=PATIENCE)
    with pytest.raises(RuntimeError, match=r"`gradient` must not end the workers .* 1 tries"):
        functions.gradient(W)
