"""The table of preconditioners that all commands share."""

from __future__ import annotations

import numpy as np
import pytest

from psgd_analysis.bench.costs import orbit_sizes
from psgd_analysis.kinds import GROUPS, KINDS, Size, offered

SIZES = range(1, 26)


@pytest.mark.parametrize("kind", GROUPS, ids=lambda kind: kind.label)
def test_a_row_has_the_subgroup_of_its_preconditioner(kind):
    for n in filter(kind.fits, SIZES):
        subgroup = kind.subgroup(n)
        assert kind.make(Size(n)).group.subgroup(n).same_orbits(subgroup)
        sizes, counts = np.unique(subgroup.orbit_sizes, return_counts=True)
        expected = {1: n % kind.orbit, kind.orbit: n // kind.orbit}
        assert dict(zip(sizes.tolist(), counts.tolist(), strict=True)) == {
            size: count for size, count in expected.items() if count
        }


@pytest.mark.parametrize("command", ["minimize", "bench", "spectrum"])
def test_names_are_unique(command):
    names = [name for kind in KINDS if (name := getattr(kind, command)) is not None]
    assert list(offered(command)) == names


def test_names_of_verify_are_unique():
    names = [kind.verify.name for kind in KINDS if kind.verify is not None]
    assert len(set(names)) == len(names)


def test_rows_that_are_drawn_together_differ():
    looks = [(kind.color, kind.marker) for kind in KINDS if kind.verify is not None]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.label)
def test_sizes_that_fit_can_be_initialized(kind):
    for n in filter(kind.fits, SIZES):
        p = kind.make(Size(n, rank=min(1, n - 1), shape=(n,)))
        assert p.size(p.init(n, like=np.zeros(1))) == n


def test_the_bench_knows_the_orbits_of_all_groups():
    for name, kind in offered("bench").items():
        if kind.orbit is not None:
            assert sum(size * count for size, count in orbit_sizes(name, 24)) == 24
