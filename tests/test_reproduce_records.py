"""Jobs, books of records, and runs that are left and taken up again."""

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from psgd_analysis.reproduce.experiment import Cell, Experiment, Job, Plan, never
from psgd_analysis.reproduce.loop import Checkpoint, run
from psgd_analysis.reproduce.records import Book, Record
from psgd_analysis.sweeps import Stopped

ABOUT = {"versions": {"numpy": "2"}, "revision": "abc", "command": "psgd", "machine": "m", "threads": 1}


class Walk:
    """A random walk of five parts, in need of its generator."""

    parts = 5
    skipped = 0

    def __init__(self, job: Job, fatal: float = math.inf) -> None:
        self.rng, self.x, self.done = np.random.default_rng(job.seed), np.zeros(3), 0
        self.fatal = fatal

    @property
    def status(self) -> str:
        if not np.isfinite(self.x).all():
            return "diverged"
        return "done" if self.done == self.parts else "going"

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, float]:
        self.x = self.x + self.rng.standard_normal(3)
        self.done += 1
        if self.done == self.fatal:
            self.x = self.x * np.nan
        return {"x": float(self.x[0])}

    def final(self) -> dict[str, object]:
        return {"x": self.x.tolist()}

    def save(self, file: io.BytesIO) -> None:
        held = {"x": self.x.tolist(), "done": self.done, "rng": self.rng.bit_generator.state}
        file.write(json.dumps(held).encode())

    def load(self, file: io.BytesIO) -> None:
        held = json.loads(file.read())
        self.x, self.done = np.array(held["x"]), held["done"]
        self.rng.bit_generator.state = held["rng"]


def job(seed: int = 0, **more: object) -> Job:
    return Job("walk", "smoke", "a", seed, {"lr": 0.1}, {"digits": "00"}, **more)


def content(record: Record) -> dict[str, object]:
    """What does not depend on the clock."""
    held = dataclasses.asdict(record)
    del held["seconds"], held["cpu_seconds"]
    held["metrics"] = [{k: x for k, x in m.items() if k != "seconds"} for m in record.metrics]
    return held


def test_the_key_is_what_makes_a_run_the_same() -> None:
    assert job().key == job(expected=9.0).key == dataclasses.replace(job(), scale="faithful").key
    others = [
        job(1),
        dataclasses.replace(job(), cell="b"),
        dataclasses.replace(job(), experiment="other"),
        dataclasses.replace(job(), settings={"lr": 0.2}),
        dataclasses.replace(job(), data={"digits": "01"}),
    ]
    assert len({job().key, *(other.key for other in others)}) == 6


@pytest.mark.parametrize("left_after", [1, 2, 4])
def test_a_run_that_was_left_goes_on_bit_for_bit(tmp_path: Path, left_after: int) -> None:
    whole = run(job(), Walk, Checkpoint(tmp_path / "a", job().key), ABOUT)
    notes: list[float] = []
    place = Checkpoint(tmp_path / "b", job().key)
    with pytest.raises(Stopped):
        run(job(), Walk, place, ABOUT, note=notes.append, stopping=lambda: len(notes) == left_after)
    again = run(job(), Walk, place, ABOUT, note=notes.append)
    assert content(again) == content(whole)
    assert notes == [0.2, 0.4, 0.6, 0.8, 1.0]
    place.remove()
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.parametrize(
    "page", [b"", b"[]", b"{}", b"\xff", b'{"metrics": [], "seconds": 0, "cpu_seconds": 0}']
)
@pytest.mark.parametrize("where", ["page", "file", "a bit", "gone", "by half"])
def test_a_run_whose_checkpoint_is_of_no_use_begins_anew(tmp_path: Path, page: bytes, where: str) -> None:
    class Halting(Walk):
        def load(self, file: io.BytesIO) -> None:
            self.x = self.x + 1
            super().load(file)
            if where == "by half":
                raise KeyError("weights")

    notes: list[float] = []
    place = Checkpoint(tmp_path / "a", job().key)
    with pytest.raises(Stopped):
        run(job(), Walk, place, ABOUT, note=notes.append, stopping=lambda: len(notes) == 2)
    file = next(f for f in place.folder.iterdir() if f != place.page)
    if where == "page":
        place.page.write_bytes(page)
    elif where == "file":
        file.write_bytes(page)
    elif where == "a bit":
        damaged = bytearray(file.read_bytes())
        damaged[damaged.index(b".") + 3] ^= 1  # another digit of x
        file.write_bytes(damaged)
    elif where == "gone":
        file.unlink()
    found = run(job(), Halting, place, ABOUT)
    assert found.error.startswith("begun anew")
    whole = run(job(), Walk, Checkpoint(tmp_path / "whole", job().key), ABOUT)
    assert content(dataclasses.replace(found, error="")) == content(whole)


def test_a_checkpoint_that_cannot_be_read_now_is_kept(tmp_path: Path) -> None:
    class Unlucky(Walk):
        def load(self, file: io.BytesIO) -> None:
            raise MemoryError

    place = Checkpoint(tmp_path, job().key)
    with pytest.raises(Stopped):
        run(job(), Walk, place, ABOUT, stopping=lambda: True)
    with pytest.raises(MemoryError):
        run(job(), Unlucky, place, ABOUT)
    assert len(run(job(), Walk, place, ABOUT).metrics) == 5


