"""The picture of the house: its rooms, and the imports between them, as they are in the sources.

    python tools/architecture.py              # which room imports which, in how many modules
    python tools/architecture.py house.svg    # the picture

A room is a package or a module right below `psgd_core` or `psgd_analysis`. Every room stands above those that
it imports. The picture leaves out arrows that follow from others, and arrows to the ground: a room that all
others import, or single modules that import no package beside them. The documentation draws the picture when
it is built, so it always shows the sources as they are.
"""

from __future__ import annotations

import ast
import fnmatch
import itertools
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"psgd_core": ROOT / "psgd_core", "psgd_analysis": ROOT / "analysis" / "psgd_analysis"}

Graph = dict[str, set[str]]
"""What each node imports."""

# -- the sources -------------------------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Return the file of every module of both packages, by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


def statements(name: str, path: Path) -> list[tuple[str, str]]:
    """Return (module, name taken from it) of every import in a module, within functions too.

    The name is empty for ``import module``. Imports for types alone do not count. An `import_module` whose
    name is put together at run time gives a pattern: ``package.*.module``.
    """
    found, parts = [], name.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    for node in running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            found += [(source, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            found.append((pattern(node.args[0]), ""))
    return found


def pattern(text: ast.expr) -> str:
    """Return a string as it stands in the sources, with a star for each part that is not known."""
    if isinstance(text, ast.JoinedStr):
        return "".join(pattern(part) for part in text.values)
    return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else "*"


def imports(name: str, path: Path, known: Iterable[str]) -> set[str]:
    """Return which of the `known` modules a module imports."""
    # `from package import module` asks for the module, `from package import name` for the package
    asked: set[str] = set()
    for source, item in statements(name, path):
        full = f"{source}.{item}"
        asked.add(full if full in known else source)
        if source.partition(".")[0] in PACKAGES and "*" in source:
            asked |= set(fnmatch.filter(known, source))
    return {module for module in asked if module in known and module != name}


def running(node: ast.AST) -> Iterable[ast.AST]:
    """Return the nodes below one, without the bodies of ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from running(child)


def module_graph() -> Graph:
    """Return which modules each module imports."""
    files = modules()
    return {name: imports(name, path, files) for name, path in files.items()}


def room_of(module: str) -> str:
    """Return the room of a module: ``psgd_core.groups`` for ``psgd_core.groups.orbits``."""
    return ".".join(module.split(".")[:2])


def room_counts(graph: Graph) -> dict[str, Counter[str]]:
    """Return for every room how many of its modules import each other room."""
    counts: dict[str, Counter[str]] = {
        room_of(name): Counter() for name in graph if "." in name and "__" not in name
    }
    for name, imported in graph.items():
        if room_of(name) in counts:
            counts[room_of(name)].update({room_of(x) for x in imported} - {room_of(name)} - set(PACKAGES))
    return counts


# -- graphs ------------------------------------------------------------------------------------------------


def circle(graph: Graph) -> list[str]:
    """Return the nodes of a circle in their order, the first again at the end; nothing if there is none."""
    done: set[str] = set()

    def visit(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph[node]):
            found = visit(other, [*way, node])
            if found:
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def reachable(graph: Graph, node: str) -> set[str]:
    """Return what a node imports, directly or through others."""
    found: set[str] = set()
    ahead = list(graph[node])
    while ahead:
        other = ahead.pop()
        if other not in found:
            found.add(other)
            ahead += graph[other]
    return found


def reduced(graph: Graph) -> Graph:
    """Return the graph without the arrows that follow from others."""
    behind = {node: set().union(*(reachable(graph, x) for x in graph[node])) for node in graph}
    return {node: graph[node] - behind[node] for node in graph}


def layers(graph: Graph, width: int) -> list[list[str]]:
    """Return the nodes in layers of at most `width`, each above what it imports; the lowest comes first."""
    importers = {node: {x for x in graph if node in graph[x]} for node in graph}
    heights: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in heights:
            heights[node] = 1 + max((height(x) for x in importers[node]), default=0)
        return heights[node]

    found: list[list[str]] = []
    placed: set[str] = set()
    while len(placed) < len(graph):
        ready = [node for node in graph if node not in placed and graph[node] <= placed]
        layer = sorted(ready, key=lambda node: (-height(node), node))[:width]
        found.append(layer)
        placed |= set(layer)
    return raised(found, graph, importers, width)


def raised(stack: list[list[str]], graph: Graph, importers: Graph, width: int) -> list[list[str]]:
    """Return the layers with nodes moved up towards those that import them, where there is room."""
    row = {node: i for i, layer in enumerate(stack) for node in layer}
    for node in sorted(row, key=lambda node: (-row[node], node)):
        if len(importers[node]) <= len(graph[node]):
            continue
        for target in range(min(row[x] for x in importers[node]) - 1, row[node], -1):
            if sum(r == target for r in row.values()) < width:
                row[node] = target
                break
    return [sorted(node for node in row if row[node] == i) for i in range(len(stack))]


def columns(stack: list[list[str]], graph: Graph, width: int) -> dict[str, tuple[int, int]]:
    """Return (column, layer) of every node: few arrows across boxes, few crossings, short arrows."""
    best: tuple[float, dict[str, tuple[int, int]]] = float("inf"), {}
    choices = [list(itertools.permutations(range(width), len(layer))) for layer in stack]
    for chosen in itertools.product(*choices):
        at = {
            node: (column, row)
            for row, (layer, taken) in enumerate(zip(stack, chosen, strict=True))
            for node, column in zip(layer, taken, strict=True)
        }
        cost = disorder(at, [(x, y) for x in sorted(graph) for y in sorted(graph[x])], best[0])
        if cost < best[0]:
            best = cost, at
    return best[1]


def blocked(at: dict[str, tuple[int, int]], room: str, other: str) -> bool:
    """Return whether a box is in the way of an arrow, which goes over at once, and then straight down."""
    (_, high), (column, low) = at[room], at[other]
    return any(x == column and low < row < high for x, row in at.values())


def placed(graph: Graph) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Return (column, layer) of every node, in enough columns to free the arrows; and how many of both."""
    for width in COLUMNS:
        stack = layers(graph, width)
        at = columns(stack, reduced(graph), width)
        if not any(blocked(at, x, y) for x in graph for y in reduced(graph)[x]):
            break
    return at, width, len(stack)


def disorder(at: dict[str, tuple[int, int]], arrows: list[tuple[str, str]], limit: float) -> float:
    """Return how hard a placement is to read, or more than `limit` as soon as it is known to be."""
    cost = 0.0
    for i, (x, y) in enumerate(arrows):
        (x1, y1), (x2, y2) = at[x], at[y]
        cost += (x1 - x2) ** 2 + 0.1 * (y1 - y2)
        cost += 20 * blocked(at, x, y)
        # crossings
        for other, target in arrows[:i]:
            (a1, b1), (a2, _) = at[other], at[target]
            cost += 5 * (b1 == y1 and (a1 - x1) * (a2 - x2) < 0)
        if cost > limit:
            break
    return cost


# -- the picture -------------------------------------------------------------------------------------------

WIDTH, COLUMNS, MARGIN = 440, (3, 4), 6
BOX_HEIGHT, GAP, LINE = 42, 32, 18
# the site gives it the colours of its pages, in docs/_static/site.css
STYLE = """
.house text { font-family: system-ui, sans-serif; text-anchor: middle; fill: #1b1b1f; }
.house .name { font-size: 14px; font-weight: 600; }
.house .small { font-size: 11.5px; }
.house text.more { font-size: 11.5px; }
.house text.more, .house .tip { fill: #55555f; }
.house .room { fill: #fff; stroke: #0072b2; stroke-width: 1.4; }
.house .panel { fill: #f4f5f7; stroke: none; }
.house .arrow { fill: none; stroke: #55555f; }
"""


def picture() -> str:
    """Return the picture as SVG text: the studies above, the mathematics below."""
    graph = module_graph()
    counts = room_counts(graph)
    sizes = Counter(room_of(name) for name in graph)
    parts, top = [], 0.0
    for package in ("psgd_analysis", "psgd_core"):
        rooms = {x: c for x, c in counts.items() if x.startswith(f"{package}.")}
        text, height = panel(package, rooms, sizes, top)
        parts.append(text)
        top += height
        if package == "psgd_analysis":
            parts.append(arrow(WIDTH / 2, top, WIDTH / 2, top + GAP, 2.2))
            parts.append(words("more", WIDTH / 2 + 78, top + GAP / 2 + 4, "by public names only"))
            top += GAP
    marker = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    marker += 'markerUnits="userSpaceOnUse" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker>'
    head = f'<svg class="house" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" role="img" '
    head += 'aria-label="The rooms of the project and the imports between them">'
    return "\n".join([head, f"<style>{STYLE}</style>", f"<defs>{marker}</defs>", *parts, "</svg>"]) + "\n"


def panel(
    package: str, counts: dict[str, Counter[str]], sizes: Counter[str], top: float
) -> tuple[str, float]:
    """Return the drawing of a package's rooms, and its height."""
    graph = {room: {x for x in imported if x in counts} for room, imported in counts.items()}
    found = circle(graph)
    if found:
        raise ValueError(f"the rooms import each other in a circle: {' -> '.join(found)}")
    ground = grounded(graph, sizes)
    above = {x: graph[x] - ground for x in graph if x not in ground}
    arrows = reduced(above)
    at, across, deep = placed(above)

    # rows from the top; the ground under all of them
    names = textwrap.wrap(", ".join(room.partition(".")[2] for room in sorted(ground)), 48)
    low = BOX_HEIGHT + LINE * (len(names) - 1)
    height = 30 + deep * BOX_HEIGHT + (deep - 1) * GAP + (low + 14 if ground else 0) + 12
    column = WIDTH / across
    wide, kind = column - 2 * MARGIN, "name" if across == min(COLUMNS) else "name small"

    def centre(room: str) -> tuple[float, float]:
        x, row = at[room]
        return column * (x + 0.5), top + 30 + (deep - 1 - row) * (BOX_HEIGHT + GAP) + BOX_HEIGHT / 2

    parts = [f'<rect class="panel" x="0" y="{top:g}" width="{WIDTH}" height="{height:g}" rx="8"/>']
    parts.append(words("name", WIDTH / 2, top + 20, package))
    for room in sorted(arrows):
        for other in sorted(arrows[room]):
            (x1, y1), (x2, y2) = centre(room), centre(other)
            lean = 0.3 * wide * ((x2 > x1) - (x2 < x1))
            weight = 1 + 0.3 * min(counts[room][other], 5)
            parts.append(arrow(x1 + lean, y1 + BOX_HEIGHT / 2, x2 - lean, y2 - BOX_HEIGHT / 2, weight))
    for room in at:
        parts.append(box(room.partition(".")[2], *centre(room), wide, files(sizes[room]), kind))
    if ground:
        y, wide = top + height - 12 - low + BOX_HEIGHT / 2, WIDTH - 2 * MARGIN
        more = f"{files(sum(sizes[room] for room in ground))}, imported from everywhere above"
        parts.append(box("\n".join(names), WIDTH / 2, y, wide, more))
    return "\n".join(parts), height


def grounded(graph: Graph, sizes: Counter[str]) -> set[str]:
    """Return the room that all others import, or else the single modules that import no package."""
    for room in graph:
        if not graph[room] and all(room in graph[other] for other in graph if other != room):
            return {room}
    modules_alone = {room for room in graph if sizes[room] == 1}
    while any(graph[room] - modules_alone for room in modules_alone):
        modules_alone = {room for room in modules_alone if graph[room] <= modules_alone}
    return modules_alone


def files(count: int) -> str:
    """Return a number of files, in words."""
    return f"{count} file{'s' if count > 1 else ''}"


def box(name: str, x: float, y: float, width: float, more: str, kind: str = "name") -> str:
    """Return a box with a name, in one or more lines, and a line below it; y is where one line is centred."""
    names = name.split("\n")
    down = LINE * (len(names) - 1)
    frame = f'<rect class="room" x="{x - width / 2:g}" y="{y - BOX_HEIGHT / 2:g}" width="{width:g}" '
    frame += f'height="{BOX_HEIGHT + down}" rx="6"/>'
    lines = [words(kind, x, y - 2 + LINE * i, line) for i, line in enumerate(names)]
    return "".join([frame, *lines, words("more", x, y + 14 + down, more)])


def words(kind: str, x: float, y: float, text: str) -> str:
    """Return a line of text."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{text}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float, weight: float) -> str:
    """Return an arrow downwards: over to the column of its end, then straight."""
    bend, turned = GAP / 2, y1 + GAP - 8  # the tip stands on a straight end
    curve = f"M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {turned - bend:g} {x2:g} {turned:g}V{y2:g}"
    return f'<path class="arrow" d="{curve}" stroke-width="{weight:g}" marker-end="url(#tip)"/>'


def main(argv: list[str]) -> None:
    """Write the picture, or print the imports."""
    if argv:
        Path(argv[0]).write_text(picture(), encoding="utf-8")
        return
    for room, imported in sorted(room_counts(module_graph()).items()):
        print(f"{room:32} {', '.join(f'{x} {count}' for x, count in sorted(imported.items()))}")


if __name__ == "__main__":
    main(sys.argv[1:])
