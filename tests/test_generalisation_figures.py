"""Every figure is drawn: on the axes given, with units, in colours everybody can tell apart."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib import colors
from matplotlib.figure import Figure

from psgd_analysis import generalisation as gen
from psgd_analysis import look
from psgd_analysis.generalisation import charts, figures, forgetting, style

CLASSES = 5


def statistics(seed, sharpness=3.0, n=200, labelled=True):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    logits = sharpness * (rng.standard_normal((n, CLASSES)) + 2 * np.eye(CLASSES)[labels])
    return gen.uncertainty(logits, labels if labelled else None)


def history(seed, n=60, epochs=8):
    rng = np.random.default_rng(seed)
    state = forgetting.init(n)
    chance = rng.random(n)
    chance[:5] = 0
    for _ in range(epochs):
        state = forgetting.update(state, rng.random(n) < chance)
    return forgetting.result(state)


def constant(value, n=4):
    f = np.full(n, value)
    return gen.Forgetting(f, f + 2, f + 1)


U = {"SGD": statistics(0, 9.0), "PSGD": statistics(1), "Adam": statistics(2, 1.0)}
F = {"SGD": history(0), "PSGD": history(1)}
H = np.random.default_rng(5).gamma(0.1, size=60)
C = {name: gen.correlate(f.finite_scores, H, names=("forgettability", "entropy")) for name, f in F.items()}
GAPS = {"SGD": gen.gap(U["SGD"], U["PSGD"]), "PSGD": gen.gap(U["PSGD"], U["Adam"])}
TREE = {f"layer{i}": np.full(3, float(i)) for i in range(40)}
DISTANCE = gen.distance_from_initialization(TREE, {k: 0 * x for k, x in TREE.items()})

DRAWINGS = {
    "entropy": (lambda ax=None: figures.entropy_histogram(U, ax), "nats", "%"),
    "entropy of one": (U["SGD"].plot, "nats", "%"),
    "margin": (lambda ax=None: figures.margin_histogram(U, ax), "probability of correct class", "%"),
    "events": (lambda ax=None: figures.forgetting_histogram(F, ax), "forgetting events", "examples"),
    "events of one": (F["SGD"].plot, "forgetting events", "examples"),
    "two optimisers": (lambda ax=None: figures.forgettability_scatter(F, ax), "under SGD", "under PSGD"),
    "figure 7": (lambda ax=None: figures.entropy_scatter(F["SGD"], H, ax), "forgetting events", "nats"),
    "ranks": (gen.entropy_subsets(H, 20).plot, "examples", "nats"),
    "table 10": (lambda ax=None: charts.correlation_chart(C, ax), "dimensionless", ""),
    "one pair": (C["SGD"].plot, "dimensionless", ""),
    "gaps": (lambda ax=None: charts.gap_chart(GAPS, ax), "share of the largest possible value", ""),
    "one gap": (GAPS["SGD"].plot, "share", ""),
    "distance": (DISTANCE.plot, "parameters' units", ""),
}


def render(ax):
    """Return the pixels of the axes' figure; a warning of matplotlib's is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer = io.BytesIO()
        ax.figure.savefig(buffer, format="png", dpi=60)
    return buffer.getvalue()


@pytest.mark.parametrize("name", DRAWINGS)
def test_figures_are_drawn_where_they_are_told_to(name):
    draw, xlabel, ylabel = DRAWINGS[name]
    ax = Figure(figsize=(6, 4), layout="constrained").subplots()
    blank = render(ax)
    assert draw(ax) is ax
    assert render(ax) != blank
    assert xlabel in ax.get_xlabel()
    assert ylabel in ax.get_ylabel()
    assert ax.get_title(loc="left")
    own = draw()
    assert own is not ax
    assert own.figure is not ax.figure
    render(own)


@pytest.mark.parametrize("name", ["entropy", "margin", "events", "table 10", "gaps"])
def test_optimisers_are_told_apart_by_name_colour_and_more(name):
    ax = DRAWINGS[name][0]()
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert len({t.split(",")[0].split("\n")[0] for t in texts}) == len(texts) >= 2
    palette = {colors.to_hex(c) for c in look.COLORS.values()}
    handles = ax.get_legend().legend_handles
    lines = [h for h in handles if hasattr(h, "get_marker")]
    bars = [h for h in handles if h not in lines]
    found = {colors.to_hex(h.get_color()) for h in lines} | {colors.to_hex(h.get_facecolor()) for h in bars}
    looks = {(h.get_marker(), str(h._unscaled_dash_pattern)) for h in lines} | {h.get_hatch() for h in bars}
    assert found <= palette
    assert len(found) == len(looks) == len(handles)


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(color)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_first_colours_differ_from_paper_and_each_other():
    assert all((1.05) / (luminance(c) + 0.05) > 3 for c in style.COLORS[:3])
    for a, b in itertools.combinations(style.COLORS, 2):
        assert np.linalg.norm(np.subtract(colors.to_rgb(a), colors.to_rgb(b))) > 0.25


