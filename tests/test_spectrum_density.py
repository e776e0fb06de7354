"""The Lanczos recurrence, and densities of spectra with their stated errors."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from test_spectrum import light, symmetric, with_spectrum

from psgd_analysis import spectrum
from psgd_analysis.problems import hessians
from psgd_analysis.spectrum.recurrence import gauss_rules


def smoothed(values, t, width):
    """The Gaussian-broadened density, from scipy's normal law."""
    return np.mean(scipy.stats.norm.pdf(np.asarray(t)[:, None], loc=values, scale=width), axis=1)


# -- the Lanczos recurrence --------------------------------------------------------------------------------


@pytest.mark.parametrize("reorthogonalize", [False, True])
def test_tridiagonal_has_the_moments_of_the_start(reorthogonalize, backend):
    """e_1^T T^j e_1 = q^T A^j q up to degree 2m - 1."""
    n, m = 9, 4
    a, start = symmetric(n) / n, np.random.default_rng(1).standard_normal((n, 2))

    def run(matrix, v):
        t = spectrum.lanczos(
            spectrum.from_hvp(lambda x: matrix @ x, n, matrix, columns=True),
            v,
            m,
            reorthogonalize=reorthogonalize,
        )
        return t.alpha, t.beta

    alpha, beta = map(backend.numpy, backend.jit(run)(backend.asarray(a), backend.asarray(start)))
    assert alpha.shape == beta.shape == (2, m)
    for i in range(2):
        t = np.diag(alpha[i]) + np.diag(beta[i, :-1], 1) + np.diag(beta[i, :-1], -1)
        q = start[:, i] / np.linalg.norm(start[:, i])
        for j in range(2 * m):
            expected = q @ np.linalg.matrix_power(a, j) @ q
            assert np.linalg.matrix_power(t, j)[0, 0] == pytest.approx(expected, abs=200 * backend.eps)


def test_all_steps_give_all_eigenvalues():
    for n in (1, 2, 40):
        a = symmetric(n)
        t = spectrum.lanczos(a, np.ones(n), n)
        matrix = np.diag(t.alpha[0]) + np.diag(t.beta[0, :-1], 1) + np.diag(t.beta[0, :-1], -1)
        np.testing.assert_allclose(np.linalg.eigvalsh(matrix), np.linalg.eigvalsh(a), atol=1e-12 * n)


@pytest.mark.parametrize("reorthogonalize", [False, True])
@pytest.mark.parametrize("values", [np.ones(20), np.zeros(20), [1.0] * 10 + [3.0] * 10])
def test_exhausted_subspaces_end_quietly(values, reorthogonalize):
    t = spectrum.lanczos(with_spectrum(values), np.arange(1.0, 21), 8, reorthogonalize=reorthogonalize)
    assert np.all(np.isfinite(t.alpha))
    assert np.all(np.isfinite(t.beta))
    rule = gauss_rules(t)[0]
    near = np.min(np.abs(rule.nodes[0][:, None] - np.unique(values)), axis=1) < 1e-12
    assert np.sum(rule.weights[0][near]) == pytest.approx(1, abs=1e-12)


def test_anti_gauss_errs_the_other_way():
    """On polynomials of degree 2m - 2 and 2m - 1, where the Gauss rule of m - 1 points errs."""
    n, m = 60, 6
    values = np.linspace(-1, 1, n)
    h, start = with_spectrum(values), np.random.default_rng(0).standard_normal((n, 1))
    gauss, anti = gauss_rules(spectrum.lanczos(h, start, m))
    w, vectors = np.linalg.eigh(h)
    weights = (vectors.T @ start[:, 0]) ** 2 / np.sum(start**2)
    for degree in (2 * m - 2, 2 * m - 1):
        exact = weights @ w**degree
        errors = [rule.weights[0] @ rule.nodes[0] ** degree - exact for rule in (gauss, anti)]
        assert abs(errors[0]) > 1e-6
        assert errors[0] == pytest.approx(-errors[1], rel=1e-6)


