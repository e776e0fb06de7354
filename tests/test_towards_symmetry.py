"""The rotation of "Q0.5EQ1.5" towards a symmetric Q: second order in its skew part, and as far as is best."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from psgd_core.preconditioners.geometries import towards_symmetry


def nearly_symmetric(s, angle, seed):
    """A positive definite S, turned by a rotation of about that angle: ``expm(angle K) S``, |K| = 1."""
    rng = np.random.default_rng(seed)
    root = np.eye(s) + 0.3 * rng.uniform(-1, 1, (s, s))
    skew = rng.standard_normal((s, s))
    skew = (skew - skew.T) / np.linalg.norm(skew - skew.T)
    return scipy.linalg.expm(angle * skew) @ root @ root.T


def turned(q):
    return towards_symmetry(q[:, :, None])[:, :, 0]


@pytest.mark.parametrize("s", [3, 5, 8])
@pytest.mark.parametrize("angle", [1e-4, 1e-3, 1e-2, 0.1])
def test_p_stays_up_to_the_fourth_power_of_the_angle(s, angle):
    """``(I + X + X^2/2)^T (I + X + X^2/2) = I + X^4/4`` for a skew X; without X^2/2 it would be I - X^2."""
    for seed in range(5):
        q = nearly_symmetric(s, angle, seed)
        new = turned(q)
        turn = new @ np.linalg.inv(q)
        x = (turn - turn.T) / 2
        assert np.linalg.norm(x, 2) < 4 * angle
        rounding = 100 * s * 2.0**-52
        np.testing.assert_allclose(turn.T @ turn - np.eye(s), x @ x @ x @ x / 4, rtol=0, atol=rounding)
        np.testing.assert_allclose(turn, np.eye(s) + x + x @ x / 2, rtol=0, atol=rounding)
        assert np.linalg.norm(x) > angle / 100  # it does turn


@pytest.mark.parametrize("s", [3, 5, 8])
def test_it_turns_as_far_as_is_best(s):
    """Along ``exp(t K) Q``, ``K = Q^T - Q``, the derivative of the trace vanishes at the t that is taken."""
    for seed in range(5):
        q = nearly_symmetric(s, 1e-3, seed)
        k = q.T - q
        slope = lambda t, q=q, k=k: np.sum(k.T * (scipy.linalg.expm(t * k) @ q))  # noqa: E731
        best = scipy.optimize.brentq(slope, 0, 10)
        turn = turned(q) @ np.linalg.inv(q)
        taken = np.sum((turn - turn.T) / 2 * k) / np.sum(k * k)
        assert taken == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("s", [3, 6])
@pytest.mark.parametrize("angle", [0.5, 1.5, 3.0])
def test_a_large_angle_is_turned_by_a_quarter_at_most(s, angle):
    q = nearly_symmetric(s, angle, 1)
    turn = turned(q) @ np.linalg.inv(q)
    x = (turn - turn.T) / 2
    assert np.linalg.norm(x) <= 0.25 * (1 + 1e-12)
    assert np.linalg.norm(turn.T @ turn - np.eye(s)) <= 0.25**4 / 4 * (1 + 1e-12)
    assert np.trace(turned(q)) > np.trace(q)
