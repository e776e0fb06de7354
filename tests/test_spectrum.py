"""Spectra: operators, eigenvalues, Lanczos densities with their stated errors, rank and group studies."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.sparse.linalg
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from registry import backends

import psgd_core as psgd
from psgd_analysis import problems, spectrum
from psgd_analysis.problems import hessians
from psgd_analysis.problems.spectra import haar
from psgd_analysis.spectrum import figures
from psgd_analysis.spectrum.ordering import pair_gains
from psgd_analysis.spectrum.recurrence import gauss_rules
from psgd_core import PermutationSubgroup

EPS = 2.0**-52
COMMON = settings(
    deadline=None,
    derandomize=True,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


plain = backends(lambda b: not b.jitted)
"""Every library, not compiled: for what is not traced."""
light = backends(lambda b: not b.jitted and b.name != "jax-f64")
"""The same with JAX in float32 only: run op by op it compiles every operation for every shape."""


def with_spectrum(values, seed=0):
    """A dense symmetric matrix with known eigenvalues."""
    values = np.asarray(values, dtype=float)
    basis = haar(values.size, np.random.default_rng(seed))
    h = (basis * values) @ basis.T
    return (h + h.T) / 2


def symmetric(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return a + a.T


def smoothed(values, t, width):
    """The Gaussian-broadened density, from scipy's normal law."""
    return np.mean(scipy.stats.norm.pdf(np.asarray(t)[:, None], loc=values, scale=width), axis=1)


# -- operators and sources ---------------------------------------------------------------------------------


@plain
def test_products_of_a_matrix(backend):
    h, v = symmetric(7), np.random.default_rng(1).standard_normal((7, 3))
    op = spectrum.from_matrix(backend.asarray(h))
    scale = 32 * backend.eps * np.abs(h).max() * 7
    np.testing.assert_allclose(backend.numpy(op.hvp(backend.asarray(v))), h @ v, atol=scale)
    np.testing.assert_allclose(backend.numpy(op.hvp(backend.asarray(v[:, 0]))), h @ v[:, 0], atol=scale)
    np.testing.assert_allclose(backend.numpy(op.dense()), h, rtol=backend.eps)
    assert "n=7" in repr(op)
    assert backend.dtype_name in repr(op)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("n", [1, 5, 130])  # 130: more than one chunk of the identity
def test_dense_from_products(n, columns):
    h = symmetric(n)
    seen = []

    def hvp(v):
        seen.append(v.ndim)
        return h @ v

    op = spectrum.from_hvp(hvp, n, np.zeros(3), columns=columns)
    np.testing.assert_allclose(op.dense(), h, atol=8 * EPS * n * np.abs(h).max())
    assert set(seen) == {2 if columns else 1}


@plain
def test_dense_from_products_on_every_library(backend):
    h = symmetric(5)
    given_h = backend.asarray(h)
    op = spectrum.from_hvp(lambda v: given_h @ v, 5, given_h)
    np.testing.assert_allclose(backend.numpy(op.dense()), h, atol=32 * backend.eps * np.abs(h).max())


def test_from_problem_and_file(tmp_path):
    problem = problems.get("rosenbrock", n=6)
    x = np.linspace(0.5, 1.5, 6)
    np.testing.assert_allclose(
        spectrum.from_problem(problem, x).dense(), scipy.optimize.rosen_hess(x), atol=1e-10
    )
    assert spectrum.from_problem(problem).n == 6
    singular = np.diag([1.0, 0.0, -2.0])
    np.save(tmp_path / "h.npy", singular)
    op = spectrum.from_file(tmp_path / "h.npy")
    np.testing.assert_array_equal(op.dense(), singular)
    assert op.name == "h.npy"


def torch_network():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 2, dtype=torch.float64)
    return torch, model, lambda: torch.mean((model(x) - y) ** 2)


