"""Functions that Hessians are studied through: random, moving, careless with buffers, without curvature."""

from __future__ import annotations

import numpy as np
import pytest

from psgd_analysis import spectrum

N = 300
"""More than `extreme_eigenvalues` takes for small."""


def symmetric(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return a + a.T


# -- functions that write into their arguments, or hand out one buffer ---------------------------------------


def writes(h):
    def hvp(v):
        out = h @ v
        v[...] = 7.0
        return out

    return hvp


def one_buffer(h):
    buffers = {}

    def hvp(v):
        out = buffers.setdefault(tuple(v.shape), h @ v)
        out[...] = h @ v
        return out

    return hvp


def in_place(h):
    """The product in the argument's own memory."""

    def hvp(v):
        v[...] = h @ v
        return v

    return hvp


def scratch(h):
    """One buffer for all, filled with something else as soon as the next product begins."""
    held = []

    def hvp(v):
        for x in held:
            x[...] = np.nan
        held.append(h @ v)
        return held[-1]

    return hvp


@pytest.mark.parametrize("careless", [writes, one_buffer, in_place, scratch])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_careless_functions_have_the_spectrum_of_careful_ones(careless, columns, library):
    h = symmetric(9)
    if library == "torch":
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        h = torch.from_numpy(h)
    op = spectrum.from_hvp(careless(h), 9, h, columns=columns)
    v = np.random.default_rng(1).standard_normal((9, 4))
    kept = v.copy()
    if library == "torch":
        v = torch.from_numpy(v)
    expected = np.asarray(h) @ kept
    np.testing.assert_allclose(op.hvp(v), expected, rtol=1e-12)
    np.testing.assert_array_equal(v, kept)
    first, second = op.hvp(v[:, 0]), op.hvp(v[:, 1])
    np.testing.assert_allclose(first, expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(second, expected[:, 1], rtol=1e-12)
    np.testing.assert_allclose(op.dense(), h, rtol=1e-12)
    exact = np.linalg.eigvalsh(np.asarray(h))
    start = v[:, :1]
    t = spectrum.lanczos(op, start, 9)
    ritz = np.linalg.eigvalsh(
        np.diag(np.asarray(t.alpha[0]))
        + np.diag(np.asarray(t.beta[0, :-1]), 1)
        + np.diag(np.asarray(t.beta[0, :-1]), -1)
    )
    np.testing.assert_allclose(ritz, exact, atol=1e-9)


def test_ends_of_a_careless_function_by_lanczos():
    d = np.linspace(-1.0, 1.0, N) ** 3
    op = spectrum.from_hvp(in_place(np.diag(d)), N, d)
    ends = spectrum.extreme_eigenvalues(op, np.random.default_rng(0), 2)
    np.testing.assert_allclose([*ends.smallest, *ends.largest], [*d[:2], *d[-2:]], atol=1e-10)


# -- functions that are not the same every time -------------------------------------------------------------


def test_products_that_change_are_refused_in_the_first():
    h, rng, calls = symmetric(6), np.random.default_rng(0), []

    def noisy(v):
        return h @ v + 1e-3 * rng.standard_normal(v.shape)

    def cycling(v):
        calls.append(0)
        return (h if len(calls) % 2 else 2 * h) @ v

    def growing(v):
        calls.append(0)
        return len(calls) * (h @ v)

    for hvp in (noisy, cycling, growing):
        for columns in (True, False):
            with pytest.raises(
                ValueError, match="products of H must be the same for the same v, got one that"
            ):
                spectrum.from_hvp(hvp, 6, h, columns=columns).hvp(np.ones(6))


def test_rounding_is_no_change_and_the_look_is_once():
    h, calls = symmetric(6), []

    def hvp(v):
        calls.append(0)
        return h @ v * (1 + len(calls) * 1e-13)

    op = spectrum.from_hvp(hvp, 6, h, columns=True)
    for _ in range(5):
        op.hvp(np.ones((6, 3)))
    assert len(calls) == 6


# -- no curvature ------------------------------------------------------------------------------------------


def zero_hessians():
    def linear():
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        w = torch.ones(N, dtype=torch.float64, requires_grad=True)
        return spectrum.from_torch(w.sum, [w])

    def linear_network():
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        layer, x = torch.nn.Linear(N, 1), torch.ones(3, N)
        return spectrum.from_torch(lambda: layer(x).sum(), layer)

    def in_jax():
        jax = pytest.importorskip("jax", reason="JAX is not installed")
        return spectrum.from_jax(jax.numpy.sum, jax.numpy.ones(N))

    return {
        "linear": linear,
        "linear network": linear_network,
        "in JAX": in_jax,
        "products": lambda: spectrum.from_hvp(lambda v: 0 * v, N, np.zeros(1)),
        "float32": lambda: spectrum.from_hvp(np.zeros_like, N, np.zeros(1, np.float32), columns=True),
        "matrix": lambda: spectrum.from_matrix(np.zeros((N, N))),
    }


@pytest.mark.parametrize("name", list(zero_hessians()))
def test_no_curvature_is_an_answer(name):
    op = zero_hessians()[name]()
    ends = spectrum.extreme_eigenvalues(op, np.random.default_rng(0), 3)
    for values in (ends.smallest, ends.largest, ends.smallest_error, ends.largest_error):
        np.testing.assert_array_equal(values, np.zeros(3))
    assert not np.any(np.asarray(spectrum.eigenvalues(op)))
    assert spectrum.condition_number(spectrum.eigenvalues(op)) == float("inf")
    assert float(spectrum.trace(op, np.random.default_rng(0)).value) == 0
    density = spectrum.density(op, np.random.default_rng(0), steps=8, probes=2)
    assert "0" in str(density)
    damped = spectrum.eigenvalues(spectrum.damped(op, 0.1))
    np.testing.assert_allclose(np.asarray(damped), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("d", "smallest", "largest"),
    [
        (np.ones(N), [1, 1], [1, 1]),
        (-3 * np.ones(N), [-3, -3], [-3, -3]),
        (1.0 * (np.arange(N) == 7), [0, 0], [0, 1]),
        ((np.arange(N) == 7) - 2.0 * (np.arange(N) == 5), [-2, 0], [0, 1]),
        (1e-150 * np.ones(N), [1e-150] * 2, [1e-150] * 2),
    ],
)
def test_little_curvature_is_an_answer_too(d, smallest, largest):
    op = spectrum.from_hvp(lambda v: d * v, N, d)
    ends = spectrum.extreme_eigenvalues(op, np.random.default_rng(0), 2)
    size = np.abs(d).max()
    np.testing.assert_allclose(ends.smallest / size, np.array(smallest) / size, atol=1e-12)
    np.testing.assert_allclose(ends.largest / size, np.array(largest) / size, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("late", [False, True])
def test_products_that_are_not_finite_are_one_sentence(value, late):
    d, calls = np.linspace(1.0, 2.0, N), []

    def hvp(v):
        calls.append(0)
        return d * v + (value if not late or len(calls) > 20 else 0.0)

    with pytest.raises(ValueError, match="the products of H must be finite, got NaN or Inf"):
        spectrum.extreme_eigenvalues(spectrum.from_hvp(hvp, N, d), np.random.default_rng(0))
