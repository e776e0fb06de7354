"""The iteration one step at a time: its formula, its clips, and the same loop on every library."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd
from psgd_analysis import problems
from psgd_core import PSGD, curvature, schedules
from psgd_core.curvature import Functions
from psgd_core.descent import clips, deterministic, stochastic


def quadratic(backend, seed=0, n=4):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    h, x = a @ a.T / n + np.eye(n), rng.standard_normal(n)
    hb = backend.asarray(h)
    functions = Functions(
        gradient=lambda x: hb @ x,
        value=lambda x: 0.5 * backend.xp.sum(x * (hb @ x)),
        hvp=lambda x, v: hb @ v,
        batched=True,
    )
    return h, x, functions


def test_update_is_equation_1(backend, rng):
    h, x, _ = quadratic(backend)
    opt = PSGD(psgd.Dense(), lr=0.3, step_size=0.2, momentum=0.9, weight_decay=0.01)
    xb = backend.asarray(x)
    state = opt.init(xb, scale=0.5)
    p, expected_p = opt.preconditioner, state.preconditioner
    update = backend.jit(lambda state, x, g, v, h: opt.update(state, x, g, pair=(v, h)))
    m = np.zeros(4)
    for t in range(4):
        g, v = rng.standard_normal(4), rng.standard_normal(4)
        gb, vb, hb = backend.asarray(g), backend.asarray(v), backend.asarray(h @ v)
        xb, state = update(state, xb, gb, vb, hb)
        expected_p = p.update(expected_p, vb, hb, step=0.2)
        beta = min(0.9, t / (t + 1))
        m = beta * m + (1 - beta) * g
        x = x - 0.3 * (backend.numpy(p.matrix(expected_p)) @ m + 0.01 * x)
        np.testing.assert_allclose(backend.numpy(xb), x, rtol=0, atol=200 * backend.eps)
    assert int(state.count) == 4
    assert int(state.skipped) == 0


def test_l2_decay_enters_the_gradient(backend):
    _, x, _ = quadratic(backend)
    opt = PSGD(psgd.Diagonal(), lr=0.3, weight_decay=0.5, decay="l2")
    xb = backend.asarray(x)
    new, _ = opt.update(opt.init(xb, scale=2.0), xb, backend.asarray(np.ones(4)))
    np.testing.assert_allclose(backend.numpy(new), x - 0.3 * 4 * (1 + 0.5 * x), rtol=0, atol=20 * backend.eps)


def test_momentum_reaches_its_recurrence():
    opt = PSGD(psgd.Diagonal(), momentum=0.5)
    state, x, m = opt.init(np.zeros(1), scale=1.0), np.zeros(1), None
    for t in range(6):
        g = np.array([float(t) ** 2])
        x, state = opt.update(state, x, g)
        m = g if m is None else 0.5 * m + 0.5 * g
        np.testing.assert_allclose(state.momentum, m)


@pytest.mark.parametrize(
    "opt",
    [
        deterministic(psgd.XMat(), source=curvature.Forward(), probes=curvature.Orthogonal(2)),
        deterministic(psgd.Dense(), source=curvature.Secant(reuse=True)),
        deterministic(
            psgd.Dense(), source=curvature.Along(reuse=True), replay=psgd.Replay(3, 4, order="age")
        ),
        stochastic(psgd.Diagonal(), iterations=60, momentum=0.5, probability=1.0),
        PSGD(
            psgd.Butterfly(),
            lr=schedules.WarmUp(0.5, over=5),
            clip=(clips.Elements(0.5), clips.Norm(0.8)),
            source=curvature.Whitening(of_momentum=True),
            momentum=0.9,
        ),
    ],
    ids=["orthogonal", "secant", "along", "stochastic", "whitening"],
)
def test_the_whole_step_runs_everywhere_and_alike(backend, opt):
    """The step under jit, on any library, makes the run that NumPy makes in float64."""

    class Numpy:
        numpy = staticmethod(np.asarray)
        xp, asarray = np, staticmethod(np.asarray)

    def run(on, jit, steps):
        _, x, functions = quadratic(on)
        rng = np.random.default_rng(7)
        x = on.asarray(x)
        state = opt.init(x, functions=functions, v=opt.probes.draw(np.random.default_rng(8), x))
        step = jit(lambda state, x, v: opt.step(state, x, functions, v))
        values = []
        for _ in range(steps):
            x, state = step(state, x, opt.probes.draw(rng, x))
            values.append(float(functions.value(x)))
        return on.numpy(x), values, state

    x, values, state = run(backend, backend.jit, 6)
    want, _, _ = run(Numpy, lambda f: f, 6)
    loose = 1e3 if isinstance(opt.source, curvature.Exact | curvature.Whitening) else backend.eps**-0.7
    np.testing.assert_allclose(x, want, rtol=0, atol=loose * backend.eps)
    assert x.dtype == backend.dtype_name
    assert int(state.count) == 6
    _, values, _ = run(Numpy, lambda f: f, 60)
    assert values[-1] < 0.3 * values[0]


def test_trees_of_parameters(backend, rng):
    xp = backend.xp
    tree = {"w": backend.asarray(rng.standard_normal((2, 3))), "b": [backend.asarray(rng.standard_normal(2))]}
    flat = xp.concat([tree["b"][0], xp.reshape(tree["w"], (-1,))])  # keys in order, whatever the dict's
    v = backend.asarray(rng.standard_normal(8))
    opt = PSGD(psgd.Dense(), lr=0.2, clip=1.0)
    on_tree = Functions(
        gradient=lambda x: {"b": [2 * x["b"][0]], "w": 3 * x["w"]},
        hvp=lambda x, v: {"w": 3 * v["w"], "b": [2 * v["b"][0]]},
    )
    d = backend.asarray(np.array([2.0] * 2 + [3.0] * 6))
    on_flat = Functions(gradient=lambda x: d * x, hvp=lambda x, v: d * v)
    state, plain = opt.init(tree), opt.init(flat)
    step = backend.jit(lambda s, x: opt.step(s, x, on_tree, v))
    for _ in range(3):
        tree, state = step(state, tree)
        flat, plain = opt.step(plain, flat, on_flat, v)
    assert tuple(tree["w"].shape) == (2, 3)
    got = np.concatenate([backend.numpy(tree["b"][0]), backend.numpy(tree["w"]).reshape(-1)])
    np.testing.assert_allclose(got, backend.numpy(flat), rtol=0, atol=40 * backend.eps)
    by_hand, _ = opt.update(state, tree, on_tree.gradient(tree), pair=(tree, on_tree.hvp(tree, tree)))
    assert tuple(by_hand["b"][0].shape) == (2,)
    with pytest.raises(ValueError, match=r"`g\['w'\]` must have shape \(2, 3\)"):
        opt.update(state, tree, {"w": tree["b"][0], "b": tree["b"]})
    with pytest.raises(ValueError, match="must have the key 'w'"):
        opt.update(state, tree, {"W": tree["w"], "b": tree["b"]})
    with pytest.raises(TypeError, match="`g` must be a dict of 2"):
        opt.update(state, tree, flat)


def test_non_finite_gradients_move_nothing_and_are_counted(backend):
    opt = PSGD(psgd.Dense(), lr=0.1, momentum=0.9, clip=clips.AdaptiveNorm())
    x = backend.asarray(np.array([1.0, 2.0]))
    g = backend.asarray(np.array([1.0, 1.0]))
    update = backend.jit(lambda s, x, g, h: opt.update(s, x, g, pair=(x, h)))
    before, state = update(opt.init(x), x, g, g)
    for bad in (np.nan, np.inf):
        wrong = backend.asarray(np.array([1.0, bad]))
        after, state = update(state, before, wrong, wrong)
        np.testing.assert_array_equal(backend.numpy(after), backend.numpy(before))
    assert int(state.skipped) == 2
    assert int(state.preconditioner.skipped) == 2
    after, state = update(state, before, g, g)
    assert np.all(np.isfinite(backend.numpy(after)))
    assert np.any(backend.numpy(after) != backend.numpy(before))


def test_fixed_clips(backend):
    move = backend.asarray(np.array([3.0, -4.0, 0.0]))
    limited, _ = clips.Norm(2.5).limit((), move)
    np.testing.assert_allclose(backend.numpy(limited), [1.5, -2.0, 0.0], rtol=0, atol=8 * backend.eps)
    limited, _ = clips.Elements(3.5).limit((), move)
    np.testing.assert_array_equal(backend.numpy(limited), [3.0, -3.5, 0.0])
    both = clips.Chain((clips.Elements(3.0), clips.Norm(1.0)))
    limited, _ = both.limit(both.init(move), move)
    np.testing.assert_allclose(
        backend.numpy(limited), [0.5**0.5, -(0.5**0.5), 0], rtol=0, atol=8 * backend.eps
    )
    huge = backend.asarray(np.array([1e30, 1e30, 0.0]))
    limited, _ = clips.Norm(1.0).limit((), huge)
    np.testing.assert_allclose(backend.numpy(limited)[:2], 0.5**0.5, rtol=8 * backend.eps)


def test_running_clip_ignores_an_outlier_and_follows_what_lasts(backend):
    clip = clips.AdaptiveNorm(factor=2.0, decay=0.9)
    one = backend.asarray(np.array([1.0, 0.0]))
    memory, sizes = clip.init(one), []
    for size in [1.0] * 10 + [1e6] + [1.0] * 5 + [100.0] * 80:
        move, memory = clip.limit(memory, size * one)
        sizes.append(float(backend.numpy(move)[0]))
    assert sizes[:10] == pytest.approx([1.0] * 10)
    assert sizes[10] == pytest.approx(2.0, rel=1e-5)
    assert sizes[11:16] == pytest.approx([1.0] * 5)
    assert sizes[-1] == pytest.approx(100.0)


@pytest.mark.parametrize("scale_x", [1e-6, 1e6])
@pytest.mark.parametrize("scale_f", [1e-8, 1e8])
def test_the_deterministic_preset_does_not_see_scales(scale_x, scale_f):
    """Powers of two change no bit: x -> c x and f -> k f give the same run."""
    c, k = 2.0 ** round(np.log2(scale_x)), 2.0 ** round(np.log2(scale_f))
    p = problems.get("rosenbrock")

    def run(c, k):
        opt, x = deterministic(psgd.Dense(damping=0.0)), c * p.start
        functions = Functions(
            value=lambda x: k * p.value(x / c),
            gradient=lambda x: k / c * p.gradient(x / c),
            hvp=lambda x, v: k / c**2 * p.hvp(x / c, v),
        )
        state, rng = opt.init(x), np.random.default_rng(0)
        for _ in range(60):
            x, state = opt.step(state, x, functions, opt.probes.draw(rng, x))
        return x / c

    np.testing.assert_allclose(run(c, k), run(1.0, 1.0), rtol=1e-9)


def test_trust_radius_takes_back_and_shrinks_then_grows(backend):
    clip = clips.TrustRadius()
    x = backend.asarray(np.zeros(2))
    g = backend.asarray(np.ones(2))

    def point(x, f):
        return clips.Point(x, g, backend.asarray(np.float64(f)))

    yes = backend.asarray(np.float64(1.0)) > 0
    here, usable, memory = clip.judge(clip.init(x), point(x, 5.0), yes)
    move, memory = clip.limit(memory, 3 * g)
    first = 3 * 2**0.5
    np.testing.assert_allclose(backend.numpy(move), 3.0, rtol=8 * backend.eps)  # the first sets the radius
    for f in (6.0, float("nan")):  # up, or nowhere: back to x, half the step
        here, usable, memory = clip.judge(
            memory, point(x + 1, f), yes & backend.xp.isfinite(point(x, f).value)
        )
        np.testing.assert_array_equal(backend.numpy(here.x), 0.0)
        assert float(here.value) == 5.0
        assert bool(usable)
        first /= 2
        assert float(memory.radius) == pytest.approx(first, rel=1e-6)
        move, memory = clip.limit(memory, 3 * g)
        assert float(np.linalg.norm(backend.numpy(move))) == pytest.approx(first, rel=1e-6)
    here, usable, memory = clip.judge(memory, point(x + 1, 4.0), yes)  # down, at the limit: twice as far
    np.testing.assert_array_equal(backend.numpy(here.x), 1.0)
    assert float(memory.radius) == pytest.approx(2 * first, rel=1e-6)
    move, memory = clip.limit(memory, 0.1 * first * g)  # inside: the radius stays
    _, _, memory = clip.judge(memory, point(x + 2, 3.0), yes)
    assert float(memory.radius) == pytest.approx(2 * first, rel=1e-6)
    assert int(memory.rejected) == 2


def test_a_start_that_is_not_finite_moves_nothing(backend):
    opt = deterministic(psgd.Dense())
    x = backend.asarray(np.ones(2))
    state = opt.init(x)
    bad = x * float("nan")
    new, state = opt.update(state, x, bad, pair=(x, bad), value=backend.asarray(np.float64("nan")))
    np.testing.assert_array_equal(backend.numpy(new), 1.0)
    assert int(state.skipped) == 1
    new, state = opt.update(state, x, 2 * x, pair=(x, 2 * x), value=backend.asarray(np.float64(1.0)))
    np.testing.assert_allclose(backend.numpy(new), 0.0, rtol=0, atol=4 * backend.eps)  # P = 1/2 from one pair


def test_due():
    assert [PSGD(every=3).due(t) for t in range(5)] == [True, False, False, True, False]
    rng = np.random.default_rng(0)
    often = [PSGD(probability=0.1).due(t, rng) for t in range(4000)]
    assert often[0]
    assert np.mean(often) == pytest.approx(0.1, abs=0.02)
    fading = PSGD(probability=schedules.Exponential(1.0, 0.01, over=100))
    assert np.sum([fading.due(t, rng) for t in range(50)]) > np.sum(
        [fading.due(t, rng) for t in range(50, 200)]
    )


def test_fitting_less_often_costs_no_products(backend):
    _, x, functions = quadratic(backend)
    opt = PSGD(psgd.Dense(), lr=0.5)
    xb, v = backend.asarray(x), backend.asarray(np.ones(4))
    state = opt.init(xb, scale=1.0)
    moved, after = opt.step(state, xb, Functions(gradient=functions.gradient), fit=False)  # no hvp, no v
    assert int(after.preconditioner.count) == 0
    for fit in (True, False):  # a coin on the device
        coin = backend.asarray(np.float64(fit)) > 0
        step = backend.jit(lambda s, x, v, c: opt.step(s, x, functions, v, fit=c))
        _, after = step(state, xb, v, coin)
        assert int(after.preconditioner.count) == int(fit)
    assert np.any(backend.numpy(moved) != x)


def test_configuration_is_hashable_and_picklable():
    import pickle

    for opt in (deterministic(), stochastic(psgd.XMat()), PSGD(clip=[clips.Norm(1.0)])):
        assert hash(opt) == hash(pickle.loads(pickle.dumps(opt)))
        assert opt == pickle.loads(pickle.dumps(opt))
    assert deterministic(psgd.XMat()).preconditioner.normalizer == psgd.normalizers.Sample()
    kept = psgd.XMat(normalizer=psgd.normalizers.Gradient())
    assert deterministic(kept).preconditioner == kept


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: PSGD(3), TypeError, "`preconditioner` must be a Preconditioner"),
        (lambda: PSGD(source="fd"), TypeError, "`source` must be a Source"),
        (lambda: PSGD(lr=-1.0), ValueError, "`lr` must be positive and finite, got -1.0"),
        (lambda: PSGD(step_size=1.0), ValueError, r"`step_size` must lie in \(0, 1\)"),
        (lambda: PSGD(momentum=1.0), ValueError, "`momentum` must lie in"),
        (lambda: PSGD(weight_decay=-1.0), ValueError, "`weight_decay` must be finite"),
        (lambda: PSGD(decay="L1"), ValueError, "`decay` must be one of 'decoupled', 'l2'"),
        (lambda: PSGD(every=0), ValueError, "`every` must be a positive int"),
        (lambda: PSGD(probability=0.0), ValueError, r"`probability` must lie in \(0, 1\]"),
        (lambda: PSGD(clip="auto"), TypeError, "`clip` must be a Clip"),
        (lambda: PSGD(clip=(1.0,)), TypeError, "`clip` must hold Clips only"),
        (lambda: clips.Norm(0.0), ValueError, "`size` must be positive"),
        (lambda: clips.AdaptiveNorm(factor=1.0), ValueError, "`factor` must be above 1"),
        (lambda: clips.AdaptiveNorm(decay=1.0), ValueError, "`decay` must lie in"),
        (lambda: clips.TrustRadius(shrink=1.0), ValueError, "`shrink` must lie in"),
        (lambda: clips.TrustRadius(grow=0.5), ValueError, "`grow` must be at least 1"),
        (lambda: clips.TrustRadius(slack=-1.0), ValueError, "`slack` must be finite and not negative"),
        (lambda: PSGD().init(np.zeros(2, dtype=int)), TypeError, "`x` must be float32 or float64"),
        (lambda: PSGD().init({}), ValueError, "`x` must hold at least one|array"),
        (lambda: PSGD().init("x"), TypeError, "`x` must be an array or a dict"),
        (lambda: PSGD().init([np.zeros(2), np.zeros(2, np.float32)]), TypeError, "must have the dtype"),
    ],
)
def test_bad_settings(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_bad_numbers_in_a_step():
    x = np.ones(2)
    opt = deterministic(source=curvature.Exact())
    state = opt.init(x)
    with pytest.raises(ValueError, match="`value` must be given for a clip"):
        opt.update(state, x, x)
    with pytest.raises(ValueError, match=r"`g` must have shape \(2,\), got \(3,\)"):
        opt.update(state, x, np.ones(3), value=1.0)
    with pytest.raises(TypeError, match="`g` must have the dtype of `x`"):
        opt.update(state, x, np.ones(2, np.float32), value=1.0)
    both = Functions(gradient=lambda x: x, value=lambda x: x @ x)
    with pytest.raises(ValueError, match="`v` must be given"):
        opt.step(state, x, both)


# -- replay, and pairs along the steps -----------------------------------------------------------------------


def test_a_step_replays_pairs_as_replay_does(backend):
    _, x, functions = quadratic(backend)
    replay, p = psgd.Replay(3, 4), psgd.Dense()
    opt = PSGD(p, lr=0.1, step_size=0.3, replay=replay)
    x = backend.asarray(x)
    state, rng = opt.init(x), np.random.default_rng(2)
    own, ring = p.init(4, x), replay.init(4, x)
    step = backend.jit(lambda state, x, v: opt.step(state, x, functions, v))
    for _ in range(3):
        v = backend.asarray(rng.standard_normal(4))
        own, ring = replay.update(p, own, ring, v, functions.hvp(x, v), 0.3)
        x, state = step(state, x, v)
    for found, want in ((p.matrix(state.preconditioner), p.matrix(own)), (state.ring.v, ring.v)):
        np.testing.assert_allclose(backend.numpy(found), backend.numpy(want), rtol=0, atol=2e3 * backend.eps)


def test_what_is_not_fitted_does_not_enter_the_ring(backend):
    _, x, functions = quadratic(backend)
    opt = PSGD(psgd.Dense(), replay=psgd.Replay(3, 2))
    x = backend.asarray(x)
    step = backend.jit(lambda state, fit: opt.step(state, x, functions, x, fit=fit)[1])
    for fit, count in ((False, 0), (True, 1)):
        after = step(opt.init(x), backend.xp.asarray(fit))
        assert int(after.ring.count) == count


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_out_of_the_domain_leaves_no_pair(value):
    """The pair after it goes from where the step started anew, as if it had not been."""
    opt = deterministic(psgd.Dense())
    functions = Functions(
        gradient=lambda x: 2 * x if abs(x[0]) < 2 else np.full(2, value),
        value=lambda x: x @ x if abs(x[0]) < 2 else value,
        hvp=lambda x, v: 2 * v,
    )
    x = np.asarray([1.0, 1.0])
    state = opt.init(x)
    x, state = opt.step(state, x, functions, np.asarray([1.0, -1.0]))
    away, state = opt.step(state, np.asarray([3.0, 0.0]), functions)
    assert int(state.clip.rejected) == 1
    assert int(state.ring.count) == 1  # the probe of the first step
    _, state = opt.step(state, away, functions)
    assert int(state.ring.count) == 2
    np.testing.assert_allclose(state.ring.h[:2], 2 * state.ring.v[:2], rtol=1e-12)


def test_settings_of_replay_that_cannot_be():
    with pytest.raises(TypeError, match="`replay` must be a Replay, got 3"):
        PSGD(replay=3)
    with pytest.raises(ValueError, match="`replay` must be None for Whitening"):
        PSGD(replay=psgd.Replay(), source=curvature.Whitening(integrated=True))
    assert deterministic(n=2).replay == psgd.Replay(3, 9, order="age")
    assert deterministic().replay == deterministic(n=1000).replay == psgd.Replay(20, 60, order="age")


def test_probes_keep_p_right_at_a_saddle():
    """A descent past a saddle: pairs along the steps alone bias P there, and probes beside them do not."""
    values = np.asarray([1.0, -0.3, 20.0, 3.0])

    def distance(every, seed):
        rng = np.random.default_rng(seed)
        axes = np.linalg.qr(rng.standard_normal((4, 4)))[0]
        h, target = ((axes * x) @ axes.T for x in (values, np.abs(values)))
        functions = Functions(gradient=lambda x: h @ x, hvp=lambda x, v: h @ v)
        source, replay = curvature.Along(every=every, reuse=True), psgd.Replay(20, 20)
        opt = PSGD(psgd.Dense(), lr=0.1, step_size=0.5, source=source, replay=replay)
        x = rng.standard_normal(4)
        state = opt.init(x)
        for t in range(60):
            x, state = opt.step(state, x, functions, rng.standard_normal(4) if source.asks(t) else None)
        found = np.linalg.eigvals(opt.preconditioner.matrix(state.preconditioner) @ target)
        return np.sqrt(np.mean(np.log(np.abs(found)) ** 2))

    both, steps = (np.median([distance(every, seed) for seed in range(5)]) for every in (1, 1000))
    assert both < 0.4 < 1.5 < steps
