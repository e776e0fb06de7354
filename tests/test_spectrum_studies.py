"""Studies of ranks, of groups and of orders, against brute force; and fits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.sparse.linalg
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_spectrum import light, symmetric, with_spectrum

import psgd_core as psgd
from psgd_analysis import spectrum
from psgd_analysis.problems import hessians
from psgd_analysis.spectrum.ordering import pair_gains
from psgd_core import PermutationSubgroup

COMMON = settings(
    deadline=None,
    derandomize=True,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# -- rank study --------------------------------------------------------------------------------------------

LOW_RANK = psgd.groups.LowRankFixedV()


def after(h, element):
    q = np.asarray(LOW_RANK.matrix(element))
    return np.linalg.eigvalsh(q @ h @ q.T), np.sum((q @ h) ** 2) + np.sum(np.linalg.inv(q) ** 2)


def test_theorem_3_2_two_tails():
    """Rank r of ρ(I + UV^T) takes r eigenvalues off either tail; of ρI + UU^T only off the lower one."""
    h = hessians.two_tails(24, 3, 3, np.random.default_rng(0), gap=10.0).hessian
    study = spectrum.rank_study(h, (0, 1, 2, 3))
    steps = 10.0 ** (np.arange(4) / 3)  # the tails are geometric
    np.testing.assert_allclose(study.best_condition, steps[::-1] ** 2, rtol=1e-10)
    np.testing.assert_allclose(study.one_tail_condition, 10 * steps[::-1], rtol=1e-10)
    np.testing.assert_allclose(study.reachable_condition, study.best_condition, rtol=1e-10)
    assert study.best_criterion[3] == pytest.approx(1)
    assert np.all(study.one_tail_criterion >= study.best_criterion)
    assert study.condition_number == pytest.approx(100)


def test_theorem_3_2_is_found_by_fitting():
    """One column, fitted online, flattens a leading and a trailing eigenvalue: κ = 9 to 1, not to 3."""
    h = hessians.two_tails(10, 1, 1, np.random.default_rng(0), gap=3.0).hessian
    study = spectrum.rank_study(h, [1], rng=np.random.default_rng(1), products=300)
    assert study.condition_number == pytest.approx(9)
    assert study.one_tail_condition[0] == pytest.approx(3)
    assert study.best_condition[0] == pytest.approx(1)
    assert study.fitted_condition[0] < 1.01
    assert study.fitted_criterion[0] < 1 + 1e-4
    assert study.diagonal_condition[0] == pytest.approx(1, abs=1e-4)


def test_a_whole_diagonal_does_at_least_as_well_as_a_scalar():
    """The minimiser over (I + U V^T) diag(d) is where fits end: below that of ρ (I + U V^T), above 1."""
    h = hessians.dense(16, 100.0, np.random.default_rng(2), indefinite=True)
    study = spectrum.rank_study(h, (0, 1, 4), rng=np.random.default_rng(3), products=500)
    assert np.all(study.diagonal_criterion <= study.best_criterion * (1 + 1e-9))
    assert np.all(study.diagonal_criterion >= 1)
    assert np.all(study.diagonal_criterion <= study.fitted_criterion * (1 + 1e-9))
    np.testing.assert_allclose(study.fitted_criterion, study.diagonal_criterion, rtol=0.05)
    expected = np.sum(np.sqrt(np.sum(h * h, axis=1))) / np.sum(np.abs(np.linalg.eigvalsh(h)))
    assert study.diagonal_criterion[0] == pytest.approx(expected, rel=1e-6)  # rank 0: 1 / sqrt((H^2)_ii)
    assert np.all(np.isnan(spectrum.rank_study(h, (0, 1)).diagonal_condition))


@given(n=st.integers(1, 9), r=st.integers(0, 8), indefinite=st.booleans(), seed=st.integers(0, 10**6))
@COMMON
def test_best_low_rank_attains_what_the_study_says(n, r, indefinite, seed):
    rng = np.random.default_rng(seed)
    values = np.exp(1.5 * rng.standard_normal(n)) * (rng.choice([-1, 1], n) if indefinite else 1)
    h, r = with_spectrum(values, seed), min(r, n - 1)
    study = spectrum.rank_study(h, [r])
    w, criterion = after(h, spectrum.best_low_rank(h, r))
    assert criterion / study.criterion_floor == pytest.approx(study.best_criterion[0], rel=1e-9)
    assert spectrum.condition_number(w) == pytest.approx(study.best_condition[0], rel=1e-9)
    assert spectrum.spread(w) == pytest.approx(study.best_spread[0], abs=1e-9)
    w, _ = after(h, spectrum.best_low_rank(h, r, by="condition"))
    assert spectrum.condition_number(w) == pytest.approx(study.reachable_condition[0], rel=1e-9)
    assert study.reachable_condition[0] <= study.best_condition[0] * (1 + 1e-9)


@given(n=st.integers(2, 8), r=st.integers(1, 3), indefinite=st.booleans(), seed=st.integers(0, 10**6))
@COMMON
def test_no_low_rank_reaches_less(n, r, indefinite, seed):
    rng = np.random.default_rng(seed)
    values = np.exp(rng.standard_normal(n)) * (rng.choice([-1, 1], n) if indefinite else 1)
    h, r = with_spectrum(values, seed), min(r, n - 1)
    least, study = spectrum.least_condition(values, r), spectrum.rank_study(h, [r])
    for scale in (0.1, 1.0, 3.0):
        element = LOW_RANK.element(*(scale * rng.standard_normal((2, n, r))))
        w, criterion = after(h, element)
        assert spectrum.condition_number(w) >= least * (1 - 1e-9)
        assert criterion / study.criterion_floor >= study.best_criterion[0] * (1 - 1e-9)


@pytest.mark.parametrize("one_tail", [False, True])
def test_criterion_of_the_best_rank_against_brute_force(one_tail):
    """Minimise over ρ, U, V (or ρ, U) by BFGS from many starts: the closed form, and nothing below it."""
    n, r = 5, 1
    h = with_spectrum([0.2, 0.7, -1.0, 2.0, 6.0])
    m = h @ h

    def value(z):
        u, v, rho = z[:n, None], z[n : 2 * n, None], np.exp(z[-1])
        q = rho * (np.eye(n) + u @ v.T)
        p = rho * np.eye(n) + u @ u.T if one_tail else q.T @ q
        return np.sum(p * m) + np.trace(np.linalg.inv(p))

    rng = np.random.default_rng(0)
    found = min(scipy.optimize.minimize(value, rng.standard_normal(2 * n + 1)).fun for _ in range(15))
    study = spectrum.rank_study(h, [r])
    closed = (study.one_tail_criterion if one_tail else study.best_criterion)[0] * study.criterion_floor
    assert found == pytest.approx(closed, rel=1e-7)


def test_one_direction_shrinks_a_positive_and_a_negative_eigenvalue_together():
    """An indefinite H: least κ counts the tails of either sign. By hand: [[a, b], [b, a]] on (10, -10)."""
    a, b = 0.505, 0.495  # eigenvalues 1 and 0.01: one column moves one of them
    p = scipy.linalg.block_diag(np.array([[a, b], [b, a]]), np.eye(2))
    h = np.diag([10.0, -10.0, 1.0, -1.0])
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(p @ h)), [-1, -1, 1, 1], atol=1e-12)
    assert spectrum.least_condition(np.diagonal(h), 1) == 1
    study = spectrum.rank_study(h, [1])
    assert study.best_condition[0] == pytest.approx(10)  # the criterion's minimiser commutes with H


@light
def test_rank_study_on_every_library(backend):
    values = np.array([0.1, 1.0, 1.0, 1.0, -4.0])
    products = 0 if backend.library == "jax.numpy" else 2  # its updates are not compiled here
    h, rng = backend.asarray(with_spectrum(values)), np.random.default_rng(0)
    study = spectrum.rank_study(h, (0, 1, 9), rng=rng, products=products, updates=2)
    np.testing.assert_array_equal(study.ranks, [0, 1])
    np.testing.assert_allclose(study.best_condition, [40, 1], rtol=1e3 * backend.eps)
    assert np.all(np.isfinite(study.fitted_condition)) == (products > 0)
    element = spectrum.best_low_rank(backend.asarray(with_spectrum(values)), 1)
    assert element.u.dtype == backend.dtype


# -- group study -------------------------------------------------------------------------------------------


def brute_force(h, subgroup):
    """Minimise tr(P M + P^{-1}) over all P = Q^T Q of the group, by BFGS on Q's entries."""
    n, m = subgroup.n, h @ h
    mask = subgroup.orbits[:, None] == subgroup.orbits[None, :]

    def value(z):
        q = np.zeros((n, n))
        q[mask] = z
        inverse = np.linalg.inv(q)
        p = q.T @ q
        gradient = 2 * (q @ m - inverse.T @ inverse @ inverse.T)
        return np.sum(p * m) + np.sum(inverse**2), gradient[mask]

    start = np.eye(n) / np.sqrt(np.linalg.norm(h, 2))
    best = scipy.optimize.minimize(
        value, start[mask], jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}
    )
    q = np.zeros((n, n))
    q[mask] = best.x
    return best.fun, np.linalg.eigvalsh(q @ h @ q.T)


