"""Replicas on two processes: one preconditioner, and the steps of a single process on all the data."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this PyTorch has no gloo", allow_module_level=True)

from psgd_core.adapters.torch import PSGD  # noqa: E402

WORLD, STEPS = 2, 6
CASES = {
    "closure": {"curvature": "hvp"},
    "differences": {"curvature": "finite_difference"},
    "backward": {"curvature": "whitening"},
    "alone": {"curvature": "hvp"},
}


def train(case, model, x, group):
    """Train on x; return the parameters and the state of the preconditioner as vectors."""
    optimizer = PSGD(
        model.parameters(), psgd.XMat(), lr=0.1, process_group=group, update_probability=0.7, **CASES[case]
    )

    def loss():
        return torch.nn.functional.mse_loss(model(x), x[:, :1] * x[:, 1:2])

    for _ in range(STEPS):
        if case == "backward":  # DistributedDataParallel averages
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        else:
            optimizer.step(loss)
    state = optimizer.state_dict()["state"][0]["loop"]
    q = torch.cat([state[k].reshape(-1) for k in sorted(state) if "blocks" in k])
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy(), q.numpy()


def make(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()


def data():
    return torch.from_numpy(np.random.default_rng(2).standard_normal((20, 3)))


def replica(rank, folder):
    """Run all cases on one of the processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    try:
        group, results = torch.distributed.group.WORLD, {}
        mine = data()[rank::WORLD]
        for case in ("closure", "differences", "backward"):
            # other weights on each process: wrapping the model makes them the first one's
            model = torch.nn.parallel.DistributedDataParallel(make(seed=rank))
            results[case] = train(case, model, mine, group)
        with pytest.warns(UserWarning, match="replicas drift apart; pass process_group"):
            results["alone"] = train("alone", make(seed=0), mine, None)
        for case, (x, q) in results.items():
            np.savez(f"{folder}/{case}-{rank}.npz", x=x, q=q)
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    torch.multiprocessing.spawn(replica, args=(str(folder),), nprocs=WORLD)
    return {case: [np.load(folder / f"{case}-{rank}.npz") for rank in range(WORLD)] for case in CASES}


@pytest.mark.parametrize("case", ["closure", "differences", "backward"])
def test_replicas_stay_alike_and_do_what_one_process_would(results, case):
    one, other = results[case]
    np.testing.assert_array_equal(one["q"], other["q"])
    np.testing.assert_array_equal(one["x"], other["x"])
    x, q = train(case, make(seed=0), data(), None)
    # the mean of the replicas' means, up to rounding; differences multiply that by 1 / sqrt(eps)
    tolerance = 1e-5 if case == "differences" else 1e-9
    np.testing.assert_allclose(one["x"], x, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one["q"], q, rtol=tolerance, atol=tolerance)


def test_without_a_process_group_they_drift_apart(results):
    one, other = results["alone"]
    assert np.abs(one["x"] - other["x"]).max() > 1e-3
