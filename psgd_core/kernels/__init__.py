"""Fused paths behind the same functions: the same results to rounding, in as few passes as there can be.

On the host arrays of NumPy, and tensors of PyTorch in the same memory, take them where numba is installed
(the extra ``fast``); on GPUs arrays of CuPy do, and PyTorch's tensors where CuPy is installed (``cuda12`` or
``cuda13``): those kernels are compiled and emulated by the tests, and have not yet run on a GPU. Kernels
never change what a function returns by more than rounding, and can be switched off: by the environment
variable ``PSGD_KERNELS=off``, or for some lines by `off`::

    with psgd_core.kernels.off():
        state = p.update(state, v, h, step=0.1)

Compiled code is kept on disk, beside this package or in the user's cache, so that only the first run waits.
"""

from .cpu import low_rank as low_rank
from .cpu import orbits as orbits
from .gpu import orbits as gpu_orbits  # noqa: F401
from .switch import available, off
from .views import through as through

__all__ = ["available", "off"]
