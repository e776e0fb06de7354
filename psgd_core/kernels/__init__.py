"""Fused paths behind the same functions: the same results to rounding, in as few passes as possible.

NumPy arrays, and PyTorch tensors in the host's memory, take them where numba is installed (the extra
``fast``). On GPUs, CuPy arrays do, and PyTorch tensors where CuPy is installed (``cuda12`` or ``cuda13``):
those kernels are compiled and emulated by the tests, and have not yet run on a GPU. `dispatch` says which
kernel serves which arrays. Kernels never change a result by more than rounding.

On the host they are compiled where n and repetition pay: in the update that brings a state's
``(count + 1) (n + 10,000)`` to 50 million, so that a first result does not wait for a compiler. That is the
first update of 50 million parameters, the 50th of a million, and the 4,951st of a hundred; up to then, a few
seconds, the plain code runs. Nothing but the state decides, so a run repeats, and goes on from a checkpoint,
bit for bit. Compiled code is kept on disk, beside this package or in the user's cache: only the first run on
a machine waits for it.

``PSGD_KERNELS=on`` in the environment compiles at once, which pays for many short runs; ``off`` leaves
kernels out. `on` and `off` do the same for a few lines::

    with psgd_core.kernels.off():
        state = p.update(state, v, h, step=0.1)
"""

from .dispatch import by_numpy as by_numpy
from .dispatch import precondition as precondition
from .dispatch import update as update
from .rules import Jump as Jump
from .rules import Layout as Layout
from .rules import LowRankRule as LowRankRule
from .rules import OrbitRule as OrbitRule
from .rules import Rule as Rule
from .switch import available, off, on

__all__ = ["available", "off", "on"]
