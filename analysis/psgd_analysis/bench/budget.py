"""The seconds of a run, shared out among what is still to be measured.

The rounds of a comparison get a share of what is left, in proportion to what they are expected to take; what
they do not use is left to the others. Where the fewest rounds take longer they are done nevertheless, as long
as they fit into the whole: the last ones find no time then, which becomes rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from .contenders import TURNS, Setting
from .costs import cost
from .timing import Clock, Late, Limits

RESERVE = 0.1
"""The part of the whole kept for what cannot be cut short, a set-up under way for example, and for files."""

NO_TIME = "no time left: raise --total, or ask for fewer --peers or settings"

SET_UP, SPEED = 3.0, 4e9
"""Seconds, and bytes per second, of a usual machine, to tell which comparisons take longer than others."""

STEPS = 40.0
"""Seconds that rounds of the steps of a model take, with all other optimisers."""


def expected(setting: Setting, limits: Limits) -> float:
    """Return about how many seconds the rounds take that compare one contender with psgd-core."""
    updates = 2 * (TURNS if setting.kind == "lowrank" and setting.rank else 1)  # psgd-core's and the other's
    moved = cost("update", setting.kind, setting.n, setting.rank, setting.shape).bytes(
        setting.library.itemsize
    )
    return min(limits.repeats * updates * moved / SPEED, limits.budget)


@dataclass
class Budget:
    """What is left of the seconds of a run.

    Parameters
    ----------
    limits : Limits
    clock : callable
        Returns seconds.
    ahead : list of float
        What the rounds of each comparison are expected to take.
    """

    limits: Limits
    clock: Clock
    ahead: list[float]
    end: float = field(init=False)
    _set_ups: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.end = self.clock() + (1 - RESERVE) * self.limits.total

    def share(self) -> float:
        """Return the seconds of the next comparison's rounds, and leave the rest to those after it."""
        left = self.end - self.clock() - SET_UP * len(self.ahead)
        part = self.ahead[0] / max(sum(self.ahead), 1e-9)
        del self.ahead[0]
        return min(self.limits.budget, part * max(left, 0.0))

    @contextlib.contextmanager
    def setting_up(self, name: str) -> Iterator[None]:
        """Note how long it takes to set up a contender.

        Raises
        ------
        Late
            If less time is left than it took the last time.
        """
        begin = self.clock()
        if begin + self._set_ups.get(name, 0.0) >= self.end:
            raise Late
        yield
        self._set_ups[name] = self.clock() - begin
