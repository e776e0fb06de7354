"""The project's own scripts: the picture of the house, and the count of its lines."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def tool(name: str):
    """A script of ``tools/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


architecture, lines = tool("architecture"), tool("lines")
ROOMS = set(architecture.room_counts(architecture.module_graph()))


def test_the_picture_shows_every_room_and_is_always_the_same():
    picture = architecture.picture()
    assert picture == architecture.picture()
    names = re.findall(r'class="name[^>]*>([^<]*)<', picture)
    shown = [name for line in names for name in re.split(r", ?", line) if name]
    assert sorted(shown) == sorted([*architecture.PACKAGES, *(room.partition(".")[2] for room in ROOMS)])


def test_the_page_describes_every_room():
    described = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M))
    assert {room.removeprefix("psgd_core.") for room in ROOMS if room.startswith("psgd_core.")} <= described


def test_layers_stand_on_what_they_import():
    graph = {"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set(), "e": set(), "f": {"e"}}
    stack = architecture.layers(graph, 2)
    row = {node: i for i, layer in enumerate(stack) for node in layer}
    assert set(row) == set(graph)
    assert all(len(layer) <= 2 for layer in stack)
    assert all(row[x] > row[y] for x in graph for y in graph[x])


def test_a_circle_is_found_and_refused():
    assert architecture.circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_reduction_leaves_out_what_follows():
    assert architecture.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {
        "a": {"b"},
        "b": {"c"},
        "c": set(),
    }


SOURCE = '''"""Three lines
of
documentation."""

X = 1  # a comment
"""What X is."""


def f():
    # a comment
    """One line."""
    return (
        X
    )
'''


def test_lines_of_code_are_counted_without_comments_docstrings_and_blanks(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    assert lines.counted(path) == lines.Lines(code=5, comments=2, physical=14, files=1)
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "other.py").write_text("Y = 2\n")
    assert {name: found.code for name, found in lines.by_room(tmp_path).items()} == {
        "module.py": 5,
        "room": 1,
    }
