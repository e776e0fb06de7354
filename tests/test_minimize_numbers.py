"""Numbers at the doors of the loop: of every kind and library, taken as Python's or refused in a sentence."""

from __future__ import annotations

import fractions
import importlib.util
import math
import re

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

import psgd_core as psgd
from psgd_core import curvature as cv
from psgd_core import schedules as sc
from psgd_core.descent import PSGD, clips

HALVES = {
    "float16": np.float16(0.5),
    "float32": np.float32(0.5),
    "float64": np.float64(0.5),
    "longdouble": np.longdouble(0.5),
    "0-d": np.array(0.5),
    "big-endian": np.array(0.5, dtype=">f4"),
    "fraction": fractions.Fraction(1, 2),
}
TWOS = {
    "int8": np.int8(2),
    "uint64": np.uint64(2),
    "0-d int": np.array(2),
    "big-endian int": np.array(2, dtype=">i4"),
}
NONE = {  # no numbers, or not one
    "text": "0.5",
    "no text": "",
    "bytes": b"1",
    "bool": True,
    "numpy bool": np.True_,
    "complex": 0.5 + 0j,
    "complex 0-d": np.array(0.5 + 0j),
    "one element": np.array([0.5]),
    "one int": np.array([2]),
    "two": np.array([0.5, 0.25]),
    "no element": np.zeros(0),
    "object": np.array(0.5, dtype=object),
    "masked": np.ma.masked,
    "masked 0-d": np.ma.array(0.5, mask=False),
    "matrix": np.matrix(0.5),
    "list": [0.5],
    "dict": {"lr": 0.5},
    "class": float,
    "duration": np.timedelta64(2),
    "thing": object(),
}
if importlib.util.find_spec("torch"):
    import torch

    HALVES |= {
        "torch": torch.tensor(0.5),
        "torch16": torch.tensor(0.5, dtype=torch.bfloat16),
        "torch leaf": torch.tensor(0.5, requires_grad=True),
    }
    TWOS |= {"torch int": torch.tensor(2)}
    NONE |= {
        "torch one": torch.tensor([2]),
        "torch bool": torch.tensor(True),
        "torch meta": torch.tensor(0.5, device="meta"),
    }
if importlib.util.find_spec("jax"):
    import jax.numpy as jnp

    HALVES |= {"jax": jnp.asarray(0.5), "jax16": jnp.asarray(0.5, jnp.bfloat16)}
    TWOS |= {"jax int": jnp.asarray(2)}
    NONE |= {"jax one": jnp.ones(1, int)}

WRONG = [-1.0, math.nan, np.float32(math.nan), np.array(-1), -math.inf, 10**400, np.array(math.inf)]
"""Out of the range of every setting below."""

REALS = {
    "lr": lambda x: PSGD(lr=x).lr,
    "step_size": lambda x: PSGD(step_size=x).step_size,
    "momentum": lambda x: PSGD(momentum=x).momentum,
    "weight_decay": lambda x: PSGD(weight_decay=x).weight_decay,
    "probability": lambda x: PSGD(probability=x).probability,
    "decay": lambda x: clips.AdaptiveNorm(decay=x).decay,
    "shrink": lambda x: clips.TrustRadius(shrink=x).shrink,
    "slack": lambda x: clips.TrustRadius(slack=x).slack,
    "typical": lambda x: cv.Central(typical=x).typical,
    "start": lambda x: sc.Exponential(x, 1.0, over=3).start,
    "end": lambda x: sc.Exponential(1.0, x, over=3).end,
    "tol": lambda x: run(tol=x),
    "step": lambda x: run(step=x),
}
INTS = {
    "every": lambda x: PSGD(every=x).every,
    "k": lambda x: cv.Gaussian(x).k,
    "over": lambda x: sc.Cosine(1.0, over=x).over,
    "at": lambda x: sc.Staged((1.0, 0.5), at=(x,)).at[0],
    "maxiter": lambda x: run(maxiter=x),
    "rng": lambda x: run(rng=x),
    "iteration": lambda x: int(PSGD(every=3).due(x)) + 2,
}


def run(**settings):
    """Return what a short run with a setting gives, comparable by ==."""
    given = {"maxiter": 3, **settings}
    return tuple(psgd.minimize(rosen, [-1.2, 1.0], grad=rosen_der, **given).x)


