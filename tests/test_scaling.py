"""What `analysis/scaling.py` counts: by hand in a small program, and as predicted in compiled ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import scaling

ROOT = Path(__file__).parents[1]
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}

%body (at: (s32[], f32[10])) -> (s32[], f32[10]) {
  %at = (s32[], f32[10]) parameter(0)
  %all-reduce.1 = f32[10]{0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
}

%condition (at: (s32[], f32[10])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%fits (x: f32[8]) -> f32[8] {
  ROOT %all-gather = f32[8]{0} all-gather(%x), dimensions={0}, metadata={op_name="fit"}
}

%rests (x: f32[8]) -> f32[8] {
  ROOT %copy = f32[8]{0} copy(%x)
}

ENTRY %main (x: f32[2]) -> f32[8] {
  %moved = f64[2]{0} collective-permute(%x), source_target_pairs={{0,0},{1,2},{2,1},{3,3}}
  %while = (s32[], f32[10]) while(%start), condition=%condition, body=%body, backend_config={KNOWN}
  %pair = (f32[3]{0}, pred[2]{0}) all-to-all(%x, %y), dimensions={0}
  ROOT %found = f32[8]{0} conditional(%due, %x, %x), branch_computations={%rests, %fits}, metadata={}
}
"""
KNOWN = '{"known_trip_count":{"n":"3"}}'


def test_a_program_is_counted_as_by_hand():
    """Loops by their turns, branches at their least and most, permutations by what leaves a device."""
    least, most = scaling.traffic(PROGRAM.replace("{KNOWN}", KNOWN), 4)
    always = {"collective-permute": 16 * 2 / 4, "all-reduce": 3 * 2 * 40 * 3 / 4, "all-to-all": 14 * 3 / 4}
    assert least == always
    assert most == always | {"all-gather": 32 * 3 / 4}


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="must not communicate in open loops"):
        scaling.traffic(PROGRAM.replace("{KNOWN}", "{}"), 4)


def test_what_is_not_counted_is_refused():
    program = PROGRAM.replace("{KNOWN}", KNOWN).replace("all-gather(", "collective-broadcast(")
    with pytest.raises(ValueError, match="must hold collectives that are counted"):
        scaling.traffic(program, 4)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The script's rows for one matrix and for two, of 128 x 128, on 8 devices."""
    pytest.importorskip("jax", reason="jax is not installed")
    pytest.importorskip("optax", reason="optax is not installed")
    out = tmp_path_factory.mktemp("scaling") / "out"
    command = f"analysis/scaling.py --side 128 --sizes 1x8 2x8 --out {out} --optimizers AdamW Diagonal"
    done = subprocess.run(
        [sys.executable, *command.split(), "LowRank(10)", "XMat"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| LowRank(10) |" in out.with_suffix(".md").read_text()
    found = [scaling.Row(**row) for row in json.loads(out.with_suffix(".json").read_text())]
    return {(row.optimizer, row.parameters // 128**2): row for row in found}


@pytest.mark.parametrize(
    ("name", "vectors"), [("AdamW", 2), ("Diagonal", 3), ("LowRank(10)", 22), ("XMat", 3.5)]
)
def test_the_state_is_a_share_of_so_many_vectors(rows, name, vectors):
    """Q and the momentum, and what the normaliser holds for each orbit; the rest is scalars."""
    for matrices in (1, 2):
        scalars = rows[name, matrices].held - vectors * 4 * matrices * 128**2 / 8
        assert 0 <= scalars <= 100


def test_low_rank_sends_a_gram_matrix_however_large_the_model(rows):
    """(2 r + 2)^2 numbers in an update, two r-vectors in a product, and scalars: as the design says."""
    share = 2 * 4 * 7 / 8  # bytes that an all-reduce of one number sends
    for matrices in (1, 2):
        row = rows["LowRank(10)", matrices]
        assert set(row.most) == {"all-reduce"}
        product = 20 * share
        assert 0 <= row.least["all-reduce"] - product <= 10 * share
        assert 0 <= row.most["all-reduce"] - product - 22**2 * share <= 60 * share
    assert rows["LowRank(10)", 1].most == rows["LowRank(10)", 2].most


def test_diagonal_sends_scalars_and_x_shaped_matrices_neighbours_parts(rows):
    assert rows["AdamW", 2].most == {}
    assert rows["Diagonal", 2].most == rows["Diagonal", 1].most
    assert set(rows["Diagonal", 1].most) == {"all-reduce"}
    assert rows["Diagonal", 1].most["all-reduce"] < 300
    small, large = (rows["XMat", matrices].most["collective-permute"] for matrices in (1, 2))
    assert large == 2 * small > 0
