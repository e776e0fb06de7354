"""Pairs against known derivatives, and what the probes' second moments must be."""

from __future__ import annotations

import array_api_compat
import numpy as np
import pytest

import psgd_core as psgd
from psgd_core import curvature as cv
from psgd_core.curvature import Functions


def exponentials(backend, n=6):
    """f = sum_i w_i exp(c_i . x), every derivative of it known: H = sum_i w_i e_i c_i c_i^T."""
    rng = np.random.default_rng(1)
    c, w, x = rng.standard_normal((8, n)), rng.random(8), 0.3 * rng.standard_normal(n)
    cb, wb = backend.asarray(c), backend.asarray(w)

    def gradient(x):
        return (wb * backend.xp.exp(cb @ x)) @ cb

    return Functions(gradient=gradient), x, c, w * np.exp(c @ x)


@pytest.mark.parametrize(("source", "power"), [(cv.Forward(), 1 / 2), (cv.Central(), 2 / 3)])
def test_differences_err_as_documented(backend, source, power, rng):
    functions, x, c, e = exponentials(backend)
    xb = backend.asarray(x)
    v = rng.standard_normal((6, 3))
    pairs = backend.jit(lambda x, g, v: source.pairs(functions, x, g, v))
    got_v, got_h = (backend.numpy(a) for a in pairs(xb, functions.gradient(xb), backend.asarray(v)))
    want = c.T @ (e[:, None] * (c @ got_v))
    eps = backend.eps
    size = np.sqrt(np.mean(x**2))
    delta = eps ** (1 / 2 if power == 1 / 2 else 1 / 3) * (1 + size) / np.sqrt(np.mean(v**2, axis=0))
    if power == 1 / 2:
        truncation = delta * np.linalg.norm(c.T @ (e[:, None] * (c @ v) ** 2), axis=0) / 2
        rounding = 2 / delta
    else:
        truncation = delta**2 * np.linalg.norm(c.T @ (e[:, None] * (c @ v) ** 3), axis=0) / 6
        rounding = 1 / delta
    # the gradient's own relative error: 8 terms, an exp and two products of 6 or 8 terms
    eta = 8 * eps * np.linalg.norm(np.abs(c).T @ e)
    error = np.linalg.norm(got_h - want, axis=0)
    assert np.all(error <= 2 * truncation + eta * rounding)
    # the v returned is the one the gradient saw: near the probe, to the rounding of x + delta v
    assert np.all(np.abs(got_v - v) <= 4 * eps * (1 + np.abs(x))[:, None] / delta)


@pytest.mark.parametrize("source", [cv.Forward(), cv.Central()])
@pytest.mark.parametrize("k", [None, 3])
def test_the_v_of_a_difference_is_the_one_that_the_gradients_saw(backend, source, k, rng):
    """Far from 0 most digits of δ v are rounded away: h belongs to what is left, to the last bit.

    The Hessian's powers of two commute with rounding, so ``h = H v`` holds exactly for that v, and no other.
    """
    d = backend.asarray(np.array([1.0, 4.0, 0.5, 64.0]))
    functions = Functions(gradient=lambda x: d * x)
    x = backend.asarray(1e3 + 1e3 * rng.random(4))
    probe = backend.asarray(rng.standard_normal(4 if k is None else (4, k)))
    v, h = source.pairs(functions, x, functions.gradient(x), probe)
    np.testing.assert_array_equal(
        backend.numpy(h), (backend.numpy(d) * backend.numpy(v).T).T.astype(backend.dtype_name)
    )
    away = np.abs(backend.numpy(v) - backend.numpy(probe))
    step = float(backend.eps) ** (1 / 2 if source == cv.Forward() else 1 / 3)
    assert np.max(away) > 0  # the probe itself would not do
    assert np.max(away) < 4 * backend.eps / step


def test_central_is_more_accurate_than_forward_and_orders_are_right():
    class Numpy:
        xp = np
        asarray = staticmethod(np.asarray)

    functions, x, c, e = exponentials(Numpy)
    v = np.random.default_rng(5).standard_normal(6)
    errors = []
    for source in (cv.Forward(), cv.Central()):
        w, h = source.pairs(functions, x, functions.gradient(x), v)
        want = c.T @ (e * (c @ w))
        errors.append(np.linalg.norm(h - want) / np.linalg.norm(want))
    eps = np.finfo(float).eps
    assert eps ** (1 / 2) / 100 < errors[0] < 100 * eps ** (1 / 2)
    assert eps ** (2 / 3) / 100 < errors[1] < 100 * eps ** (2 / 3)


@pytest.mark.parametrize("source", [cv.Forward(), cv.Central()])
def test_differences_on_a_quadratic_at_extremes(backend, source, rng):
    h = np.diag([1.0, 4.0, 9.0])
    hb = backend.asarray(h)
    functions = Functions(gradient=lambda x: hb @ x)
    for scale in (0.0, 1e-3, 1e6):
        x = backend.asarray(scale * rng.standard_normal(3))
        v, got = source.pairs(functions, x, functions.gradient(x), backend.asarray(rng.standard_normal(3)))
        want = h @ backend.numpy(v)
        delta = backend.eps ** (1 / 2 if source == cv.Forward() else 1 / 3) * (1 + scale)
        assert np.all(np.abs(backend.numpy(got) - want) <= 40 * backend.eps * (1 + scale) * 9 / delta)
    zero = backend.asarray(np.zeros(3))
    v, got = source.pairs(functions, zero, zero, zero)
    assert np.all(backend.numpy(v) == 0)
    assert np.all(backend.numpy(got) == 0)


def test_typical_sets_the_step_at_zero():
    seen = []

    def gradient(x):
        seen.append(np.max(np.abs(x)))
        return x

    cv.Forward(typical=1e-6).pairs(Functions(gradient=gradient), np.zeros(2), np.zeros(2), np.ones(2))
    assert seen[-1] == pytest.approx(1e-6 * np.finfo(float).eps ** 0.5)


def test_exact_products_one_by_one_and_batched(backend, rng):
    h, v = rng.standard_normal((4, 4)), rng.standard_normal((4, 3))
    hb, vb, x = backend.asarray(h), backend.asarray(v), backend.asarray(np.zeros(4))
    shapes = []

    def hvp(x, v):
        shapes.append(v.shape)
        return hb @ v

    for batched in (False, True):
        functions = Functions(gradient=lambda x: x, hvp=hvp, batched=batched)
        same, got = cv.Exact().pairs(functions, x, x, vb)
        assert same is vb
        np.testing.assert_allclose(backend.numpy(got), h @ v, rtol=0, atol=40 * backend.eps)
    assert [tuple(s) for s in shapes] == [(4,)] * 3 + [(4, 3)]


def test_hessian_as_matrix_operator_or_callable(rng):
    from scipy.sparse.linalg import aslinearoperator

    h, v = rng.standard_normal((5, 5)), rng.standard_normal(5)
    for hessian in (h, aslinearoperator(h), lambda x, k: k * h, lambda x, k: aslinearoperator(k * h)):
        product = cv.product_with(hessian)
        np.testing.assert_allclose(product(np.zeros(5), v, 1.0), h @ v)
        np.testing.assert_allclose(product(np.zeros(5), np.stack([v, v], 1), 1.0)[:, 1], h @ v)
    with pytest.raises(TypeError, match="`hessian` must be a matrix"):
        cv.product_with("H")


def test_the_sample_is_bound_to_all_functions():
    seen = []
    functions = Functions(
        gradient=lambda x, z: seen.append(z) or z * x,
        value=lambda x, z: seen.append(z) or 0.5 * z * x @ x,
        hvp=lambda x, v, z: seen.append(z) or z * v,
    )
    here = functions.at(3.0)
    x = np.ones(2)
    here.value_and_gradient(x)
    for source in (cv.Exact(), cv.Forward(), cv.Central()):
        v, h = source.pairs(here, x, here.gradient(x), np.array([1.0, -2.0]))
        np.testing.assert_allclose(h, 3.0 * v, rtol=1e-6)
    assert set(seen) == {3.0}
    assert functions.at() is functions


