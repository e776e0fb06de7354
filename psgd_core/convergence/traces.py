"""Convergence as data: what was measured when, and the rate of convergence in it.

Everything here lives on the host, in Python floats and NumPy: values arrive at checkpoints, one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from ..arrays.arguments import described, require_choice, require_number
from ..display import curves, html_table


@dataclass
class Trace:
    """Measurements at checkpoints, a column of floats per quantity; what was not measured is NaN.

    Parameters
    ----------
    name : str
        What was run.
    """

    name: str = ""
    updates: list[int] = field(default_factory=list)
    """Updates made before the checkpoint, increasing."""
    distance: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    criterion: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)

    def record(self, updates: int, **values: Any) -> None:
        """Append a checkpoint; `values` are named as the columns, floats or 0-d arrays of any library.

        Raises
        ------
        ValueError, TypeError
            If `updates` is not a whole number or does not increase, a name is not a column, or a value not a
            number.
        """
        if unknown := values.keys() - set(_COLUMNS):
            raise TypeError(f"`values` must be named among {', '.join(_COLUMNS)}, got {sorted(unknown)}")
        count = require_number("updates", updates)
        if not count.is_integer():
            raise ValueError(f"`updates` must be a whole number, got {updates}; give the updates made so far")
        if self.updates and count <= self.updates[-1]:
            raise ValueError(
                f"`updates` must increase from record to record, got {updates} after {self.updates[-1]}"
            )
        row = {column: require_number(column, values.get(column, math.nan)) for column in _COLUMNS}
        self.updates.append(int(count))
        for column, x in row.items():
            getattr(self, column).append(x)

    def column(self, name: str) -> np.ndarray:
        """Return a column as a float64 array."""
        require_choice("name", name, ("updates", *_COLUMNS))
        return np.asarray(getattr(self, name), dtype=np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Return the trace in types that JSON has: NaN as None, infinities as strings."""
        columns = {name: [_encode(x) for x in getattr(self, name)] for name in _COLUMNS}
        return {"name": self.name, "updates": list(self.updates), **columns}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trace:
        """Return the trace that `as_dict` wrote.

        Raises
        ------
        ValueError
            If a column is missing, foreign, or of another length.
        """
        names = {"name", "updates", *_COLUMNS}
        if not isinstance(data, dict) or data.keys() != names:
            got = ", ".join(map(str, data)) if isinstance(data, dict) else described(data)
            raise ValueError(
                f"`data` must have the keys {', '.join(sorted(names))}, got {got}; "
                "it must come from `Trace.as_dict`"
            )
        columns = {c: [math.nan if x is None else float(x) for x in data[c]] for c in _COLUMNS}
        updates = [int(t) for t in data["updates"]]
        if lengths := {c: len(x) for c, x in columns.items() if len(x) != len(updates)}:
            raise ValueError(f"`data` must have {len(updates)} values in every column, got {lengths}")
        return cls(data["name"], updates, **columns)

    def plot(self, ax: Any = None) -> Any:
        """Draw the errors that were measured against updates, and return the axes.

        They are distance, residual and gap; where there is none of them, the criterion is drawn.

        Parameters
        ----------
        ax : Axes, optional
            matplotlib's; new ones by default.
        """
        errors = [x for x in ("distance", "residual", "gap") if not np.all(np.isnan(self.column(x)))]
        lines = {name: (self.updates, self.column(name)) for name in errors or ["criterion"]}
        return curves(ax, lines, title=self.name, xlabel="updates", ylabel="error" if errors else "")

    def __len__(self) -> int:
        return len(self.updates)

    def __repr__(self) -> str:
        shown = [repr(self.name)] if self.name else []
        if self.updates:
            shown.append(f"{len(self)} records, updates {self.updates[0]} to {self.updates[-1]}")
            for name in ("distance", "gap"):
                values = getattr(self, name)
                if not all(map(math.isnan, values)):
                    shown.append(f"{name} {values[0]:.2g} -> {values[-1]:.2g}")
        else:
            shown.append("no records")
        return f"Trace({', '.join(shown)})"

    def _repr_html_(self) -> str:
        rows = [
            (name, *(f"{x:.4g}" for x in (y[0], y[-1], np.nanmin(y))))
            for name in _COLUMNS
            if not np.all(np.isnan(y := self.column(name)))
        ]
        ends = f", updates {self.updates[0]} to {self.updates[-1]}" if self.updates else ""
        caption = f"{self.name or 'Trace'}: {len(self)} records{ends}"
        return html_table(caption, ("", "first", "last", "least"), rows)


