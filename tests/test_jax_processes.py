"""Several JAX processes: the losses of one, whatever is sharded; checkpoints between them; and no hanging.

The processes train one model, in which every leaf has another preconditioner. They import this file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("optax", reason="optax is not installed")

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import psgd_core as psgd
from psgd_core.adapters import jax as adapter

ROOT = Path(__file__).parent.parent
PROCESSES, DEVICES, STEPS, HALF = 2, 1, 50, 30
LIMIT = 600
"""Seconds after which processes that hang are ended, and the test fails."""
BEATS = 20
"""Seconds without a sign of life after which JAX takes a process for dead."""

LEAVES = {  # the shape of a leaf: its preconditioner, and how it is sharded over the mesh's one axis
    (16, 5): (psgd.XMat(), ("a",)),
    (16, 6): (psgd.Butterfly(), ("a", None)),
    (16, 3): (psgd.LowRank(2), ("a",)),
    (4, 2): (psgd.Dense(), ("a",)),
    (3, 4): (psgd.Diagonal(), (None, "a")),
    (5, 2): (psgd.XMat(), ()),
}


def start():
    """Return parameters and a batch on the host, in float64: it shows most."""
    rng = np.random.default_rng(0)
    params = {str(shape): rng.standard_normal(shape) / 3 for shape in LEAVES}
    return params, tuple(rng.standard_normal((16, n)) for n in (16, 6))


def loss(params, x, y):
    """Return the sum of the errors of a network of one layer for each leaf."""
    return sum(
        jnp.mean((jnp.tanh(x[:, : w.shape[0]] @ w) - y[:, : w.shape[1]]) ** 2) for w in params.values()
    )


@cache
def optimizer():
    """Return the optimiser, which begins to use JAX."""
    return adapter.psgd(0.1, lambda leaf: LEAVES[leaf.shape][0])


@jax.jit
def step(params, state, key, batch):
    """Return (params, state, loss) after a step."""
    value, grads, hvp, probe = adapter.value_grad_hvp(loss)(params, key, *batch)
    updates, state = optimizer().update(grads, state, params, hvp=hvp, probe=probe)
    return optax.apply_updates(params, updates), state, value


def train(params, state, batch, steps):
    """Return (params, state, losses)."""
    losses = []
    for i in steps:
        params, state, value = step(params, state, jax.random.key(i), batch)
        losses.append(float(value))
    return params, state, losses


def placed(params, batch):
    """Return parameters and batch on the devices of all processes."""
    mesh = Mesh(np.array(jax.devices()), ("a",))

    def put(x, spec):
        return jax.make_array_from_callback(
            x.shape, NamedSharding(mesh, PartitionSpec(*spec)), lambda index: x[index]
        )

    params = {name: put(x, LEAVES[x.shape][1]) for name, x in params.items()}
    return params, tuple(put(x, ("a",)) for x in batch)


def process(number, port, folder):
    """Train in one of the processes; then the last one dies, and the others should follow."""
    from jax.experimental.multihost_utils import process_allgather

    connect(number, port)
    # half a run, a checkpoint, and the other half
    params, batch = placed(*start())
    params, state, first = train(params, optimizer().init(params), batch, range(HALF))
    held = process_allgather({"params": params, "state": state}, tiled=True)
    if number == 0:
        psgd.save(folder / "processes.npz", held)
    params, state, second = train(params, state, batch, range(HALF, STEPS))
    # the other half of a run that began on one device
    held = psgd.load(folder / "one.npz")
    params, batch = placed(held["params"], start()[1])
    state = adapter.reshard(held["state"], params)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(optimizer().init(params)), strict=True)
    alike = all(x.sharding.is_equivalent_to(y.sharding, x.ndim) for x, y in pairs)
    resumed = train(params, state, batch, range(HALF, STEPS))[2]
    (folder / f"{number}.json").write_text(
        json.dumps({"losses": first + second, "resumed": resumed, "alike": alike})
    )
    if number == PROCESSES - 1:
        os._exit(9)
    train(params, state, batch, [STEPS])


def connect(number, port):
    """Join the others."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", PROCESSES, number, initialization_timeout=120, heartbeat_timeout_seconds=BEATS
    )


@contextlib.contextmanager
def processes(code, *arguments):
    """Start processes with their numbers, a free port and `arguments`; whatever happens, end them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    roots = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number), str(port), *map(str, arguments)],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": roots},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process on one device: its losses, and a folder with its checkpoint after half of it."""
    folder = tmp_path_factory.mktemp("processes")
    with jax.enable_x64(True):
        params, batch = jax.tree.map(jnp.asarray, start())
        params, state, first = train(params, optimizer().init(params), batch, range(HALF))
        psgd.save(folder / "one.npz", {"params": params, "state": state})
        second = train(params, state, batch, range(HALF, STEPS))[2]
    return first + second, folder


@pytest.fixture(scope="module")
def several(one):
    """The files of all processes, and how they ended: (exit code, stderr) of each."""
    folder = one[1]
    with processes("import test_jax_processes; test_jax_processes.main()", folder) as started:
        ended = [process.communicate(timeout=LIMIT)[1] for process in started]
        codes = [process.returncode for process in started]
    found = [folder / f"{number}.json" for number in range(PROCESSES)]
    assert all(path.exists() for path in found), "\n".join(ended)
    return [json.loads(path.read_text()) for path in found], list(zip(codes, ended, strict=True))


def test_losses_are_those_of_one_process(one, several):
    losses = one[0]
    assert losses[-1] < 0.9 * losses[0]
    for found in several[0]:
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-12)


def test_a_run_of_one_goes_on_in_several(one, several):
    for found in several[0]:
        np.testing.assert_allclose(found["resumed"], one[0][HALF:], rtol=1e-12)
        assert found["alike"]  # as a new one lies


def test_a_run_of_several_goes_on_in_one(one, several):
    losses, folder = one
    with jax.enable_x64(True):
        held = psgd.load(folder / "processes.npz")
        params, batch = jax.tree.map(jnp.asarray, (held["params"], start()[1]))
        state = adapter.reshard(held["state"], params)
        resumed = train(params, state, batch, range(HALF, STEPS))[2]
    np.testing.assert_allclose(resumed, losses[HALF:], rtol=1e-12)


def test_a_process_that_dies_ends_the_others_with_a_message(several):
    """They were in a step that waits for it."""
    (code, message), (died, _) = several[1]
    assert died == 9
    assert code not in (0, None)
    assert "another task died" in message


def test_so_does_the_one_that_the_others_ask(tmp_path):
    """The first process is the one whose address is given."""
    with processes("import test_jax_processes; test_jax_processes.first_dies()") as started:
        message = started[1].communicate(timeout=LIMIT)[1]
        assert started[0].wait(timeout=LIMIT) == 9
        assert started[1].returncode not in (0, None)
    assert "JAX distributed service" in message


def main():
    """Be one of the processes."""
    process(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))


def first_dies():
    """Be one of two processes, of which the first dies while the second waits for it."""
    number = int(sys.argv[1])
    connect(number, sys.argv[2])
    mesh = Mesh(np.array(jax.devices()), ("a",))
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
    ones = jax.make_array_from_callback(
        (len(jax.devices()),), NamedSharding(mesh, PartitionSpec("a")), lambda index: np.ones(1)
    )
    assert float(total(ones)) == PROCESSES * DEVICES
    if number == 0:
        os._exit(9)
    print(float(total(ones)))
