"""The measurement of updates and P g: in each setting all contenders, in turn.

In a setting psgd-core's best code is measured first; then each peer in rounds with it, and at last
psgd-core's plain code, so that a ratio comes from one interleaved measurement and no more than two states
need memory at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .budget import NO_TIME, STEPS, Budget, expected
from .contenders import Absent, Calls, Own, Setting, have_kernels
from .costs import cost
from .libraries import Library
from .peer import Peer, plain_message
from .rows import OPERATIONS, Row
from .timing import Clock, Late, Limits, Rounds, Task, measure, nothing

FAILURES = (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError, AssertionError, LookupError)
"""What a contender may raise where it fails; it becomes a row."""

SMALL = 2**15
"""Number of parameters of the first calls, which import and compile."""


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
        plain = library.name == "jax"  # XLA fuses by itself
        if kind == "kronecker":  # BLAS is its kernel; PyTorch's tensors on a host are handed to NumPy's
            plain = (library.name, library.device) != ("torch", "cpu")
        if plain or not have_kernels(library.device):
            return [Own(kernels=False)]
        return {"on": [Own(True)], "off": [Own(False)], "both": [Own(True), Own(False)]}[self.kernels]

    def budget(self, clock: Clock, models: int = 0) -> Budget:
        """Return the seconds for all settings, and for the steps of so many models."""
        ahead = [
            expected(setting, self.limits)
            for setting in self.settings
            for _ in (
                *self.own(setting.library, setting.kind),
                *(peer for peer in self.peers if setting.kind in peer.kinds),
            )
        ]
        return Budget(self.limits, clock, [*ahead, *[STEPS] * models])


def run(plan: Plan, setting: Setting, budget: Budget, tick: Callable[[str], Any] = nothing) -> Iterator[Row]:
    """Yield a row for each contender and operation of a setting.

    Parameters
    ----------
    plan : Plan
    setting : Setting
    budget : Budget
        Its clock is what seconds are taken from.
    tick : callable
        Called with the name of what is measured next.
    """
    with setting.library.active():
        yield from _Comparisons(plan, setting, budget, tick).rows()


@dataclass(frozen=True)
class _Ready:
    """A contender's calls, what times them, and the peak bytes of its first update and of a later one."""

    contender: Own | Peer
    calls: Calls
    tasks: dict[str, Task]
    memory: tuple[int | None, int | None]


