"""Fused paths behind the same functions: the same results to rounding, in as few passes as there can be.

Arrays of NumPy, and of PyTorch on the CPU, take them where numba is installed (the extra ``fast``). They
never change what a function returns by more than rounding, and can be switched off: by the environment
variable ``PSGD_KERNELS=off``, or for some lines by `off`::

    with psgd_core.kernels.off():
        state = p.update(state, v, h, step=0.1)

Compiled code is kept on disk, beside this package or in the user's cache, so that only the first run waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

__all__ = ["available", "off"]

_on: ContextVar[bool] = ContextVar("psgd_core.kernels", default=os.environ.get("PSGD_KERNELS", "auto") != "off")


@cache
def _installed() -> bool:
    return find_spec("numba") is not None


def available() -> bool:
    """Return whether the CPU's kernels are installed and not switched off."""
    return _on.get() and _installed()


@contextmanager
def off() -> Iterator[None]:
    """Leave the kernels out within a ``with`` block, in this thread."""
    token = _on.set(False)
    try:
        yield
    finally:
        _on.reset(token)
