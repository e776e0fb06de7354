"""Measuring a contender on a task: the same pairs for all, and how good P is after so many of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from .contenders import Contender
from .tasks import Task

HELD_OUT = 64
"""Products that the criterion is measured on where H is too large to be had as a matrix."""


@dataclass
class Result:
    """What became of a contender on a task with a seed."""

    task: str
    contender: str
    side: str
    seed: int
    n: int
    kappa: float | None  # of H
    pairs: list[int] = field(default_factory=list)
    measures: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0  # per update, measurements apart

    def at(self, measure: str, pairs: int) -> float:
        """Return a measure after so many pairs."""
        return self.measures[measure][self.pairs.index(pairs)]


class Drawn:
    """The pairs of a task, drawn once for all contenders."""

    def __init__(self, task: Task, seed: int, most: int) -> None:
        rng = np.random.default_rng((seed, 7))
        most = min(most, max(task.marks))
        self.marks = sorted({most, *(mark for mark in task.marks if mark <= most)})
        self.v, self.h = task.draw(rng, most)
        self.held_out = (
            task.draw(np.random.default_rng((seed, 8)), HELD_OUT) if task.hessian is None else None
        )


def measure(
    name: str,
    task: Task,
    contender: Contender,
    seed: int,
    drawn: Drawn,
) -> Result:
    """Return the result of a contender on a task.

    Parameters
    ----------
    name : str
        The task's.
    drawn : Drawn
    """
    kappa = None if task.hessian is None else float(np.linalg.cond(task.hessian))
    result = Result(name, contender.name, contender.side, seed, task.n, kappa)
    made, spent = 0, 0.0
    with np.errstate(all="ignore"):  # a P that is lost is a result
        first = contender.make(task, seed)  # compiled, if need be, before time is taken
        for i in range(min(2, drawn.v.shape[1])):
            first.update(drawn.v[:, i].copy(), drawn.h[:, i].copy())
        fit = contender.make(task, seed)
        for mark in drawn.marks:
            start = time.perf_counter()
            for i in range(made, mark):
                fit.update(drawn.v[:, i].copy(), drawn.h[:, i].copy())
            spent, made = spent + time.perf_counter() - start, mark
            result.pairs.append(mark)
            try:
                found = measures(fit, task, drawn)
            except np.linalg.LinAlgError:  # not finite
                found = {}
            for key in ("distance", "criterion", "kappa"):
                result.measures.setdefault(key, []).append(found.get(key, float("nan")))
    result.seconds = spent / max(made, 1)
    return result


def measures(fit: object, task: Task, drawn: Drawn) -> dict[str, float]:
    """Return the distance of P to the target, the criterion over its least, and the condition number of P H.

    The criterion is over its least value in GL(n), ``2 tr |H|``, where H is there as a matrix; otherwise it
    is on held-out products, over that of the best multiple of I.
    """
    precondition, solve = fit.precondition, fit.solve  # type: ignore[attr-defined]
    if task.hessian is None:
        assert drawn.held_out is not None
        v, h = drawn.held_out
        value = np.sum(h * precondition(h)) + np.sum(v * solve(v))
        return {"criterion": float(value / (2 * np.linalg.norm(h) * np.linalg.norm(v)))}
    h, eye = task.hessian, np.eye(task.n)
    p = precondition(eye)
    p = (p + p.T) / 2
    if not np.all(np.isfinite(p)):
        return {}
    w, e = np.linalg.eigh(p)
    if not w[0] > 0:
        return {}
    found = {}
    value = np.sum(h * (p @ h)) + np.sum(1 / w)
    found["criterion"] = float(value / (2 * np.sum(np.abs(np.linalg.eigvalsh(h)))))
    root = e * np.sqrt(w)
    left = np.abs(np.linalg.eigvalsh(root.T @ h @ root))
    found["kappa"] = float(np.max(left) / np.min(left))
    if task.target is not None:
        inverse = np.asarray(task.target.root)  # P*^{-1/2}
        logs = np.log(np.linalg.svd(inverse @ root, compute_uv=False))
        found["distance"] = float(np.sqrt(np.mean((2 * logs) ** 2)))
    return found