def test_from_torch_against_finite_differences():
    torch, model, loss = torch_network()
    op = spectrum.from_torch(loss, model)
    leaves = list(model.parameters())
    point = torch.nn.utils.parameters_to_vector(leaves).detach()

    def gradient(z):
        torch.nn.utils.vector_to_parameters(z, leaves)
        grads = torch.autograd.grad(loss(), leaves)
        return torch.cat([g.reshape(-1) for g in grads]).numpy()

    step = 1e-5
    columns = [
        (gradient(point + step * e) - gradient(point - step * e)) / (2 * step) for e in torch.eye(op.n)
    ]
    torch.nn.utils.vector_to_parameters(point, leaves)
    with torch.no_grad():  # products work all the same
        dense = op.dense().numpy()
    np.testing.assert_allclose(dense, np.stack(columns, axis=1), atol=1e-8)


def test_from_torch_leaves_no_gradient_and_no_graph():
    torch, model, loss = torch_network()
    op = spectrum.from_torch(loss, model)
    v = torch.ones(op.n, 2, dtype=torch.float64)

    def tensors():
        gc.collect()
        return sum(type(x) in (torch.Tensor, torch.nn.Parameter) for x in gc.get_objects())

    op.hvp(v)
    before = tensors()
    for _ in range(5):
        product = op.hvp(v)
    assert not product.requires_grad
    del product
    assert tensors() <= before
    assert all(p.grad is None for p in model.parameters())


def test_from_torch_unused_frozen_and_linear_parameters():
    import torch

    a, b, frozen = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True), torch.ones(4)
    op = spectrum.from_torch(lambda: torch.sum(a**2) * frozen[0], [a, frozen, b])
    with pytest.warns(UserWarning, match="No gradient reaches 1 of 2 parameters"):
        op.hvp(torch.ones(5))
    np.testing.assert_allclose(op.dense().numpy(), np.diag([2.0, 2, 0, 0, 0]))
    linear = spectrum.from_torch(lambda: torch.sum(a), [a])
    np.testing.assert_allclose(linear.dense().numpy(), np.zeros((2, 2)))


def test_from_torch_refuses():
    import torch

    with pytest.raises(ValueError, match="`parameters` must hold tensors that require a gradient, got none"):
        spectrum.from_torch(lambda: torch.ones(()), [torch.ones(2)])
    a = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="one dtype and device, got"):
        spectrum.from_torch(a.sum, [a, torch.ones(2, dtype=torch.float64, requires_grad=True)])
    with pytest.raises(ValueError, match=r"`loss` must return a scalar tensor, got shape \(2,\)"):
        spectrum.from_torch(lambda: a**2, [a]).hvp(torch.ones(2))


def test_from_jax_pytree():
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        x = {"a": jnp.asarray([0.3, -0.2]), "b": jnp.asarray([[1.0, 0.5]])}

        def fun(tree):
            return jnp.sum(jnp.exp(tree["a"]) * tree["b"][0]) + jnp.sum(tree["b"] ** 4)

        a, b = np.exp([0.3, -0.2]), np.array([1.0, 0.5])
        expected = np.block([[np.diag(a * b), np.diag(a)], [np.diag(a), np.diag(12 * b**2)]])
        np.testing.assert_allclose(np.asarray(spectrum.from_jax(fun, x).dense()), expected, rtol=1e-12)


@plain
def test_scipys_view(backend):
    h = with_spectrum(np.linspace(1, 5, 12))
    view = spectrum.linear_operator(backend.asarray(h))
    b = np.arange(12.0)
    assert view.dtype == np.dtype(backend.dtype_name)
    np.testing.assert_allclose(view @ b, h @ b, rtol=1e3 * backend.eps)
    np.testing.assert_allclose(view @ h, h @ h, atol=1e3 * backend.eps)
    x, info = scipy.sparse.linalg.cg(view, b, rtol=1e-5)
    assert info == 0
    np.testing.assert_allclose(h @ x, b, atol=1e-3)


# -- eigenvalues of P H and of P ---------------------------------------------------------------------------


PRECONDITIONERS = {
    "Diagonal": psgd.Diagonal(),
    "XMat": psgd.XMat(),
    "Butterfly": psgd.Butterfly(),
    "Sparse": psgd.Sparse(PermutationSubgroup.klein(12)),
    "Dense": psgd.Dense(),
    "LowRank": psgd.LowRank(rank=2),
    "LowRank, left": psgd.LowRank(rank=2, diagonal="left"),
}


