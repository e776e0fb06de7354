"""Kronecker products: against dense Kronecker algebra, to their exact minimiser, every group and geometry."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import backends

import psgd_core as psgd
from psgd_core import convergence, criterion, normalizers
from psgd_core.preconditioners import Blocks, Kronecker
from psgd_core.preconditioners.geometries import GEOMETRIES

NUMPY = np.zeros(1)
SHAPES = [(), (1,), (5,), (3, 2), (1, 4), (2, 1, 3), (2, 3, 2), (2, 1, 2, 3), (5, 4), (5, 4, 3, 2)]
GROUPS = ("dense", "triangular", "affine", "normalization", "diagonal", "identity")
OF_Q = [name for name, g in GEOMETRIES.items() if not g.fits_p]


def kron(matrices):
    """The Kronecker product by `np.kron`."""
    return functools.reduce(np.kron, matrices, np.eye(1))


def pattern(kind, s):
    """Where a factor of this kind may be nonzero."""
    mask = np.eye(s, dtype=bool)
    if kind == "dense":
        mask[:] = True
    elif kind == "triangular":
        mask = np.triu(np.ones((s, s), dtype=bool))
    elif kind == "affine":
        mask[:-1] = True
    elif kind == "normalization":
        mask[:, -1] = True
    return mask


def stored(kind, q):
    """A dense factor as the state holds it."""
    if kind == "diagonal":
        return np.diag(q).copy()
    if kind == "normalization":
        return np.stack([np.diag(q), np.append(q[:-1, -1], 0)])
    return q.copy()


def dense_of(kind, x, s):
    """What the state holds as a dense factor."""
    if kind == "diagonal":
        return np.diag(x)
    if kind == "normalization":
        return np.diag(x[0]) + np.outer(x[1], np.eye(s)[-1])
    return x


def make(shape, kinds, rng, dtype=float, **options):
    """A preconditioner, a random state of it, and the dense factors (1 for those that it has not)."""
    p = Kronecker(shape, tuple(kinds), **options)
    dense, held = [], []
    for s, kind in zip(shape, p.kinds, strict=True):
        noise = rng.uniform(-1, 1, (s, s))
        if dtype is complex:
            noise = noise + 1j * rng.uniform(-1, 1, (s, s))
        q = np.eye(s) + 0.4 * noise * pattern(kind, s) if kind != "identity" else np.eye(s)
        if p.geometry in ("Q0.5EQ1.5", "QUAD") and kind == "dense":
            q = q @ q.conj().T
        dense.append(q)
        if kind != "identity":
            held.append(stored(kind, q))
    state = p.init(p.n, np.zeros(1, dtype), scale=1.0)
    if held:
        state = state._replace(factors=tuple(held))
    return p, state, dense


def random(rng, shape, dtype=float):
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if dtype is complex else x


# -- the verbs -----------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.sampled_from(SHAPES),
    st.integers(0, 10**6),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([float, complex]),
)
def test_verbs_are_those_of_the_kronecker_product(shape, seed, k, dtype):
    rng = np.random.default_rng(seed)
    kinds = [GROUPS[i] for i in rng.integers(0, len(GROUPS), len(shape))]
    p, state, dense = make(shape, kinds, rng, dtype)
    q, n = kron(dense), p.n
    x = random(rng, n if k is None else (n, k), dtype)
    rounding = {"rtol": 0, "atol": 1e-12 * np.linalg.cond(q) ** 2 * abs(q).max() ** 2 * abs(x).max()}
    adjoint = q.conj().T
    np.testing.assert_allclose(p.apply(state, x), q @ x, **rounding)
    np.testing.assert_allclose(p.apply_transpose(state, x), adjoint @ x, **rounding)
    np.testing.assert_allclose(p.solve(state, x), np.linalg.solve(q, x), **rounding)
    np.testing.assert_allclose(p.solve_transpose(state, x), np.linalg.solve(adjoint, x), **rounding)
    np.testing.assert_allclose(p.precondition(state, x), adjoint @ q @ x, **rounding)
    np.testing.assert_allclose(p.matrix(state), adjoint @ q, **rounding)
    assert float(np.real(p.log_det(state))) == pytest.approx(np.linalg.slogdet(adjoint @ q)[1], abs=1e-11)
    value = np.sum(abs(q @ x) ** 2) + np.sum(abs(np.linalg.solve(adjoint, x)) ** 2)
    assert float(p.criterion(state, x, x)) == pytest.approx(value / (k or 1), rel=1e-10)
    if k is None and shape:
        tensor = x.reshape(shape)
        got = p.precondition(state, tensor)
        assert got.shape == shape
        np.testing.assert_allclose(got.reshape(-1), adjoint @ q @ x, **rounding)


# -- updates -------------------------------------------------------------------------------------------------


def unfolded(x, shape, i):
    return np.moveaxis(x.reshape((*shape, -1)), i, 0).reshape(shape[i], -1)


def dense_generators(p, dense, h, v):
    """``A_i A_i^H - B_i B_i^H`` on the pattern of each factor, and the sum, by dense algebra."""
    q, k = kron(dense), h.shape[1]
    a, b = q @ h, np.linalg.solve(q.conj().T, v)
    found = []
    for i, kind in enumerate(p.kinds):
        x, y = unfolded(a, p.shape, i), unfolded(b, p.shape, i)
        aa, bb = x @ x.conj().T / k, y @ y.conj().T / k
        found.append((kind, (aa - bb) * pattern(kind, p.shape[i]), aa + bb, x.shape[1]))
    return found


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.sampled_from(SHAPES), st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from([float, complex])
)
def test_an_update_is_the_dense_one(shape, seed, k, dtype):
    """EQ: ``Q_i - (step / d) / N_i E_i Q_i``, each N_i the sample's bound; then balanced."""
    rng = np.random.default_rng(seed)
    kinds = [GROUPS[i] for i in rng.integers(0, len(GROUPS), len(shape))]
    p, state, dense = make(shape, kinds, rng, dtype, damping=0, normalizer=normalizers.Sample())
    h, v = random(rng, (p.n, k), dtype), random(rng, (p.n, k), dtype)
    d, step, moved = len(state.factors), 0.3, []
    if all(kind == "identity" for kind in p.kinds):
        q = complex(state.factors[0][0])
        a, b = np.sum(abs(q * h) ** 2), np.sum(abs(v / q) ** 2)
        expected = abs(q * (1 - step * (a - b) / (a + b))) ** 2 * np.eye(p.n)
    else:
        for (kind, e, both, columns), q in zip(dense_generators(p, dense, h, v), dense, strict=True):
            if kind == "identity":
                moved.append(q)
                continue
            if kind == "diagonal":
                size = np.real(np.diag(both))[:, None]
            elif kind == "normalization":
                last = both[:-1, -1]
                size = abs(np.diag(both)).max() + np.linalg.norm(last)
            else:
                w = np.linalg.eigvalsh(both)
                size = (
                    w.sum()
                    if columns == 1
                    else w[-1]
                    if len(w) <= 2
                    else w[-1] * np.sum((w / w[-1]) ** 64) ** (1 / 64)
                )
            moved.append(q - step / d / size * (e @ q))
        product = kron(moved)
        expected = product.conj().T @ product
    new = p.update(state, v, h, step)
    np.testing.assert_allclose(p.matrix(new), expected, atol=1e-11 * abs(expected).max())
    sizes = [abs(q).max() for q in new.factors]  # shared evenly, up to a power of two each
    assert max(sizes) <= 2.0 ** len(sizes) * min(sizes)


