"""Functions that write into what they get, or hand out one buffer each time: the run is that of tame ones."""

from __future__ import annotations

import array_api_compat
import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der, rosen_hess, rosen_hess_prod
from scipy.sparse.linalg import LinearOperator

import psgd_core as psgd
from psgd_core import curvature as cv
from psgd_core.adapters.scipy import psgd_method
from psgd_core.descent import clips

START = [-1.2, 1.0]


class Rude:
    """Rosenbrock's function; all of it writes into its arguments and returns buffers of its own, reused."""

    def __init__(self):
        self.g, self.h, self.f = np.empty(2), np.empty(2), np.empty(())
        self.hessian, self.two = np.empty((2, 2)), [None, None]

    def value(self, x):
        self.f[...] = rosen(x)
        x[:] = np.nan
        return self.f

    def gradient(self, x):
        self.g[:] = rosen_der(x)
        x *= 3
        return self.g

    def both(self, x):
        self.two[:] = self.f, self.g
        self.f[...], self.g[:] = rosen(x), rosen_der(x)
        x.fill(7.0)
        return self.two

    def hvp(self, x, v):
        self.h[:] = rosen_hess_prod(x, v)
        x -= 1
        v[:] = np.inf
        return self.h

    def hvp_in_v(self, x, v):
        v[:] = rosen_hess_prod(x, v)
        x[:] = v
        return v

    def hess(self, x):
        self.hessian[:] = rosen_hess(x)
        x[:] = 0
        return self.hessian

    def operator(self, x):
        here = rosen_hess(x)
        x[:] = 0

        def times(v):
            self.h[:] = here @ v.ravel()
            v[:] = 0
            return self.h

        return LinearOperator((2, 2), matvec=times, dtype=float)


def callback(x):
    x[:] = 100


def modern(intermediate_result):
    r = intermediate_result
    r.x[:], r.jac[:] = -5, np.nan
    r.progress.x[:] = 1e9
    r.progress.state.preconditioner.q.blocks[0][:] = 0
    r.progress.state.clip.best.x[:], r.progress.best.g[:] = np.nan, 0
    for column in r.history.values():
        column[:] = 0


def assert_same(one, other):
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.jac, other.jac)
    for name, column in other.history.items():
        np.testing.assert_array_equal(one.history[name], column)
    assert (one.status, one.message) == (other.status, other.message)


@pytest.mark.parametrize("on", ["value", "gradient", "both", "hvp", "hvp_in_v", "hess", "operator", "none"])
@pytest.mark.parametrize("called", [None, callback, modern])
def test_the_run_is_that_of_tame_functions(on, called):
    rude = Rude()
    fun, tame_fun, tame = (rude.value if on == "value" else rosen), rosen, {"grad": rosen_der}
    given = {"grad": rude.gradient} if on == "gradient" else {"grad": rosen_der}
    if on == "both":
        fun, given = rude.both, {"jac": True}
        tame_fun, tame = (lambda x: (rosen(x), rosen_der(x))), {"jac": True}
    elif on in ("hvp", "hvp_in_v"):
        given["hvp"], tame["hvp"] = getattr(rude, on), rosen_hess_prod
    elif on in ("hess", "operator"):
        given["hess"], tame["hess"] = getattr(rude, on), rosen_hess
    x0 = np.array(START)
    got = psgd.minimize(fun, x0, callback=called, maxiter=25, **given)
    assert_same(got, psgd.minimize(tame_fun, START, maxiter=25, **tame))
    np.testing.assert_array_equal(x0, START)


@pytest.mark.parametrize("source", [cv.Forward(), cv.Central(), cv.Secant(), cv.Secant(reuse=True)])
@pytest.mark.parametrize("settings", [{}, {"probes": cv.Gaussian(3)}, {"clip": 1.0, "momentum": 0.5}])
def test_differences_of_gradients_in_one_buffer(source, settings):
    if isinstance(source, cv.Secant):
        settings = {**settings, "probes": cv.Gaussian()}
    run = {"source": source, "maxiter": 25, **settings}
    got = psgd.minimize(rosen, START, grad=Rude().gradient, **run)
    assert_same(got, psgd.minimize(rosen, START, grad=rosen_der, **run))


def test_through_scipy():
    rude = Rude()
    for given in (
        {"fun": rude.value, "jac": rude.gradient, "hessp": rude.hvp},
        {"fun": rude.both, "jac": True, "hess": rude.hess},
        {"fun": rude.value, "jac": rude.gradient, "hess": "3-point", "callback": callback},
    ):
        result = scipy_minimize(given.pop("fun"), START, method=psgd_method, tol=1e-9, **given)
        assert result.success, result.message
        np.testing.assert_allclose(result.x, 1.0, atol=1e-7)


def test_trees():
    buffer = {"w": np.empty((2, 2)), "b": np.empty(())}

    def fill(w, b):
        buffer["w"][:], buffer["b"][...] = w, b
        return buffer

    def value(x):
        f = np.sum((x["w"] - 3) ** 4) + (x["b"] + 1) ** 2
        x["w"][:], x["b"] = 0, None
        return f

    def gradient(x):
        found = fill(4 * (x["w"] - 3) ** 3, 2 * (x["b"] + 1))
        x["w"] *= 0
        x.clear()
        return found

    def hvp(x, v):
        found = fill(12 * (x["w"] - 3) ** 2 * v["w"], 2 * v["b"])
        v["w"][:] = x["w"][:] = 5
        return found

    start = {"w": np.arange(4.0).reshape(2, 2), "b": np.array(2.0)}
    for given in ({"hvp": hvp}, {"source": cv.Central()}):
        result = psgd.minimize(value, start, grad=gradient, callback=lambda x: x.clear(), tol=1e-6, **given)
        assert result.success, result.message
        np.testing.assert_allclose(result.x["b"], -1, atol=1e-6)
        np.testing.assert_allclose(result.x["w"], 3, atol=2e-2)
        np.testing.assert_array_equal(start["w"], np.arange(4.0).reshape(2, 2))