def refused(name, call):
    """Assert that a call is refused in one short sentence that begins with the argument."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert re.match(rf"`{name}(_size)?` must ", message), message
    assert "got " in message
    assert "\n" not in message
    assert len(message) < 300


def same(got, want):
    assert got == want
    assert type(got) is type(want)


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("name", REALS)
def test_a_half_is_a_half(name, kind):
    same(REALS[name](HALVES[kind]), REALS[name](0.5))


@pytest.mark.parametrize("kind", TWOS)
@pytest.mark.parametrize("name", INTS)
def test_a_two_is_a_two(name, kind):
    same(INTS[name](TWOS[kind]), INTS[name](2))


@pytest.mark.parametrize("kind", NONE)
@pytest.mark.parametrize("name", [*REALS, *INTS])
def test_what_is_no_number_is_refused(name, kind):
    refused(name, lambda: {**REALS, **INTS}[name](NONE[kind]))


@pytest.mark.parametrize("value", [*WRONG, None], ids=lambda x: str(x)[:9])
@pytest.mark.parametrize("name", [*REALS, *INTS])
def test_what_is_out_of_range_is_refused(name, value):
    if value is None and name in ("step", "tol", "maxiter"):
        pytest.skip("None takes the default")
    if name in INTS and isinstance(value, int) and value > 0:
        pytest.skip("as good an int as any")
    refused(name, lambda: {**REALS, **INTS}[name](value))


@pytest.mark.parametrize("value", [0.5, 2.0, np.float64(3.0)])
@pytest.mark.parametrize("name", INTS)
def test_a_float_is_no_count(name, value):
    refused(name, lambda: INTS[name](value))


@pytest.mark.parametrize("kind", HALVES)
def test_no_setting_decides_the_dtype(kind):
    """In float32, with every number in another dtype; also where a schedule returns it."""
    x = np.ones(3, np.float32)
    half = HALVES[kind]
    settings = {"lr": half, "momentum": half, "weight_decay": half, "step_size": half, "clip": half}
    want, _ = taken(PSGD(psgd.Diagonal(), **dict.fromkeys(settings, 0.5)), x)
    for given in (settings, {**settings, "lr": lambda t: half, "step_size": lambda t: half}):
        if type(half).__module__.split(".")[0] in ("torch", "jaxlib") and callable(given["lr"]):
            continue  # a schedule's arrays are of the library of x
        got, state = taken(PSGD(psgd.Diagonal(), **given), x)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == state.momentum.dtype == state.preconditioner.q.blocks[0].dtype == np.float32


def taken(opt, x):
    state = opt.init(x)
    for t in range(3):
        x, state = opt.update(state, x, 3 * x, pair=(x, (t + 2) * x), value=1.0)
    return x, state


@pytest.mark.parametrize("returned", [None, "fast", math.nan, np.ones(2), [0.5], -1.0, 0.5j, np.ma.masked])
@pytest.mark.parametrize("name", ["lr", "step", "probability"])
def test_what_a_schedule_must_not_return(name, returned):
    with pytest.raises((TypeError, ValueError), match=f"a schedule must return a number|`{name}"):
        run(**{name: lambda t: returned})


def test_a_step_schedule_may_end_at_zero_where_the_run_ends():
    assert len(run(step=sc.Cosine(0.9, over=3), lr=sc.Cosine(1.0, over=3), maxiter=3)) == 2


@pytest.mark.parametrize(
    "rng", [None, "0", 1.0, -1, [0], np.array([1]), np.random.RandomState(0), np.random, np.random.PCG64(0)]
)
def test_what_is_no_seed(rng):
    refused("rng", lambda: run(rng=rng))


# -- arrays ----------------------------------------------------------------------------------------------

REFUSED = {
    "masked": np.ma.array([-1.2, 1.0], mask=[False, True]),
    "nothing masked": np.ma.array([-1.2, 1.0]),
    "object": np.array([-1.2, 1.0], dtype=object),
    "complex": np.array([-1.2, 1.0 + 0j]),
    "text": np.array(["-1.2", "1.0"]),
    "dates": np.array(["2020-01-01", "2020-01-02"], dtype="M8[D]"),
    "fields": np.zeros(2, dtype=[("a", float)]),
    "none": None,
    "word": "here",
    "generator": (x for x in (-1.2, 1.0)),
    "ragged": [[1.0, 2.0], [3.0]],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_x0_and_gradients_must_not_be(kind):
    refused("x0", lambda: psgd.minimize(rosen, REFUSED[kind], grad=rosen_der))
    refuse_returned("grad", lambda: psgd.minimize(rosen, [-1.2, 1.0], grad=lambda x: REFUSED[kind]))
    refuse_returned(
        "hvp", lambda: psgd.minimize(rosen, [-1.2, 1.0], grad=rosen_der, hvp=lambda x, v: REFUSED[kind])
    )
    if kind not in ("none", "word", "generator", "ragged"):
        refused("x", lambda: PSGD().init(REFUSED[kind]))
        state = PSGD().init(np.ones(2))
        refused("g", lambda: PSGD().update(state, np.ones(2), REFUSED[kind]))
        functions = cv.Functions(gradient=lambda x: REFUSED[kind])
        refuse_returned("gradient", lambda: functions.gradient_at(np.ones(2)))


def refuse_returned(name, call):
    with pytest.raises((TypeError, ValueError), match=rf"^`{name}` must ") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", [np.matrix([[-1.2, 1.0]]), np.matrix([[-1.2], [1.0]])])
def test_matrices_are_refused(kind):
    """Their ``x * x`` is another product than that of the arrays in their place."""
    refused("x0", lambda: psgd.minimize(np.sum, kind, grad=lambda x: x))
    refuse_returned("hessian", lambda: run(hess=np.matrix(np.eye(2))))


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", "g", "i2", ">i8", "u1", "?"])
def test_gradients_and_products_of_other_dtypes_are_taken(dtype):
    """NumPy's real numbers are cast to the dtype of x, as SciPy's methods do."""
    c = np.array([1, 3]).astype(dtype)

    def solve(cast, x0):
        return psgd.minimize(
            lambda x: np.float64(x @ x), x0, grad=lambda x: cast(2 * x), hvp=lambda x, v: cast(2 * v)
        )

    if dtype in ("f2", ">f4", ">f8", "g"):
        got = solve(lambda y: y.astype(dtype), np.array([3.0, -4.0]))
        np.testing.assert_allclose(got.x, 0, atol=1e-2)
        assert got.x.dtype == got.jac.dtype == np.float64
    flat = psgd.minimize(lambda x: np.float64(c @ x), [1.0, 1.0], grad=lambda x: c, maxiter=0)
    np.testing.assert_array_equal(flat.jac, c.astype(float))


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", "g"])
def test_floats_that_x0_must_not_hold(dtype):
    refused("x0", lambda: psgd.minimize(rosen, np.array([-1.2, 1.0], dtype=dtype), grad=rosen_der))


@pytest.mark.parametrize(
    "x0",
    [(-1, 1), [np.float64(-1), 1], [np.int8(-1), np.float32(1)], np.array([-1, 1], ">i4"), [True, False]],
)
def test_numbers_that_x0_may_hold(x0):
    got = psgd.minimize(rosen, x0, grad=rosen_der, maxiter=5)
    want = psgd.minimize(rosen, np.array([float(x) for x in x0]), grad=rosen_der, maxiter=5)
    np.testing.assert_array_equal(got.x, want.x)
    assert isinstance(got.x, np.ndarray)


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (3,), (), (2, 2), (0,)])
def test_shapes_that_are_not_those_of_x(shape):
    """Some of these broadcast, and a difference of gradients of shape (n, 1) and (n,) is a matrix."""
    wrong = np.ones(shape)
    for given in (
        {"grad": lambda x: wrong},
        {"grad": rosen_der, "hvp": lambda x, v: wrong},
        {"grad": rosen_der, "hess": lambda x: np.ones((2, *shape))}
        if shape != (2,)
        else {"grad": lambda x: wrong},
    ):
        with pytest.raises((TypeError, ValueError), match=r"^`(grad|hvp|hess|hessian)` must "):
            psgd.minimize(rosen, [-1.2, 1.0], **given)
    functions = cv.Functions(gradient=lambda x: wrong, hvp=lambda x, v: wrong)
    x = np.ones(2)
    for source in (cv.Exact(), cv.Forward(), cv.Central()):
        with pytest.raises(ValueError, match=r"^`(gradient|hvp)` must return shape \(2,\)"):
            source.pairs(functions, x, x, x)


@pytest.mark.parametrize(
    "returned", [None, "3", 1j, np.ones(2), np.ones(0), [1.0], (1.0, np.ones(2)), np.ma.masked, object()]
)
def test_what_a_value_must_not_be(returned):
    refuse_returned("fun", lambda: psgd.minimize(lambda x: returned, [-1.2, 1.0], grad=rosen_der))
    pair = isinstance(returned, tuple)
    for both in ((*returned, 0) if pair else returned, (returned, np.ones(2))):
        refuse_returned("fun", lambda both=both: psgd.minimize(lambda x: both, [-1.2, 1.0], jac=True))