@pytest.mark.parametrize("geometry", OF_Q)
def test_two_factors_move_as_two_dense_preconditioners(geometry, rng):
    """For each factor the update is `Dense`'s on the columns that it sees, at half the step."""
    shape = (3, 2)
    options = {"geometry": geometry, "damping": 0, "normalizer": normalizers.Sample()}
    p, state, dense = make(shape, ("dense", "dense"), rng, **options)
    h, v = random(rng, (6, 2)), random(rng, (6, 2))
    q = kron(dense)
    a, b = q @ h, np.linalg.solve(q.T, v)
    moved = []
    for i in range(2):
        x, y = unfolded(a, shape, i), unfolded(b, shape, i)
        other, scale = (
            psgd.Dense(**options),
            np.sqrt(x.shape[1] / 2),
        )  # a mean over columns for one over probes
        start = other.init(shape[i], NUMPY, scale=1.0)
        start = start._replace(q=other.group.project(dense[i]))
        pair = scale * dense[i].T @ y, scale * np.linalg.solve(dense[i], x)
        moved.append(other.group.matrix(other.update(start, *pair, 0.2).q))
    expected = kron(moved)
    got = p.matrix(p.update(state, v, h, 0.4))
    np.testing.assert_allclose(got, expected.T @ expected, atol=1e-11)


