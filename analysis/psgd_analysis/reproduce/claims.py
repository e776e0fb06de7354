"""Claims of the paper as predicates over records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .records import Record

Verdict = Literal["confirmed", "not confirmed", "not tested at this scale"]


@dataclass(frozen=True)
class Judgement:
    """What records say of a claim: the verdict, and the measurement behind it with its interval, in words."""

    verdict: Verdict
    measured: str


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and what decides it.

    Parameters
    ----------
    text : str
        What is claimed.
    source : str
        Such as "Table 1".
    paper : str
        The paper's numbers.
    judge : callable
        Gets the records of one scale, all seeds.
    absolute : bool
        Whether the paper's absolute numbers decide: only the faithful scale on the paper's data tests that.
    """

    text: str
    source: str
    paper: str
    judge: Callable[[Sequence[Record]], Judgement]
    absolute: bool = False
