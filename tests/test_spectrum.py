"""Spectra: operators and sources, eigenvalues, traces, results and their figures, bad input."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.sparse.linalg
import scipy.stats
from matplotlib.figure import Figure
from registry import backends

import psgd_core as psgd
from psgd_analysis import problems, spectrum
from psgd_analysis.problems.spectra import haar
from psgd_analysis.spectrum import figures
from psgd_core import PermutationSubgroup

EPS = 2.0**-52

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
    if backend.library == "array_api_compat.cupy":
        pytest.skip("CuPy's view takes CuPy's vectors: test_extreme_eigenvalues")
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
    d = np.linspace(1, 2, 1000)
    op = spectrum.from_hvp(lambda v: d * v, 1000, d)
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
            r"`groups\['mine'\]` must be a PermutationSubgroup, got list",
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
