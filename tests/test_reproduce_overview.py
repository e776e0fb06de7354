"""The overview of all experiments, from forged records; and that the whole paper has its experiments."""

import dataclasses
import io
import re

import pytest
from rich.console import Console
from test_reproduce_report import CLEAR, CONTEST, forged, parsed, run, runs

from psgd_analysis.reproduce import pages
from psgd_analysis.reproduce.claims import Claim, better, near
from psgd_analysis.reproduce.experiment import Column, Experiment
from psgd_analysis.reproduce.experiments import NAMES, experiment
from psgd_analysis.reproduce.overview import (
    ABOUT,
    CHECKS,
    EVERY,
    HELD,
    QUESTIONS,
    named,
    of,
    overview,
    write_overview,
)
from psgd_analysis.reproduce.records import Book


def claim(text: str, source: str, judge: object, **more: object) -> Claim:
    return Claim(text, source, f"the paper's of {text}", judge, **more)


CLAIMS = (
    claim("a beats b", "Table 1", better("x", "a", "b")),
    claim("b beats a", "Table 4, 5.1", better("x", "b", "a")),
    claim("c is a", "5.4", better("x", "a", "a")),
    claim("exactly", "Table 1", near("x", "a", 9.0, 0.1), absolute=True),
)


def made(**more: object) -> Experiment:
    return forged(CLAIMS, **{"sources": ("E.1", "Table 4", "Table 1"), "contests": (CONTEST,), **more})


RECORDS = runs(**CLEAR, c=[2.2, 1.9, 2.0, 2.06])


def rows(text: str, title: str) -> list[dict[str, str]]:
    return parsed(text.partition(f"## {title}\n\n")[2].partition("\n\n")[0].splitlines())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Table 1", ["Table 1"]),
        ("Table 11 (ResNet18)", ["Table 11"]),
        ("Table 3, 5.1, Figure 2b", ["Table 3", "Figure 2"]),
        ("summary, next check 2", ["next check 2"]),
        ("Figure 3, E.1, open question 1", ["Figure 3", "open question 1"]),
        ("the summary's overhead of 20 %", []),
    ],
)
def test_sources_name_tables_figures_and_questions(text, found):
    assert named(text) == found


def test_an_experiment_has_a_row_for_each_of_its_tables_in_the_papers_order():
    text = overview([forged(name="other", sources=("Figure 5",)), made()], {"forged": RECORDS})
    found = rows(text, "Row by row")
    assert [row[""].partition(":")[0] for row in found] == ["Table 1", "Table 4", "Figure 5"]
    first, second, none = found
    # the claim that names no table of its own is counted at the first one of the experiment, Table 4
    assert [first[k] for k in ("confirmed", "undecided", "opposite", "untested")] == ["1", "–", "–", "1"]
    assert [second[k] for k in ("confirmed", "undecided", "opposite", "untested")] == ["–", "1", "1", "–"]
    assert first["psgd reproduce .."] == "[forged](forged.md)"
    assert first["runs"] == f"reduced: {len(RECORDS)} (seeds 0-3), {len(RECORDS)} s"
    assert none["here"] == "not run yet"
    assert set(none["confirmed"]) == {"–"}


def test_totals_count_each_claim_once_and_every_comparison():
    text = overview([made()], {"forged": RECORDS})
    assert "**Of 3 claims that were tested, 1 are confirmed, 1 are undecided, and of 1 the opposite" in text
    assert "1 more are not tested" in text
    held = [word for row in rows(text, "Row by row")[:1] for word in row[HELD].split(", ")]
    better_, open_, worse = map(int, held)
    assert (
        f"beats a baseline in {better_} of {better_ + open_ + worse} comparisons, and is worse in {worse}"
        in text
    )
    assert better_ + open_ + worse == len(CONTEST.psgd) * len(CONTEST.baselines)


