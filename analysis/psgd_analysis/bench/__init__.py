"""`psgd bench`: what updates and P g cost, beside the memory bandwidth and beside the peers.

`costs` says how many bytes must be moved; `contenders` and `peers` set up what is timed; `timing` measures
in interleaved rounds and refuses what is too noisy; `run` goes through the settings; `models` measures whole
steps beside gradient steps; `report` and `figures` present it; `command` is the command line.
"""

from .costs import Cost, cost
from .run import Plan, Row, growth, run
from .timing import Limits, Samples, Task, measure

__all__ = ["Cost", "Limits", "Plan", "Row", "Samples", "Task", "cost", "growth", "measure", "run"]
