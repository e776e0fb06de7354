"""What all commands share: tables that keep every digit, names that were meant, progress, a second thread."""

from __future__ import annotations

import io
import re
import threading

import pytest
from rich.console import Console

from psgd_analysis import progress as shown
from psgd_analysis.background import in_background
from psgd_analysis.terminal import closest, show, table, unknown

HEADS = ("what it is called", "error", "one of several", "in words")
ROWS = [
    (
        f"Sparse(group {i}) with a long label",
        f"gap {1.23456789e-10 * 7**i:.8e}",
        f"{1e6 / 7**i:.9f}",
        "as told",
    )
    for i in range(5)
]


def printed(width=None, rows=ROWS, **style):
    file = io.StringIO()
    terminal = Console(file=file, width=width or 80, force_terminal=width is not None, color_system=None)
    show(terminal, table(HEADS, rows, words=(0, 3), **style))
    return file.getvalue()


@pytest.mark.parametrize(
    "style", [{}, {"box": None, "pad_edge": False}, {"title": "a title", "show_lines": True}]
)
@pytest.mark.parametrize("width", [None, 30, 50, 65, 80, 110])
def test_no_number_is_cut_or_broken_at_any_width(width, style):
    text = printed(width, **style)
    assert "…" not in text
    words = re.findall(r"[^\s│┃|]+", text)
    for row in ROWS:
        for word in " ".join(row[1:]).split():
            assert word in words, (word, text)
    if width is None or width >= 110:
        assert all(any(all(cell in line for cell in row) for line in text.splitlines()) for row in ROWS)
    if width in (80, 110):
        assert max(map(len, text.splitlines())) <= width


def test_markup_in_cells_is_text():
    text = printed(rows=[("[bold]x[/bold]", "[0, 1]", "1", "[red]")])
    assert "[bold]x[/bold]" in text
    assert "[0, 1]" in text


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("xnat", "xmat"),
        ("XMAT", "xmat"),
        ("low", "lowrank"),
        ("kronecer", "kronecker"),
        ("easy", None),
        ("k", None),
    ],
)
def test_the_closest_name(given, meant):
    known = ("diagonal", "xmat", "lowrank", "kronecker")
    assert closest(given, known) == (f"; did you mean {meant!r}?" if meant else "")


def test_few_names_are_told_and_many_are_left_to_the_list():
    few = unknown("sparse", ["diagonal", "dense"])
    assert few == "must be one of diagonal, dense, got 'sparse'; choose one of these"
    many = unknown("name7x", [f"name{i}" for i in range(40)])
    assert many == "must be one that --list shows, got 'name7x'; did you mean 'name7'?"


# -- progress ------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_without_a_terminal_few_lines_go_to_stderr(capsys):
    clock = Clock()
    with shown.progress("try", clock=clock) as tell:
        for second in range(1, 1001):
            clock.now = 100.0 + second
            tell(f"{second} of 1000 things", second, 1000)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 5 <= len(lines) <= 15
    for line in lines:
        what, percent, left, unit = re.fullmatch(
            r"psgd try: (\d+) of 1000 things, (\d+) %, ([\d.]+) (s|min|h) left", line
        ).groups()
        part = int(what) / 1000
        assert abs(int(percent) - 100 * part) <= 1
        seconds = float(left) * {"s": 1, "min": 60, "h": 3600}[unit]
        assert abs(seconds - (1000 - int(what))) <= 30  # a second each: half a minute of rounding


def test_nothing_is_shown_of_what_is_quiet_or_short(capsys):
    for quiet, seconds in ((True, 1000.0), (False, 9.0)):
        clock = Clock()
        with shown.progress("try", shown=not quiet, clock=clock) as tell:
            clock.now += seconds
            tell("something", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_the_rest_where_the_whole_is_not_known():
    assert shown.rest(30.0, None) == "30 s so far"
    assert shown.rest(30.0, 0.0) == "0 %"
    assert shown.rest(30.0, 0.25) == "25 %, 2 min left"
    assert shown.rest(3600.0, 0.25) == "25 %, 3.0 h left"
    assert shown.rest(10.0, 1.0) == "100 %, 0 s left"


# -- another thread ------------------------------------------------------------------------------------------


def test_items_come_in_order_and_errors_are_raised_here():
    def work():
        yield from "abc"
        raise ValueError("the end")

    found = []

    def take():
        found.extend(item for item in in_background(work) if item is not None)

    with pytest.raises(ValueError, match="the end"):
        take()
    assert found == ["a", "b", "c"]
    assert [x for x in in_background(lambda: range(3)) if x is not None] == [0, 1, 2]


def test_an_interruption_does_not_wait_for_the_work():
    go_on = threading.Event()

    def work():
        yield 1
        go_on.wait()  # as a library that does not come back
        yield 2

    found = []

    def take():
        for item in in_background(work):
            if item is None and found:
                raise KeyboardInterrupt
            if item is not None:
                found.append(item)

    with pytest.raises(KeyboardInterrupt):
        take()
    assert found == [1]
    go_on.set()
