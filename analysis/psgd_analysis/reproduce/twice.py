"""Losses that are to be differentiated twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Evaluate attention by plain products: PyTorch's fused kernels cannot be differentiated twice.

    What is evaluated within can be, also after the end; elsewhere the faster kernels are at work.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield
