"""Preconditioners side by side: the best of each family by brute force, tails, one number for one fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.optimize
from test_spectrum_command import read, run

import psgd_core as psgd
from psgd_analysis import spectrum
from psgd_analysis.spectrum import figures
from psgd_analysis.spectrum.choosing import best_of, by_slug
from psgd_core import PermutationSubgroup


def symmetric(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return a + a.T


def criterion(q, h):
    return np.sum((q @ h) ** 2) + np.sum(np.linalg.inv(q) ** 2)


def brute_force(h, make, size):
    """The least criterion over Q = make(z), by BFGS with differences, from several starts."""
    rng = np.random.default_rng(0)
    unit = np.linalg.norm(h, 2)
    ends = [
        scipy.optimize.minimize(
            lambda z: criterion(make(z), h / unit), rng.standard_normal(size), method="BFGS"
        )
        for _ in range(8)
    ]
    best = min(ends, key=lambda end: end.fun)
    q = make(best.x) / np.sqrt(unit)
    return best.fun * unit, np.linalg.eigvalsh(q @ h @ q.T)


def kron(z):
    return np.kron(z[:4].reshape(2, 2), z[4:].reshape(3, 3))


def blocks(z):
    """GL(2) x GL(2) by Kronecker's product, and a diagonal of two."""
    q = np.zeros((6, 6))
    q[:4, :4] = np.kron(z[:4].reshape(2, 2), z[4:8].reshape(2, 2))
    q[4, 4], q[5, 5] = z[8:]
    return q


def low_rank(z):
    return (np.eye(6) + np.outer(z[:6], z[6:12])) * z[12:]


FAMILIES = {
    "Diagonal": (psgd.Diagonal(), np.diag, 6, 6),
    "Kronecker(2x3)": (psgd.Kronecker((2, 3), "dense"), kron, 13, 13),
    "Blocks(1 Kronecker, 1 Diagonal)": (
        psgd.Blocks(((4, psgd.Kronecker((2, 2), "dense")), (2, psgd.Diagonal()))),
        blocks,
        10,
        10,
    ),
    "LowRank(1)": (psgd.LowRank(1), low_rank, 18, 18),
}


@pytest.mark.parametrize("label", FAMILIES)
def test_the_best_of_a_family_against_brute_force(label):
    family, make, size, numbers = FAMILIES[label]
    h = symmetric(6) + np.diag(np.linspace(-3, 3, 6))
    found = spectrum.compare(h, [family])
    assert found.labels == ("H", label)
    least, w = brute_force(h, make, size)
    value = found.criteria[1] * found.criterion_floor
    assert found.storage[1] == numbers
    if label == "LowRank(1)":  # a search that ends near a minimum, in a valley that is flat
        assert found.how[1] == "search"
        assert least * (1 - 1e-6) <= value <= 1.001 * least
        return
    assert found.how[1] == "exact"
    assert value == pytest.approx(least, rel=1e-6)
    np.testing.assert_allclose(found.values[1], w, rtol=1e-2)


def test_orbit_groups_are_those_of_the_group_study():
    h = symmetric(8)
    k = PermutationSubgroup.klein(8)
    found = spectrum.compare(h, {"a": k, "b": psgd.Sparse(k), "c": psgd.XMat(), "d": psgd.Dense()})
    study = spectrum.group_study(h, {"k": k, "xmat": PermutationSubgroup.flip(8)})
    np.testing.assert_array_equal(found.criteria[[1, 2, 3]], study.criteria[[1, 1, 2]])
    np.testing.assert_array_equal(found.storage, [1, 32, 32, 16, 64])
    assert found.criteria[4] == pytest.approx(1)
    assert found.condition_numbers[4] == pytest.approx(1)
    closed = spectrum.compare(h, [psgd.ClosedForm(psgd.groups.XMatGroup())])
    assert closed.criteria[1] == found.criteria[3]


def test_what_was_fitted_and_what_is_given_have_the_criterion_of_their_p():
    h = symmetric(5)
    p = psgd.LowRank(1)
    state = spectrum.fit(h, p, np.random.default_rng(0), products=40)
    matrix = np.diag([1.0, 2.0, 3.0, 4.0, 5.0])
    found = spectrum.compare(h, {"fitted": (p, state), "given": matrix})
    for i, q in ((1, p.apply(state, np.eye(5))), (2, np.sqrt(matrix))):
        assert found.criteria[i] * 2 * np.sum(np.abs(np.linalg.eigvalsh(h))) == pytest.approx(criterion(q, h))
        np.testing.assert_allclose(found.values[i], np.linalg.eigvalsh(q @ h @ q.T))
    assert found.how[1:] == ("given", "given")
    np.testing.assert_array_equal(found.storage[1:], [15, 25])


def test_h_has_the_best_multiple_of_the_identity():
    h = symmetric(7)
    best = scipy.optimize.minimize_scalar(lambda s: np.exp(s) * np.sum(h**2) + 7 * np.exp(-s)).fun
    found = spectrum.compare(h, [])
    assert found.criteria[0] * found.criterion_floor == pytest.approx(best)
    assert found.best == "H"


def test_tails():
    h = np.diag([100.0, -2.0, 2.0, 2.0, 0.5])
    found = spectrum.compare(h, [psgd.Diagonal()])
    np.testing.assert_allclose(found.upper_tails, [50, 1])
    np.testing.assert_allclose(found.lower_tails, [4, 1])
    np.testing.assert_allclose(found.upper_tails * found.lower_tails, found.condition_numbers)
    assert "1 eigenvalues negative" in str(found)


