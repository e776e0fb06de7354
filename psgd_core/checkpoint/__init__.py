"""States on disk: one file, no pickle, written atomically, and verified to the last bit.

A state is any nesting of NamedTuples, tuples, lists and dicts of arrays of any library; None, bool, int,
float and str may stand beside them (so ``rng.bit_generator.state`` of a NumPy generator is one too)::

    psgd_core.save("run.npz", state, config=p)
    state = psgd_core.load("run.npz", like=p.init(n, like=x), config=p)

Arrays are restored bit for bit: a run resumed from them on the same library equals an uninterrupted one.

The checksum in the file protects against accidents; it is not a signature. But nothing in a file is ever
executed: there is no pickle, and classes are looked up among those already loaded, never imported by name. At
worst, a forged file holds wrong numbers.
"""

from . import replacing
from .archive import inspect, load, save
from .file import CheckpointError

__all__ = ["CheckpointError", "inspect", "load", "replacing", "save"]
