"""Fused paths behind the same functions: the same results to rounding, in as few passes as possible.

NumPy arrays, and PyTorch tensors in the host's memory, take them where numba is installed (the extra
``fast``). On GPUs, CuPy arrays do, and PyTorch tensors where CuPy is installed (``cuda12`` or ``cuda13``):
those kernels are compiled and emulated by the tests, and have not yet run on a GPU. `dispatch` says which
kernel serves which arrays. Kernels never change a result by more than rounding, and can be switched off: by
the environment variable ``PSGD_KERNELS=off``, or for a few lines by `off`::

    with psgd_core.kernels.off():
        state = p.update(state, v, h, step=0.1)

Compiled code is kept on disk, beside this package or in the user's cache, so that only the first run waits.
"""

from .dispatch import precondition as precondition
from .dispatch import update as update
from .rules import Jump as Jump
from .rules import Layout as Layout
from .rules import LowRankRule as LowRankRule
from .rules import OrbitRule as OrbitRule
from .rules import Rule as Rule
from .switch import available, off

__all__ = ["available", "off"]