@backends(lambda b: b.library != "jax.numpy" or b.name == "jax-jit-f32")
@pytest.mark.parametrize(
    ("shape", "factors", "geometry"),
    [
        ((2, 1, 3), ("triangular", "auto", "normalization"), "EQ"),
        ((3, 2), ("affine", "diagonal"), "EQ"),
        ((3, 3), "dense", "Lyapunov"),
        ((), "auto", "QUAD"),
    ],
)
def test_every_library_and_dtype_gets_the_same_update(backend, shape, factors, geometry):
    p = Kronecker(shape, factors, geometry=geometry)
    rng = np.random.default_rng(8)
    v, h, g = rng.standard_normal((3, p.n, 2))
    expected = p.precondition(p.update(p.init(p.n, v), v, h, 0.3), g)
    run = backend.jit(lambda s, v, h, g: p.precondition(p.update(s, v, h, 0.3), g))
    like = backend.asarray(v)
    got = backend.numpy(run(p.init(p.n, like), like, backend.asarray(h), backend.asarray(g)))
    np.testing.assert_allclose(got, expected, atol=300 * backend.eps * abs(expected).max())
    check = backend.jit(lambda s, h: p.precondition(p.update(s, None, h, 0.3), h))
    assert np.all(np.isfinite(backend.numpy(check(p.init(p.n, like), backend.asarray(h)))))


# -- where it ends -------------------------------------------------------------------------------------------


def spd(s, kappa, rng, dtype=float):
    vectors = np.linalg.qr(random(rng, (s, s), dtype))[0]
    return (vectors * np.geomspace(1, kappa, s)) @ vectors.conj().T


def fit(p, hessian, updates, step, pair=None):
    n = len(hessian)
    v = np.sqrt(n) * np.eye(n) + 0 * hessian
    state = p.init(n, hessian)
    for _ in range(updates):
        state = p.update(state, *((v, hessian @ v) if pair is None else pair), step)
    return state


@pytest.mark.parametrize("geometry", OF_Q)
@pytest.mark.parametrize(("shape", "dtype"), [((4, 3), float), ((3, 1, 2, 2), float), ((3, 2), complex)])
def test_it_ends_at_the_inverse_where_the_hessian_is_a_product(geometry, shape, dtype):
    """An indefinite ``H = H_1 ⊗ H_2 ⊗ ...`` of condition number 4 per factor."""
    rng = np.random.default_rng(1)
    parts = [spd(s, 4.0 if s > 1 else 1.0, rng, dtype) for s in shape]
    hessian = kron(parts)
    w, vectors = np.linalg.eigh(hessian)
    indefinite = (vectors * w * (-1) ** np.arange(len(w))) @ vectors.conj().T
    p = Kronecker(shape, "dense", geometry=geometry)
    step = 0.9 * convergence.stable_step(4.0, geometry)
    state = fit(p, indefinite, 400, step)
    inverse = np.linalg.inv(hessian)
    assert abs(p.matrix(state) - inverse).max() < 1e-9 * abs(inverse).max()
    assert int(state.skipped) == 0


@pytest.mark.parametrize("factors", ["dense", "diagonal", ("dense", "diagonal"), ("triangular", "affine")])
def test_it_ends_at_the_minimiser_for_any_hessian(factors):
    rng = np.random.default_rng(2)
    shape = (3, 4)
    hessian = spd(12, 10.0, rng)
    kinds = ["diagonal" if kind == "diagonal" else "dense" for kind in Kronecker(shape, factors).kinds]
    best = criterion.kronecker_minimizer(hessian, shape, tuple(kinds))
    p = Kronecker(shape, factors)
    state = fit(p, hessian, 800, 0.9)
    assert convergence.distance(p.apply(state, np.eye(12)), convergence.target_at(best)) < 1e-9


def test_the_shared_step_converges_at_every_step_below_one():
    """Three factors at step 0.95, where each at the full step would not settle."""
    rng = np.random.default_rng(3)
    hessian = kron([spd(s, 1.5, rng) for s in (3, 2, 2)])
    p = Kronecker((3, 2, 2), "dense")
    state = fit(p, hessian, 300, 0.95)
    inverse = np.linalg.inv(hessian)
    assert abs(p.matrix(state) - inverse).max() < 1e-12


