"""How much each preconditioner learns from each Hessian-vector product: `psgd efficiency`.

Products are what a fit costs. `tasks` are Hessians to draw pairs from, `contenders` what is fitted to them:
psgd-core's preconditioners, the closed forms and other limits of what the same pairs say, and the peers that
are there. All of them get the same pairs, and after so many of them it is measured how good P is.
"""

from ..factors import Factors, best_factors
from .contenders import CONTENDERS, Contender, Fit
from .run import Result, measure
from .tasks import TASKS, Task, TaskKind

__all__ = [
    "CONTENDERS",
    "TASKS",
    "Contender",
    "Factors",
    "Fit",
    "Result",
    "Task",
    "TaskKind",
    "best_factors",
    "measure",
]
