"""Trajectories of every preconditioner, as revision 81b989a made them: a redesign must not move them.

``tests/data/trajectories.json`` holds, for every case, three projections of P and its log-determinant after
some updates. ``python tests/test_trajectories.py`` adds the cases that it does not hold yet, such as those of
a new row in the registry. A change that is meant to move trajectories writes all of them anew (``--all``) and
says so in the changelog.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from registry import PRECONDITIONERS, draw_pairs

import psgd_core as psgd
from psgd_core import kernels

STORED = Path(__file__).parent / "data" / "trajectories.json"
UPDATES, SHOWN = 40, (0, 1, 7, 23, 39)


def whole(n, seed=3):
    """Single probes; among them a product of zero, one with NaN, and a jump of H by 1e9."""
    v, h = draw_pairs(n, UPDATES, seed)
    h[4], h[6, 0] = 0, np.nan
    h[12:] *= 1e9
    return v, h


def several(n):
    """Three probes per update."""
    return draw_pairs(n, UPDATES, 5, k=3)


def alone(n):
    """Gradients, without probes."""
    return [None] * UPDATES, draw_pairs(n, UPDATES, 7)[1]


def cases():
    """(name, preconditioner, n, pairs) of every trajectory."""
    found = [(f"{name}, single", r.preconditioner, r.n, whole(r.n)) for name, r in PRECONDITIONERS.items()]
    for name, r in PRECONDITIONERS.items():
        if r.core:
            found.append((f"{name}, several", r.preconditioner, r.n, several(r.n)))
        if r.core and not isinstance(r.preconditioner, psgd.LowRank):
            found.append((f"{name}, whitening", r.preconditioner, r.n, alone(r.n)))
    blocks = psgd.Blocks(((4, psgd.Kronecker((2, 2))), (5, psgd.XMat()), (3, psgd.Diagonal(damping=0.1))))
    for name, p in {
        "Kronecker": psgd.Kronecker((3, 4)),
        "Kronecker, three": psgd.Kronecker((2, 3, 2), "dense", geometry="QUAD"),
        "Kronecker, patterns": psgd.Kronecker((4, 3), ("normalization", "affine")),
        "Kronecker, diagonal": psgd.Kronecker((4, 3), "diagonal", geometry="Lyapunov"),
        "Kronecker, none": psgd.Kronecker((4, 3), "identity"),
        "Blocks": blocks,
    }.items():
        found.append((f"{name}, single", p, 12, whole(12)))
        found.append((f"{name}, several", p, 12, several(12)))
        found.append((f"{name}, whitening", p, 12, alone(12)))
    for p in (psgd.Diagonal(), psgd.XMat(), psgd.Butterfly(), psgd.Dense(), psgd.LowRank(5)):
        found.append((f"{type(p).__name__}, n = 64", p, 64, whole(64)))
    return found


def run(p, n, pairs):
    """Return what is shown of P along a trajectory."""
    state, shown = p.init(n, like=np.zeros(1)), []
    x = np.cos(1.3 * np.arange(n))
    for t, (v, h) in enumerate(zip(*pairs, strict=True)):
        state = p.update(state, v, h, step=0.3)
        if t in SHOWN:
            y = p.precondition(state, x)
            shown.append([float(y[0]), float(y[-1]), float(x @ y), float(p.log_det(state))])
    return shown


def named(part):
    return pytest.mark.parametrize(("name", "p", "n", "pairs"), part, ids=[case[0] for case in part])


@named(cases())
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "kernels"])
def test_the_trajectory_is_where_it_was(name, p, n, pairs, plain):
    expected = json.loads(STORED.read_text())[name]
    if plain:
        with kernels.off():
            found = run(p, n, pairs)
    else:
        found = run(p, n, pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * min(1, np.min(np.abs(expected))))


def test_trajectories_are_finite_and_move():
    for name, shown in json.loads(STORED.read_text()).items():
        assert all(math.isfinite(x) for row in shown for x in row), name
        assert len({tuple(row) for row in shown}) == len(SHOWN), name


if __name__ == "__main__":
    with kernels.off():
        stored = {} if "--all" in sys.argv else json.loads(STORED.read_text())
        trajectories = {name: stored.get(name) or run(p, n, pairs) for name, p, n, pairs in cases()}
    STORED.write_text(json.dumps(trajectories, indent=0) + "\n")
