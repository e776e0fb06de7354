"""What a release says of itself: one version everywhere, its Pythons, and a floor under all that it needs."""

import re
import tomllib
from pathlib import Path

import psgd_core

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_one_version_everywhere():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert PROJECT["version"] == psgd_core.__version__ == cited[1]
    newest = re.search(r"^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest[1] == PROJECT["version"].removesuffix(".dev0")


def test_pythons_are_listed_from_the_lowest_on():
    listed = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))
    lowest = int(re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])[1])
    assert [int(minor) for minor in listed] == list(range(lowest, lowest + len(listed)))


def test_every_requirement_has_a_floor():
    """`make test-oldest` installs it: without one, that would be the first version ever released."""
    extras = PROJECT["optional-dependencies"].values()
    names = [name for group in (PROJECT["dependencies"], *extras) for name in group]
    without = [name for name in names if not re.match(r"[\w.\[\]-]+(>=|==)\d", name)]
    assert all(name.startswith("psgd-core[") for name in without)