@pytest.mark.parametrize("n", [6, 7, 8])
def test_group_study_against_brute_force(n):
    h = symmetric(n, n) + np.diag(np.linspace(-3, 3, n))
    extra = PermutationSubgroup.flip(n).conjugate(np.random.default_rng(0).permutation(n))
    subgroups = {**spectrum.named_subgroups(n), "mine": extra}
    study = spectrum.group_study(h, subgroups)
    assert study.groups == ("none (P = ρ²I)", *subgroups)
    for i, subgroup in enumerate(subgroups.values(), start=1):
        criterion, w = brute_force(h, subgroup)
        assert study.criteria[i] * study.criterion_floor == pytest.approx(criterion, rel=1e-6)
        assert study.condition_numbers[i] == pytest.approx(spectrum.condition_number(w), rel=1e-6)
        assert study.spreads[i] == pytest.approx(spectrum.spread(w), abs=1e-6)
        assert study.largest_orbit[i] == subgroup.orbit_sizes.max()
        assert study.storage[i] == np.sum(subgroup.orbit_sizes**2)
    assert study.criteria[-2] == pytest.approx(1)  # GL(n)
    w = np.linalg.eigvalsh(h)
    best = scipy.optimize.minimize_scalar(lambda s: np.exp(s) * np.sum(w**2) + n * np.exp(-s)).fun
    assert study.criteria[0] * study.criterion_floor == pytest.approx(best, rel=1e-6)


