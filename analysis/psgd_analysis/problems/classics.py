"""Classic test functions with residuals of a few variables.

From J. J. Moré, B. S. Garbow, K. E. Hillstrom, "Testing Unconstrained Optimization Software", ACM
Transactions on Mathematical Software 7(1), 1981, pp. 17-41, with its letters, standard starting points and
minima (numbers in brackets are its own). Every function is ``f(x) = Σ f_i(x)^2``, without a factor 1/2. A
function of p variables can be had for any multiple of p: as independent copies, "extended".

Rosenbrock's function (1), (21) is in `valleys`, those that couple all variables are in `coupled`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from ..arrays import Array, put
from ..checks import require_choice, require_count
from .least_squares import Blocks, LeastSquares, Residual

TAU = 2.0 * math.pi


def _freudenstein_roth(x1: Array, x2: Array) -> list[Residual]:
    return [
        Residual(-13.0 + x1 + ((5.0 - x2) * x2 - 2.0) * x2, {0: 1.0, 1: (10.0 - 3.0 * x2) * x2 - 2.0},
                 {(1, 1): 10.0 - 6.0 * x2}),
        Residual(-29.0 + x1 + ((x2 + 1.0) * x2 - 14.0) * x2, {0: 1.0, 1: (3.0 * x2 + 2.0) * x2 - 14.0},
                 {(1, 1): 6.0 * x2 + 2.0}),
    ]  # fmt: skip


def _powell_badly_scaled(x1: Array, x2: Array) -> list[Residual]:
    xp = array_api_compat.array_namespace(x1)
    e1, e2 = xp.exp(-x1), xp.exp(-x2)
    return [
        Residual(1e4 * x1 * x2 - 1.0, {0: 1e4 * x2, 1: 1e4 * x1}, {(0, 1): 1e4}),
        Residual(e1 + e2 - 1.0001, {0: -e1, 1: -e2}, {(0, 0): e1, (1, 1): e2}),
    ]


def _brown_badly_scaled(x1: Array, x2: Array) -> list[Residual]:
    return [
        Residual(x1 - 1e6, {0: 1.0}),
        Residual(x2 - 2e-6, {1: 1.0}),
        Residual(x1 * x2 - 2.0, {0: x2, 1: x1}, {(0, 1): 1.0}),
    ]


def _beale(x1: Array, x2: Array) -> list[Residual]:
    families = []
    for i, y in enumerate((1.5, 2.25, 2.625), start=1):
        power, slope = x2**i, i * x2 ** (i - 1)
        second = {(0, 1): slope}
        if i > 1:
            second[(1, 1)] = i * (i - 1) * x1 * x2 ** (i - 2)
        families.append(Residual(y - x1 * (1.0 - power), {0: power - 1.0, 1: x1 * slope}, second))
    return families


def _helical_valley(x1: Array, x2: Array, x3: Array) -> list[Residual]:
    xp = array_api_compat.array_namespace(x1)
    square = x1 * x1 + x2 * x2
    radius = xp.sqrt(square)
    angle = xp.atan2(x2, x1) / TAU
    angle = xp.where((x1 < 0) & (x2 < 0), angle + 1.0, angle)  # the paper's branch: jumps at x1 = 0 > x2
    bend = 2.0 * x1 * x2 / (TAU * square * square)
    mixed = (x2 * x2 - x1 * x1) / (TAU * square * square)
    cube = radius * square
    return [
        Residual(
            10.0 * (x3 - 10.0 * angle),
            {0: 100.0 * x2 / (TAU * square), 1: -100.0 * x1 / (TAU * square), 2: 10.0},
            {(0, 0): -100.0 * bend, (0, 1): -100.0 * mixed, (1, 1): 100.0 * bend},
        ),
        Residual(
            10.0 * (radius - 1.0),
            {0: 10.0 * x1 / radius, 1: 10.0 * x2 / radius},
            {(0, 0): 10.0 * x2 * x2 / cube, (0, 1): -10.0 * x1 * x2 / cube, (1, 1): 10.0 * x1 * x1 / cube},
        ),
        Residual(x3, {2: 1.0}),
    ]


def _box_3d(x1: Array, x2: Array, x3: Array) -> list[Residual]:
    xp, t = _data(x1, 10, 0.1)
    e1, e2, w = xp.exp(-t * x1), xp.exp(-t * x2), xp.exp(-t) - xp.exp(-10.0 * t)
    return [
        Residual(e1 - e2 - x3 * w, {0: -t * e1, 1: t * e2, 2: -w}, {(0, 0): t * t * e1, (1, 1): -t * t * e2})
    ]


def _powell_singular(x1: Array, x2: Array, x3: Array, x4: Array) -> list[Residual]:
    a, b = x2 - 2.0 * x3, x1 - x4
    root5, root10 = math.sqrt(5.0), math.sqrt(10.0)
    return [
        Residual(x1 + 10.0 * x2, {0: 1.0, 1: 10.0}),
        Residual(root5 * (x3 - x4), {2: root5, 3: -root5}),
        Residual(a * a, {1: 2.0 * a, 2: -4.0 * a}, {(1, 1): 2.0, (1, 2): -4.0, (2, 2): 8.0}),
        Residual(
            root10 * b * b,
            {0: 2.0 * root10 * b, 3: -2.0 * root10 * b},
            {(0, 0): 2.0 * root10, (0, 3): -2.0 * root10, (3, 3): 2.0 * root10},
        ),
    ]


def _wood(x1: Array, x2: Array, x3: Array, x4: Array) -> list[Residual]:
    root90, root10 = math.sqrt(90.0), math.sqrt(10.0)
    return [
        Residual(10.0 * (x2 - x1 * x1), {0: -20.0 * x1, 1: 10.0}, {(0, 0): -20.0}),
        Residual(1.0 - x1, {0: -1.0}),
        Residual(root90 * (x4 - x3 * x3), {2: -2.0 * root90 * x3, 3: root90}, {(2, 2): -2.0 * root90}),
        Residual(1.0 - x3, {2: -1.0}),
        Residual(root10 * (x2 + x4 - 2.0), {1: root10, 3: root10}),
        Residual((x2 - x4) / root10, {1: 1.0 / root10, 3: -1.0 / root10}),
    ]


def _brown_dennis(x1: Array, x2: Array, x3: Array, x4: Array) -> list[Residual]:
    xp, t = _data(x1, 20, 0.2)
    s = xp.sin(t)
    a, b = x1 + t * x2 - xp.exp(t), x3 + x4 * s - xp.cos(t)
    return [
        Residual(
            a * a + b * b,
            {0: 2.0 * a, 1: 2.0 * t * a, 2: 2.0 * b, 3: 2.0 * s * b},
            {
                (0, 0): 2.0,
                (0, 1): 2.0 * t,
                (1, 1): 2.0 * t * t,
                (2, 2): 2.0,
                (2, 3): 2.0 * s,
                (3, 3): 2.0 * s * s,
            },
        )
    ]


def _biggs_exp6(*x: Array) -> list[Residual]:
    x1, x2, x3, x4, x5, x6 = x
    xp, t = _data(x1, 13, 0.1)
    y = xp.exp(-t) - 5.0 * xp.exp(-10.0 * t) + 3.0 * xp.exp(-4.0 * t)
    e1, e2, e5 = xp.exp(-t * x1), xp.exp(-t * x2), xp.exp(-t * x5)
    return [
        Residual(
            x3 * e1 - x4 * e2 + x6 * e5 - y,
            {0: -t * x3 * e1, 1: t * x4 * e2, 2: e1, 3: -e2, 4: -t * x6 * e5, 5: e5},
            {(0, 0): t * t * x3 * e1, (0, 2): -t * e1, (1, 1): -t * t * x4 * e2,
             (1, 3): t * e2, (4, 4): t * t * x6 * e5, (4, 5): -t * e5},
        )
    ]  # fmt: skip


class Standard(NamedTuple):
    """A row of the table: a function of p variables, its starting point, a minimiser and the minimum."""

    description: str
    residuals: Callable[..., list[Residual]]
    start: tuple[float, ...]
    solution: tuple[float, ...]
    minimum: float = 0.0


TABLE = {
    "freudenstein_roth": Standard(
        "Freudenstein and Roth (2): a local minimum 48.98 at (11.41, -0.8968) beside the global one",
        _freudenstein_roth, (0.5, -2.0), (5.0, 4.0)),
    "powell_badly_scaled": Standard(
        "Powell badly scaled (3): variables a million apart in size",
        _powell_badly_scaled, (0.0, 1.0), (1.0981593296998175e-05, 9.106146739866524)),
    "brown_badly_scaled": Standard(
        "Brown badly scaled (4): variables 1e12 apart in size",
        _brown_badly_scaled, (1.0, 1.0), (1e6, 2e-6)),
    "beale": Standard(
        "Beale (5): a curved valley of varying width",
        _beale, (1.0, 1.0), (3.0, 0.5)),
    "helical_valley": Standard(
        "Helical valley (7): a valley that winds round the third axis",
        _helical_valley, (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0)),
    "box_3d": Standard(
        "Box three-dimensional (12): exponential fit with a line of further minima x1 = x2, x3 = 0",
        _box_3d, (0.0, 10.0, 20.0), (1.0, 10.0, 1.0)),
    "powell_singular": Standard(
        "Powell singular (13), extended (22): the Hessian is singular at the minimum",
        _powell_singular, (3.0, -1.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0)),
    "wood": Standard(
        "Wood (14): two coupled Rosenbrock valleys, and a saddle (f = 7.88) on the way",
        _wood, (-3.0, -1.0, -3.0, -1.0), (1.0, 1.0, 1.0, 1.0)),
    "brown_dennis": Standard(
        "Brown and Dennis (16): large residuals, minimum 85822.2",
        _brown_dennis, (25.0, 5.0, -5.0, -1.0),
        (-11.594439904762165, 13.203630051207204, -0.40343948817685954, 0.2367787744557363),
        85822.20162635635),
    "biggs_exp6": Standard(
        "Biggs EXP6 (18): sum of exponentials, nearly flat directions",
        _biggs_exp6, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), (1.0, 10.0, 1.0, 5.0, 4.0, 3.0)),
}  # fmt: skip
"""The functions that `more_garbow_hillstrom` makes, by name."""


def more_garbow_hillstrom(name: str, n: int | None = None, *, like: Array | None = None) -> LeastSquares:
    """Return a function of `TABLE`, as n/p independent copies if n is above its p variables.

    Raises
    ------
    ValueError
        For a name that is not in `TABLE`, or an n that is not a multiple of p.
    """
    require_choice("name", name, TABLE)
    standard = TABLE[name]
    p = len(standard.start)
    if n is not None and require_count("n", n) % p:
        raise ValueError(f"`n` must be a multiple of {p} for {name!r}, got {n}; round it")
    copies = 1 if n is None else n // p
    return LeastSquares(
        name=name,
        start=put(np.tile(standard.start, copies), like),
        minimum=copies * standard.minimum,
        solution=put(np.tile(standard.solution, copies), like),
        residuals=standard.residuals,
        layout=Blocks(p),
    )


def _data(x: Array, m: int, spacing: float) -> tuple[Any, Array]:
    """Return the namespace of x, and the data points spacing, 2 spacing, ..., m spacing of shape (m,)."""
    xp = array_api_compat.array_namespace(x)
    return xp, spacing * xp.arange(1, m + 1, dtype=x.dtype, device=array_api_compat.device(x))
