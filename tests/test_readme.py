"""The README's code runs as printed, and what it says of the results is so."""

import re
from pathlib import Path

import pytest
from pages import blocks, run

README = Path(__file__).parents[1] / "README.md"
BLOCKS = blocks(README)


@pytest.fixture(scope="module")
def scopes():
    """The variables after each block, which goes on where the one before ended."""
    return run(README)


def test_the_first_example_converges_as_its_comment_says(scopes):
    scope = scopes[0]
    claimed = float(re.search(r"# below (\S+)", BLOCKS[0]).group(1))
    assert float(scope["psgd"].convergence.distance(scope["Q"], scope["target"])) < claimed


def test_rosenbrock_ends_at_its_minimum(scopes):
    for scope in scopes[1:3]:
        assert scope["result"].success
        assert abs(scope["result"].x - 1).max() < 1e-6


def test_the_fitted_preconditioner_serves_cg(scopes):
    scope = scopes[2]
    assert scope["info"] == 0
    assert abs(scope["H"] @ scope["x"] - 1).max() < 1e-4


def test_the_module_ends_at_the_least_squares_solution(scopes):
    torch = pytest.importorskip("torch")
    scope = scopes[3]
    rows = torch.cat([scope["data"], torch.ones(50, 1)], dim=1)
    best = torch.linalg.lstsq(rows, scope["wanted"]).solution
    found = torch.cat([scope["model"].weight.detach(), scope["model"].bias.detach()[None, :]], dim=1)
    assert torch.abs(found - best.T).max() < 1e-2


def test_the_optax_optimiser_ends_at_the_minimum(scopes):
    pytest.importorskip("optax")
    assert abs(scopes[4]["params"] - 1).max() < 1e-2


def test_links_inside_the_repository_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