_COLUMNS = tuple(f.name for f in fields(Trace) if f.name not in ("name", "updates"))


def _floats(name: str, values: Any) -> np.ndarray:
    """Return numbers one after another, of any library, as float64."""
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(
            f"`{name}` must be a sequence of numbers, got {described(values)}; give a list or an array"
        )
    return np.asarray([require_number(f"{name}[{i}]", x) for i, x in enumerate(values)], dtype=np.float64)


def _encode(x: float) -> float | str | None:
    return x if math.isfinite(x) else None if math.isnan(x) else str(x)


def level(values: Iterable[float], fraction: float = 0.2) -> float:
    """Return the level that a curve ends at: the median of its last `fraction` (at least one value)."""
    x = _floats("values", values)
    share = require_number("fraction", fraction, "(0, 1]")
    if x.size == 0:
        raise ValueError("`values` must not be empty, got no values; record more")
    return float(np.median(x[-max(1, round(share * x.size)) :]))


# -- rates -----------------------------------------------------------------------------------------------

ROUNDING = 1e-6
"""Relative differences below it count as rounding, also in float32: verdicts and floors ignore them."""


def exceeds(x: float, limit: float) -> bool:
    """Return whether x is above a limit by more than rounding; NaN is above none."""
    return bool(x > limit + ROUNDING * abs(limit))


class Fit(NamedTuple):
    """A straight line through log(distance): ``distance ~ exp(-rate * updates)`` on the window."""

    rate: float  # per update; negative if the curve grows
    floor: float  # the level at which the curve flattens; 0 if it never does
    r2: float  # share of the variance of the logarithm in the window that the line explains; 1 if it is flat
    start: float  # first update of the window
    stop: float  # last update of the window
    points: int  # checkpoints in the window; with 2, the rate is a lower bound


def fit_rate(updates: Iterable[float], distances: Iterable[float], *, floor: float | None = None) -> Fit:
    """Fit the rate of linear convergence on the straight part of a curve, between transient and floor.

    1. The floor is the lower median of the longest tail that is flat: constant to rounding, within its own
       scatter, or flattening, and in each case against the fall before it. Squares of an error and of a floor
       add up, so the line is fitted to ``sqrt(distance^2 - floor^2)``, down to ten floors (or halfway to the
       floor, if the curve falls less than a hundredfold).
    2. The transient ends at the first checkpoint after which the two halves of the rest have the same slope,
       within 5 % or twice their standard errors; at the latest after half of the checkpoints.

    Logarithms that differ by less than 1e-6 count as equal throughout, so the result does not depend on how
    the distances were rounded. c times the distances give the same rate and c times the floor: bit for bit if
    c is a power of two, and likewise for the updates.

    Parameters
    ----------
    updates, distances : sequence of float
        Increasing numbers of updates, and the distance after each; distances that are not finite, or not
        positive, are left out.
    floor : float, optional
        The floor, if it is known; 0 for none.

    Raises
    ------
    ValueError, TypeError
        If the lengths differ, `updates` is not finite or does not increase, fewer than 4 values are left,
        `floor` is negative or not finite, or something is not a number.
    """
    t, d = _floats("updates", updates), _floats("distances", distances)
    if t.shape != d.shape or t.ndim != 1:
        raise ValueError(f"`distances` must be as long as `updates`, got {d.shape} for {t.shape}")
    if not np.all(np.isfinite(t)):
        raise ValueError("`updates` must be finite, got NaN or Inf among them; leave those checkpoints out")
    if not np.all(np.diff(t) > 0):
        raise ValueError("`updates` must increase, got a value that is not above the one before; sort them")
    if floor is not None:
        floor = require_number("floor", floor, "[0, inf)", "give 0 for none")
    keep = np.isfinite(d) & (d > 0)
    t, d = t[keep], d[keep]
    if t.size < 4:
        raise ValueError(
            f"`distances` must have at least 4 finite positive values, got {t.size}; record more"
        )
    unit, span = int(np.frexp(np.max(d))[1]), float(t[-1] - t[0])
    x, y = (t - t[0]) / span, _logarithms(d, unit)
    if floor is None:
        tail = _flat_tail(x, y)
        floor = _lower_median(d[-tail:]) if tail else 0.0
    x, y = _above(x, y, float(_logarithms(floor, unit)) if floor > 0 else -math.inf)
    first, stop = _straight_from(x, y), x.size
    x, y = x[first:], y[first:]
    slope, residuals = _line(x, y)
    variance = float(np.mean((y - y.mean()) ** 2))
    r2 = 1 - float(np.mean(residuals**2)) / variance if variance > ROUNDING**2 else 1.0
    return Fit(-slope / span, float(floor), r2, float(t[first]), float(t[stop - 1]), x.size)