def test_histograms_show_every_example():
    ax = figures.forgetting_histogram({"": F["SGD"]})
    assert sum(bar.get_height() for bar in ax.patches) == 60
    assert "never\nlearned" in [t.get_text() for t in ax.get_xticklabels()]
    saturated = gen.uncertainty(np.concatenate([2000 * np.eye(3), np.zeros((1, 3))]))
    ax = figures.entropy_histogram({"": saturated})
    values = [p.get_data().values for p in ax.patches if not p.get_fill()]
    assert values[0].sum() == pytest.approx(100)
    assert values[0][0] == 75
    render(ax)
    assert "below" in ax.get_xticklabels()[0].get_text()
    ax = figures.margin_histogram(U)
    for patch, u in zip((p for p in ax.patches if not p.get_fill()), U.values(), strict=True):
        assert patch.get_data().values.sum() == pytest.approx(100)
        assert f"mean {u.margin.mean:.3g}" in patch.get_label()


def test_unlabelled_margins_say_which_they_are():
    ax = figures.margin_histogram({"SGD": statistics(0, labelled=False)})
    assert "largest − second largest" in ax.get_xlabel()
    assert ax.get_xlim()[0] == 0
    assert not any("wrong" in t.get_text() for t in ax.texts)


def test_scatter_counts_pairs_and_tells_the_correlation():
    ax = figures.forgettability_scatter({"a": F["SGD"], "b": F["SGD"]})
    dots = ax.collections[0]
    assert dots.get_array().sum() == 60
    assert "Spearman 1.00" in ax.get_title(loc="left")
    x, y = dots.get_offsets().T
    np.testing.assert_array_equal(x, y)


def test_medians_of_figure_7_are_those_of_the_data():
    f = F["SGD"]
    ax = figures.entropy_scatter(f, H)
    line = ax.containers[0].lines[0]
    medians = dict(zip(*line.get_data(), strict=True))
    for k in np.unique(f.events[~f.never_learned]):
        assert medians[k] == pytest.approx(np.median(H[(f.events == k) & ~f.never_learned]))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.entropy_histogram({"all zero": gen.uncertainty(2000 * np.eye(3))}),
        lambda: figures.entropy_histogram({"one": gen.uncertainty(np.zeros((1, 2)))}),
        lambda: figures.margin_histogram({"tie": gen.uncertainty(np.zeros((1, 2)), np.array([0]))}),
        lambda: figures.margin_histogram({"wrong": gen.uncertainty(2000 * np.eye(2), np.array([1, 0]))}),
        lambda: constant(0).plot(),
        lambda: figures.forgettability_scatter({"a": constant(0), "b": constant(3)}),
        lambda: figures.entropy_scatter(constant(0), np.zeros(4)),
        lambda: gen.entropy_subsets(np.zeros(4), 1).plot(),
        lambda: gen.entropy_subsets(np.array([0.0, 1.0]), 1).plot(),
        lambda: gen.correlate(np.arange(4.0), -np.arange(4.0)).plot(),
        lambda: gen.distance_from_initialization(np.ones(2), np.ones(2)).plot(),
        lambda: gen.Forgetting(np.zeros(3, dtype=int), np.ones(3, dtype=int), np.zeros(3, dtype=int)).plot(),
    ],
)
def test_degenerate_results_are_drawn_without_a_warning(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = draw()
    render(ax)


def test_wrong_results_are_refused():
    with pytest.raises(ValueError, match=r"`results` must map names to at least one result.*`\.plot\(\)`"):
        figures.entropy_histogram(U["SGD"])
    with pytest.raises(ValueError, match="`results` must map names"):
        figures.forgetting_histogram({})
    with pytest.raises(ValueError, match="`results` must have examples, got none for 'SGD'"):
        figures.margin_histogram({"SGD": gen.uncertainty(np.zeros((0, 2)))})
    with pytest.raises(ValueError, match="two optimisers to compare, got 1"):
        figures.forgettability_scatter({"SGD": F["SGD"]})
    with pytest.raises(ValueError, match="same examples, got 60 and 4"):
        figures.forgettability_scatter({"SGD": F["SGD"], "PSGD": constant(0)})
    with pytest.raises(ValueError, match="`entropies` must hold one per example, 60, got 2"):
        figures.entropy_scatter(F["SGD"], np.zeros(2))


def test_drawing_leaves_backend_and_settings_alone():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import matplotlib, numpy as np; "
        "get = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}; "
        "before = get(); "
        "from psgd_analysis import generalisation as gen; "
        "gen.uncertainty(np.eye(3)).plot(); "
        "assert get() == before; "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "False"


def test_new_axes_are_pyplots_where_pyplot_is_in_use(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "backend", "agg")
    from matplotlib import pyplot

    ax = U["SGD"].plot()
    assert pyplot.fignum_exists(ax.figure.number)
    pyplot.close(ax.figure)
