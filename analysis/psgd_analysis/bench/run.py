"""The measurement: settings one after the other, and in each all contenders in turn.

In a setting psgd-core's own code is measured first, with kernels and without; then each peer in rounds with
psgd-core's best, so that a ratio comes from one interleaved measurement and no more than two states need
memory at once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import slopes
from .contenders import Absent, Calls, Own, Setting, have_kernels
from .costs import CACHED, cost, flops
from .libraries import Library
from .peer import Peer, plain_message
from .slopes import Slope
from .timing import Clock, Limits, Rounds, Samples, Task, measure, nothing

OPERATIONS = ("update", "precondition")
FAILURES = (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError, AssertionError, LookupError)
"""What a contender may raise where it fails; it becomes a row."""

SMALL = 2**15
"""Number of parameters of the first calls, which import and compile."""


@dataclass(frozen=True)
class Row:
    """One operation of one contender.

    Parameters
    ----------
    setting : Setting
    contender, operation : str
        The operation is "–" for a contender that could not be set up.
    status : {"ok", "too noisy", "absent", "failed"}
    reason : str
        Why it is not ok.
    samples : Samples, optional
        Seconds per call, by rounds.
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


@dataclass
class Plan:
    """What to measure.

    Parameters
    ----------
    settings : list of Setting
    kernels : {"on", "off", "both"}
    peers : list of Peer
    limits : Limits
    copy_bytes : int
        Size of the array whose copy is the yardstick.
    threads : int
        Of that copy.
    allow_noise : bool
        Report what is too noisy, marked.
    """

    settings: list[Setting]
    kernels: str = "both"
    peers: list[Peer] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    copy_bytes: int = 2**28
    threads: int = 1
    allow_noise: bool = False

    def own(self, library: Library, kind: str = "") -> list[Own]:
        """Return psgd-core's contenders, the one that others are compared with first."""
        plain = library.name == "jax" or kind == "kronecker"  # XLA fuses by itself; BLAS is its kernel
        if plain or not have_kernels(library.device):
            return [Own(kernels=False)]
        return {"on": [Own(True)], "off": [Own(False)], "both": [Own(True), Own(False)]}[self.kernels]


def run(plan: Plan, clock: Clock = time.perf_counter, tick: Callable[[str], Any] = nothing) -> Iterator[Row]:
    """Yield a row for each setting, contender and operation.

    Parameters
    ----------
    plan : Plan
    clock : callable
        Returns seconds.
    tick : callable
        Called with the name of what is measured next.
    """
    for setting in plan.settings:
        with setting.library.active():
            yield from _setting(plan, setting, clock, tick)


def _setting(plan: Plan, setting: Setting, clock: Clock, tick: Callable[[str], Any]) -> Iterator[Row]:
    copy = setting.library.copy_task(plan.copy_bytes, plan.threads)
    own = plan.own(setting.library, setting.kind)
    gc.collect()  # states of the setting before
    where = f"{setting.label}, n = {setting.n:.3g}"
    tick(f"{where}: psgd-core")
    rows = _group(plan, setting, list(own), copy, clock)
    yield from rows
    if any(row.contender == own[0].name and row.status == "failed" for row in rows):
        return
    for peer in plan.peers:
        tick(f"{where}: {peer.name}")
        found = _group(plan, setting, [own[0], peer], copy, clock)
        yield from (row for row in found if row.contender == peer.name)


@dataclass(frozen=True)
class _Ready:
    """A contender's calls, and the peak bytes of its first update and of a later one."""

    contender: Own | Peer
    calls: Calls
    memory: tuple[int | None, int | None] = (None, None)

    def task(self, operation: str) -> Task | None:
        """Return an operation to be timed, or None if there is none."""
        call = getattr(self.calls, operation)
        if call is None:
            return None
        period = self.calls.period if operation == "update" else 1
        return Task(self.contender.name, call, self.calls.wait, period, self.contender.within)


def _group(
    plan: Plan, setting: Setting, contenders: Sequence[Own | Peer], copy: Task, clock: Clock
) -> list[Row]:
    """Return the rows of contenders measured together; the first is the one the others are compared with."""
    ready: list[_Ready] = []
    rows: list[Row] = []
    # set up; failures become rows
    for contender in reversed(contenders):  # a missing peer should not cost a set-up of psgd-core
        try:
            ready.insert(0, _set_up(contender, setting))
        except (Absent, *FAILURES) as error:
            status = "absent" if isinstance(error, Absent) else "failed"
            reason = str(error) if status == "absent" else f"{contender.name}: {plain_message(error)}"
            rows.append(Row(setting, contender.name, "–", status, reason))
            if isinstance(contender, Peer):
                return rows
    # time each operation of all of them in the same rounds
    for operation in OPERATIONS:
        tasks = {one.contender.name: one.task(operation) for one in ready}
        able = [task for task in tasks.values() if task is not None]
        if len(able) < len(ready):  # nothing to compare
            continue
        try:
            rounds = measure(able, copy, plan.limits, clock)
        except FAILURES as error:
            blamed = contenders[-1:] if isinstance(contenders[-1], Peer) else contenders
            rows += [
                Row(setting, c.name, operation, "failed", f"{c.name}: {plain_message(error)}") for c in blamed
            ]
            continue
        rows += [_row(plan, operation, setting, rounds, one, ready[0].contender.name) for one in ready]
    return rows


def _set_up(contender: Own | Peer, setting: Setting) -> _Ready:
    """Return a contender after its first updates, whose memory is counted if it is psgd-core's."""
    own = isinstance(contender, Own)
    with contender.within():
        if own and setting.n > SMALL:  # not counted: what the first calls import and compile
            shape = (SMALL // 256, 256) if setting.shape else ()
            small = contender.set_up(replace(setting, n=SMALL, shape=shape))
            for _ in range(small.period + 1):  # the very first update sets the scale and takes another path
                small.update()
        calls = contender.set_up(setting)
        return _Ready(contender, calls, _memory(calls))


def _row(plan: Plan, operation: str, setting: Setting, rounds: Rounds, one: _Ready, base: str) -> Row:
    name, calls, itemsize = one.contender.name, one.calls, setting.library.itemsize
    noise = rounds.noise(name, plan.limits)
    if not noise and name != base:  # a ratio is as noisy as the noisier of the two
        noise = rounds.noise(base, plan.limits)
    moved = cost(operation, setting.kind, setting.n, setting.rank, setting.shape)
    floor = rounds.over_copy(name) * 2 * plan.copy_bytes / moved.bytes(itemsize)  # a copy reads and writes
    update = operation == "update"
    return Row(
        setting,
        name,
        operation,
        status="too noisy" if noise and not plan.allow_noise else "ok",
        reason=noise,
        samples=rounds.samples[name],
        copies=rounds.copies,
        floor=floor,
        floor_in_place=floor * moved.bytes(itemsize) / moved.bytes_in_place(itemsize) if update else None,
        ratio=None if name == base else rounds.ratio(name, base),
        state_bytes=calls.state_bytes,
        first_bytes=one.memory[0] if update else None,
        extra_bytes=one.memory[1] if update else None,
        note=calls.note,
    )


def _memory(calls: Calls) -> tuple[int | None, int | None]:
    """Return the peak bytes of the first update, and of a later one."""
    if calls.memory is None:
        return None, None
    first = calls.memory(calls.update)
    return first, calls.memory(calls.update)


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