def test_secant_follows_the_steps_on_the_present_sample(backend, rng):
    h, x0, x1 = np.diag([1.0, 5.0, 9.0]), rng.standard_normal(3), rng.standard_normal(3)
    hb, a, b = backend.asarray(h), backend.asarray(x0), backend.asarray(x1)
    v = backend.asarray(rng.standard_normal(3))
    # samples shift the gradient: a difference across samples would show 7 - 2
    sampled = Functions(gradient=lambda x, z: hb @ x + z)
    for source in (cv.Secant(), cv.Secant(reuse=True)):
        memory = source.init(sampled.at(2.0), a, v)
        memory = source.remember(memory, a, sampled.at(2.0).gradient(a))
        here = sampled.at(2.0 if source.reuse else 7.0)
        s, y = (backend.numpy(p) for p in source.pairs(here, b, here.gradient(b), v, memory))
        np.testing.assert_allclose(
            s, (x1 - x0) / np.sqrt(np.mean((x1 - x0) ** 2)), rtol=0, atol=40 * backend.eps
        )
        np.testing.assert_allclose(y, h @ s, rtol=0, atol=2000 * backend.eps)
        still = source.pairs(here, a, here.gradient(a), v, memory)  # no step: a pair that `update` leaves out
        assert np.all(backend.numpy(still[0]) == 0)
    with pytest.raises(ValueError, match="`functions` and `v` must be given to start with Secant"):
        cv.Secant().init(None, a, None)


def test_secant_starts_with_a_difference(rng):
    h = np.diag([1.0, 5.0])
    functions = Functions(gradient=lambda x: h @ x)
    x = rng.standard_normal(2)
    memory = cv.Secant().init(functions, x, rng.standard_normal(2))
    s, y = cv.Secant().pairs(functions, x, functions.gradient(x), x, memory)
    np.testing.assert_allclose(y, h @ s, rtol=1e-6)
    assert np.mean(s**2) == pytest.approx(1.0)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("k", [None, 2])
def test_along_is_a_step_and_probes_side_by_side(backend, k, reuse, rng):
    h, x, before = rng.standard_normal((3, 3)), *rng.standard_normal((2, 3))
    h = h + h.T
    hb, xb, before_b = (backend.asarray(a) for a in (h, x, before))
    functions = Functions(gradient=lambda x: hb @ x, hvp=lambda x, v: hb @ v, batched=True)
    source = cv.Along(every=4, first=2, reuse=reuse)
    v = backend.asarray(rng.standard_normal(3) if k is None else rng.standard_normal((3, k)))
    memory = source.remember((), before_b, hb @ before_b)
    alone, mixed = (source.pairs(functions, xb, hb @ xb, u, memory) for u in (None, v))
    step = (x - before) / np.sqrt(np.mean((x - before) ** 2))
    for found, probes in ((alone, np.zeros((3, 0))), (mixed, backend.numpy(v).reshape(3, -1))):
        want = np.concatenate([step[:, None], probes], axis=1)
        for got, expected in zip(found, (want, h @ want), strict=True):
            np.testing.assert_allclose(backend.numpy(got), expected, rtol=0, atol=500 * backend.eps)
    # there is no step to begin with: that pair is one that `update` leaves out
    start = source.init(None, xb, None)
    first, _ = source.pairs(functions, xb, hb @ xb, v, start)
    np.testing.assert_array_equal(backend.numpy(first)[:, 0], np.zeros(3))
    assert [t for t in range(10) if source.asks(t)] == [0, 1, 4, 8]


def test_along_without_products_differences():
    assert cv.Along(every=3).without_products() == cv.Along(cv.Forward(), every=3)
    assert cv.Along(cv.Central()).without_products() == cv.Along(cv.Central())


def test_along_needs_another_source():
    for wrong in (cv.Secant(), cv.Along(), 3):
        with pytest.raises(TypeError, match="`probes` must be a Source without memory"):
            cv.Along(wrong)
    with pytest.raises(ValueError, match="`first` must be a positive int"):
        cv.Along(first=0)


@pytest.mark.parametrize("k", [1, 4])
def test_whitening_has_the_gradients_second_moment_for_any_k(backend, k, rng):
    g = rng.standard_normal(4)
    v = rng.standard_normal((4, k))[:, 0] if k == 1 else rng.standard_normal((4, k))
    same, h = cv.Whitening().pairs(None, None, backend.asarray(g), backend.asarray(v))
    h = backend.numpy(h).reshape(4, k)
    np.testing.assert_allclose(h @ h.T / k, np.outer(g, g), rtol=0, atol=20 * backend.eps)
    np.testing.assert_array_equal(backend.numpy(same), backend.numpy(backend.asarray(v)))


