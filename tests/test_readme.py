"""The README's code runs as printed, and what it says of the results is so."""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
from pages import blocks, run

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = blocks(README)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def scopes(folder):
    """The variables after each block, which goes on where the one before ended."""
    with contextlib.chdir(folder):
        return run(README)


def test_the_first_example_converges_as_its_comment_says(scopes, folder):
    first = scopes[0]
    claimed = float(re.search(r"# below (\S+)", BLOCKS[0]).group(1))
    fitted = first["p"].apply(first["state"], np.eye(6))
    assert float(first["psgd"].convergence.distance(fitted, first["target"])) < claimed
    np.testing.assert_array_equal(np.load(folder / "my.npy"), first["H"])


def test_the_best_family_is_the_one_it_names(scopes):
    pytest.importorskip("torch")
    left = scopes[1]["comparison"]
    kappas = dict(zip(left.labels, left.condition_numbers, strict=True))
    said = r"`(\S+)` leaves a condition number of (\d+) of the (\d+), and the least criterion, ([\d.]+) "
    name, best, plain, criterion = re.search(said, TEXT).groups()
    assert left.best == name
    assert left.criteria[left.labels.index(name)] == pytest.approx(float(criterion), rel=0.01)
    assert kappas[name] == pytest.approx(float(best), rel=0.02)
    assert kappas["H"] == pytest.approx(float(plain), rel=0.02)


def test_the_network_is_trained(scopes):
    pytest.importorskip("torch")
    before, after = scopes[1], scopes[2]
    assert len(before["comparison"].labels) == 5
    assert float(after["loss"]) < 0.1


def test_the_optax_chain_ends_at_the_minimum(scopes):
    pytest.importorskip("optax")
    assert abs(scopes[3]["w"] - 1).max() < 1e-2


def test_rosenbrock_takes_as_many_evaluations_as_it_says(scopes):
    result = scopes[4]["result"]
    assert result.success
    assert abs(result.x - 1).max() < 1e-6
    gradients, products = map(int, re.search(r"takes (\d+) gradients and (\d+) products", TEXT).groups())
    assert result.njev == pytest.approx(gradients, abs=3)  # rounding decides the last ones
    assert result.nhev == pytest.approx(products, abs=2)


def test_links_inside_the_repository_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (README.parent / target).exists(), target