@light
def test_group_study_finds_the_group_that_holds_h(backend):
    k = PermutationSubgroup.klein(8)
    h = hessians.in_group(k.orbit_index, 8, 50.0, np.random.default_rng(0), indefinite=True)
    study = spectrum.group_study(backend.asarray(h), {"Diagonal": PermutationSubgroup.trivial(8), "Klein": k})
    tolerance = 1e4 * backend.eps
    assert study.condition_numbers[2] == pytest.approx(1, abs=tolerance)
    assert study.criteria[2] == pytest.approx(1, abs=tolerance)
    assert study.criteria[1] > 1.01


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (1, {"Diagonal"}),
        (2, {"Diagonal", "XMat"}),
        (7, {"Diagonal", "XMat", "GL(n)"}),
        (4, {"Diagonal", "XMat", "Butterfly", "neighbour swap", "Klein four"}),
    ],
)
def test_named_subgroups(n, names):
    found = spectrum.named_subgroups(n)
    assert set(found) == names
    assert any(k.is_transitive for k in found.values())


@pytest.mark.parametrize("n", [12, 24, 60])
def test_named_subgroups_differ_and_stay_small(n):
    found = spectrum.named_subgroups(n, 6)
    keys = [tuple(k.orbits) for k in found.values()]
    assert len(set(keys)) == len(keys)
    assert max(k.orbit_sizes.max() for name, k in found.items() if name != "GL(n)") <= 6
    assert "GL(n)" in found