def test_the_papers_numbers_stand_beside_those_measured():
    columns = (
        Column("x / %", "x", ".2f", {"PSGD": "1.5", "a": "1.25", "b": "7", "c": "8"}),
        Column("x again", "x", ".1f", {"b": "7.5"}, source="Table 1"),
    )
    e = dataclasses.replace(made(), columns=columns)
    found = {row[""].partition(":")[0]: row for row in rows(overview([e], {"forged": RECORDS}), "Row by row")}
    # of the first table one baseline, there being no runs of a cell PSGD; of the other its own column
    mean = sum(r.final["x"] for r in RECORDS if r.cell == "a") / 4
    assert found["Table 4"]["paper"] == "x / %; a: 1.25"
    assert found["Table 4"]["here"].startswith(f"{mean:.2f} ±")
    assert found["Table 1"]["paper"] == "x again; b: 7.5"
    # without such a column a claim tells, rather one that is decided
    text = overview([dataclasses.replace(e, columns=())], {"forged": RECORDS})
    told = {row[""].partition(":")[0]: row for row in rows(text, "Row by row")}
    assert told["Table 1"]["paper"] == "the paper's of a beats b"
    assert told["Table 1"]["here"].startswith("a − b: ")


def test_claims_come_with_what_was_measured_to_be_otherwise_first():
    found = rows(overview([made()], {"forged": RECORDS}), "Claim by claim")
    assert [row["claim"] for row in found] == ["b beats a", "c is a", "a beats b", "exactly"]
    assert found[0]["verdict"] == "**not confirmed; the opposite holds**"
    assert found[0]["measured"].startswith("b − a: ")
    assert found[2]["verdict"] == "**confirmed**"


def test_smoke_runs_decide_nothing_and_are_beaten_by_any_others():
    smoke = [dataclasses.replace(r, scale="smoke") for r in RECORDS]
    text = overview([made()], {"forged": smoke})
    assert "**Of 0 claims that were tested" in text
    assert "in 0 of 0 comparisons" in text
    assert "smoke" not in overview([made()], {"forged": [*smoke, run("c", 9, x=1.0)]}).replace(
        "smoke runs", ""
    )


def test_what_has_no_experiment_is_said():
    text = overview([forged()], {})
    (said,) = re.findall(r"Without an experiment of its own: (.*)\.\n", text)
    assert said.split(", ") == [name for name in (*EVERY, *CHECKS) if name != "Table 1"]


def test_links_lead_to_the_pages(tmp_path):
    pytest.importorskip("matplotlib")
    book = Book(tmp_path / "forged.jsonl")
    for record in RECORDS:
        book.add(record)
    pages.write(made(), RECORDS, tmp_path)
    write_overview([made()], tmp_path)
    text = (tmp_path / "overview.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert set(links) == {"forged.md"}
    assert (tmp_path / "forged.md").stat().st_size > 0


def test_everything_has_a_few_words():
    assert set(ABOUT) == {*EVERY, *QUESTIONS}


@pytest.mark.parametrize("name", NAMES)
def test_claims_name_tables_that_there_are(name):
    known = {*EVERY, *QUESTIONS}
    e = experiment(name)
    for text in (*e.sources, *(c.source for c in e.claims), *(c.source for c in e.columns)):
        assert set(named(text)) <= known, text
    for column in e.columns:
        assert not column.source or column.source in of(e)


def test_everything_of_the_paper_has_an_experiment_and_is_listed(tmp_path):
    """All tables and figures, the next checks of the summary and the open question that goes with them."""
    experiments = [experiment(name) for name in NAMES]
    there = {name for e in experiments for name in of(e)}
    assert [name for name in (*EVERY, *CHECKS) if name not in there] == []
    console = Console(width=200, file=io.StringIO())
    console.print(pages.listing(experiments, tmp_path))
    listed = " ".join(console.file.getvalue().split())  # lines are folded
    assert {name for name in (*EVERY, *CHECKS) if not re.search(rf"{name}\b|{name}[ab]\b", listed)} == set()