@pytest.mark.parametrize(
    ("p", "n", "k"),
    [
        (psgd.Diagonal(), 5, 1),
        (psgd.XMat(), 5, 2),
        (psgd.Butterfly(), 6, 2),
        (psgd.Dense(), 3, 3),
        (psgd.LowRank(2), 4, 4),
        (psgd.Sparse(psgd.PermutationSubgroup.from_generators([[1, 2, 0, 3, 5, 4]])), 6, 6),
    ],
    ids=lambda p: getattr(type(p), "__name__", None),
)
def test_basis_probes_are_the_identity_on_the_groups_blocks(backend, p, n, k):
    state = p.init(n, backend.asarray(np.zeros(n)))
    v = backend.numpy(cv.basis(p, state))
    assert v.shape[1] <= k
    moment = v @ v.T / v.shape[1]
    mask = np.ones((n, n)) if isinstance(p, psgd.LowRank) else None
    if mask is None:  # which entries the group has
        ones = p.group.project(backend.asarray(np.ones((n, n))))
        mask = backend.numpy(p.group.matrix(ones))
    np.testing.assert_allclose(moment * mask, np.eye(n), rtol=0, atol=8 * backend.eps)


def test_integrated_whitening_ends_at_the_root_of_the_gradients_moment():
    """With v integrated out, and g in turn along the columns of a square root of S, P -> S^{-1/2}."""
    s = np.array([[4.0, 1.0], [1.0, 1.0]])
    root = np.linalg.cholesky(s) * np.sqrt(2)
    p = psgd.Dense()
    state = p.init(2, s)
    v = cv.basis(p, state)
    for t in range(1500):
        v, h = cv.Whitening().pairs(None, None, root[:, t % 2], v)
        state = p.update(state, v, h, step=0.3 if t < 500 else 0.3 * 0.994 ** (t - 500))
    w, u = np.linalg.eigh(s)
    np.testing.assert_allclose(p.matrix(state), u / np.sqrt(w) @ u.T, atol=5e-3)


@pytest.mark.parametrize("kind", [cv.Gaussian, cv.Rademacher, cv.Orthogonal])
@pytest.mark.parametrize("k", [1, 3])
def test_probes(backend, kind, k):
    like = backend.asarray(np.zeros(5))
    v = kind(k).draw(np.random.default_rng(3), like)
    assert v.dtype == like.dtype
    v = backend.numpy(v)
    assert v.shape == ((5,) if k == 1 else (5, 3))
    again = backend.numpy(kind(k).draw(np.random.default_rng(3), like))
    np.testing.assert_array_equal(v, again)
    if kind is cv.Rademacher:
        assert set(np.unique(v)) <= {-1.0, 1.0}
    if kind is cv.Orthogonal:
        v = v.reshape(5, k)
        np.testing.assert_allclose(v.T @ v, 5 * np.eye(k), rtol=0, atol=60 * backend.eps)


@pytest.mark.parametrize("kind", [cv.Gaussian, cv.Rademacher, cv.Orthogonal])
def test_second_moment_is_the_identity(kind):
    rng, like = np.random.default_rng(0), np.zeros(3)
    draws = np.concatenate([kind(2).draw(rng, like) for _ in range(4000)], axis=1)
    moment = draws @ draws.T / draws.shape[1]
    np.testing.assert_allclose(moment, np.eye(3), atol=6 * np.sqrt(2 / draws.shape[1]))


def test_orthogonal_block_of_n_is_exact(backend):
    v = backend.numpy(cv.Orthogonal(4).draw(np.random.default_rng(0), backend.asarray(np.zeros(4))))
    np.testing.assert_allclose(v @ v.T / 4, np.eye(4), rtol=0, atol=20 * backend.eps)


def test_native_generators():
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    a = cv.Rademacher(2).draw(torch.Generator().manual_seed(1), torch.zeros(4))
    assert array_api_compat.is_torch_array(a)
    b = cv.Orthogonal(2).draw(jax.random.key(1), jax.numpy.zeros(4))
    np.testing.assert_allclose(np.asarray(b.T @ b), 4 * np.eye(2), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: cv.Gaussian(0), "`k` must be a positive int"),
        (lambda: cv.Forward(typical=0.0), "`typical` must be positive"),
        (lambda: cv.Orthogonal(4).draw(np.random.default_rng(0), np.zeros(3)), "`k` must be at most n = 3"),
        (
            lambda: cv.Gaussian().draw(np.random.default_rng(0), np.zeros((3, 1))),
            r"`like` must have shape \(n,\)",
        ),
        (lambda: cv.Exact().pairs(Functions(gradient=abs), 0, 0, np.zeros(2)), "`hvp` must be given"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
