"""What was measured of updates and P g, row by row, and how it grows with n and with the rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import slopes
from .contenders import Setting
from .costs import CACHED, cost, flops
from .slopes import Slope
from .timing import Samples

OPERATIONS = ("update", "precondition")


@dataclass(frozen=True)
class Row:
    """One operation of one contender.

    Parameters
    ----------
    setting : Setting
    contender, operation : str
        The operation is "–" for a contender that could not be set up.
    status : {"ok", "too noisy", "absent", "failed", "no time"}
    reason : str
        Why it is not ok.
    samples : Samples, optional
        Seconds per call, by rounds.
    copies : Samples, optional
        Seconds of the copies between those rounds.
    floor : float, optional
        Seconds over those that the bytes take at the bandwidth of a copy, within rounds.
    floor_in_place : float, optional
        The same with the bytes that an update in place reads again.
    ratio : float, optional
        Seconds over those of psgd-core, within rounds; of peers and of the plain code.
    extra_bytes, first_bytes : int, optional
        Peak of what a call allocates, once warm, and of the first call, which also makes what is kept.
    """

    setting: Setting
    contender: str
    operation: str
    status: str = "ok"
    reason: str = ""
    samples: Samples | None = None
    copies: Samples | None = None
    floor: float | None = None
    floor_in_place: float | None = None
    ratio: float | None = None
    state_bytes: int | None = None
    extra_bytes: int | None = None
    first_bytes: int | None = None
    note: str = ""

    @property
    def own(self) -> bool:
        """Whether the contender is psgd-core."""
        return self.contender.startswith("psgd-core")

    @property
    def bytes(self) -> int:
        """Bytes that the operation must move."""
        s = self.setting
        if self.operation not in OPERATIONS:
            return 0
        return cost(self.operation, s.kind, s.n, s.rank, s.shape).bytes(s.library.itemsize)

    @property
    def flops_per_second(self) -> float | None:
        """The least arithmetic of an operation that is bound by it, over the median of seconds."""
        least = flops(self.operation, self.setting.kind, self.setting.shape)
        return least / self.shown.median if self.shown and least else None

    @property
    def in_memory(self) -> bool:
        """Whether so much is moved that memory bandwidth sets the floor, rather than a cache's."""
        return self.bytes >= CACHED

    @property
    def bandwidth(self) -> float | None:
        """Those bytes over the median of seconds."""
        return self.bytes / self.shown.median if self.shown else None

    @property
    def shown(self) -> Samples | None:
        """The samples, if they may be reported."""
        return self.samples if self.status == "ok" else None


@dataclass(frozen=True)
class Growth:
    """How a contender's cost grows with n or with the rank."""

    contender: str
    label: str
    operation: str
    dtype: str
    variable: str  # "n" or "rank"
    slope: Slope


def growth(rows: Sequence[Row]) -> list[Growth]:
    """Return the slopes with n, and with the rank, of all rows that may be reported."""
    found = []
    for variable in ("n", "rank"):
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            s = row.setting
            if row.shown is None or (variable == "rank" and s.rank == 0):
                continue
            label, fixed = (s.label, s.rank) if variable == "n" else (f"LowRank, n = {s.n:.3g}", s.n)
            key = (row.contender, label, row.operation, s.library.name, s.library.dtype, s.kind, fixed)
            groups.setdefault(key, []).append(row)
        for (contender, label, operation, _, dtype, *_), group in groups.items():
            slope = slopes.fit(
                [getattr(row.setting, variable) for row in group],
                [row.samples.median for row in group if row.samples],
            )
            if slope is not None:
                found.append(Growth(contender, label, operation, dtype, variable, slope))
    return found
