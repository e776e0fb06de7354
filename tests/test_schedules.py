"""Schedules against their formulas, on the host and traced."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psgd_core import schedules as sc

CASES = [
    (sc.Constant(0.3), lambda t: 0.3),
    (sc.Exponential(0.8, 0.2, over=10), lambda t: 0.8 * 0.25 ** min(t / 10, 1)),
    (sc.Cosine(1.0, over=8, end=0.2), lambda t: 0.2 + 0.4 * (1 + math.cos(math.pi * min(t / 8, 1)))),
    (sc.Staged((1.0, 0.1, 0.01), at=(3, 7)), lambda t: 1.0 if t < 3 else 0.1 if t < 7 else 0.01),
    (sc.WarmUp(2.0, over=4), lambda t: 2.0 * min((t + 1) / 4, 1)),
    (sc.WarmUp(sc.Cosine(1.0, over=8), over=4), lambda t: min((t + 1) / 4, 1) * sc.Cosine(1.0, over=8)(t)),
]


@pytest.mark.parametrize(("schedule", "formula"), CASES, ids=lambda c: type(c).__name__)
def test_formula_on_host_and_on_every_library(backend, schedule, formula):
    at = backend.jit(lambda t: 0 * t + schedule(t))
    assert hash(schedule) == hash(schedule)
    for t in (0, 1, 3, 4, 7, 8, 20):
        assert schedule(t) == pytest.approx(formula(t), rel=1e-14)
        assert isinstance(schedule(t), float)
        traced = at(backend.asarray(np.float64(t)))
        assert traced.dtype == backend.dtype
        assert float(backend.numpy(traced)) == pytest.approx(
            formula(t), rel=8 * backend.eps, abs=8 * backend.eps
        )


def test_integer_arrays_count(backend):
    t = backend.xp.asarray(5, dtype=backend.xp.int32)
    assert float(sc.Exponential(0.8, 0.2, over=10)(t)) == pytest.approx(0.4, rel=1e-6)
    assert float(sc.Staged((1.0, 0.5), at=(5,))(t)) == 0.5


def test_value_at_takes_numbers_and_any_callable():
    assert sc.value_at(0.5, 3) == 0.5
    assert sc.value_at(lambda t: 1 / (1 + t), 3) == 0.25


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: sc.Exponential(1.0, 0.0, over=3), "`end` must be positive"),
        (lambda: sc.Cosine(1.0, over=0), "`over` must be a positive int"),
        (lambda: sc.WarmUp(1.0, over=2.5), "`over` must be a positive int"),
        (lambda: sc.Staged((1.0, 0.1), at=(3, 7)), "one value more"),
        (lambda: sc.Staged((1.0, 0.1, 0.2), at=(7, 3)), "must ascend"),
        (lambda: sc.require_schedule("lr", 2.0, "(0, 1)"), r"`lr` must lie in \(0, 1\), got 2.0"),
    ],
)
def test_bad_values(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_no_schedule():
    with pytest.raises(TypeError, match="`lr` must be a number or a callable"):
        sc.require_schedule("lr", "fast", "(0, 1)")
