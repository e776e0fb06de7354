"""How often `minimize` asks a device for a value, counted by CuPy's stand-in, which lets no verb ask."""

from __future__ import annotations

import itertools

import cupy_names
import cupy_standin
import numpy as np
import pytest
from cupy_standin import Looks

import psgd_core as psgd
from psgd_core.descent import clips

pytestmark = pytest.mark.skipif(cupy_names.missing() is not None, reason=cupy_names.missing() or "")

LOOKS = 2
"""Of an iteration: what there is to know of the point, and whether x has moved."""


@pytest.fixture
def xp():
    """The stand-in's namespace."""
    with cupy_standin.with_unseen_verbs():
        import array_api_compat.cupy

        yield array_api_compat.cupy


def rosenbrock(xp):
    """The function, its gradient and products, without a look."""

    def value(x):
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    def gradient(x):
        rest = x[1] - x[0] ** 2
        return xp.stack([-400 * x[0] * rest - 2 * (1 - x[0]), 200 * rest])

    def product(x, v):
        first = 1200 * x[0] ** 2 - 400 * x[1] + 2
        return xp.stack([first * v[0] - 400 * x[0] * v[1], -400 * x[0] * v[0] + 200 * v[1]])

    return value, gradient, product


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preconditioner": psgd.LowRank(1)},
        {"clip": clips.TrustRadius()},
        {"clip": clips.Norm(0.1)},
    ],
    ids=["as it comes", "LowRank", "steps are taken back", "shortened"],
)
def test_an_iteration_asks_for_values_twice(xp, options):
    value, gradient, product = rosenbrock(xp)
    looks = []
    result = psgd.minimize(
        value,
        xp.asarray(np.array([-1.0, 1.0])),
        jac=gradient,
        hvp=product,
        maxiter=12,
        callback=lambda x: looks.append(Looks.count),
        **options,
    )
    assert result.nit == 12
    assert {after - before for before, after in itertools.pairwise(looks)} == {LOOKS}


def test_the_stand_in_refuses_to_mix_and_to_be_looked_at(xp):
    x = xp.asarray(np.ones(3))
    for mix in (
        lambda: x + np.ones(3),
        lambda: np.ones(3) * x,
        lambda: xp.sum(np.ones(3)),
        lambda: np.asarray(x),
    ):
        with pytest.raises(TypeError):
            mix()
    with pytest.raises(TypeError):
        xp.sum(x, over=0)
    with pytest.raises(AttributeError):
        x.sum_of_squares
    peeks = (float, bool, int, repr, lambda y: y.get(), lambda y: x[y > 0], lambda y: [0, 1, 2][y])
    for peek in peeks:
        before = Looks.count
        peek(xp.asarray(1))
        assert Looks.count == before + 1
        with cupy_standin.unseen(), pytest.raises(AssertionError, match="waits for the device"):
            peek(xp.asarray(1))


def test_an_update_that_looks_is_found(xp):
    class Peeking(psgd.Diagonal):
        def update(self, state, v, h, *args, **kwargs):
            assert float(xp.max(h)) < 10
            return super().update(state, v, h, *args, **kwargs)

    x = xp.asarray(np.ones(3))
    p = psgd.Diagonal()
    state = p.update(p.init(3, like=x), x, x, 0.1)
    with cupy_standin.with_unseen_verbs(), pytest.raises(AssertionError, match="waits for the device"):
        Peeking().update(state, x, x, 0.1)