@pytest.mark.parametrize("factors", [*itertools.product(("dense", "diagonal", "normalization"), repeat=2)])
def test_choices_of_groups_end_where_the_criterion_is_least(factors):
    """BFGS over the same products from other starts finds nothing better: [W b] of 2 outputs, 2 features."""
    rng = np.random.default_rng(4)
    shape, masks = (2, 3), [pattern(kind, s) for kind, s in zip(factors, (2, 3), strict=True)]
    hessian = spd(6, 8.0, rng)
    m = hessian @ hessian

    def value(x):
        parts, start = [], 0
        for mask in masks:
            q = np.zeros(mask.shape)
            q[mask] = x[start : start + mask.sum()]
            parts.append(q)
            start += mask.sum()
        p = kron([q.T @ q for q in parts])
        return np.trace(p @ m) + np.trace(np.linalg.inv(p))

    start = np.concatenate([np.eye(len(mask))[mask] for mask in masks])
    best = scipy.optimize.minimize(value, start, method="BFGS", options={"gtol": 1e-9}).fun
    p = Kronecker(shape, factors)
    dense = p.matrix(fit(p, hessian, 600, 0.9))
    assert np.trace(dense @ m) + np.trace(np.linalg.inv(dense)) == pytest.approx(best, rel=1e-8)


def test_the_minimiser_of_a_product_and_its_stationarity():
    rng = np.random.default_rng(5)
    parts = [spd(3, 5.0, rng), spd(2, 3.0, rng)]
    got = criterion.kronecker_minimizer(kron(parts), (3, 2))
    np.testing.assert_allclose(got, np.linalg.inv(kron(parts)), atol=1e-12)
    hessian, noise = spd(6, 10.0, rng), 0.3 * np.eye(6)
    best = criterion.kronecker_minimizer(hessian, (3, 2), noise=noise)

    def value(e, f):
        left, right = scipy.linalg.expm(e + e.T), scipy.linalg.expm(f + f.T)
        half = scipy.linalg.sqrtm(best).real
        p = half @ np.kron(left, right) @ half
        return np.trace(p @ (hessian @ hessian + noise)) + np.trace(np.linalg.inv(p))

    zero = value(np.zeros((3, 3)), np.zeros((2, 2)))
    for i in range(10):
        e, f = 1e-3 * rng.standard_normal((3, 3)), 1e-3 * rng.standard_normal((2, 2))
        if i % 2:  # along P_i's own directions: half commutes with neither, so the product stays one
            e, f = 1e-3 * rng.standard_normal() * np.eye(3), 1e-3 * rng.standard_normal() * np.eye(2)
        assert value(e, f) > zero - 1e-12
    with pytest.raises(ValueError, match="`shape` must have n = 6 elements"):
        criterion.kronecker_minimizer(hessian, (3, 3))
    with pytest.raises(ValueError, match=r"`kinds\[1\]` must be one of 'dense', 'diagonal'"):
        criterion.kronecker_minimizer(hessian, (3, 2), ("dense", "triangular"))


# -- extremes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1, 1), (4,), (3, 2), (2, 3, 2)])
@pytest.mark.parametrize("factors", ["dense", "auto"])
def test_zero_and_sparse_products_leave_everything_finite(shape, factors, dtype):
    rng = np.random.default_rng(6)
    p = Kronecker(shape, factors)
    state = p.init(p.n, np.zeros(1, dtype))
    for t in range(60):
        v = rng.standard_normal(p.n).astype(dtype)
        h = np.zeros(p.n, dtype)
        if t >= 20:  # zero at first, then one entry at a time
            h[t % p.n] = 3.0
        state = p.update(state, v, h, 0.5)
        whitened = p.update(state, None, h, 0.5)
        assert all(np.all(np.isfinite(q)) for q in (*state.factors, *whitened.factors))
    assert int(state.skipped) == 0
    p.check(state)
    assert np.all(np.isfinite(p.precondition(state, v)))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_float32_at_the_ends_of_its_range(scale):
    rng = np.random.default_rng(7)
    p = Kronecker((4, 3), "dense", damping=0)  # the default would bound P by 1e9
    state = p.init(12, np.zeros(1, np.float32))
    hessian = np.kron(spd(4, 3.0, rng), spd(3, 3.0, rng))
    for _ in range(600):
        v = rng.standard_normal(12)
        state = p.update(state, v.astype(np.float32), (scale * (hessian @ v)).astype(np.float32), 0.5)
    inverse = np.linalg.inv(hessian)
    np.testing.assert_allclose(p.matrix(state) * np.float64(scale), inverse, atol=1e-4 * abs(inverse).max())


