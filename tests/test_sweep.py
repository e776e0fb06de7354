"""Sweeps: many fits in one call are the loops that they stand for, and go where theory says."""

import numpy as np
import pytest
from registry import backends

import psgd_core as psgd
from psgd_core import convergence, curvature, schedules
from psgd_core.convergence import sweep

COUNT, N = 5, 6
PARTS = ("minimizer", "inverse", "root", "minimizer", "minimum")
"""Of a target; the spectra, for which one part stands in, are not measured."""


def hessians(definite=True, kappa=8.0):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((COUNT, N, N)))[0]
    w = np.geomspace(1, kappa, N) * (1 if definite else (-1) ** np.arange(N))
    return (basis * w * 2.0 ** np.arange(COUNT)[:, None, None]) @ np.swapaxes(basis, 1, 2)


@pytest.mark.parametrize("probes", [None, curvature.Rademacher(3)], ids=["Gaussian", "three signs"])
@pytest.mark.parametrize("p", [psgd.XMat(), psgd.Dense(), psgd.LowRank(2)], ids=str)
def test_each_fit_is_the_loop_that_it_stands_for(p, probes):
    stack, steps, seeds = hessians(definite=False), np.linspace(0.1, 0.5, COUNT), [3, 1, 4, 1, 5]
    found = sweep(p, stack, updates=12, at=[1, 5, 12], step=steps, seeds=seeds, probes=probes)
    group = getattr(p, "group", None)
    orbits = None if group is None else group.subgroup(N).orbit_index
    for i, h in enumerate(stack):
        rng, state, target = np.random.default_rng(seeds[i]), p.init(N, h), convergence.target(h, orbits)
        trace = convergence.Trace("fit")
        for t in range(1, 13):
            v = (probes or curvature.Gaussian()).draw(rng, h[0])
            state = p.update(state, v, h @ v, float(steps[i]))
            if t in (1, 5, 12):
                errors = convergence.measure(p.apply(state, np.eye(N)), target)
                # the criterion from its definition, where P has all entries of its group
                P = p.matrix(state)
                value = np.trace(P @ h @ h + np.linalg.inv(P))
                trace.record(t, **errors._asdict(), criterion=value, step=steps[i])
        for column in ("updates", "distance", "residual", "gap", "criterion", "step"):
            got = found.trace(i).column(column)
            np.testing.assert_allclose(got, trace.column(column), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            p.matrix(psgd.Ensemble(p).member(found.states, i)), p.matrix(state), rtol=1e-9, atol=1e-12
        )


def test_all_fits_of_definite_hessians_in_the_group_reach_rounding():
    found = sweep(psgd.Dense(), hessians(), updates=1500, step=0.5, seeds=range(COUNT))
    assert found.distance[:, -1].max() < 1e-12
    assert found.updates[0] == 1
    assert found.updates[-1] == 1500


def test_one_hessian_for_all_seeds_and_a_schedule():
    h = hessians()[2]
    schedule = schedules.Cosine(0.5, over=40, end=0.01)
    found = sweep(psgd.XMat(), h, updates=40, step=schedule, seeds=range(3))
    again = sweep(psgd.XMat(), np.stack([h] * 3), updates=40, step=schedule, seeds=range(3))
    np.testing.assert_array_equal(found.distance, again.distance)
    np.testing.assert_allclose(found.step[0], [schedule(int(t) - 1) for t in found.updates])
    assert len(np.unique(found.distance[:, -1])) == 3


def test_a_step_for_each_fit_that_changes():
    base = np.asarray([0.1, 0.4])
    found = sweep(psgd.XMat(), hessians()[0], updates=9, step=lambda t: base / (1 + t), seeds=[7, 7])
    np.testing.assert_allclose(found.step, base[:, None] / found.updates)


def test_diagonal_problems_and_a_memory():
    d = np.random.default_rng(2).uniform(1, 9, (COUNT, N))
    p = psgd.Diagonal(geometry="Lyapunov", normalizer=psgd.normalizers.Kalman())
    found = sweep(p, d[:, :, None] * np.eye(N), updates=300, memory="all", seeds=range(COUNT))
    assert found.distance[:, -1].max() < 1e-6
    assert np.isnan(found.step).all()
    np.testing.assert_allclose(psgd.Ensemble(p).matrix(found.states), np.eye(N) / d[:, None], atol=1e-6)


