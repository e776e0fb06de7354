"""`psgd bench`: rows, psgd-core's own calls, peers and memory. Nothing is timed here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import json
import random
import socket
import sys
import types

import numpy as np
import pytest

import psgd_core as psgd
from psgd_analysis import machine
from psgd_analysis.bench import contenders, costs, peers, report, run
from psgd_analysis.bench.contenders import Absent, Calls, Own, Setting
from psgd_analysis.bench.libraries import Library
from psgd_analysis.bench.peer import Peer, plain_message
from psgd_analysis.bench.timing import Limits
from psgd_analysis.documents import versions
from psgd_analysis.kinds import Size
from psgd_analysis.resident import resident_peak

STEP = 0.1
DOUBLE = Library("numpy", "float64")
QUIET = Limits(repeats=6, warmup=1, least=0.0, budget=1e9, fewest=5)


class Steady:
    """A clock that moves on at each look: every sample lasts the same; with `noise`, it does not."""

    def __init__(self, noise=0.0):
        self.now, self.rng, self.noise = 0.0, random.Random(0), noise

    def __call__(self):
        self.now += 0.001 * (1 + self.noise * self.rng.random())
        return self.now


def plan(kinds=("xmat",), n=(16,), rank=2, **more):
    settings = [Setting(k, m, DOUBLE, rank if k == "lowrank" else 0) for k in kinds for m in n]
    return run.Plan(settings, limits=QUIET, copy_bytes=2**12, **more)


def rows_of(plan, clock):
    budget = plan.budget(clock)
    return [row for setting in plan.settings for row in run.run(plan, setting, budget)]


class Odd(Peer):
    """Can be set up, and fails in its update."""

    name, package, kinds = "odd", "", ("xmat",)

    def _calls(self, setting):
        def update():
            raise RuntimeError("no such file (/home/somebody/odd.so) /usr/lib/x.so here\nsecond line")

        return Calls(update, None)


class Broken(Odd):
    """Cannot be imported."""

    name, package = "broken", "psgd-no-such-package"

    def _calls(self, setting):
        import psgd_no_such_package  # noqa: F401


def test_rows_of_peers_that_are_missing_fail_or_lack_a_preconditioner():
    made = rows_of(plan(("xmat", "diagonal"), peers=[Odd(), Broken(), peers.PsgdTorch()]), Steady())
    rest = {(row.setting.kind, row.contender): row for row in made if not row.own}
    assert rest["xmat", "odd"].status == "failed"
    assert rest["xmat", "odd"].reason == "odd: no such file  here"
    assert rest["xmat", "broken"].status == "absent"
    assert rest["xmat", "broken"].reason == "broken: not installed (pip install psgd-no-such-package)"
    assert rest["diagonal", "odd"].reason == "odd has no Diagonal"
    assert "--peer-path psgd_torch=DIR" in rest["xmat", "psgd_torch"].reason
    assert len(rest) == 6
    assert all(row.status == "ok" for row in made if row.own)
    for row in rest.values():
        assert "–" in report.cells(row)


def test_numbers_of_a_row_follow_from_the_clock():
    rows = rows_of(plan(("lowrank",), n=(64,), peers=[peers.NumpySolve()]), Steady())
    own, solve = rows[0], rows[2]
    assert (own.operation, own.ratio) == ("update", None)
    assert (solve.contender, solve.operation) == ("numpy.linalg.solve", "update")
    # the clock gives each sample a millisecond: of 8 updates for low rank, of one call for the others
    np.testing.assert_allclose(own.samples.median, 1e-3 / 8)
    np.testing.assert_allclose(solve.ratio, 8)
    floor = own.bytes / (2 * 2**12 / 1e-3)
    np.testing.assert_allclose(own.floor, own.samples.median / floor)
    np.testing.assert_allclose(own.bandwidth, own.bytes / own.samples.median)
    in_place = costs.cost("update", "lowrank", 64, 2).bytes_in_place(8)
    np.testing.assert_allclose(own.floor_in_place, own.floor * own.bytes / in_place)
    assert own.extra_bytes > 0


def test_kernels_are_left_out_for_the_plain_code_alone(monkeypatch):
    stub = types.ModuleType("psgd_core.kernels")
    stub.__spec__ = importlib.machinery.ModuleSpec("psgd_core.kernels", None)
    seen, out = [], []

    @contextlib.contextmanager
    def off():
        out.append(True)
        yield
        out.pop()

    stub.off, stub.on, stub.available = off, contextlib.nullcontext, lambda: not out
    monkeypatch.setitem(sys.modules, "psgd_core.kernels", stub)
    update = psgd.XMat.update
    monkeypatch.setattr(psgd.XMat, "update", lambda *a, **k: (seen.append(not out), update(*a, **k))[1])
    rows = rows_of(plan(), Steady())
    assert [row.contender for row in rows] == ["psgd-core"] * 2 + ["psgd-core, plain code"] * 2
    assert True in seen
    assert False in seen
    assert not out
    for which, names in (("on", {"psgd-core"}), ("off", {"psgd-core, plain code"})):
        assert {row.contender for row in rows_of(plan(kernels=which), Steady())} == names
    seen.clear()
    rows_of(plan(kernels="off"), Steady())
    assert not any(seen)


@pytest.mark.parametrize(
    ("library", "kind"),
    [(library, kind) for library in ("numpy", "torch") for kind in costs.KINDS] + [("jax", "xmat")],
)
def test_one_s_own_updates_are_those_of_the_library(library, kind):
    pytest.importorskip(library)
    shape = (4, 2, 2) if kind == "kronecker" else ()
    setting = Setting(kind, 16, Library(library, "float32"), 2 if kind == "lowrank" else 0, 3, shape)
    calls = Own().set_up(setting)
    p = costs.KINDS[kind].make(Size(16, 2, shape))
    v, h = setting.pair()
    state = p.init(16, like=v)
    for _ in range(3):
        calls.wait(calls.update())
        state = p.update(state, v, h, contenders.STEP)
    np.testing.assert_allclose(np.asarray(calls.precondition()), p.precondition(state, v), rtol=2e-4)
    if library != "jax":
        assert calls.state_bytes >= sum(x.nbytes for x in (v, h)) / 2
    assert setting.pair()[0].tobytes() == v.tobytes()


# -- peers -----------------------------------------------------------------------------------------------


def test_the_plain_torch_updates_are_the_paper_s():
    torch = pytest.importorskip("torch")
    from psgd_analysis.bench import plain_torch

    rng = np.random.default_rng(0)
    n, r = 7, 2
    v, h, d = rng.standard_normal((3, n))
    d = np.exp(d)
    as_torch = lambda *xs: [torch.asarray(x.copy()) for x in xs]  # noqa: E731

    def parts(q):
        return q @ h, np.linalg.solve(q.T, v)

    q = np.diag(d)
    a, b = parts(q)
    (t,) = as_torch(d)
    plain_torch.diagonal_update(t, *as_torch(v, h), STEP)
    np.testing.assert_allclose(t, d - STEP * (a**2 - b**2) / (a**2 + b**2) * d)

    flip = np.eye(n)[::-1]
    e = rng.standard_normal(n) / 9
    q = np.diag(d) + np.diag(e) @ flip
    a, b = parts(q)
    support = np.eye(n) + flip > 0
    e[n // 2] = 0  # the middle is the diagonal's
    q = np.diag(d) + np.diag(e) @ flip
    a, b = parts(q)
    moved = q - STEP / max(a**2 + b**2) * (np.outer(a, a) - np.outer(b, b)) * support @ q
    x, y = as_torch(d, e)
    plain_torch.xmat_update(x, y, *as_torch(v, h), STEP)
    np.testing.assert_allclose(np.diag(x.numpy()) + np.diag(y.numpy()) @ flip, moved, atol=1e-14)

    u, w = rng.standard_normal((2, n, r)) / 3
    for turn_u in (True, False):
        small, q = np.eye(n) + u @ w.T, (np.eye(n) + u @ w.T) @ np.diag(d)
        a, b = parts(q)
        p = q.T @ q
        plus, minus = h * (p @ h), v * np.linalg.solve(p, v)
        other = w if turn_u else u
        gradient = (np.outer(a, a) - np.outer(b, b)) @ other
        norm = np.linalg.norm
        bound = norm(a) * norm(other @ other.T @ a) + norm(b) * norm(other @ other.T @ b)
        state = as_torch(u, w, d)
        plain_torch.low_rank_update(*state, *as_torch(v, h), STEP, turn_u)
        mu = STEP / bound
        new_u = u - mu * gradient @ (np.eye(r) + w.T @ u) if turn_u else u
        new_w = w if turn_u else w - mu * small.T @ gradient
        new_d = d - STEP / (abs(plus).max() + abs(minus).max()) * (plus - minus) * d
        for got, expected in zip(state, (new_u, new_w, new_d), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-12)
        got = plain_torch.low_rank_precondition(*as_torch(u, w, d, v))
        np.testing.assert_allclose(got, p @ v, atol=1e-12)

    q = rng.standard_normal((n, n)) + 4 * np.eye(n)
    a, b = parts(q)
    (t,) = as_torch(q)
    plain_torch.dense_update(t, *as_torch(v, h), STEP)
    np.testing.assert_allclose(
        t, q - STEP / (a @ a + b @ b) * (np.outer(a, a) - np.outer(b, b)) @ q, atol=1e-12
    )


@pytest.mark.parametrize("kind", ["diagonal", "xmat", "lowrank", "dense"])
def test_plain_torch_fits(kind):
    pytest.importorskip("torch")
    setting = Setting(kind, 12, DOUBLE, 2 if kind == "lowrank" else 0)
    calls = peers.PlainTorch().set_up(setting)
    v, h = setting.pair()
    before = np.linalg.norm(np.asarray(calls.precondition()) - v)
    assert before < 1  # P starts near I
    for _ in range(60):
        calls.update()
    y = np.asarray(calls.precondition())
    assert np.all(np.isfinite(y))
    if kind == "diagonal":
        np.testing.assert_allclose(y, v * v / h, rtol=1e-2)  # |H|^{-1} v


def test_registry_and_messages_without_paths():
    assert list(peers.registry()) == [
        "torch", "torch.compile", "psgd_torch", "psgd-jax", "heavyball", "kron-torch", "pytorch_optimizer",
        "numpy.linalg.solve",
    ]  # fmt: skip
    assert plain_message(ImportError("cannot import name 'x' from 'y' (/a/b/y.py)")) == (
        "cannot import name 'x' from 'y'"
    )
    assert plain_message(ValueError("")) == "ValueError"
    with pytest.raises(Absent, match="float32 whatever"):
        peers.PsgdJax().set_up(Setting("xmat", 8, DOUBLE))
    with pytest.raises(Absent, match="yardstick for n up to"):
        peers.NumpySolve().set_up(Setting("xmat", 10**6, DOUBLE))


@pytest.mark.parametrize(
    ("peer", "module"),
    [
        (peers.PsgdJax, "psgd_jax.kron"),
        (peers.HeavyBall, "heavyball"),
        (peers.KronTorch, "kron_torch"),
        (peers.PytorchOptimizer, "pytorch_optimizer"),
    ],
)
def test_kronecker_peers_fit_the_tensor_with_the_same_factors(peer, module):
    """Where they are installed: triangular along 6, diagonal along 50, P symmetric and no longer I."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        pytest.skip(str(error))
    setting = Setting("kronecker", 300, Library("numpy", "float32"), seed=1, shape=(6, 50))
    calls = peer().set_up(setting)
    assert calls.state_bytes == 4 * (6 * 6 + 50)
    for _ in range(4):
        calls.wait(calls.update())
    y = np.asarray(calls.precondition()).ravel()
    v = setting.pair()[0]
    assert y.shape == v.shape
    assert np.all(np.isfinite(y))
    assert np.linalg.norm(y - v) > 0.01 * np.linalg.norm(v)
    assert y @ v > 0