def test_long_float32_sums():
    """Over 10^5 terms a naive float32 sum is off by 1e-3; the recurrence's are not."""
    n = 100_000
    d = np.linspace(1, 2, n, dtype=np.float32)
    op = spectrum.from_hvp(lambda v: d[:, None] * v, n, d, columns=True)
    t = spectrum.lanczos(op, np.ones(n, dtype=np.float32), 2, reorthogonalize=False)
    assert t.alpha.dtype == np.float32
    assert t.alpha[0, 0] == pytest.approx(1.5, rel=1e-6)
    assert t.beta[0, 0] == pytest.approx(np.std(d.astype(float)), rel=1e-6)


# -- spectral density --------------------------------------------------------------------------------------

RNG = np.random.default_rng(7)
SPECTRA = {
    "uniform": np.linspace(1, 2, 400),
    "semicircle": np.linalg.eigvalsh(symmetric(400, 5) / 20),
    "isolated outliers": np.concatenate([RNG.uniform(0, 1, 395), [5.0, 10.0, 20.0, 50.0, -8.0]]),
    "clusters": np.concatenate([c + 0.01 * RNG.standard_normal(100) for c in (-1, 0, 2, 2.5)]),
    "heavy tail": np.sort(RNG.standard_t(2, 400)),
    "two tails": np.abs(np.linalg.eigvalsh(hessians.two_tails(300, 6, 6, RNG, gap=10.0).hessian)),
    "n = 30": np.geomspace(1e-2, 1, 30),
    "n = 1": np.array([3.0]),
    "multiple of the identity": np.full(50, -2.0),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_density_is_within_its_stated_error_everywhere(name):
    """At a confidence of 0.9999 the whole curve lies in the band, outliers, gaps and all."""
    values = SPECTRA[name]
    for seed in range(2):
        d = spectrum.density(
            with_spectrum(values), np.random.default_rng(seed), probes=8, steps=60, confidence=0.9999
        )
        exact = smoothed(values, d.grid, d.width)
        slack = 1e-9 * exact.max()
        assert np.all(exact >= d.lower - slack)
        assert np.all(exact <= d.upper + slack)
        assert np.all(d.lower <= d.density)
        assert np.all(d.density <= d.upper)


@pytest.mark.parametrize(
    ("name", "width"),
    [("semicircle", 0.2), ("uniform", 0.04), ("isolated outliers", 0.06), ("heavy tail", 0.4)],
)
def test_density_where_the_steps_limit_it(name, width):
    """With few steps and a narrow width the error is the truncation's, and stated as such."""
    values = SPECTRA[name]
    d = spectrum.density(
        with_spectrum(values), np.random.default_rng(0), steps=12, width=width, confidence=0.9999
    )
    exact = smoothed(values, d.grid, d.width)
    assert d.displaced > 0.1
    assert np.all((exact >= d.lower - 1e-9) & (exact <= d.upper + 1e-9))


def test_density_warns_where_the_nodes_are_too_far_apart():
    with pytest.warns(UserWarning, match="a width of 0.02 is too narrow for 12 steps on H"):
        spectrum.density(with_spectrum(SPECTRA["heavy tail"]), np.random.default_rng(0), steps=12, width=0.02)


def test_density_at_n_2000():
    n = 2000
    values = np.concatenate([np.linalg.eigvalsh(symmetric(n - 3, 2) / 60), [3.0, 4.0, 6.0]])
    h = np.diag(values)  # spherical probes see no difference between bases
    d = spectrum.density(h, np.random.default_rng(0), probes=10, steps=80, confidence=0.9999)
    exact = smoothed(values, d.grid, d.width)
    assert np.all((exact >= d.lower) & (exact <= d.upper))
    assert np.max(np.abs(d.density - exact)) < 0.15 * exact.max()
    assert d.displaced < 0.02


def test_interval_covers_as_often_as_it_says():
    values = np.sort(np.random.default_rng(3).standard_normal(200))
    h, grid = np.diag(values), np.linspace(-2, 2, 9)
    exact = smoothed(values, grid, 0.2)
    hits = []
    for seed in range(60):
        d = spectrum.density(h, np.random.default_rng(seed), probes=4, steps=40, width=0.2, grid=grid)
        hits.append((exact >= d.lower) & (exact <= d.upper))
    assert 0.94 < np.mean(hits) < 0.995


def test_interval_of_one_isolated_eigenvalue_is_exact():
    """Its weight is a χ² variable with one degree per probe: normal intervals would miss too often."""
    n, values = 200, np.concatenate([np.zeros(199), [10.0]])
    h, grid = np.diag(values), np.array([10.0])
    exact = smoothed(values, grid, 0.5)[0]
    hits = [
        d.lower[0] <= exact <= d.upper[0]
        for d in (
            spectrum.density(h, np.random.default_rng(seed), probes=3, steps=4, width=0.5, grid=grid)
            for seed in range(400)
        )
    ]
    assert 0.93 < np.mean(hits) < 0.98  # 0.95, with a standard error of 0.01
    assert n == h.shape[0]


def test_density_integrates_to_one_and_keeps_outliers():
    values = SPECTRA["isolated outliers"]
    d = spectrum.density(with_spectrum(values), np.random.default_rng(0))
    assert np.sum(d.density) * d.width / 2 == pytest.approx(1, abs=1e-4)  # the grid's step is half a width
    assert d.extremes == pytest.approx((-8.0, 50.0))
    near = np.abs(d.grid - 50) < 4 * d.width
    assert np.sum(d.density[near]) * d.width / 2 == pytest.approx(1 / 400, rel=1)
    assert d.products == 1000
    assert d.reorthogonalized


def test_density_without_reorthogonalisation_agrees():
    h = with_spectrum(SPECTRA["isolated outliers"])
    with_basis, without = (
        spectrum.density(
            h, np.random.default_rng(0), width=0.05, grid=np.linspace(-9, 51, 601), reorthogonalize=r
        )
        for r in (True, False)
    )
    np.testing.assert_allclose(without.density, with_basis.density, atol=0.02 * with_basis.density.max())


def test_density_on_a_logarithmic_scale():
    values = np.concatenate([-np.geomspace(0.1, 1, 60), np.geomspace(0.01, 10, 140)])
    d = spectrum.density(with_spectrum(values), np.random.default_rng(0), scale="log", confidence=0.9999)
    logs = np.log10(np.abs(values))
    exact = smoothed(logs, d.grid, d.width)
    assert np.all((exact >= d.lower - 1e-9) & (exact <= d.upper + 1e-9))
    negative = smoothed(logs[:60], d.grid, d.width) * 60 / 200
    np.testing.assert_allclose(d.negative, negative, atol=0.4 * negative.max())
    assert d.floor < 0.5
    np.testing.assert_allclose(spectrum.smoothed(values, d.grid, d.width, "log"), exact, rtol=1e-12)


def test_density_on_a_logarithmic_scale_leaves_out_what_it_cannot_see():
    values = np.concatenate([np.zeros(50), np.geomspace(1e-9, 1e3, 150)])
    d = spectrum.density(with_spectrum(values), np.random.default_rng(0), scale="log", steps=30)
    assert d.grid[0] >= np.log10(d.floor)
    assert d.floor > 1e-2  # 30 steps cannot tell 1e-9 from 1e-3
    assert d.below == pytest.approx(np.mean(values < d.floor), abs=0.1)
    assert f"|λ| below {d.floor:.2g}" in repr(d)


def test_a_logarithmic_grid_below_the_floor_has_no_interval():
    values, grid = np.geomspace(1e-9, 1e3, 150), np.linspace(-9, 3, 13)
    d = spectrum.density(
        with_spectrum(values), np.random.default_rng(0), scale="log", steps=30, grid=grid, width=0.5
    )
    np.testing.assert_array_equal(np.isnan(d.upper), grid < np.log10(d.floor))
    json.dumps(d.as_dict(), allow_nan=False)


def test_density_of_a_singular_matrix_counts_its_zeros():
    d = spectrum.density(with_spectrum([0.0] * 30 + [1.0] * 70), np.random.default_rng(0), probes=40)
    assert d.below == pytest.approx(0.3, abs=0.05)
    with pytest.raises(ValueError, match="`scale` must be 'linear' for H, got 'log'"):
        spectrum.density(np.zeros((5, 5)), np.random.default_rng(0), scale="log")


@light
def test_density_is_the_same_on_every_library(backend):
    h, grid = with_spectrum(np.linspace(1, 2, 40)), np.linspace(0.8, 2.2, 30)
    options = {"probes": 2, "steps": 10, "width": 0.1, "grid": grid}
    expected = spectrum.density(h, np.random.default_rng(0), **options)
    found = spectrum.density(backend.asarray(h), np.random.default_rng(0), **options)
    np.testing.assert_allclose(found.density, expected.density, atol=1e3 * backend.eps)
    np.testing.assert_allclose(found.upper, expected.upper, rtol=1e4 * backend.eps, atol=1e3 * backend.eps)


@pytest.mark.parametrize(
    ("n", "probes", "steps"), [(50_000, 3, 40), pytest.param(1_000_000, 1, 30, marks=pytest.mark.slow)]
)
def test_density_of_a_large_chain_in_bounded_memory(n, probes, steps):
    """The chain with 2 on its diagonal and -1 beside it: λ_i = 4 sin^2(π i / (2 (n + 1)))."""

    def hvp(v):
        out = 2 * v
        out[1:] -= v[:-1]
        out[:-1] -= v[1:]
        return out

    op = spectrum.from_hvp(hvp, n, np.zeros(1), columns=True)
    tracemalloc.start()
    d = spectrum.density(
        op,
        np.random.default_rng(0),
        probes=probes,
        steps=steps,
        confidence=0.9999,
        reorthogonalize=False,
        batch=1,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 8 * n + 40e6  # vectors of n numbers; the rest does not grow with n
    values = 4 * np.sin(np.pi * np.arange(1, n + 1) / (2 * (n + 1))) ** 2
    exact = spectrum.smoothed(values, d.grid, d.width)
    np.testing.assert_allclose(exact[::40], smoothed(values, d.grid[::40], d.width), rtol=1e-10)
    assert np.all((exact >= d.lower - 1e-9) & (exact <= d.upper + 1e-9))
    assert np.max(np.abs(d.density - exact)) < 0.05 * exact.max()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rng": 3}, TypeError, "`rng` must be a numpy.random.Generator, got int"),
        ({"probes": 0}, ValueError, "`probes` must be an integer of at least 1, got 0"),
        ({"steps": 1}, ValueError, "`steps` must be an integer of at least 2, got 1"),
        ({"steps": 2.0}, ValueError, "`steps` must be an int"),
        ({"batch": 0}, ValueError, "`batch` must be an int"),
        ({"scale": "cubic"}, ValueError, "`scale` must be 'linear' or 'log', got 'cubic'"),
        ({"width": 0.0}, ValueError, "`width` must be positive and finite, got 0.0"),
        ({"confidence": 1.0}, ValueError, r"`confidence` must lie in \(0, 1\), got 1.0"),
        ({"grid": np.array([1.0, 0.5])}, ValueError, "`grid` must hold finite, ascending numbers"),
        ({"hessian": spectrum.from_hvp(lambda v: v * np.nan, 4, np.zeros(1))}, ValueError, "must be finite"),
    ],
)
def test_density_refuses(options, error, message):
    arguments = {"hessian": np.eye(4), "rng": np.random.default_rng(0)} | options
    with pytest.raises(error, match=message):
        spectrum.density(**arguments)