def some_state(p, n, updates=20, seed=3):
    """A NumPy state away from the start."""
    rng = np.random.default_rng(seed)
    state = p.init(n, like=np.zeros(1))
    for _ in range(updates):
        v, h = rng.standard_normal((2, n))
        state = p.update(state, v, 3 * h, step=0.3)
    return state


def moved(state, backend):
    """A NumPy state, converted."""
    if isinstance(state, tuple):
        parts = [moved(part, backend) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return backend.asarray(state)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_eigenvalues_of_ph_are_those_it_was_made_with(name):
    """H = Q^{-1} D Q^{-T} has Q H Q^T = D, whatever Q is."""
    p, n = PRECONDITIONERS[name], 12
    state = some_state(p, n)
    d = np.sort(np.concatenate([-np.geomspace(0.1, 1, 4), np.geomspace(0.2, 10, 8)]))
    inverse = p.solve(state, np.eye(n))
    h = (inverse * d) @ inverse.T
    h = (h + h.T) / 2
    found = spectrum.eigenvalues(spectrum.preconditioned(h, p, state))
    np.testing.assert_allclose(found, d, atol=1e-11)
    # the same from P H itself, which is not symmetric, and from P as a matrix
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(p.matrix(state) @ h).real), d, atol=1e-10)
    np.testing.assert_allclose(
        spectrum.eigenvalues(spectrum.preconditioned(h, p.matrix(state))), d, atol=1e-10
    )
    # and from products alone
    products = spectrum.from_hvp(lambda v: h @ v, n, h)
    np.testing.assert_allclose(
        spectrum.eigenvalues(spectrum.preconditioned(products, p, state)), d, atol=1e-10
    )


@pytest.mark.parametrize("name", ["XMat", "LowRank"])
@light
def test_eigenvalues_of_ph_on_every_library(name, backend):
    p, n, h = PRECONDITIONERS[name], 8, symmetric(8)
    state = moved(some_state(p, n), backend)
    found = backend.numpy(spectrum.eigenvalues(spectrum.preconditioned(backend.asarray(h), p, state)))
    big_p = backend.numpy(p.matrix(state)).astype(float)
    expected = np.sort(np.linalg.eigvals(big_p @ h).real)
    np.testing.assert_allclose(found, expected, atol=200 * backend.eps * np.abs(expected).max())


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_eigenvalues_of_a_fitted_p(name):
    p, n = PRECONDITIONERS[name], 12
    state = some_state(p, n)
    found = spectrum.preconditioner_eigenvalues(p, state)
    expected = np.linalg.eigvalsh(p.matrix(state))
    assert found.complete
    np.testing.assert_allclose(found.values, expected, rtol=1e-11)
    assert found.condition_number == pytest.approx(expected[-1] / expected[0])
    op = spectrum.preconditioner_operator(p, state)
    np.testing.assert_allclose(spectrum.eigenvalues(op), expected, rtol=1e-11)


@light
def test_eigenvalues_of_p_on_every_library(backend):
    for p in (psgd.XMat(), psgd.LowRank(rank=1)):
        state = moved(some_state(p, 7), backend)
        found = spectrum.preconditioner_eigenvalues(p, state)
        expected = np.linalg.eigvalsh(backend.numpy(p.matrix(state)).astype(float))
        np.testing.assert_allclose(found.values, expected, rtol=200 * backend.eps, atol=50 * backend.eps)


def test_eigenvalues_of_low_rank_with_a_constant_diagonal():
    """Theorem 3.2: 2r of them move, the rest are ρ^2, and no matrix of size n is needed."""
    p, n = psgd.LowRank(rank=2), 5000
    rng = np.random.default_rng(0)
    state = p.init(n, like=np.zeros(1), scale=3.0)
    state = state._replace(u=rng.standard_normal((2, n)) / 40, v=rng.standard_normal((2, n)) / 40)
    found = spectrum.preconditioner_eigenvalues(p, state)
    assert found.complete
    moves = np.abs(found.values - 9) > 1e-9
    assert np.sum(moves) == 4
    basis, _ = np.linalg.qr(np.concatenate([state.u, state.v]).T)
    q = 3 * (basis + state.u.T @ (state.v @ basis))
    np.testing.assert_allclose(found.values[moves], np.linalg.eigvalsh(q.T @ q), rtol=1e-10)


