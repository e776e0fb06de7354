"""Sweeps: many independent tasks, in this process, in several, or on a Dask cluster.

>>> from psgd_analysis.sweeps import Task, run
>>> run([Task("a", pow, (2, 3))], jobs=1)  # doctest: +SKIP

A task is a function of a module, called as ``work(*arguments, board=handle)``. It tells its progress with
``handle.note(done)``, asks ``handle.stopping()`` at its checkpoints, and if so saves what it needs and raises
`Stopped`. A task that raises anything else is a `Failure`, and so is one whose process dies whenever it runs;
the others go on.
"""

from .board import Handle, Stopped
from .pools import Unreachable
from .sweep import Failure, Results, Task, run

__all__ = ["Failure", "Handle", "Results", "Stopped", "Task", "Unreachable", "run"]
