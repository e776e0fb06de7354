"""States on disk: one file, no pickle, written at once or not at all, and checked to the last bit.

A state is whatever nests NamedTuples, tuples, lists and dicts around arrays of any library; None, bool, int,
float and str may stand beside them (so ``rng.bit_generator.state`` of a NumPy generator is one too)::

    psgd_core.save("run.npz", state, config=p)
    state = psgd_core.load("run.npz", like=p.init(n, like=x), config=p)

Arrays come back bit for bit: a run resumed from them on the same library goes on as if it had not stopped.

The checksum in the file protects against accidents; it is not a signature. But nothing in a file is ever
executed: there is no pickle, and classes are found among those already loaded, never imported by name. A file
made to deceive can hold wrong numbers, no more.
"""

from . import replacing
from .archive import inspect, load, save
from .file import CheckpointError

__all__ = ["CheckpointError", "inspect", "load", "replacing", "save"]