def test_ends_of_p_by_lanczos_where_there_is_no_structure():
    p, n = psgd.LowRank(rank=1), 2100
    state = p.init(n, like=np.zeros(1), scale=1.0)
    state = state._replace(u=0 * state.u)
    d = np.concatenate([[0.1, 0.2], np.linspace(1, 1.5, n - 4), [3.0, 5.0]])
    state = state._replace(d=d)
    found = spectrum.preconditioner_eigenvalues(p, state, np.random.default_rng(0), k=2)
    assert not found.complete
    np.testing.assert_allclose(found.values, [0.01, 0.04, 9.0, 25.0], rtol=1e-10)
    assert found.error < 1e-10
    with pytest.raises(TypeError, match=r"`rng` must be a numpy\.random\.Generator, got NoneType"):
        spectrum.preconditioner_eigenvalues(p, state)


@pytest.mark.parametrize("n", [20, 300])
@light
def test_extreme_eigenvalues(n, backend):
    values = np.concatenate([[-5.0, -3.0], np.linspace(0.5, 1.5, n - 5), [4.0, 6.0, 9.0]])
    h = backend.asarray(with_spectrum(values))
    found = spectrum.extreme_eigenvalues(h, np.random.default_rng(0), k=2)
    tolerance = 200 * backend.eps * 9
    np.testing.assert_allclose(found.smallest, [-5, -3], atol=tolerance)
    np.testing.assert_allclose(found.largest, [6, 9], atol=tolerance)
    assert np.all(found.smallest_error < tolerance)
    assert np.all(found.largest_error < tolerance)
    assert np.isnan(found.condition_number)


def test_extreme_eigenvalues_of_ph_to_1e10_from_products():
    n, p = 400, psgd.XMat()
    state = some_state(p, n, updates=3)
    d = np.concatenate([[1e-3, 0.1], np.linspace(1, 2, n - 3), [50.0]])
    basis = haar(n, np.random.default_rng(1))
    inverse = p.solve(state, basis)
    op = spectrum.from_hvp(lambda v: inverse @ (d[:, None] * (inverse.T @ v)), n, d, columns=True)
    found = spectrum.extreme_eigenvalues(spectrum.preconditioned(op, p, state), np.random.default_rng(0), k=2)
    np.testing.assert_allclose(found.smallest, d[:2], atol=1e-10)
    np.testing.assert_allclose(found.largest, d[-2:], rtol=1e-10)
    assert found.condition_number == pytest.approx(5e4)


def test_extreme_eigenvalues_say_when_they_have_not_converged():
    op = spectrum.from_matrix(np.diag(np.linspace(1, 2, 1000)))
    with pytest.raises(RuntimeError, match="of 3 eigenvalues of H converged; raise `maxiter`"):
        spectrum.extreme_eigenvalues(op, np.random.default_rng(0), maxiter=1)


@plain
def test_spread_and_condition_number(backend):
    values = backend.asarray(np.array([-1.0, 10.0, 100.0, -1000.0]))
    assert spectrum.condition_number(values) == pytest.approx(1000)
    assert spectrum.spread(values) == pytest.approx(np.std([0, 1, 2, 3]))
    assert spectrum.spread(7 * values) == pytest.approx(np.std([0, 1, 2, 3]), rel=1e-6)
    assert spectrum.condition_number(np.array([0.0, 1.0])) == np.inf
    assert spectrum.spread(np.array([0.0, 1.0])) == np.inf


def test_damped():
    h = with_spectrum([-2.0, 0.0, 1.0, 5.0])
    moved = spectrum.damped(h, 0.5).dense()
    np.testing.assert_allclose(moved @ moved, h @ h + 0.25 * np.eye(4), atol=1e-13)
    np.testing.assert_array_equal(np.linalg.eigvalsh(moved) < 0, [True, False, False, False])


def test_compare():
    h = np.diag([4.0, -1.0, 0.25])
    perfect = np.diag([0.25, 1.0, 4.0])
    p = psgd.Diagonal()
    state = p.init(3, like=h, scale=2.0)
    result = spectrum.compare(h, {"perfect": perfect, "scaled": (p, state)})
    assert result.labels == ("H", "perfect", "scaled")
    np.testing.assert_allclose(result.values[1], [-1, 1, 1])
    np.testing.assert_allclose(result.values[2], 4 * result.values[0])
    np.testing.assert_allclose(result.condition_numbers, [16, 1, 16])
    np.testing.assert_allclose(
        result.spreads, [np.std(np.log10([4, 1, 0.25])), 0, np.std(np.log10([4, 1, 0.25]))]
    )


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


