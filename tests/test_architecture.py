"""The house stands: no circles, arrows that point one way, and a picture made from the sources."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def tool(name: str):
    """A script of ``tools/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


architecture = tool("architecture")
GRAPH = architecture.module_graph()
ROOMS = {room: set(counts) for room, counts in architecture.room_counts(GRAPH).items()}
CORE = {room for room in ROOMS if room.startswith("psgd_core.")}


def core(*names: str) -> set[str]:
    return {f"psgd_core.{name}" for name in names}


def test_no_module_of_the_core_is_in_a_circle():
    own = {
        name: {x for x in imported if x in GRAPH and x.startswith("psgd_core")}
        for name, imported in GRAPH.items()
    }
    assert architecture.circle({name: own[name] for name in own if name.startswith("psgd_core")}) == []


def test_no_room_is_in_a_circle():
    assert architecture.circle({room: imported & set(ROOMS) for room, imported in ROOMS.items()}) == []


def test_there_are_few_rooms_and_none_is_private():
    assert len(CORE) <= 12
    assert not [room for room in ROOMS if re.search(r"\._(?!_)", room)]


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("arrays", core()),
        ("kernels", core("arrays")),
        ("groups", core("arrays")),
        ("criterion", core("arrays", "groups")),
        ("schedules", core("arrays")),
        ("checkpoint", core("arrays")),
        ("preconditioners", core("arrays", "groups", "kernels")),
        ("convergence", core("arrays", "groups", "criterion", "preconditioners")),
        ("curvature", core("arrays", "groups", "preconditioners")),
        ("descent", core("arrays", "groups", "preconditioners", "curvature", "schedules")),
    ],
)
def test_arrows_point_one_way(room, allowed):
    assert ROOMS[f"psgd_core.{room}"] <= allowed


def test_the_core_knows_nothing_of_the_studies():
    assert not [room for room in CORE if any(x.startswith("psgd_analysis") for x in ROOMS[room])]


def test_private_names_stay_in_their_room():
    for name, path in architecture.modules().items():
        for source, item in architecture.statements(name, path):
            private = item.startswith("_") and not item.startswith("__")
            assert not (private and architecture.room_of(source) != architecture.room_of(name)), (
                f"{name} imports {item} from {source}"
            )


def test_the_picture_shows_every_room_and_is_always_the_same():
    picture = architecture.picture()
    assert picture == architecture.picture()
    shown = ", ".join(re.findall(r'class="name"[^>]*>([^<]*)<', picture)).split(", ")
    assert sorted(shown) == sorted([*architecture.PACKAGES, *(room.partition(".")[2] for room in ROOMS)])


def test_the_page_describes_every_room():
    described = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M))
    assert {room.partition(".")[2] for room in CORE} <= described


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