def test_no_group_is_worse_than_none_by_the_criterion():
    """By kappa some are: the diagonal of this one."""
    w = np.concatenate([np.linspace(0.5, 1.5, 60), [10, 20, 50, 100]])
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0]
    study = spectrum.group_study((basis * w) @ basis.T, spectrum.named_families(64, 8))
    assert np.all(study.criteria[1:] <= study.criteria[0])
    assert study.condition_numbers[1] > study.condition_numbers[0]
    assert {"Kronecker(8x8)", "LowRank(10)"} <= set(study.groups)
    ax = study.plot()
    widths = [bar.get_width() + 1 for bar in ax.patches]
    np.testing.assert_allclose(widths, study.criteria)


def test_labels_that_repeat_are_numbered():
    found = spectrum.compare(symmetric(4), [psgd.XMat(), psgd.XMat(geometry="QE"), np.eye(4), np.eye(4)])
    assert found.labels == ("H", "XMat", "XMat #2", "P", "P #2")


def test_families_without_a_closed_form_are_fitted_or_ask_for_a_generator():
    h = symmetric(6)
    family = psgd.Kronecker((2, 3), ("dense", "normalization"))
    message = r"`rng` must be a numpy.random.Generator where Kronecker\(2x3\) is fitted, got None"
    with pytest.raises(TypeError, match=message):
        spectrum.compare(h, [family])
    found = spectrum.compare(h, [family], rng=np.random.default_rng(0), products=60)
    assert found.how[1] == "60 products"
    full = spectrum.compare(h, [psgd.Kronecker((2, 3), "dense")])
    assert full.criteria[1] <= found.criteria[1] < 3 * full.criteria[1]


def test_figures_of_a_comparison():
    found = spectrum.compare(symmetric(6), [psgd.Diagonal(), psgd.XMat()])
    ax = found.plot_criteria()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["none (P = ρ²I)", "Diagonal", "XMat"]
    assert figures.criteria(found, ax) is ax


@pytest.mark.parametrize(
    ("candidates", "error", "message"),
    [
        (["XMat"], TypeError, "pairs .* subgroups or matrices P, got str for 'str'; make one such as"),
        (
            "xmat",
            TypeError,
            "`candidates` must be a list of preconditioners, or a dict of them by label, got str",
        ),
        ([psgd.LowRank(6)], ValueError, "`rank` must be an integer between 0 and 5, got 6"),
        ([psgd.Kronecker((2, 2))], ValueError, "6"),
        ([psgd.Blocks(((4, psgd.Diagonal()),))], ValueError, "`Blocks` must be of 6 parameters"),
        ({"mine": PermutationSubgroup.flip(5)}, ValueError, r"`mine` must permute range\(6\)"),
    ],
)
def test_bad_candidates(candidates, error, message):
    with pytest.raises(error, match=message):
        spectrum.compare(symmetric(6), candidates)


# -- the command -------------------------------------------------------------------------------------------


def test_one_number_for_one_fit_in_all_tables(tmp_path):
    quick = ["--products", "60", "--ranks", "0,1,2", "--probes", "2", "--steps", "5"]
    assert run(tmp_path, "outliers", "--n", 16, quick=quick).exit_code == 0
    studies = read(tmp_path)["studies"]
    ranks, groups, compared = (studies[name] for name in ("ranks", "groups", "before_after"))

    def of(study, names, label, *what):
        return [study[name][study[names].index(label)] for name in what]

    numbers = "criteria", "condition_numbers", "upper_tails", "lower_tails", "storage"
    for label in ("Diagonal", "XMat", "Kronecker(4x4)", "LowRank(2)"):
        assert of(groups, "groups", label, *numbers) == of(compared, "labels", label, *numbers)
    fitted = of(compared, "labels", "LowRank(2), fitted", "criteria", "condition_numbers")
    assert fitted == [ranks["fitted_criterion"][2], ranks["fitted_condition"][2]]
    searched = of(compared, "labels", "LowRank(2)", "criteria", "condition_numbers")
    assert searched == [ranks["diagonal_criterion"][2], ranks["diagonal_condition"][2]]
    diagonal = of(groups, "groups", "Diagonal", "criteria", "condition_numbers")
    assert diagonal == [ranks["diagonal_criterion"][0], ranks["diagonal_condition"][0]]
    order = studies["order_for_xmat"]
    xmat = of(groups, "groups", "XMat", "criteria")[0] * groups["criterion_floor"]
    assert xmat == pytest.approx(order["criterion_before"], rel=1e-12)


def test_families_by_name(tmp_path):
    names = "diagonal,klein-four,lowrank-1,kronecker-2x8,dense,cyclic-4,lowrank"
    result = run(tmp_path, "outliers", "--n", 16, "--compare", names)
    assert result.exit_code == 0, result.output
    labels = read(tmp_path)["studies"]["before_after"]["labels"]
    expected = ["Diagonal", "Klein four", "LowRank(1)", "Kronecker(2x8)", "GL(n)", "cyclic(4)"]
    assert labels == ["H", *expected, "LowRank(1), fitted"]
    assert "--compare diagonal" in read(tmp_path)["command"]


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_the_usual_ones_exist_at_any_n(n):
    assert {"Diagonal"} <= set(best_of([], n, 1)) <= {"Diagonal", "XMat", f"Kronecker({3}x{4})", "LowRank(1)"}
    assert all(label for label, _ in by_slug(n, 1).values())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("xmatt", "`--compare` must be one of .*did you mean 'xmat'"),
        ("kronecker-2x3", "`--compare kronecker-2x3`: `n` must be the number of elements of `shape`"),
        ("lowrank-99", "`--compare lowrank-99`: "),
        ("butterfly", "`--compare` must be one of"),
    ],
)
def test_names_that_are_none(names, message, tmp_path):
    result = run(tmp_path / "out", "outliers", "--n", 9, "--compare", names)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert re.search(message, result.stderr), result.stderr
