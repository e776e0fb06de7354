"""A run is all or nothing: whatever raises, and at whichever call, all that was given is as before."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der, rosen_hess_prod

import psgd_core as psgd
from psgd_core import curvature as cv
from psgd_core.adapters.scipy import psgd_method
from psgd_core.descent import clips

START = np.array([-1.2, 1.0])


class Fuse:
    """Counts calls of all the functions it wraps, and raises at one of them."""

    def __init__(self, at, error=RuntimeError):
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, function):
        def call(*args):
            self.calls += 1
            if self.calls == self.at:
                raise self.error("blown")
            return function(*args)

        return call


def noisy(fuse):
    """A stochastic run in which every kind of function may raise."""
    return {
        "fun": fuse(lambda x, z: rosen(x) + z @ x),
        "grad": fuse(lambda x, z: rosen_der(x) + z),
        "hvp": fuse(lambda x, v, z: rosen_hess_prod(x, v)),
        "sample": fuse(lambda rng: 0.1 * rng.standard_normal(2)),
        "callback": fuse(lambda x: None),
        "preset": "stochastic",
        "maxiter": 4,
        "probability": 0.5,
    }


def plain(fuse):
    """A deterministic one, with differences along its steps."""
    return {
        "fun": fuse(rosen),
        "grad": fuse(rosen_der),
        "callback": fuse(lambda x: None),
        "source": cv.Secant(),
        "maxiter": 4,
    }


def positions(rng):
    """Return where a generator stands, as bytes."""
    return pickle.dumps(rng.bit_generator.state)


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox])
@pytest.mark.parametrize("case", [noisy, plain])
def test_a_generator_is_put_back_wherever_it_fails(case, bits):
    whole = Fuse(0)
    rng = np.random.Generator(bits(3))
    before = positions(rng)
    want = psgd.minimize(x0=START, rng=rng, **case(whole))
    assert positions(rng) != before  # a run that ends has drawn
    assert whole.calls > 8
    for at in range(1, whole.calls + 1):
        rng, x0 = np.random.Generator(bits(3)), START.copy()
        with pytest.raises(RuntimeError, match="blown"):
            psgd.minimize(x0=x0, rng=rng, **case(Fuse(at)))
        assert positions(rng) == before
        np.testing.assert_array_equal(x0, START)
    again = psgd.minimize(x0=x0, rng=rng, **case(Fuse(0)))  # as if nothing had been
    np.testing.assert_array_equal(again.x, want.x)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, StopIteration, GeneratorExit])
def test_whatever_is_raised_passes_as_it_is(error):
    for at in (1, 5, 9):
        rng = np.random.default_rng(3)
        before = positions(rng)
        with pytest.raises(error, match="blown"):
            psgd.minimize(x0=START, rng=rng, **noisy(Fuse(at, error)))
        assert positions(rng) == before


def test_a_resumed_run_leaves_what_it_started_from():
    base = {"grad": rosen_der, "hvp": rosen_hess_prod, "tol": 0.0, "source": cv.Exact()}
    half = psgd.minimize(rosen, START, maxiter=6, **base)
    want = psgd.minimize(rosen, START, maxiter=12, **base)
    for at in range(1, 19):
        fuse = Fuse(at)
        with pytest.raises(RuntimeError):
            psgd.minimize(
                fuse(rosen),
                START,
                grad=fuse(rosen_der),
                hvp=fuse(rosen_hess_prod),
                tol=0.0,
                source=cv.Exact(),
                maxiter=12,
                resume=half.progress,
            )
    on = psgd.minimize(rosen, START, maxiter=12, resume=half.progress, **base)
    np.testing.assert_array_equal(on.x, want.x)


def test_through_scipy():
    rng = np.random.default_rng(3)
    before, x0 = positions(rng), START.copy()
    for at in range(1, 10):
        fuse = Fuse(at, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            scipy_minimize(
                fuse(rosen),
                x0,
                jac=fuse(rosen_der),
                hessp=fuse(rosen_hess_prod),
                callback=fuse(lambda xk: None),
                method=psgd_method,
                options={"rng": rng},
            )
        assert positions(rng) == before
        np.testing.assert_array_equal(x0, START)


def test_stopping_by_a_callback_is_an_end_and_keeps_what_was_drawn():
    def stop(intermediate_result):
        if intermediate_result.nit == 3:
            raise StopIteration

    rng = np.random.default_rng(3)
    before = positions(rng)
    assert psgd.minimize(rosen, START, grad=rosen_der, callback=stop, rng=rng).status == 99
    assert positions(rng) != before


@pytest.mark.parametrize("source", [cv.Exact(), cv.Forward(), cv.Secant(), cv.Whitening()], ids=repr)
@pytest.mark.parametrize("p", [psgd.Dense(), psgd.LowRank(1), psgd.XMat()], ids=lambda p: type(p).__name__)
def test_a_step_of_the_loop_of_ones_own(source, p):
    """`PSGD.step` is pure: the state and x it was given are good for another try."""
    opt = psgd.PSGD(p, lr=0.1, source=source, clip=clips.TrustRadius(), momentum=0.5)

    def functions(fuse):
        return cv.Functions(gradient=fuse(rosen_der), value=fuse(rosen), hvp=fuse(rosen_hess_prod))

    tame, v = functions(Fuse(0)), np.array([0.5, -1.0])
    state = opt.init(START, functions=tame, v=v)
    x, state = opt.step(state, START, tame, v)
    whole = Fuse(0)
    want, after = opt.step(state, x, functions(whole), v)
    for at in range(1, whole.calls + 1):
        with pytest.raises(RuntimeError, match="blown"):
            opt.step(state, x, functions(Fuse(at)), v)
    got, again = opt.step(state, x, tame, v)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_equal(again, after)