def test_factors_stay_balanced_and_bad_pairs_are_left_out(rng):
    p, state, _ = make((3, 2), ("dense", "diagonal"), rng)
    state = state._replace(factors=(1e6 * state.factors[0], 1e-6 * state.factors[1]))
    v, h = rng.standard_normal((2, 6))
    new = p.update(state, v, h, 0.1)
    sizes = [abs(q).max() for q in new.factors]
    assert max(sizes) <= 2 * min(sizes)
    bad = h.copy()
    bad[2] = np.nan
    same = p.update(state, v, bad, 0.1)
    assert int(same.skipped) == 1
    np.testing.assert_array_equal(same.factors[0], state.factors[0])


def test_a_state_is_saved_and_loaded(tmp_path, rng):
    for p, dtype in (
        (Kronecker((3, 2), ("triangular", "diagonal")), float),
        (Kronecker((2, 2), "dense"), complex),
    ):
        state = p.update(
            p.init(p.n, np.zeros(1, dtype)), random(rng, p.n, dtype), random(rng, p.n, dtype), 0.3
        )
        psgd.save(tmp_path / "state", state, config=p)
        loaded = psgd.load(tmp_path / "state", state, config=p)
        for x, y in zip(loaded.factors, state.factors, strict=True):
            np.testing.assert_array_equal(x, y)
        assert type(loaded) is type(state)


# -- several tensors, and the loop ---------------------------------------------------------------------------


def test_blocks_are_their_parts(rng):
    tree = {"W": np.zeros((3, 2)), "b": np.zeros(3), "s": [np.zeros(()), np.zeros((2, 2, 2))]}
    p = Blocks.of(tree)
    assert [(n, type(part).__name__) for n, part in p.parts] == [
        (6, "Kronecker"),
        (3, "Diagonal"),
        (1, "Diagonal"),
        (8, "Kronecker"),
    ]
    state, v, h = p.init(18, NUMPY), rng.standard_normal((18, 2)), rng.standard_normal((18, 2))
    new = p.update(state, v, h, 0.3)
    blocks, start = [], 0
    for n, part in p.parts:
        here = slice(start, start + n)
        own = part.update(part.init(n, NUMPY), v[here], h[here], 0.3)
        blocks.append(part.matrix(own))
        start += n
    dense = scipy.linalg.block_diag(*blocks)
    np.testing.assert_allclose(p.matrix(new), dense, atol=1e-13)
    assert float(p.log_det(new)) == pytest.approx(np.linalg.slogdet(dense)[1])
    x = rng.standard_normal(18)
    np.testing.assert_allclose(p.solve(new, p.apply(new, x)), x, atol=1e-12)
    np.testing.assert_allclose(p.solve_transpose(new, p.apply_transpose(new, x)), x, atol=1e-12)
    v[4, 1] = np.inf
    same = p.update(new, v, h, 0.3)
    assert int(same.skipped) == 1
    np.testing.assert_array_equal(p.matrix(same), p.matrix(new))
    mixed = Blocks(((6, psgd.XMat()), (12, psgd.Diagonal())))
    assert mixed.matrix(mixed.init(18, NUMPY, scale=2.0))[0, 0] == 4.0


def test_minimize_takes_a_tree_of_tensors_with_a_preconditioner_each(rng):
    x, weights = rng.standard_normal((40, 3)), rng.standard_normal((2, 3))
    y = x @ weights.T + 0.5

    def residual(tree):
        return x @ tree["W"].T + tree["b"] - y

    def fun(tree):
        return 0.5 * np.sum(residual(tree) ** 2)

    def grad(tree):
        r = residual(tree)
        return {"W": r.T @ x, "b": np.sum(r, axis=0)}

    start = {"W": np.zeros((2, 3)), "b": np.zeros(2)}
    p = Blocks.of(start, lambda shape: Kronecker(shape, "dense"))
    result = psgd.minimize(fun, start, grad=grad, preconditioner=p, maxiter=300)
    assert result.fun < 1e-10
    np.testing.assert_allclose(result.x["W"], weights, atol=1e-5)
    own = psgd.minimize(
        lambda w: fun({"W": w, "b": 0.5}),
        np.zeros((2, 3)),
        grad=lambda w: grad({"W": w, "b": 0.5})["W"],
        preconditioner=Kronecker((2, 3), "dense"),
        maxiter=200,
    )
    assert own.fun < 1e-10


