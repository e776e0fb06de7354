"""Whole steps of a model: PSGD beside other optimisers, and beside what a step must evaluate at least."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .budget import NO_TIME, Budget
from .contenders import TURNS, Absent, Own, Setting, require_fit
from .model import GRADIENT, OFTEN, PAIRS, PRODUCT, Model, Step
from .peer import plain_message
from .run import FAILURES, Plan
from .timing import Late, Rounds, Samples, Task, measure, nothing

SGD = "SGD"


@dataclass(frozen=True)
class Other:
    """Another optimiser, by its name among `psgd_analysis.reproduce.optimizers`.

    Parameters
    ----------
    name, label : str
        There, and in tables.
    what : str
        What it does besides evaluating a gradient, and how often.
    settings : dict
    """

    name: str
    label: str
    what: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


_TENTH = f", every {OFTEN}th step"
OTHERS = (
    Other("sgd", SGD),
    Other("adam", "Adam"),
    Other("adamw", "AdamW"),
    Other("kfac", "KFAC", "factors and inverses"),
    Other("kfac", "KFAC", f"factors and inverses{_TENTH}", {"every": OFTEN}),
    Other("shampoo", "Shampoo", "roots"),
    Other("shampoo", "Shampoo", f"roots{_TENTH}", {"preconditioning_compute_steps": OFTEN}),
)
"""SGD, which the others are compared with, and what `--peers` may name."""

NAMES = tuple(dict.fromkeys(other.name for other in OTHERS if other.label != SGD))


@dataclass(frozen=True)
class StepRow:
    """The step of one optimiser, or an evaluation alone.

    Parameters
    ----------
    model : Model
    contender, what : str
        The optimiser, and what its steps do.
    status : {"ok", "too noisy", "absent", "failed", "no time"}
    reason : str
        Why it is not ok.
    samples, cpu : Samples, optional
        Seconds of a step, and of the processor, by rounds.
    by_cpu : bool
        Whether the ratios and the noise are of the processor's.
    over_sgd : float, optional
        Seconds over those of SGD, within rounds.
    own_part : float, optional
        Seconds besides the evaluations that the step needs, over those of the evaluations alone.
    """

    model: Model
    contender: str
    what: str
    status: str = "ok"
    reason: str = ""
    samples: Samples | None = None
    cpu: Samples | None = None
    by_cpu: bool = False
    over_sgd: float | None = None
    own_part: float | None = None

    @property
    def judged(self) -> Samples | None:
        """The seconds that ratios are of, if they may be reported."""
        return None if self.status != "ok" else self.cpu if self.by_cpu else self.samples

    @property
    def own(self) -> bool:
        """Whether it is a step of PSGD."""
        return self.what in {pairs.name for pairs in PAIRS}


@dataclass(frozen=True)
class _Stepper:
    """Something to time: how to make it, and what its steps must evaluate.

    At least ten steps follow one another, as in training: the first finds others' arrays in the caches.
    """

    contender: str
    what: str
    make: Callable[[], Step]
    needs: dict[str, float]
    period: int = OFTEN
    within: Callable[[], Any] = contextlib.nullcontext

    @property
    def name(self) -> str:
        return f"{self.contender}, {self.what}" if self.what else self.contender


@dataclass
class Steps:
    """The models whose steps are measured, and what steps them.

    Parameters
    ----------
    models : list of Model
    kinds : list of (str, int)
        Preconditioners of PSGD, with their ranks.
    others : list of str
        Other optimisers, of `NAMES`.
    seed : int
    with_plain : bool
        Whether PSGD is measured without its kernels, too.
    """

    models: list[Model]
    kinds: list[tuple[str, int]]
    others: list[str]
    seed: int = 0
    with_plain: bool = False

    def require_fit(self) -> None:
        """Raise unless every preconditioner fits every model."""
        for model in self.models:
            for kind, rank in self.kinds:
                if kind != "kronecker":
                    require_fit(Setting(kind, model.n, model.library, rank))
                elif not model.tensors:
                    raise Absent(
                        "models have one vector of parameters here, kronecker has a tensor; give "
                        "--backend torch or another -p"
                    )

    def rows(
        self, plan: Plan, model: Model, budget: Budget, tick: Callable[[str], Any] = nothing
    ) -> list[StepRow]:
        """Return the rows of a model, all timed in the same rounds.

        Parameters
        ----------
        plan : Plan
        model : Model
        budget : Budget
        tick : callable
            Called with the name of what is set up or measured next.
        """
        seconds = budget.share()
        library, now = model.library, [""]
        rows: dict[str, StepRow] = {}
        tasks: dict[str, Task] = {}
        steppers = {one.name: one for one in self._steppers(model, plan.own(model.library))}
        # set up
        for name, one in steppers.items():
            tick(f"{model.about}: {name}")
            try:
                with budget.setting_up(name), one.within():
                    call = _noting(now, name, one.make())
                    task = Task(name, call, library.waiter(), one.period, one.within)
                    task.prepare(budget.clock, plan.limits)
                    tasks[name] = task
            except (Late, Absent, *FAILURES) as error:
                rows[name] = _without(model, one, error)
        # time all that work; what fails is left out, and the others begin anew
        tick(f"{model.about}: rounds of steps")
        yardstick = Task("speed of gradients", model.gradient(), library.waiter())
        by_cpu = plan.threads == 1 and library.device == "cpu"
        while tasks:
            limits = replace(plan.limits, budget=seconds)
            try:
                rounds = measure(
                    list(tasks.values()), yardstick, limits, budget.clock, until=budget.end, by_cpu=by_cpu
                )
            except Late as error:
                rows |= {name: _without(model, steppers[name], error) for name in tasks}
                break
            except FAILURES as error:
                rows[now[0]] = _without(model, steppers[now[0]], error)
                del tasks[now[0]]
            else:
                judged = rounds.cpu if by_cpu and rounds.cpu else rounds
                rows |= {name: _row(plan, model, steppers[name], rounds, judged) for name in tasks}
                break
        return [rows[name] for name in steppers]

    def _steppers(self, model: Model, own: Sequence[Own]) -> Iterator[_Stepper]:
        """Yield everything that is timed, what the others are compared with first."""
        yield _Stepper(GRADIENT, "", model.gradient, {GRADIENT: 1.0})
        yield _Stepper(PRODUCT, "", model.product, {PRODUCT: 1.0})
        for other in OTHERS:
            if other.label == SGD or other.name in self.others:
                make = partial(model.other, other.name, other.settings, self.seed)
                yield _Stepper(other.label, other.what, make, {GRADIENT: 1.0})
        for kind, rank in self.kinds:
            setting = Setting(kind, model.n, model.library, rank, self.seed)
            turns = TURNS if kind == "lowrank" and rank else 1
            for one in own if self.with_plain else own[:1]:
                label = setting.label.removesuffix("()") + ", plain code" * (not one.kernels)
                for pairs in PAIRS:
                    make = partial(model.psgd, setting, pairs)
                    # where one of ten steps fits, whether that moves U or V or balances them hardly shows
                    period = OFTEN if pairs.every > 1 else turns * -(-OFTEN // turns)
                    yield _Stepper(label, pairs.name, make, pairs.needs, period, one.within)


def _noting(now: list[str], name: str, call: Step) -> Step:
    """Return a call that notes whose it is."""

    def noted() -> Any:
        now[0] = name
        return call()

    return noted


def _row(plan: Plan, model: Model, one: _Stepper, rounds: Rounds, judged: Rounds) -> StepRow:
    measured = judged.samples
    bases = [name for name in (SGD, *one.needs) if name in measured]
    # a ratio is as noisy as the noisier of the two
    noise = next(filter(None, (judged.noise(name, plan.limits) for name in (one.name, *bases))), "")
    alone = one.contender in one.needs
    return StepRow(
        model,
        one.contender,
        one.what,
        status="too noisy" if noise and not plan.allow_noise else "ok",
        reason=noise,
        samples=rounds.samples[one.name],
        cpu=rounds.cpu.samples[one.name] if rounds.cpu else None,
        by_cpu=judged is rounds.cpu,
        over_sgd=judged.ratio(one.name, SGD) if SGD in measured else None,
        own_part=None
        if alone or not set(one.needs) <= set(measured)
        else judged.over(one.name, one.needs) - 1,
    )


def _without(model: Model, one: _Stepper, error: Exception) -> StepRow:
    """Return the row of what was not measured."""
    if isinstance(error, Late):
        return StepRow(model, one.contender, one.what, "no time", NO_TIME)
    status = "absent" if isinstance(error, Absent) else "failed"
    return StepRow(model, one.contender, one.what, status, f"{one.contender}: {plain_message(error)}")