def _logarithms(d: Any, unit: int) -> np.ndarray:
    """Return ``log(d / 2^unit)``: the same bits for c d and its own unit, if c is a power of two."""
    mantissa, exponent = np.frexp(d)
    logarithms: np.ndarray = np.log(mantissa) + (exponent - unit) * math.log(2)
    return logarithms


def _lower_median(x: np.ndarray) -> float:
    """Return the median, of two middle values the lower: a value that was measured."""
    return float(np.sort(x)[(x.size - 1) // 2])


def _line(t: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the least-squares slope and the residuals: exactly 0 where all of y is equal."""
    centred, y = t - t.mean(), y - y[0]
    slope = float(centred @ y) / float(centred @ centred)
    return slope, y - y.mean() - slope * centred


def _slope_and_error(t: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    slope, residuals = _line(t, y)
    spread = math.sqrt(float(np.sum((t - t.mean()) ** 2)))
    return slope, math.sqrt(float(np.sum(residuals**2)) / max(1, t.size - 2)) / spread


def _halves(start: int, stop: int) -> tuple[slice, slice]:
    """Return the two halves of an index range, which share the middle."""
    middle = (start + stop - 1) // 2
    return slice(start, middle + 1), slice(middle, stop)


def _flat_tail(t: np.ndarray, y: np.ndarray) -> int:
    """Return the length of the longest flat tail, or 0."""
    for parts in (1.25, 1.5, 2, 3, 5, 10, 20):
        count = max(3, int(t.size / parts))
        if count >= t.size:
            continue
        tail_t, tail_y = t[-count:], y[-count:]
        if not _is_flat(tail_t, tail_y):
            continue
        above = np.nonzero(y[:-count] > _lower_median(tail_y) + math.log(2) + ROUNDING)[0]
        if above.size == 0:
            continue
        # Scatter can hide the slope of a short tail, so the fall to its level must be clearly steeper.
        before = slice(0, above[-1] + 2)
        slope, error = _slope_and_error(tail_t, tail_y)
        fall = -_line(t[before], y[before])[0]
        least = ROUNDING / (t[above[-1] + 1] - t[0])
        if 0.3 * fall > max(abs(slope), least) and abs(slope + fall) > 4 * error:
            return count
    return 0


def _is_flat(t: np.ndarray, y: np.ndarray) -> bool:
    """Return whether a tail is constant to rounding, does not move beyond its scatter, or is flattening."""
    if np.ptp(y) <= ROUNDING:
        return True
    slope, residuals = _line(t, y)
    change = abs(slope) * (t[-1] - t[0])
    early, late = (abs(_line(t[part], y[part])[0]) for part in _halves(0, t.size))
    scattered = t.size >= 8 and change <= 3 * float(np.std(residuals))
    return scattered or (change < 0.1 and late < 0.25 * early)


def _above(t: np.ndarray, y: np.ndarray, bottom: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve until it nears the floor (`bottom` is its logarithm), less the floor's square."""
    if bottom == -math.inf:
        return t, y
    near = y <= bottom + min(math.log(10), (y[0] - bottom) / 2) + ROUNDING
    end = int(np.argmax(near)) if near.any() else y.size
    if end < 3:  # too few to correct: take 2, the least for a slope, or all if nothing falls
        end = 2 if y[0] > bottom + ROUNDING else y.size
        return t[:end], y[:end]
    return t[:end], y[:end] + 0.5 * np.log1p(-np.exp(2 * (bottom - y[:end])))


def _straight_from(t: np.ndarray, y: np.ndarray) -> int:
    """Return the first index from which on the curve is straight."""
    if t.size < 6:
        return 0
    half = t.size // 2
    for first in np.unique(np.linspace(0, half, min(half + 1, 50)).astype(int)):
        (early, e), (late, f) = (_slope_and_error(t[x], y[x]) for x in _halves(int(first), t.size))
        least = ROUNDING / (t[-1] - t[first])
        if abs(early - late) <= max(0.05 * abs(late), 2 * math.hypot(e, f), least):
            return int(first)
    return half