def test_kronecker_is_measured_without_kernels_and_says_its_arithmetic():
    settings = [Setting("kronecker", 12, DOUBLE, shape=(4, 3))]
    made = rows_of(run.Plan(settings, limits=QUIET, copy_bytes=2**12, peers=[peers.NumpySolve()]), Steady())
    assert [(row.contender, row.operation) for row in made if row.own] == [
        ("psgd-core, plain code", "update"),
        ("psgd-core, plain code", "precondition"),
    ]
    assert made[-1].reason == "numpy.linalg.solve has no Kronecker"
    assert report.titles(made)[0][0] == "Kronecker(4x3), n = 12, float64, numpy on cpu"
    row = made[0]
    np.testing.assert_allclose(row.flops_per_second, costs.flops("update", "kronecker", (4, 3)) / 1e-3)
    assert report.cells(row)[-1].endswith("GFLOP/s")


def test_kronecker_on_tensors_is_measured_as_it_is_used_by_numpy_and_as_plain_code():
    for module in ("torch", "numba"):
        pytest.importorskip(module)
    plan = run.Plan([], limits=QUIET)
    found = plan.own(Library("torch", "float64"), "kronecker")
    assert [one.name for one in found] == ["psgd-core", "psgd-core, plain code"]
    assert [one.name for one in plan.own(DOUBLE, "kronecker")] == ["psgd-core, plain code"]


# -- memory, the machine -----------------------------------------------------------------------------------


def test_memory_of_a_call():
    assert 8000 <= DOUBLE.extra_memory(lambda: np.ones(500) + np.ones(500), 500) < 20_000
    assert DOUBLE.extra_memory(lambda: None, 500) < 2000
    found = resident_peak(lambda: np.ones(2**23))
    assert found is None or 0.9 * 2**26 < found < 1.5 * 2**26
    assert Library("torch", "float64").extra_memory(lambda: None, 500) is None


def test_the_machine_is_described_without_its_name():
    text = json.dumps([machine.describe(), versions(), machine.threads()])
    assert machine.describe()["cores"] >= machine.describe()["cores_available"] >= 1
    assert "numpy" in versions()
    if len(socket.gethostname()) > 5:
        assert socket.gethostname() not in text
