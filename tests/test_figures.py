"""The figures of convergence and paths, on axes of their own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from psgd_analysis import figures, look
from psgd_analysis.problems import rosenbrock

PLANE = rosenbrock()


def drawn(runs, **options):
    ax = Figure().subplots()
    assert figures.paths(ax, PLANE.value, runs, "Paths", resolution=20, **options) is ax
    return ax


def test_paths_are_drawn_point_by_point_with_their_lengths():
    runs = {"one": [[-1.2, 1.0], [0.0, 0.5], [1.0, 1.0]], "other": [[-1.2, 1.0], [-1.0, 2.0]]}
    ax = drawn(runs, minimum=[1.0, 1.0])
    lines = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    np.testing.assert_array_equal(lines["one: 2 steps"], runs["one"])
    np.testing.assert_array_equal(lines["other: 1 steps"], runs["other"])
    assert ax.get_title(loc="left") == "Paths"
    assert ax.get_xlim()[0] < -1.2
    assert ax.get_xlim()[1] > 1.0
    assert ax.get_ylim()[1] > 2.0


def test_contours_are_whole_decades_above_the_minimum():
    ax = drawn({"run": [[-1.2, 1.0], [1.0, 1.0]]}, minimum=[1.0, 1.0])
    (contours,) = (c for c in ax.collections if hasattr(c, "levels"))
    decades = np.log10(contours.levels)
    np.testing.assert_allclose(decades, np.round(decades))
    assert len(decades) >= 3


@pytest.mark.parametrize(
    "run",
    [[[0.0, 1.0, 2.0]], [0.0, 1.0], [[0.0, np.nan]], [[np.inf, 0.0]]],
    ids=["3-D", "flat", "NaN", "Inf"],
)
def test_points_must_be_finite_and_in_the_plane(run):
    with pytest.raises(ValueError, match=r"`runs\['bad'\]` must hold finite points"):
        drawn({"bad": run})


def test_a_method_has_one_colour_by_whatever_name():
    for name, families in {
        "XMat": ("XMat", "PSGD XMat", "permuted: PSGD XMat", "XMat  (2)"),
        "LowRank": ("LowRank(5)", "PSGD LRA", "PSGD, whitening", "LowRank(2), left"),
        "Kronecker": ("Kronecker(4x4)", "PSGD affine"),
        "Sparse": ("Sparse(Klein)", "Klein four"),
        "SGD": ("SGD", "SGD, momentum 0.9", "SGD, then PSGD LRA"),
        "closed form": ("ClosedForm, diagonal", "closed form, 30 pairs"),
        "BFGS": ("L-BFGS", "BFGS"),
    }.items():
        assert {look.color_of(label) for label in families} == {look.METHODS[name]}
    assert look.color_of("psgd_torch LRA") == look.LIBRARIES["psgd_torch"]
    assert look.color_of("torch.compile") != look.color_of("torch")
    assert look.color_of("none (P = ρ²I)") is None


def test_no_other_method_has_the_colour_of_a_preconditioner():
    families = {look.METHODS[name] for name in look.PRECONDITIONERS}
    assert len(families) == len(look.PRECONDITIONERS)
    others = ["SGD", "Adam", "AdaBelief", "KFAC", "BFGS", "closed form"]
    colours = [look.METHODS[name] for name in others]
    assert len(set(colours)) == len(others)
    assert not families & {*colours, *look.LIBRARIES.values()}


def test_every_kind_has_the_colour_of_its_family():
    from psgd_analysis.kinds import KINDS, Size

    for kind in KINDS:
        p = kind.make(Size(kind.smallest, min(1, kind.smallest - 1), (kind.smallest,)))
        assert kind.color == look.METHODS[type(p).__name__]


def test_shades_go_to_white_and_keep_their_hue():
    assert look.paler("#0072B2", 0) == "#0072B2"
    assert look.paler("#000000", 1) == "#404040"
    assert look.paler("#882255", 50) == "#FFFFFF"