# -- traces ------------------------------------------------------------------------------------------------


@light
def test_traces_and_diagonals(backend):
    h = symmetric(30) + np.diag(np.arange(30.0))
    given_h, rng = backend.asarray(h), np.random.default_rng(0)
    estimates = [spectrum.trace(given_h, rng, 60), spectrum.hutch_plus_plus(given_h, rng, 24)]
    for estimate in estimates:
        assert abs(estimate.value - np.trace(h)) < 4 * estimate.error
        assert 0 < estimate.error < 60
    # the variance of Hutchinson's estimate is twice the squared off-diagonal entries
    off = np.sum(h**2) - np.sum(np.diag(h) ** 2)
    assert estimates[0].error == pytest.approx(np.sqrt(2 * off / 60), rel=0.3)
    found = spectrum.diagonal(given_h, rng, 60)
    pulls = (backend.numpy(found.value) - np.diag(h)) / backend.numpy(found.error)
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1, abs=0.4)
    assert found.value.dtype == backend.dtype


def test_traces_are_exact_where_they_should_be():
    rng = np.random.default_rng(0)
    d = np.arange(1.0, 9)
    assert spectrum.trace(np.diag(d), rng, 2).value == pytest.approx(36)  # signs see a diagonal exactly
    np.testing.assert_allclose(spectrum.diagonal(np.diag(d), rng, 2).value, d)
    low = with_spectrum([5.0, -3.0, 2.0] + [0.0] * 37)
    assert spectrum.hutch_plus_plus(low, rng, 12).value == pytest.approx(4.0)
    whole = spectrum.hutch_plus_plus(symmetric(3), rng, 30)
    assert whole.value == pytest.approx(np.trace(symmetric(3)))
    assert whole.error == 0


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


# -- results and figures -----------------------------------------------------------------------------------