# -- orders of the parameters ------------------------------------------------------------------------------


def test_pair_gains_are_the_exact_savings():
    h = symmetric(6)
    m, gain = h @ h, pair_gains(h)
    for i in range(6):
        for j in range(6):
            pair = m[np.ix_([i, j], [i, j])]
            saving = (
                2 * (np.sqrt(m[i, i]) + np.sqrt(m[j, j]) - np.trace(scipy.linalg.sqrtm(pair)))
                if i != j
                else 0
            )
            assert gain[i, j] == pytest.approx(saving, abs=1e-9)


@pytest.mark.parametrize(
    "subgroup",
    [
        PermutationSubgroup.flip(12),
        PermutationSubgroup.flip(13),
        PermutationSubgroup.half_shift(20),
        PermutationSubgroup.klein(16),
        PermutationSubgroup.cyclic(15, 3),
    ],
    ids=repr,
)
def test_best_order_recovers_a_hidden_group(subgroup):
    n, rng = subgroup.n, np.random.default_rng(1)
    shuffle = rng.permutation(n)
    h = hessians.in_group(subgroup.orbit_index, n, 1e3, rng, indefinite=True)[np.ix_(shuffle, shuffle)]
    found = spectrum.best_order(h, subgroup)
    assert found.criterion_before > 1.02 * found.criterion_floor
    assert found.criterion_after == pytest.approx(found.criterion_floor, rel=1e-9)
    assert found.condition_after == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(np.sort(found.order), np.arange(n))
    # either way of using it: reorder, or take the conjugate K
    moved = h[np.ix_(found.order, found.order)]
    p = psgd.criterion.group_minimizer(moved, subgroup.orbit_index)
    q = psgd.criterion.group_minimizer(h, subgroup.conjugate(found.order).orbit_index)
    np.testing.assert_allclose(q[np.ix_(found.order, found.order)], p, atol=1e-9 * np.abs(p).max())


def pairings(members):
    if not members:
        yield []
        return
    first, rest = members[0], members[1:]
    for i, other in enumerate(rest):
        for tail in pairings(rest[:i] + rest[i + 1 :]):
            yield [(first, other), *tail]


def test_best_order_against_all_pairings():
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        a = rng.standard_normal((8, 8)) * (rng.random((8, 8)) < 0.4)
        h = a + a.T + 0.1 * np.eye(8)
        gain = pair_gains(h)
        alone = 2 * np.sum(np.sqrt(np.diagonal(h @ h)))
        least = alone - max(sum(gain[i, j] for i, j in pairs) for pairs in pairings(list(range(8))))
        found = spectrum.best_order(h, PermutationSubgroup.flip(8))
        assert least * (1 - 1e-9) <= found.criterion_after <= found.criterion_before * (1 + 1e-12)
        ratios.append(found.criterion_after / least)
    assert max(ratios) < 1.02
    assert np.median(ratios) < 1 + 1e-9


@given(n=st.sampled_from([1, 2, 5, 9, 12]), seed=st.integers(0, 10**6))
@COMMON
def test_best_order_never_loses(n, seed):
    h = symmetric(n, seed)
    for subgroup in spectrum.named_subgroups(n).values():
        found = spectrum.best_order(h, subgroup)
        assert found.criterion_after <= found.criterion_before * (1 + 1e-12)
        assert found.criterion_after >= found.criterion_floor * (1 - 1e-9)


# -- fitting -----------------------------------------------------------------------------------------------


def test_fit_finds_the_minimiser_of_an_indefinite_hessian():
    h = with_spectrum([-1.0, 1.0, 2.0, -3.0, 4.0, 5.0])
    p = psgd.Diagonal()
    state = spectrum.fit(h, p, np.random.default_rng(0), products=4000)
    d, least = np.diagonal(p.matrix(state)), 2 * np.sum(np.sqrt(np.diagonal(h @ h)))
    gap = np.sum(d * np.diagonal(h @ h) + 1 / d) / least - 1
    assert 0 <= gap < 0.01