def test_a_run_that_is_interrupted_while_it_loads_keeps_its_checkpoint(tmp_path: Path) -> None:
    class Interrupted(Walk):
        def load(self, file: io.BytesIO) -> None:
            raise RuntimeError("was KeyboardInterrupt")

    place = Checkpoint(tmp_path, job().key)
    with pytest.raises(Stopped):
        run(job(), Walk, place, ABOUT, stopping=lambda: True)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(Stopped):
        run(job(), Interrupted, place, ABOUT, stopping=lambda: True)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_an_error_in_a_part_leaves_the_part_before(tmp_path: Path) -> None:
    class Fails(Walk):
        def advance(self, pause: Callable[[], bool] = never) -> dict[str, float]:
            if self.done == 3:
                raise RuntimeError("no")
            return super().advance()

    place = Checkpoint(tmp_path, job().key)
    with pytest.raises(RuntimeError, match="no"):
        run(job(), Fails, place, ABOUT)
    whole = run(job(), Walk, Checkpoint(tmp_path / "whole", job().key), ABOUT)
    assert content(run(job(), Walk, place, ABOUT)) == content(whole)


def test_numbers_that_are_not_finite_end_a_run(tmp_path: Path) -> None:
    found = run(job(), lambda j: Walk(j, fatal=2), Checkpoint(tmp_path, job().key), ABOUT)
    assert found.status == "diverged"
    assert len(found.metrics) == 2
    assert json.loads(found.line())["final"] == {"x": [None] * 3}


def test_a_limit_cuts_between_parts_and_the_run_can_be_taken_up(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path, job().key)
    cut = run(job(), Walk, place, ABOUT, limit=0.0)
    assert cut.status == "cut"
    assert "CPU-seconds" in cut.error
    assert run(job(), Walk, place, ABOUT).status == "done"


def test_a_book_keeps_the_latest_record_of_each_run(tmp_path: Path) -> None:
    book = Book(tmp_path / "new" / "walk.jsonl")
    assert book.records() == []
    book.add(Record.of(job(), "cut", error="died"))
    book.add(Record.of(job(1), "diverged"))
    assert book.missing([job(), job(1), job(2)]) == [job(), job(2)]
    book.add(Record.of(job(), "done", final={"x": 1.5, "y": math.inf}))
    first, second = book.records()
    assert (first.seed, first.status, second.status) == (0, "done", "diverged")
    assert first.number("x") == 1.5
    assert math.isnan(first.number("y"))
    assert book.missing([job(), job(1)]) == []


@pytest.mark.parametrize("torn", [b'{"experiment": "wa', b"\xff\xfe", b"[1, 2]", b"null", b'{"key": 3}'])
def test_a_torn_line_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    book = Book(tmp_path / "walk.jsonl")
    book.add(Record.of(job(), "done"))
    with book.path.open("ab") as file:
        file.write(torn)
    assert [r.seed for r in book.records()] == [0]
    book.add(Record.of(job(1), "done"))
    assert [r.seed for r in book.records()] == [0, 1]


@pytest.mark.parametrize(
    "edits",
    [
        {"seed": 1},  # another run than the key says
        {"settings": {"lr": 0.2}},
        {"data": None},
        {"metrics": None},
        {"metrics": ["x"]},
        {"final": [1]},
        {"versions": None},
        {"status": "fine"},
        {"cpu_seconds": "1"},
        {"error": 3},
        {"key": [1]},
        {"settings": {"lr": math.nan}},
    ],
)
def test_a_line_that_is_no_record_of_its_run_is_passed_over(tmp_path: Path, edits: dict[str, object]) -> None:
    book = Book(tmp_path / "walk.jsonl")
    held = json.loads(Record.of(job(), "done").line())
    book.path.write_text(json.dumps(held | edits) + "\n")
    book.add(Record.of(job(2), "done"))
    assert [r.seed for r in book.records()] == [2]
    assert book.missing([job(), job(2)]) == [job()]


def test_a_book_may_come_from_an_editor(tmp_path: Path) -> None:
    book = Book(tmp_path / "walk.jsonl")
    lines = [Record.of(job(seed), "done", error="a\u2028b").line() for seed in (0, 1)]
    book.path.write_bytes("\r\n".join(["\ufeff" + lines[0], "", lines[1]]).encode())
    assert [r.seed for r in book.records()] == [0, 1]


def test_a_text_in_place_of_a_number_is_none() -> None:
    assert math.isnan(Record.of(job(), "done", final={"x": "high"}).number("x"))


def test_selecting_finds_the_cells_as_they_are_set_now() -> None:
    cells = tuple(Cell(name, {"lr": lr, "shape": (1, 2)}) for name, lr in (("b", 0.1), ("a", 0.2)))
    plans = {scale: Plan(cells, 2, "") for scale in ("smoke", "reduced", "faithful")}
    e = Experiment("walk", "", (), "", (), (), plans, Walk, (), (), {})
    jobs = e.jobs("reduced", [1, 0], {})
    assert [(j.cell, j.seed) for j in jobs] == [("b", 1), ("a", 1), ("b", 0), ("a", 0)]
    records = [Record.of(j, "done") for j in jobs]
    # as read from a file, where tuples are lists
    records = [dataclasses.replace(r, settings=json.loads(json.dumps(r.settings))) for r in records]
    old = dataclasses.replace(records[0], settings={"lr": 7.0})
    found = e.select("reduced", [old, *records])
    assert [(r.cell, r.seed) for r in found] == [("b", 0), ("b", 1), ("a", 0), ("a", 1)]