class Rows(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.rows = [], 0

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def all_results():
    rng = np.random.default_rng(0)
    values = np.concatenate([[-2.0], np.linspace(0.5, 1.5, 34), [30.0]])
    h = with_spectrum(values)
    p = psgd.LowRank(rank=2)
    state = spectrum.fit(h, p, rng, updates=20)
    big = p.init(2100, like=h, scale=1.0)._replace(d=np.linspace(1, 2, 2100))
    diagonal = np.diag(1 / np.diagonal(h))
    return {
        "density": spectrum.density(h, rng),
        "log density": spectrum.density(h, rng, scale="log"),
        "far outliers": spectrum.density(with_spectrum([*values, 1e4]), rng),
        "one point": spectrum.density(h, rng, grid=np.array([1.0]), width=0.1),
        "comparison": spectrum.compare(h, {"<b>fitted</b>": (p, state), "diagonal": diagonal @ diagonal}),
        "ranks": spectrum.rank_study(h, (0, 1, 2), rng=rng, products=100, updates=20),
        "ranks, not fitted": spectrum.rank_study(h, (0, 1, 2)),
        "groups": spectrum.group_study(h),
        "order": spectrum.best_order(h, PermutationSubgroup.flip(36)),
        "eigenvalues": spectrum.preconditioner_eigenvalues(p, state),
        "some eigenvalues": spectrum.preconditioner_eigenvalues(p, big, rng, k=1),
        "extremes": spectrum.extreme_eigenvalues(h, rng),
    }


RESULTS = [
    "density",
    "log density",
    "far outliers",
    "one point",
    "comparison",
    "ranks",
    "ranks, not fitted",
    "groups",
    "order",
    "eigenvalues",
    "some eigenvalues",
    "extremes",
]


@pytest.mark.parametrize("name", RESULTS)
def test_results_print_and_turn_into_json(name, all_results):
    result = all_results[name]
    title, header, rows = result.table()
    assert rows
    assert all(len(row) == len(header) for row in rows)
    lines = repr(result).splitlines()
    assert lines[0] == title
    assert len(lines) == 2 + len(rows) <= 30
    assert max(map(len, lines)) <= 120
    page = Rows()
    page.feed(result._repr_html_())
    assert page.rows == 1 + len(rows)
    assert not page.open
    assert "<b>" not in result._repr_html_()
    back = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert back == result.as_dict()
    with pytest.raises(AttributeError):
        result.name = "other"


@pytest.mark.parametrize("name", RESULTS)
def test_results_draw_on_given_axes(name, all_results):
    figure = Figure()
    ax = figure.subplots()
    assert all_results[name].plot(ax) is ax
    assert ax.get_title()
    assert ax.get_xlabel()
    assert ax.get_ylabel() or ax.get_yticklabels()
    figure.canvas.draw()  # no warning, no error in rendering


def test_figures_make_axes_and_leave_pyplot_as_it_was(all_results):
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg", force=False)
    before, settings_before = mpl.get_backend(), dict(mpl.rcParams)
    ax = figures.rank_study(all_results["ranks"])
    assert ax.figure in [plt.figure(i) for i in plt.get_fignums()]
    assert mpl.get_backend() == before
    assert dict(mpl.rcParams) == settings_before
    plt.close(ax.figure)


def test_density_figure_shows_the_exact_one_beside(all_results):
    ax = Figure().subplots()
    all_results["density"].plot(ax, exact=np.linspace(0.5, 1.5, 36))
    assert {"exact, broadened alike", "95 % interval"} <= {t.get_text() for t in ax.get_legend().get_texts()}


def test_eigenvalues_that_fit_on_the_axis_are_all_there(all_results):
    ax = all_results["comparison"].plot(Figure().subplots())
    curve = ax.get_lines()[0].get_ydata()
    w = np.sort(np.abs(all_results["comparison"].values[0]))[::-1]
    np.testing.assert_allclose(curve, w / np.exp(np.mean(np.log(w))))


def test_importing_is_light():
    code = (
        "import sys; import psgd_analysis.spectrum as s; "
        "bad = {'torch', 'jax', 'matplotlib', 'numba', 'typer'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="analysis"
    )
    assert done.returncode == 0, done.stderr


def test_all_names_exist():
    assert sorted(spectrum.__all__) == list(spectrum.__all__)
    for name in spectrum.__all__:
        assert getattr(spectrum, name).__doc__


# -- bad input ---------------------------------------------------------------------------------------------

H4 = np.diag([1.0, 2.0, 3.0, -4.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: spectrum.from_matrix([[1.0]]), TypeError, "`matrix` must be an array .* got list"),
        (
            lambda: spectrum.from_matrix(np.eye(3, dtype=int)),
            TypeError,
            "must be float32 or float64, got int64",
        ),
        (
            lambda: spectrum.from_matrix(np.ones((2, 3))),
            ValueError,
            r"must be square, \(n, n\), got shape \(2, 3\)",
        ),
        (lambda: spectrum.from_matrix(np.full((2, 2), np.nan)), ValueError, "`matrix` must be finite"),
        (lambda: spectrum.from_matrix(np.triu(np.ones((2, 2)))), ValueError, "`matrix` must be symmetric"),
        (lambda: spectrum.from_hvp(H4, 4, H4), TypeError, "`hvp` must be a function of v, got ndarray"),
        (
            lambda: spectrum.from_hvp(lambda v: v, 0, H4),
            ValueError,
            "`n` must be an integer of at least 1, got 0",
        ),
        (lambda: spectrum.from_hvp(lambda v: v, 4, [1.0]), TypeError, "`like` must be an array"),
        (
            lambda: spectrum.from_hvp(lambda v: v, 4, np.arange(3)),
            TypeError,
            "`like` must be float32 or float64",
        ),
        (
            lambda: spectrum.from_matrix(H4).hvp(np.ones(3)),
            ValueError,
            r"`v` must have shape \(4,\) or \(4, k\)",
        ),
        (lambda: spectrum.from_matrix(H4).hvp(np.ones(4, dtype="f4")), TypeError, "library and dtype of H"),
        (
            lambda: spectrum.from_hvp(lambda v: v[:2], 4, H4).hvp(np.ones(4)),
            ValueError,
            r"`the product of H` must have shape",
        ),
        (
            lambda: spectrum.from_hvp(lambda v: 1.0, 4, H4, columns=True).hvp(np.ones(4)),
            TypeError,
            "got float",
        ),
        (
            lambda: spectrum.from_hvp(lambda v: v[:, :1], 4, H4, columns=True).hvp(np.ones((4, 2))),
            ValueError,
            "return one product per column",
        ),
        (
            lambda: spectrum.from_hvp(lambda v: v, 4, H4).dense(limit=3),
            ValueError,
            "`limit` must be at least n = 4",
        ),
        (
            lambda: spectrum.from_hvp(lambda v: np.triu(np.ones((4, 4))) @ v, 4, H4).dense(),
            ValueError,
            "must be those of a symmetric matrix",
        ),
        (
            lambda: spectrum.from_hvp(lambda v: v / 0 * 0, 4, H4).dense(),
            ValueError,
            "must be finite, got NaN",
        ),
        (
            lambda: spectrum.preconditioned(H4, psgd.XMat()),
            ValueError,
            "`state` must come with a preconditioner",
        ),
        (
            lambda: spectrum.preconditioned(H4, psgd.XMat(), psgd.XMat().init(5, like=H4)),
            ValueError,
            "`state` must be for n = 4 parameters",
        ),
        (
            lambda: spectrum.preconditioned(H4, np.eye(3)),
            ValueError,
            r"`preconditioner` must have shape \(4, 4\)",
        ),
        (
            lambda: spectrum.preconditioned(H4, -np.eye(4)),
            ValueError,
            "`preconditioner` must be positive definite",
        ),
        (
            lambda: spectrum.preconditioner_operator("XMat", None),
            TypeError,
            "must be a Preconditioner, got str",
        ),
        (lambda: spectrum.damped(H4, -1.0), ValueError, "`damping` must be a finite number >= 0, got -1.0"),
        (
            lambda: spectrum.extreme_eigenvalues(H4, np.random.default_rng(0), k=5),
            ValueError,
            "`k` must be an integer between 1 and 4, got 5",
        ),
        (
            lambda: spectrum.lanczos(H4, np.ones(4), 5),
            ValueError,
            "`steps` must be an integer between 1 and 4, got 5",
        ),
        (lambda: spectrum.lanczos(H4, np.ones(3), 2), ValueError, "`start` must have shape"),
        (
            lambda: spectrum.rank_study(H4, [-1]),
            ValueError,
            "`ranks` must be an integer of at least 0, got -1",
        ),
        (lambda: spectrum.rank_study(H4, [7]), ValueError, "`ranks` must hold a rank below n = 4"),
        (
            lambda: spectrum.rank_study(H4, [1], products=5),
            TypeError,
            "`rng` must be a numpy.random.Generator",
        ),
        (
            lambda: spectrum.rank_study(np.diag([1.0, 0.0])),
            ValueError,
            "must be invertible, got .* study `damped",
        ),
        (lambda: spectrum.least_condition(np.array([0.0, 1.0]), 1), ValueError, "`values` must not be 0"),
        (
            lambda: spectrum.best_low_rank(H4, 1, by="luck"),
            ValueError,
            "`by` must be 'criterion' or 'condition'",
        ),
        (lambda: spectrum.group_study(np.diag([1.0, 0.0])), ValueError, "must be invertible"),
        (
            lambda: spectrum.group_study(H4, {"mine": [[0, 1]]}),
            TypeError,
            r"`subgroups\['mine'\]` must be a PermutationSubgroup, got list",
        ),
        (
            lambda: spectrum.best_order(H4, PermutationSubgroup.flip(6)),
            ValueError,
            r"`subgroup` must permute range\(4\), got a subgroup for n = 6",
        ),
        (
            lambda: spectrum.fit(H4, psgd.Diagonal(), np.random.default_rng(0), updates=0),
            ValueError,
            "`updates` must be an integer of at least 1",
        ),
        (
            lambda: spectrum.hutch_plus_plus(H4, np.random.default_rng(0), 5),
            ValueError,
            "`probes` must be an integer of at least 6",
        ),
    ],
)
def test_bad_input(call, error, message):
    with np.errstate(all="ignore"), pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
