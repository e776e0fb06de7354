"""What `analysis/scaling_torch.py` counts: calls by hand, and steps of optimisers as predicted."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip(
    "torch.testing._internal.distributed.fake_pg", reason="this PyTorch pretends no processes"
)

import torch.distributed as dist  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import DTensor, Replicate, Shard  # noqa: E402

import scaling_torch  # noqa: E402

DEVICES, SIDE = 4, 32
SHARE = 2 * 3 / 4
"""What each device sends to sum one byte."""


@pytest.fixture(scope="module")
def rows():
    """Return the row of an optimiser, by name and number of matrices, each made once."""
    made = {}

    def row(name, matrices):
        if (name, matrices) not in made:
            made[name, matrices] = scaling_torch.compiled(name, matrices, DEVICES, SIDE)
        return made[name, matrices]

    return row


def test_calls_are_counted_as_by_hand():
    """Those of torch.distributed, and those that `DTensor` makes, at (8, 4) in float32 in all: 128 bytes."""
    with scaling_torch.pretended(DEVICES) as mesh, scaling_torch.Counter(DEVICES) as counter:
        dist.all_reduce(torch.zeros(5, dtype=torch.float64))
        assert counter.sent == {"all-reduce": 40 * SHARE}
        dist.all_gather([torch.zeros(3) for _ in range(DEVICES)], torch.zeros(3))
        x = scaling_torch.rows_of((8, 4), mesh)
        x.redistribute(placements=[Replicate()])
        assert counter.sent["all-gather"] == (48 + 128) * 3 / 4
        x.redistribute(placements=[Shard(1)])
        assert counter.sent["all-to-all"] == 32 * 3 / 4
        (x.T @ x).redistribute(placements=[Shard(0)])  # sums of (4, 4), of which each keeps a row
        assert counter.sent["reduce-scatter"] == 16 * 3
        assert counter.sent["all-reduce"] == 40 * SHARE


def test_what_is_not_counted_is_refused():
    refused = pytest.raises(
        ValueError, match=r"must be a collective call that is counted, got c10d\.broadcast_"
    )
    with scaling_torch.pretended(DEVICES), scaling_torch.Counter(DEVICES), refused:
        dist.broadcast(torch.zeros(3), 0)


def test_rows_that_cannot_be_split_alike_are_refused():
    with pytest.raises(ValueError, match="`side` must be a multiple of the devices, got 30 rows on 4"):
        scaling_torch.compiled("AdamW", 1, DEVICES, 30)


@pytest.mark.parametrize(
    ("name", "numbers"),  # of each matrix on each device:
    [  # Q, the momentum, and what the normaliser holds for each element of what is diagonal
        ("AdamW", lambda here: 2 * here),
        ("Diagonal", lambda here: 3 * here),
        ("LowRank(10)", lambda here: 22 * here),
        ("Kronecker, diagonal", lambda here: here + 2 * (SIDE // DEVICES + SIDE)),
        ("Kronecker, diagonal rows, triangular columns", lambda here: here + 2 * SIDE // DEVICES + SIDE**2),
        ("Muon", lambda here: here),
    ],
)
def test_the_state_is_as_predicted(rows, name, numbers):
    for matrices in (1, 2):
        scalars = rows(name, matrices).held - 4 * matrices * numbers(SIDE**2 // DEVICES)
        assert 0 <= scalars <= 100 * matrices


def test_low_rank_sends_a_gram_matrix_however_large_the_model(rows):
    """In float64 (2 r + 2)^2 numbers in an update and two r-vectors in a product; in float32 scalars."""
    least, most = (8 * numbers for numbers in (2 * 10, 22**2 + 2 * 10))
    for matrices in (1, 2):
        row = rows("LowRank(10)", matrices)
        assert set(row.most) == {"all-reduce"}
        assert row.least["all-reduce"] == (least + 4 * 4) * SHARE
        assert row.most["all-reduce"] == (most + 4 * 13) * SHARE


def test_diagonal_sends_scalars_and_adamw_nothing(rows):
    assert rows("AdamW", 2).least == rows("AdamW", 2).most == {}
    assert rows("Diagonal", 1).least == {"all-reduce": 4 * 4 * SHARE}
    # the norms that set the scale serve the counts as well
    assert rows("Diagonal", 1).most == {"all-reduce": 11 * 4 * SHARE}
    assert rows("Diagonal", 2)[-2:] == rows("Diagonal", 1)[-2:]


def test_kronecker_sends_what_its_whole_factors_hold(rows):
    """Two Gram matrices for a triangular factor of the columns, 4 vectors for a diagonal one; scalars."""
    for name, size in (
        ("Kronecker, diagonal", 4 * SIDE),
        ("Kronecker, diagonal rows, triangular columns", 2 * SIDE**2),
    ):
        for matrices in (1, 2):
            row = rows(name, matrices)
            assert row.least == {"all-reduce": matrices * 4 * 4 * SHARE}
            scalars = row.most["all-reduce"] / (4 * SHARE) - matrices * size
            assert 0 < scalars <= 23 * matrices


def test_a_step_on_values_sends_as_much(rows, monkeypatch):
    """Nothing more is sent because of what the values are, and nothing less."""

    def values(shape, mesh):
        here = torch.linspace(-1, 2, shape[0] // DEVICES * shape[1]).sin().reshape(-1, shape[1])
        return DTensor.from_local(here, mesh, [Shard(0)], run_check=False)

    names = [name for name in scaling_torch.optimizers() if name != "Muon"]
    expected = [rows(name, 2) for name in names]
    monkeypatch.setattr(scaling_torch, "rows_of", values)
    monkeypatch.setattr(scaling_torch, "init_device_mesh", lambda _, shape: init_device_mesh("cpu", shape))
    assert [scaling_torch.compiled(name, 2, DEVICES, SIDE) for name in names] == expected


def test_the_page_has_a_table_for_each_size(tmp_path, monkeypatch):
    command = (
        f"scaling_torch.py --side 32 --sizes 1x4 2x8 --out {tmp_path / 'out'} --optimizers AdamW Diagonal"
    )
    monkeypatch.setattr("sys.argv", command.split())
    scaling_torch.main()
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert text.startswith("## In PyTorch\n")
    assert text.count("\n### ") == text.count("| AdamW | ") == text.count("| Diagonal | ") == 2
    assert f"python {command}\n" in text