def test_states_to_start_from_and_a_target_of_ones_own():
    h = hessians()
    many = psgd.Ensemble(psgd.Dense())
    start = many.init(COUNT, N, h, scale=1.0)
    known = convergence.target_at(np.linalg.inv(h[0]))
    target = convergence.Target(*(np.stack([getattr(known, name)] * COUNT) for name in PARTS))
    found = sweep(
        many.preconditioner, h, updates=5, step=0.3, seeds=range(COUNT), states=start, target=target
    )
    q = many.preconditioner.apply(many.member(found.states, 1), np.eye(N))
    np.testing.assert_allclose(found.distance[1, -1], convergence.distance(q, known), rtol=1e-12)


def test_a_fit_that_is_not_finite_spoils_no_other():
    h = hessians()
    broken = h.copy()
    broken[1] = np.nan
    each = [convergence.target(x) for x in h]
    target = convergence.Target(*(np.stack([getattr(x, name) for x in each]) for name in PARTS))
    options = {"updates": 8, "step": 0.3, "seeds": range(COUNT), "target": target}
    found, whole = sweep(psgd.Dense(), broken, **options), sweep(psgd.Dense(), h, **options)
    assert found.states.skipped.tolist() == [0, 8, 0, 0, 0]
    for i in (0, 2, 3, 4):
        np.testing.assert_array_equal(found.distance[i], whole.distance[i])


@backends(lambda b: b.dtype_name == "float64" and (b.library == "torch" or b.jitted))
def test_on_other_libraries(backend):
    h = hessians()
    options = {"updates": 6, "seeds": range(COUNT), "at": [3, 6]}
    found = sweep(psgd.XMat(), backend.asarray(h), step=0.3, **options)
    expected = sweep(psgd.XMat(), h, step=0.3, **options)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-10)


def test_it_draws_itself():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = sweep(psgd.XMat(), hessians(), updates=20, step=0.3, seeds=range(COUNT))
    ax = found.plot(plt.figure().subplots())
    assert [line.get_label() for line in ax.get_lines()] == ["90 %", "median", "10 %"]
    high, middle, low = (line.get_ydata() for line in ax.get_lines())
    assert (high >= middle).all()
    assert (middle >= low).all()
    np.testing.assert_allclose(middle, np.median(found.distance, axis=0))
    assert repr(found).startswith("Sweep(5 fits, 20 updates, distance ")
    assert len(found) == COUNT


def test_bad_input_is_refused_in_one_sentence():
    h, p = hessians(), psgd.XMat()
    options = {"updates": 4, "step": 0.3, "seeds": range(COUNT)}
    cases = [
        ({"hessian": h[0, 0]}, r"`hessian` must have shape \(n, n\), or \(m, n, n\) for m fits"),
        ({"hessian": h[:, :, :3]}, r"`hessian` must have shape \(n, n\)"),
        ({"hessian": h[:3]}, "`hessian` must be one for all, or one for each of the 5 seeds, got 3"),
        ({"hessian": h.astype(int)}, "`hessian` must be float32 or float64"),
        ({"updates": 0}, "`updates` must be a positive int"),
        ({"at": [2, 3]}, "`at` must increase and end at `updates`, 4"),
        ({"at": [3, 2, 4]}, "`at` must increase"),
        ({"step": 1.0}, r"`step` must lie in \(0, 1\)"),
        ({"step": np.ones(3) / 2}, "`step` must have a leading axis over the 5 fits"),
        ({"step": None}, "exactly one of `step` and `memory`"),
        ({"target": h}, "`target` must be a Target"),
    ]
    for change, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            sweep(p, **{"hessian": h, **options, **change})


@backends(lambda b: b.library in ("numpy", "jax.numpy"))
def test_numbers_are_looked_at_before_they_are_traced(backend):
    h = backend.asarray(hessians()[0])
    with pytest.raises(ValueError, match=r"`step` must lie in \(0, 1\), got 3.0"):
        sweep(psgd.Dense(), h, updates=2, step=3.0, seeds=range(2))
    p = psgd.Dense(geometry="Lyapunov", normalizer=psgd.preconditioners.normalizers.Kalman())
    found = sweep(p, h, updates=2, memory="all", seeds=range(2))
    assert [int(count) for count in found.states.count] == [2, 2]
