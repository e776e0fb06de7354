"""Sharded parameters on two and four processes: the losses of one, a share of the state, few numbers sent."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this PyTorch has no gloo", allow_module_level=True)
if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
    pytest.skip("this PyTorch has no fully_shard", allow_module_level=True)

import sharded_tasks as tasks  # noqa: E402

LIMIT = 600.0
"""Seconds after which the processes are ended: far more than they need."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run all processes once, and return where they left what they found."""
    where = tmp_path_factory.mktemp("sharded")
    running = torch.multiprocessing.spawn(tasks.process, args=(str(where),), nprocs=tasks.WORLD, join=False)
    end, processes = time.monotonic() + LIMIT, running.processes
    try:
        while any(p.is_alive() for p in processes) and time.monotonic() < end:
            if any(p.exitcode not in (None, 0, 7) for p in processes):
                running.join(timeout=30)  # raises what the process raised
            time.sleep(0.1)
        hung = [i for i, p in enumerate(processes) if p.is_alive()]
    finally:
        for p in processes:
            p.kill()
    assert not hung, f"processes {hung} did not end within {LIMIT} s"
    return where


@pytest.fixture(scope="module")
def found(folder):
    return [torch.load(folder / f"found-{i}.pt", weights_only=False) for i in range(tasks.WORLD)]


@pytest.fixture(scope="module")
def whole():
    """Return the losses of the unsharded runs, each made once."""
    made = {}

    def losses(name):
        if name not in made:
            with psgd.kernels.off():
                made[name] = tasks.train(name)
        return made[name]

    return losses


@pytest.mark.parametrize("name", tasks.CASES)
def test_losses_are_those_of_one_process(found, whole, name):
    expected, optimizer, _ = whole(name)
    # single precision rounds; differences divide the rounding of gradients by 1e-8
    tolerance = 1e-6 if name in ("single", "differences") else 1e-12
    _, size, _, _ = tasks.CASES[name]
    for rank in range(int(np.prod(size))):
        got, _, _, skipped = found[rank][name]
        np.testing.assert_allclose(got, expected, rtol=tolerance)
        assert skipped == [optimizer.group_state(i).skipped for i in range(len(skipped))]
    assert skipped == ([1] if name == "not finite" else [0] * len(skipped))
    assert np.nanmin(expected) < 0.95 * expected[0]  # it learns: there is something to compare


@pytest.mark.parametrize(
    ("name", "per_parameter"),
    # U and V, d, momentum; for an orbit of one: q, what the normaliser holds, momentum
    [("fully_shard", 2 * 3 + 2), ("tensor parallel", 2 * 3 + 2), ("single", 3)],
)
def test_no_process_holds_more_than_its_share(found, name, per_parameter):
    """Shares are rounded up to whole rows; beside them, at most 32 numbers that do not grow with n."""
    kind, size, dtype, _ = tasks.CASES[name]
    model = tasks.make(kind, dtype)
    shares = [-(-p.shape[0] // size) * math.prod(p.shape[1:]) for p in model.parameters()]
    if kind == "columns":  # columns of the second matrix, and its bias whole
        shares[2:] = [model[2].out_features * -(-model[2].in_features // size), model[2].out_features]
    total = sum(p.numel() for p in model.parameters())
    for rank in range(size):
        _, state, params, _ = found[rank][name]
        assert params <= sum(shares)
        assert state <= per_parameter * sum(shares) + 32
    held = [found[rank][name][1] for rank in range(size)]
    assert per_parameter * total <= sum(held) <= per_parameter * total + 32 * size


def test_what_a_step_sends_is_as_predicted(found):
    """One Gram matrix, (2 r + 2 k)^2 in float64, for an update; r numbers twice for P g; scalars."""
    r, k = 3, 1
    for rank in range(2):
        fitted, moved = found[rank]["communication"]
        assert [n for n, _ in fitted if n > 1] == [(2 * r + 2 * k) ** 2, r, r]
        assert [n for n, _ in moved if n > 1] == [r, r]
        # finite: gradient, new parameters; the clip's norm
        assert sum(n == 1 for n, _ in moved) == 3
        # and: largest of h and of v, unit, largest move of d by a and by b
        assert sum(n == 1 for n, _ in fitted) == 8
        assert sum(size for _, size in fitted) <= 8 * ((2 * r + 2 * k) ** 2 + 2 * r + 8)


@pytest.mark.parametrize("name", tasks.REFUSED)
def test_what_cannot_be_is_refused_by_all_alike(found, name):
    for rank in range(2):
        assert tasks.REFUSED[name][2] in found[rank]["refused"][name]


@pytest.mark.parametrize("name", tasks.RESUMED)
def test_checkpoints_are_resharded_from_two_to_three_and_one(found, name):
    with psgd.kernels.off():
        expected = tasks.unresumed(name)
    np.testing.assert_allclose(found[0]["resumed"][name], expected, rtol=1e-12)
    np.testing.assert_allclose(found[1]["resumed"][name], expected[:20], rtol=1e-12)
    np.testing.assert_allclose(found[2]["resumed"][name], expected[10:20], rtol=1e-12)


def test_zero_does_what_one_process_does_with_an_optimizer_for_each_part(found):
    model, (x, y) = tasks.make("fsdp", torch.float64), tasks.data(torch.float64)
    params = list(model.parameters())
    parts = [[params[i] for i in found[rank]["zero"][1]] for rank in range(2)]
    assert sorted(map(id, parts[0] + parts[1])) == sorted(map(id, params))
    settings = {"curvature": "whitening", "clip": None, "lr": 0.02, "rng": 3}
    optimizers = [tasks.PSGD(part, psgd.Diagonal(), **settings) for part in parts]
    for _ in range(10):
        model.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        for optimizer in optimizers:
            optimizer.step()
    expected = torch.nn.utils.parameters_to_vector(params).detach().numpy()
    for rank in range(2):
        np.testing.assert_allclose(found[rank]["zero"][0], expected, rtol=1e-12)


def test_sixteen_bits_are_sharded_with_their_wide_copy(found):
    expected = tasks.sixteen_bits(None)
    assert abs(expected).max() > 0.01
    for rank in range(2):
        np.testing.assert_allclose(found[rank]["16 bits"], expected, rtol=1e-6)


def test_a_process_that_dies_ends_the_others(folder, found):
    texts = [(folder / f"ended-{rank}.txt").read_text(encoding="utf-8") for rank in range(3)]
    assert not (folder / "ended-3.txt").exists()
    for text in texts:
        assert "a process that holds another shard" in text or "Connection closed by peer" in text, text


def test_groups_accept_settings_that_all_share_if_they_agree():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    given = {"params": [p], "curvature": "whitening"}
    optimizer = tasks.PSGD([given], curvature="whitening", every=2)
    assert given["curvature"] == "whitening"  # it may serve again
    optimizer.add_param_group({"params": [q], "every": 2})
    assert "every" not in optimizer.param_groups[1]
    with pytest.raises(ValueError, match="`every` must be given to PSGD, got another in a group"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "every": 3})
    assert len(optimizer.param_groups) == 2
