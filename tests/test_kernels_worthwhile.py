"""Which code runs when: kernels are compiled where n and repetition pay, and the state alone decides."""

import contextlib
import os
import subprocess
import sys
from contextvars import ContextVar

import numpy as np
import pytest
from fitted_pairs import leaves, pairs

import psgd_core as psgd
from psgd_core import PermutationSubgroup, kernels
from psgd_core.kernels import switch

N = 12
KINDS = {
    "diagonal": psgd.Diagonal(),
    "xmat": psgd.XMat(),
    "klein": psgd.Sparse(PermutationSubgroup.klein(N)),
    "dense": psgd.Dense(),
    "lowrank": psgd.LowRank(2),
}
"""One for each kernel."""

with_numba = pytest.mark.skipif(not switch.compiled(), reason="the kernels need numba (the extra `fast`)")


def ran(code, **variables):
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | variables
    )


@pytest.fixture
def from_the_fourth(monkeypatch):
    """Let kernels pay from the fourth update of `N` parameters on."""
    work = 4 * (N + switch.FEW)
    monkeypatch.setattr(switch, "_after", ContextVar("after", default=work))


def updated(p, state, made):
    for v, h in made:
        state = p.update(state, v, h, 0.3)
    return state


def assert_same_bits(x, y):
    for a, b in zip(leaves(x), leaves(y), strict=True):
        np.testing.assert_array_equal(a, b)


@with_numba
@pytest.mark.parametrize(
    ("n", "first"), [(1, 4_999), (100, 4_950), (10**6, 49), (10**7, 4), (50_000_000, 0), (10**9, 0)]
)
def test_kernels_pay_after_fifty_million(n, first, monkeypatch):
    monkeypatch.setattr(switch, "_after", ContextVar("after", default=switch.ENOUGH))
    assert switch.worthwhile(n, first)
    assert first == 0 or not switch.worthwhile(n, first - 1)


@with_numba
@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_code_comes_first_and_the_count_of_the_state_says_how_long(kind, from_the_fourth, tmp_path):
    p, made = KINDS[kind], pairs(N, np.float64, 12, seed=5)
    start = p.init(N, like=made[0][0])
    before = updated(p, start, made[:3])
    if kind != "lowrank":  # which begins with blocks of columns
        with kernels.off():
            assert_same_bits(before, updated(p, start, made[:3]))
    # from then on it is what kernels make of that state
    after = updated(p, before, made[3:])
    y = p.precondition(after, made[0][1])
    with kernels.on():
        assert_same_bits(after, updated(p, before, made[3:]))
        np.testing.assert_array_equal(y, p.precondition(after, made[0][1]))
    # which is what the plain code makes of it, to rounding
    with kernels.off():
        expected = updated(p, before, made[3:])
    for x, y in zip(leaves(after), leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9 * np.max(np.abs(y)))
    # a run that goes on from a file changes over where it would have
    psgd.save(tmp_path / "state", start)
    for k in range(1, 12):
        psgd.save(tmp_path / "state", updated(p, psgd.load(tmp_path / "state"), made[k - 1 : k]))
    assert_same_bits(psgd.load(tmp_path / "state"), updated(p, before, made[3:11]))


@with_numba
@pytest.mark.parametrize("kind", KINDS)
def test_which_code_runs(kind, from_the_fourth, monkeypatch):
    from psgd_core.kernels.cpu import low_rank_update, orbit_update

    seen, p = [], KINDS[kind]
    for module, name in ((orbit_update, "_compiled"), (low_rank_update, "_passes")):
        load = getattr(module, name)
        monkeypatch.setattr(module, name, lambda x, load=load: (x and seen.append(x), load(x))[1])
    state, counts = p.init(N, like=np.zeros(1)), []
    for v, h in pairs(N, np.float64, 6, seed=6):
        seen.clear()
        state = p.update(state, v, h, 0.3)
        counts.append(bool(seen))
    assert counts == [False] * 3 + [True] * 3


@pytest.mark.parametrize("within", [contextlib.nullcontext, kernels.on])
def test_on_and_off_nest(within):
    with kernels.off():
        assert not switch.switched_on()
        with within():
            assert switch.switched_on() == (within is kernels.on)
            assert switch.worthwhile(1, 0) == (within is kernels.on and switch.compiled())
        assert not switch.switched_on()


FIRST = """
import sys
import numpy as np
import psgd_core as psgd

v, h = np.random.default_rng(0).standard_normal((2, 64))
for p in (psgd.Diagonal(), psgd.XMat(), psgd.Butterfly(), psgd.Sparse(psgd.PermutationSubgroup.klein(64)),
          psgd.Dense(), psgd.LowRank(4), psgd.LowRank(4, geometry="natural"), psgd.Kronecker((8, 8))):
    state = p.init(64, like=v)
    for _ in range(3):
        state = p.update(state, v, h, 0.1)
    assert np.all(np.isfinite(p.precondition(state, h)))
psgd.minimize(lambda x: x @ x, np.ones(3), jac=lambda x: 2 * x, maxiter=5)
print("numba" in sys.modules)
"""


def test_a_first_result_compiles_nothing_and_says_nothing():
    done = ran(FIRST, PSGD_KERNELS="auto")
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


@with_numba
def test_compiling_says_nothing(tmp_path):
    code = FIRST.replace("for p in (", "for p in (psgd.Dense(),) or (").replace("psgd.minimize", "# ")
    done = ran(code, PSGD_KERNELS="on", NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_another_word_in_the_environment_is_refused():
    done = ran("import psgd_core", PSGD_KERNELS="yes")
    assert done.stderr.rstrip().endswith(
        "ValueError: the environment variable `PSGD_KERNELS` must be auto, on or off, got 'yes'; set it to "
        "one of these, or not at all"
    )
