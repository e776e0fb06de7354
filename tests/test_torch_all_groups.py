"""The PyTorch optimiser: scale, turns, what closures return beside the loss, one limit for all groups."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD  # noqa: E402
from psgd_core.curvature import Central, Whitening  # noqa: E402
from psgd_core.descent import clips  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

ENGINES = ("torch", "numpy")
SIZES = (3, 5)


def start(rng, dtype=torch.float64):
    """Return two parameters, and an indefinite H over both."""
    params = [torch.nn.Parameter(torch.tensor(rng.standard_normal(n), dtype=dtype)) for n in SIZES]
    h = rng.standard_normal((sum(SIZES), sum(SIZES)))
    return params, torch.tensor(h + h.T, dtype=dtype)


def vector(params):
    return torch.cat([p.detach().reshape(-1) for p in params]).numpy().copy()


def quadratic(params, h):
    x = torch.cat(list(params))
    return 0.5 * x @ h @ x


# -- scale ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_each_group_starts_at_its_scale(engine, rng):
    params, h = start(rng)
    p, v, x = psgd.XMat(), rng.standard_normal(sum(SIZES)), vector(params)
    groups = [{"params": [params[0]], "scale": 0.5}, {"params": [params[1]]}]
    optimizer = PSGD(groups, p, lr=0.1, step=0.3, scale=2.0, momentum=0, clip=None, engine=engine)
    optimizer.step(lambda: quadratic(params, h), v=v)
    hv, g, expected, here = h.numpy() @ v, h.numpy() @ x, [], 0
    for n, scale in zip(SIZES, (0.5, 2.0), strict=True):
        part = slice(here, here + n)
        state = p.update(p.init(n, like=x, scale=scale), v[part], hv[part], 0.3)
        expected.append(x[part] - 0.1 * p.precondition(state, g[part]))
        here += n
    np.testing.assert_allclose(vector(params), np.concatenate(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), "1", 1e300])
def test_a_scale_that_is_not_positive_is_refused(scale, rng):
    params, h = start(rng)
    with pytest.raises((TypeError, ValueError), match="`scale` must be"):
        PSGD(params, psgd.Diagonal(), scale=scale).step(lambda: quadratic(params, h))


# -- turns ---------------------------------------------------------------------------------------------


def fits(optimizer, params, h, steps):
    """Return in which steps P was fitted; `due` must have said so."""
    found, before = [], 0
    for t in range(steps):
        due = optimizer.due()
        optimizer.step(lambda: quadratic(params, h))
        after = int(optimizer.group_state().preconditioner.count)
        assert due == (after > before)
        found += [t] if due else []
        before = after
    return found


def test_every_says_in_which_steps_p_is_fitted_as_in_the_core(rng):
    params, h = start(rng)
    p, loop = psgd.Diagonal(), psgd.PSGD(every=3)
    assert (
        fits(PSGD(params, p, every=3), params, h, 10) == [t for t in range(10) if loop.due(t)] == [0, 3, 6, 9]
    )


def test_every_and_a_probability_both_decide(rng):
    params, h = start(rng)
    found = fits(PSGD(params, psgd.Diagonal(), every=2, update_probability=0.5), params, h, 60)
    assert found[0] == 0
    assert all(t % 2 == 0 for t in found)
    assert 5 < len(found) < 25  # of 30: less than 1e-4 by chance


def test_a_group_added_between_turns_fits_in_its_first_step(rng):
    params, h = start(rng)
    optimizer = PSGD([params[0]], psgd.Diagonal(), every=10)
    optimizer.step(lambda: quadratic(params, h))
    assert not optimizer.due()
    optimizer.add_param_group({"params": [params[1]]})
    assert optimizer.due()
    optimizer.step(lambda: quadratic(params, h))
    assert int(optimizer.group_state(1).preconditioner.count) == 1
    assert not optimizer.due()


# -- what closures return beside the loss --------------------------------------------------------------


@pytest.mark.parametrize(
    "curvature", ["hvp", "finite_difference", Central(), "whitening", Whitening(integrated=True)], ids=str
)
@pytest.mark.parametrize("backward", [False, True])
def test_closures_may_return_more_than_the_loss(curvature, backward):
    if backward and curvature == "hvp":
        pytest.skip("exact products differentiate the loss themselves")
    ends = []
    for more in (False, True):
        params, h = start(np.random.default_rng(3))
        optimizer = PSGD(params, psgd.Diagonal(), lr=0.01, curvature=curvature)

        def closure(params=params, h=h, more=more, optimizer=optimizer):
            loss = quadratic(params, h)
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return (loss, {"x": vector(params)}) if more else loss

        for _ in range(5):
            before = vector(params)
            returned = optimizer.step(closure)
            loss = returned
            if more:
                loss, seen = returned
                np.testing.assert_array_equal(seen["x"], before)  # of the point stepped from
            assert not loss.requires_grad
            np.testing.assert_allclose(loss.item(), 0.5 * before @ h.numpy() @ before, rtol=1e-12)
        ends.append(vector(params))
    np.testing.assert_array_equal(*ends)


def test_none_beside_the_loss_is_returned_too(rng):
    params, h = start(rng)
    loss, more = PSGD(params, psgd.Diagonal()).step(lambda: (quadratic(params, h), None))
    assert loss.ndim == 0
    assert more is None


def test_three_results_are_refused(rng):
    params, h = start(rng)
    with pytest.raises(
        TypeError, match=r"`closure` must return the loss, a tensor, got tuple; .*\(loss, more\)"
    ):
        PSGD(params, psgd.Diagonal()).step(lambda: (quadratic(params, h), 1, 2))


# -- one limit for all groups --------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("p", [psgd.XMat(), psgd.Diagonal()], ids=["XMat", "Diagonal"])
@pytest.mark.parametrize(
    "clip",
    [0.3, clips.AdaptiveNorm(1.05, 0.5), clips.Elements(0.1), (clips.Elements(0.2), clips.Norm(0.3))],
    ids=str,
)
@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.1, "momentum": 0.5}, {"curvature": "whitening", "every": 2}], ids=str
)
def test_one_limit_for_all_groups_is_that_of_one_group_with_blocks(clip, p, engine, settings):
    """The same P, in one group, whose own limit is that of the whole step."""
    ends, free = [], None
    blocks = psgd.Blocks(tuple((n, p) for n in SIZES))
    settings = {"lr": 0.05, "step": 0.3, "engine": engine, **settings}
    for kind in ("groups", "blocks", "free"):
        params, h = start(np.random.default_rng(8))
        if kind == "groups":
            optimizer = PSGD([{"params": [q]} for q in params], p, clip=None, global_clip=clip, **settings)
        else:
            optimizer = PSGD(params, blocks, clip=clip if kind == "blocks" else None, **settings)
        for t in range(20):
            outlier = 50.0 if t == 10 else 1.0
            optimizer.step(
                lambda params=params, h=h, outlier=outlier: (
                    outlier * quadratic(params, h) + sum((q**4).sum() for q in params)
                )
            )
        if kind == "free":
            free = vector(params)
        else:
            ends.append(vector(params))
    np.testing.assert_allclose(*ends, rtol=1e-9, atol=1e-11)
    assert np.abs(ends[0] - free).max() > 1e-3  # it did limit


@pytest.mark.parametrize("engine", ENGINES)
def test_a_limit_that_is_never_reached_changes_nothing(engine):
    ends = []
    for clip in (None, 1e9):
        params, h = start(np.random.default_rng(4), torch.float32)
        groups = [{"params": [params[0]]}, {"params": [params[1]], "preconditioner": psgd.XMat()}]
        optimizer = PSGD(groups, psgd.LowRank(2), lr=0.05, global_clip=clip, engine=engine, weight_decay=0.01)
        for _ in range(12):
            optimizer.step(lambda params=params, h=h: quadratic(params, h))
        ends.append(vector(params))
    np.testing.assert_array_equal(*ends)


def test_groups_keep_their_own_limits_below_that_of_all(rng):
    params, h = start(rng)
    before = vector(params)
    groups = [{"params": [params[0]], "clip": 1e-3}, {"params": [params[1]], "clip": None}]
    optimizer = PSGD(groups, psgd.Diagonal(), lr=1.0, momentum=0, global_clip=0.1)
    optimizer.step(lambda: quadratic(params, h))
    moved = vector(params) - before
    np.testing.assert_allclose(np.linalg.norm(moved), 0.1, rtol=1e-12)
    assert np.linalg.norm(moved[:3]) < 1e-3


def test_groups_may_differ_in_dtype():
    wide = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    narrow = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    groups = [{"params": [narrow]}, {"params": [wide]}]
    optimizer = PSGD(groups, psgd.Diagonal(), lr=1.0, momentum=0, clip=None, global_clip=clips.AdaptiveNorm())
    for _ in range(3):
        optimizer.step(lambda: (wide**2).sum() + (narrow.float() ** 2).sum())
    size = optimizer.state_dict()["psgd"]["global_clip"]["memory"]["size"]
    assert size.dtype == torch.float64
    assert all(torch.isfinite(p).all() for p in (wide, narrow))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_group_that_is_not_finite_leaves_the_others_and_the_memory_alone(engine, rng):
    params, h = start(rng)
    groups = [{"params": [p]} for p in params]
    optimizer = PSGD(
        groups, psgd.Diagonal(), lr=0.1, clip=None, global_clip=clips.AdaptiveNorm(), engine=engine
    )
    for _ in range(3):
        optimizer.step(lambda: quadratic(params, h))

    def memory():
        return {k: v.item() for k, v in optimizer.state_dict()["psgd"]["global_clip"]["memory"].items()}

    kept, before = memory(), vector(params)
    ruined = lambda: quadratic(params, h) + float("inf") * params[0].sum()  # noqa: E731
    optimizer.step(ruined)
    after = vector(params)
    np.testing.assert_array_equal(after[:3], before[:3])
    assert np.all(after[3:] != before[3:])
    assert np.all(np.isfinite(after))
    assert memory() == kept
    assert [int(optimizer.group_state(i).skipped) for i in range(2)] == [1, 0]
    optimizer.step(lambda: quadratic(params, h))
    assert memory() != kept


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_fails_leaves_the_memory_as_it_was(engine, rng):
    params, h = start(rng)
    optimizer = PSGD(
        [{"params": [p]} for p in params], psgd.Diagonal(), global_clip=clips.AdaptiveNorm(), engine=engine
    )
    optimizer.step(lambda: quadratic(params, h))
    before, kept = vector(params), optimizer.state_dict()["psgd"]["global_clip"]["memory"]["size"].item()
    # fails after the first group's move, for its dtype is no longer that of its state
    params[1].data = params[1].data.float()
    with pytest.raises(ValueError, match="must keep their dtype"):
        optimizer.step(lambda: quadratic([params[0], params[1].double()], h))
    params[1].data = params[1].data.double()
    np.testing.assert_allclose(vector(params), before, rtol=1e-6)
    np.testing.assert_array_equal(vector(params)[:3], before[:3])
    assert optimizer.state_dict()["psgd"]["global_clip"]["memory"]["size"].item() == kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_clip": clips.TrustRadius()}, "`global_clip` must not go back to earlier points"),
        ({"global_clip": -1.0}, "`size` must be positive"),
        ({"global_clip": "1"}, "`global_clip` must be a Clip"),
        ({"every": 0}, "`every` must be"),
        ({"every": 2.5}, "`every` must be"),
    ],
    ids=str,
)
def test_settings_of_all_groups_are_checked(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        PSGD([torch.nn.Parameter(torch.ones(2))], **settings)


@pytest.mark.parametrize("name", ["every", "global_clip"])
def test_settings_of_all_groups_are_refused_in_one(name):
    with pytest.raises(ValueError, match=f"`{name}` must be given to PSGD, got another in a group"):
        PSGD([{"params": [torch.nn.Parameter(torch.ones(2))], name: 2}])