def writable(backend):
    if backend.library == "jax.numpy":
        pytest.skip("nobody can write into these arrays")


def test_on_every_library_that_can_write(backend):
    writable(backend)
    xp, d = backend.xp, backend.asarray(np.array([1.0, 3.0, 9.0]))
    buffer = xp.zeros_like(d)

    def value(x):
        x -= 1
        return xp.sum(d * x * x) / 2

    def gradient(x):
        buffer[...] = d * (x - 1)
        x[...] = 0
        return buffer

    def hvp(x, v):
        x[...] = 0
        v *= d
        return v

    run = {"maxiter": 12, "tol": 0.0}
    start = backend.asarray(np.array([3.0, -2.0, 5.0]))
    tame = {"grad": lambda x: d * (x - 1), "hvp": lambda x, v: d * v}

    def same(**changed):
        got = psgd.minimize(value, start, **{**tame, **changed}, **run)
        want = psgd.minimize(lambda x: xp.sum(d * (x - 1) * (x - 1)) / 2, start, **tame, **run)
        np.testing.assert_array_equal(backend.numpy(got.x), backend.numpy(want.x))

    same()
    same(grad=gradient)
    same(hvp=hvp)
    same(callback=lambda x: x.__imul__(0))


def test_the_loop_of_ones_own(backend):
    """`PSGD.step` and `update`: neither x, nor g, nor what comes back is held where a caller writes."""
    writable(backend)
    d = backend.asarray(np.array([1.0, 3.0, 9.0]))
    buffer = d * 0

    def gradient(x):
        buffer[...] = d * x
        x[...] = 0
        return buffer

    def hvp(x, v):
        x[...] = 0
        v *= d
        return v

    tame = cv.Functions(gradient=lambda x: d * x, value=lambda x: d @ (x * x) / 2, hvp=lambda x, v: d * v)
    rude = cv.Functions(gradient=gradient, value=tame.value, hvp=hvp)
    start = np.array([3.0, -2.0, 5.0])
    for source in (cv.Exact(), cv.Forward(), cv.Secant(reuse=True), cv.Whitening()):
        for clip in (clips.TrustRadius(), clips.AdaptiveNorm(), None):
            opt = psgd.PSGD(psgd.Dense(), lr=0.4, step_size=0.5, momentum=0.5, clip=clip, source=source)
            ends = []
            for functions in (tame, rude):
                x, v = backend.asarray(start), backend.asarray(np.ones(3))
                state = opt.init(x, functions=functions, v=v)
                for t in range(6):
                    new, state = opt.step(state, x, functions, backend.asarray(np.arange(3.0) - t))
                    if functions is rude:
                        x[...] = -1e3  # the caller's own, and free again
                    x = new
                ends.append(backend.numpy(x))
            np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_step_not_taken_hands_out_nothing_that_is_held(library):
    xp = pytest.importorskip(library)
    array_api_compat.array_namespace(xp.ones(1))
    opt = psgd.PSGD(psgd.Diagonal(), clip=clips.TrustRadius())
    x = xp.ones(2)
    state = opt.init(x)
    x, state = opt.update(state, x, 0 * x, value=1.0)
    new, state = opt.update(state, x, x * float("nan"), value=float("nan"))  # taken back
    held = state.clip.best.x
    assert new is not held
    new *= 0
    assert xp.all(held == 1)
    start = xp.ones(2)
    same, _ = psgd.PSGD(psgd.Diagonal()).update(psgd.PSGD(psgd.Diagonal()).init(x), start, x * float("inf"))
    same *= 0
    assert xp.all(start == 1)


def test_results_can_be_written_to_before_going_on():
    run = {"grad": rosen_der, "hvp": rosen_hess_prod, "tol": 0.0}
    half = psgd.minimize(rosen, START, maxiter=10, **run)
    half.x[:], half.jac[:] = np.nan, np.nan
    on = psgd.minimize(rosen, START, maxiter=20, resume=half.progress, **run)
    np.testing.assert_array_equal(on.x, psgd.minimize(rosen, START, maxiter=20, **run).x)


def test_read_only_arrays_are_taken():
    x0, g, h = np.array(START), np.empty(2), rosen_hess([1.0, 1.0])
    for array in (x0, h):
        array.flags.writeable = False

    def gradient(x):
        g.flags.writeable = True
        g[:] = h @ (x - 1)
        g.flags.writeable = False
        return g

    result = psgd.minimize(lambda x: (x - 1) @ h @ (x - 1) / 2, x0, grad=gradient, hess=h)
    assert result.success
    np.testing.assert_allclose(result.x, 1.0, atol=1e-6)
    result.x[:] = 0


def test_tensors_in_a_graph_leave_none_behind():
    """The usual PyTorch idiom: x becomes a leaf, value and gradient hang on its graph."""
    torch = pytest.importorskip("torch")

    def both(x):
        x.requires_grad_()
        f = ((x - 1) ** 2 * torch.tensor([1.0, 5.0])).sum()
        (g,) = torch.autograd.grad(f, x, create_graph=True)
        return f, g

    start = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
    result = psgd.minimize(both, start, jac=True)
    assert result.success
    assert not result.x.requires_grad
    assert not result.progress.state.clip.best.value.requires_grad
    assert start.grad is None
    np.testing.assert_allclose(result.x.numpy(), 1.0, atol=1e-3)