# -- configuration -------------------------------------------------------------------------------------------


def test_auto_makes_small_dimensions_dense():
    assert Kronecker((4, 4)).kinds == ("triangular", "triangular")
    assert Kronecker((4, 4), geometry="QUAD").kinds == ("dense", "dense")
    assert Kronecker((4, 100)).kinds == ("triangular", "diagonal")
    assert Kronecker((100,)).kinds == ("diagonal",)
    assert Kronecker((4, 100), max_skew=np.inf).kinds == ("triangular", "triangular")
    assert Kronecker((4, 100), max_skew=np.inf, max_size=50).kinds == ("triangular", "diagonal")
    assert Kronecker((64, 32, 3, 3)).kinds == ("triangular",) * 4
    assert Kronecker((1, 8, 8), ("auto", "auto", "dense")).kinds == ("identity", "triangular", "dense")
    assert hash(Kronecker([3, 2])) == hash(Kronecker((3, 2)))


@pytest.mark.parametrize("geometry", [name for name in GEOMETRIES if name != "EQ"])
def test_what_is_not_offered_says_why(geometry):
    if GEOMETRIES[geometry].fits_p:
        with pytest.raises(ValueError, match="fits P, and the move of a factor needs the roots"):
            Kronecker((3, 2), geometry=geometry)
    for kind in ("triangular", "affine", "normalization"):
        with pytest.raises(ValueError, match="`geometry` must"):
            Kronecker((3, 2), (kind, "dense"), geometry=geometry)


def test_bad_configuration_is_refused(rng):
    for bad in ((0, 2), (2.0,), 5, (True,)):
        with pytest.raises(ValueError, match="`shape` must be a tuple of positive ints"):
            Kronecker(bad)
    with pytest.raises(ValueError, match="`factors` must be one of 'auto', 'identity', 'dense'"):
        Kronecker((2, 2), "lower")
    with pytest.raises(ValueError, match="each of the 2 dimensions"):
        Kronecker((2, 2), ("dense",))
    with pytest.raises(ValueError, match="`n` must be the number of elements"):
        Kronecker((2, 2)).init(5, NUMPY)
    with pytest.raises(TypeError, match="`normalizer` must be a Normalizer"):
        Kronecker((2, 2), normalizer="Running")
    with pytest.raises(ValueError, match=r"`parts\[0\]\[0\]` must be a positive int, got 'a'"):
        Blocks((("a", psgd.XMat()),))
    with pytest.raises(TypeError, match="`parts` must hold pairs"):
        Blocks((3, psgd.XMat()))
    with pytest.raises(ValueError, match="`n` must be the number of parameters of all blocks, 3"):
        Blocks(((3, psgd.XMat()),)).init(4, NUMPY)
    p = Kronecker((2, 3))
    with pytest.raises(ValueError, match=r"`v` must have shape \(6,\)"):
        p.update(p.init(6, NUMPY), np.zeros((3, 2)), np.zeros((3, 2)), 0.1)
    assert replace(p, factors="diagonal").kinds == ("diagonal", "diagonal")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_diagonal_factors_see_rows_of_every_size(dtype):
    """Rows whose squares leave the range of the dtype, beside others: each moves by its own norms."""
    small = 1e-25 if dtype is np.float32 else 1e-250
    h = np.asarray([[3.0, 4.0], [3 * small, 4 * small], [0.0, 0.0]], dtype)
    v = np.asarray([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]], dtype)
    p = Kronecker((3, 2), ("diagonal", "identity"), damping=0, normalizer=normalizers.Sample())
    q = np.asarray([0.5, 0.2 / np.sqrt(small), 2.0])
    state = p.init(6, np.zeros(1, dtype), scale=1.0)._replace(factors=(q.astype(dtype),))
    a, b = q * np.hypot(*h.astype(float).T), np.hypot(*v.astype(float).T) / q
    expected = q * (1 - 0.3 * (a**2 - b**2) / (a**2 + b**2))
    new = p.update(state, v, h, 0.3)
    np.testing.assert_allclose(new.factors[0], expected, rtol=20 * np.finfo(dtype).eps)