class _Comparisons:
    """All that is measured in a setting."""

    def __init__(self, plan: Plan, setting: Setting, budget: Budget, tick: Callable[[str], Any]) -> None:
        self.plan, self.setting, self.budget, self.tick = plan, setting, budget, tick
        gc.collect()  # states of the setting before
        self.copy = setting.library.copy_task(plan.copy_bytes, plan.threads)

    def rows(self) -> Iterator[Row]:
        """Yield the rows: psgd-core's, then those of the others."""
        first, *plain = self.plan.own(self.setting.library, self.setting.kind)
        seconds = self.budget.share()
        base = self._set_up(first)
        if isinstance(base, Row):
            yield base
            if base.status == "failed":
                return
        else:
            yield from self._timed([base], seconds)
        others: list[Own | Peer] = [*self.plan.peers, *plain]
        for other in others:
            yield from self._other(base, other)

    def _other(self, base: _Ready | Row, other: Own | Peer) -> list[Row]:
        """Return the rows of a peer, or of plain code, timed in rounds with psgd-core's best."""
        if isinstance(other, Peer) and self.setting.kind not in other.kinds:
            return [self._unmeasured(other.name, "absent", str(other.lacks(self.setting)))]
        seconds = self.budget.share()
        if isinstance(base, Row):
            return [self._late(other.name)]
        one = self._set_up(other)
        if isinstance(one, Row):
            return [one]
        return [row for row in self._timed([base, one], seconds) if row.contender == other.name]

    def _set_up(self, contender: Own | Peer) -> _Ready | Row:
        """Return a contender after its first calls, or the row that says why there is none."""
        setting, clock, limits = self.setting, self.budget.clock, self.plan.limits
        self.tick(f"{setting.label}, n = {setting.n:.3g}: {contender.name}")
        try:
            with self.budget.setting_up(contender.name), contender.within():
                if isinstance(contender, Own) and setting.n > SMALL:
                    _first_calls(contender, setting)
                calls = contender.set_up(setting)
                memory = _memory(calls)
                tasks = _tasks(contender, calls)
                for task in tasks.values():
                    task.prepare(clock, limits)
                return _Ready(contender, calls, tasks, memory)
        except Late:
            return self._late(contender.name)
        except Absent as error:
            return self._unmeasured(contender.name, "absent", str(error))
        except FAILURES as error:
            return self._failed(contender.name, error)

    def _timed(self, ready: Sequence[_Ready], seconds: float) -> list[Row]:
        """Return the rows of one or two contenders; the first is the one the other is compared with."""
        rows: list[Row] = []
        end = self.budget.clock() + seconds
        shared = [operation for operation in OPERATIONS if all(operation in r.tasks for r in ready)]
        for i, operation in enumerate(shared):
            now = self.budget.clock()
            limits = replace(self.plan.limits, budget=max(end - now, 0.0) / (len(shared) - i))
            tasks = [one.tasks[operation] for one in ready]
            last = ready[-1].contender.name  # whose failure it is: the other was measured before
            try:
                rounds = measure(tasks, self.copy, limits, self.budget.clock, until=self.budget.end)
            except Late:
                rows.append(self._late(last, operation))
            except FAILURES as error:
                rows.append(self._failed(last, error, operation))
            else:
                rows += [self._row(operation, rounds, one, ready[0].contender.name) for one in ready]
        return rows

    def _row(self, operation: str, rounds: Rounds, one: _Ready, base: str) -> Row:
        plan, setting, name = self.plan, self.setting, one.contender.name
        noise = rounds.noise(name, plan.limits)
        if not noise and name != base:  # a ratio is as noisy as the noisier of the two
            noise = rounds.noise(base, plan.limits)
        itemsize = setting.library.itemsize
        moved = cost(operation, setting.kind, setting.n, setting.rank, setting.shape)
        floor = (
            rounds.over_copy(name) * 2 * plan.copy_bytes / moved.bytes(itemsize)
        )  # a copy reads and writes
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
            state_bytes=one.calls.state_bytes,
            first_bytes=one.memory[0] if update else None,
            extra_bytes=one.memory[1] if update else None,
            note=one.calls.note,
        )

    def _unmeasured(self, name: str, status: str, reason: str, operation: str = "–") -> Row:
        return Row(self.setting, name, operation, status, reason)

    def _failed(self, name: str, error: Exception, operation: str = "–") -> Row:
        return self._unmeasured(name, "failed", f"{name}: {plain_message(error)}", operation)

    def _late(self, name: str, operation: str = "–") -> Row:
        return self._unmeasured(name, "no time", NO_TIME, operation)


def _first_calls(contender: Own, setting: Setting) -> None:
    """Call it for few parameters: what this imports and compiles does not count as memory of an update."""
    shape = (SMALL // 256, 256) if setting.shape else ()
    small = contender.set_up(replace(setting, n=SMALL, shape=shape))
    for _ in range(small.period + 1):  # the very first update sets the scale and takes another path
        small.update()


def _tasks(contender: Own | Peer, calls: Calls) -> dict[str, Task]:
    """Return what times each operation that there is."""
    periods = {"update": calls.period, "precondition": 1}
    return {
        operation: Task(contender.name, call, calls.wait, periods[operation], contender.within)
        for operation in OPERATIONS
        if (call := getattr(calls, operation)) is not None
    }


def _memory(calls: Calls) -> tuple[int | None, int | None]:
    """Return the peak bytes of the first update, and of a later one."""
    if calls.memory is None:
        return None, None
    first = calls.memory(calls.update)
    return first, calls.memory(calls.update)
