"""How a training gets along with tasks that come one after the other: what it learns, and what it forgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .examples import Examples
from .measure import Measure

if TYPE_CHECKING:
    from .networks import NetworkTraining


class Retention(Measure):
    """Accuracy (%) on the present task and on those before, each phase being a task; test sets throughout.

    Parameters
    ----------
    training : NetworkTraining
        With "phases".
    level : float
        A task is learned again when the accuracy on its test set is this or more.

    Notes
    -----
    The average accuracy and the backward transfer are those of Lopez-Paz and Ranzato (2017).
    """

    def __init__(self, training: NetworkTraining, level: float = 80.0) -> None:
        super().__init__(training)
        self._level = level
        self._tests: list[Examples] = []  # without their training sets
        self._rows: list[tuple[int, float, list[float]]] = []  # a part: iterations, loss, accuracies so far
        self._iterations = 0

    def after_step(self, indices: Tensor, correct: Tensor) -> None:
        """Count."""
        self._iterations += 1

    def after_part(self) -> dict[str, Any]:
        """Return "task", and "earlier_accuracy", the mean over the tasks before (None in the first)."""
        while len(self._tests) <= self.training.phase:
            found = self.training.examples_in(len(self._tests))
            test = found.test_x, found.test_y
            self._tests.append(Examples(*test, *test, found.classes))
        tests = self._tests[: self.training.phase + 1]
        losses, accuracies = zip(*(self.training.evaluate("test", own) for own in tests), strict=True)
        self._rows.append((self._iterations, losses[-1], list(accuracies)))
        return {"task": len(tests), "earlier_accuracy": _mean(accuracies[:-1])}

    def final(self) -> dict[str, Any]:
        """Return what was learned and forgotten.

        "average_accuracy" of all tasks at the end; "backward_transfer", the accuracy at the end less that at
        the end of a task's own phase, mean over all tasks but the last; "present_accuracy", at the ends of
        their own phases; "online_accuracy" and "online_loss" of the present task, means over all parts after
        the first task's; "recovery", the mean number of iterations after a switch until the level is reached,
        a whole phase where it is not; and "recovered", whether it always was.
        """
        ends = {len(accuracies): accuracies for _, _, accuracies in self._rows}
        last = ends[max(ends)]
        own = [ends[task][task - 1] for task in sorted(ends)]
        later = [row for row in self._rows if len(row[2]) > 1]
        needed = [self._needed(task) for task in sorted(ends) if task > 1]
        return {
            "average_accuracy": _mean(last),
            "backward_transfer": _mean([a - b for a, b in zip(last[:-1], own[:-1], strict=True)]),
            "present_accuracy": _mean(own),
            "online_accuracy": _mean([accuracies[-1] for _, _, accuracies in later]),
            "online_loss": _mean([loss for _, loss, _ in later]),
            "recovery": _mean([count for count, _ in needed]),
            "recovered": all(reached for _, reached in needed),
        }

    def _needed(self, task: int) -> tuple[int, bool]:
        """Return after how many iterations of a task's phase its level was reached, and whether it was."""
        before = max(count for count, _, accuracies in self._rows if len(accuracies) < task)
        rows = [row for row in self._rows if len(row[2]) == task]
        reached = [count for count, _, accuracies in rows if accuracies[-1] >= self._level]
        return (reached[0] if reached else rows[-1][0]) - before, bool(reached)

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen."""
        return {"rows": [list(row) for row in self._rows], "iterations": self._iterations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._rows = [(count, loss, accuracies) for count, loss, accuracies in state["rows"]]
        self._iterations = state["iterations"]


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None
