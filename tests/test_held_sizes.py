"""What a normaliser holds goes with the scale of Q: the automatic one, another unit, Kronecker's shifts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from registry import GROUPS, arrays, draw_pairs

import psgd_core as psgd
from psgd_core.preconditioners.geometries import GEOMETRIES

OF_P = [name for name, geometry in GEOMETRIES.items() if geometry.fits_p]

Q_BEFORE = dict.fromkeys(GEOMETRIES, 1) | {"EQ": 0, "QE": 0, "QE-symmetric": 0, "QEP": 2}
"""How often Q stands before a and b in the columns that E is made of, from the table of `geometries`.

EQ has a = Q h and b = Q^{-T} v (QE the geometric mean of Q^T a and Q^{-1} a), QEP has Q P h and Q v,
and all others P h and v. With h for h / c^2, Q goes with c, a and b with 1 / c, and E's size with
c^(this - 1). In a Kronecker product of d factors each factor takes its share of c, c^(1/d).
"""


def kinds(geometry):
    made = {
        "Diagonal": psgd.Diagonal(geometry=geometry, damping=0),
        "XMat, n = 6": psgd.XMat(geometry=geometry, damping=0),
        "three orbit sizes": psgd.Sparse(GROUPS["three orbit sizes"], geometry=geometry, damping=0),
        "one step": psgd.Sparse(GROUPS["three orbit sizes"], geometry=geometry, steps="group", damping=0),
        "Dense": psgd.Dense(geometry=geometry, damping=0),
    }
    if geometry not in OF_P:
        made["Kronecker"] = psgd.Kronecker((2, 3), "dense", geometry=geometry, damping=0)
        made["mixed"] = psgd.Kronecker((3, 2), ("dense", "diagonal"), geometry=geometry, damping=0)
    return made.items()


CASES = [
    pytest.param(p, geometry, id=f"{geometry}-{name}")
    for geometry in GEOMETRIES
    for name, p in kinds(geometry)
]
every_geometry = pytest.mark.parametrize(("p", "geometry"), CASES)


def pairs(count, seed, unit=1.0):
    return [(v, unit * h) for v, h in zip(*draw_pairs(6, count, seed), strict=True)]


def run(p, state, pairs, step=0.2):
    for v, h in pairs:
        state = p.update(state, v, h, step)
    return state


def assert_states_are_near(one, two, rounding=1e-12):
    for x, y in zip(arrays(one), arrays(two), strict=True):
        largest = np.max(np.abs(y), initial=0)
        np.testing.assert_allclose(x, y, rtol=0, atol=rounding * largest)


@every_geometry
def test_the_automatic_scale_is_as_if_it_had_been_given(p, geometry):
    """From ``c I`` with the best c, ``c^2 = |v| / |h|``: factors and what is held are the same ever after."""
    drawn = pairs(6, 7, unit=300.0)
    v, h = drawn[0]
    scale = math.sqrt(np.linalg.norm(v) / np.linalg.norm(h))
    found, given = p.init(6, v), p.init(6, v, scale=scale)
    for pair in drawn:
        found, given = p.update(found, *pair, 0.2), p.update(given, *pair, 0.2)
        assert_states_are_near(found, given, 1e-11)


@every_geometry
@pytest.mark.parametrize("exponent", [-5, 3])
def test_in_another_unit_what_is_held_has_its_own_power_of_the_scale(p, geometry, exponent):
    c = 2.0**exponent
    one = run(p, p.init(6, np.zeros(1)), pairs(6, 8))
    two = run(p, p.init(6, np.zeros(1)), pairs(6, 8, unit=c**-2))
    p_one = p.matrix(one)
    np.testing.assert_allclose(p.matrix(two) / c**2, p_one, rtol=0, atol=1e-11 * abs(p_one).max())
    shares = [c] * len(one.held)
    if isinstance(p, psgd.Kronecker):  # each factor has a share of its own
        shares = [abs(q).max() / abs(r).max() for q, r in zip(two.factors, one.factors, strict=True)]
        assert math.prod(shares) == pytest.approx(c, rel=1e-11)
    for x, y, share in zip(two.held, one.held, shares, strict=True):
        np.testing.assert_allclose(x, share ** Q_BEFORE[geometry] / c * y, rtol=1e-11)


@pytest.mark.parametrize("geometry", [name for name in GEOMETRIES if name not in OF_P])
@pytest.mark.parametrize(
    ("shape", "factors"),
    [((2, 3), "dense"), ((3, 2), ("dense", "diagonal")), ((2, 3, 2), ("diagonal", "dense", "dense"))],
)
@pytest.mark.parametrize("scale", [None, 0.03, 50.0])
def test_how_a_scale_is_shared_among_factors_changes_nothing(geometry, shape, factors, scale):
    """(c Q_1) ⊗ (Q_2 / c) is Q_1 ⊗ Q_2: what is held for a factor follows when the factors are evened out."""
    p, n = psgd.Kronecker(shape, factors, geometry=geometry, damping=0), math.prod(shape)
    drawn = list(zip(*draw_pairs(n, 12, 9), strict=True))
    even = p.init(n, np.zeros(1), scale=scale)
    shares = [8.0, 0.125, *[1.0] * (len(shape) - 2)]
    uneven = even._replace(factors=tuple(c * q for c, q in zip(shares, even.factors, strict=True)))
    for t, (v, h) in enumerate(drawn):
        even, uneven = p.update(even, v, h, 0.2), p.update(uneven, v, h, 0.2)
        assert_states_are_near(uneven, even, 1e-10)
        if t == 5:  # and once more, with something held: x of a factor goes with its scale, or against it
            power = Q_BEFORE[geometry]
            uneven = even._replace(
                factors=tuple(c * q for c, q in zip(shares, even.factors, strict=True)),
                held=tuple(c**power * x for c, x in zip(shares, even.held, strict=True)),
            )
