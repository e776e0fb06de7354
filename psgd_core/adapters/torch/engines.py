"""Which array library computes the iteration: PyTorch itself, or NumPy or CuPy on the same memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...arrays.library import Array
from ...arrays.vectors import finite
from ...curvature import Functions
from ...descent import PSGD as Loop
from ...descent.clips import Point
from .. import dlpack

EngineName = Literal["auto", "torch", "numpy", "cupy"]
"""The libraries that may compute; "auto" chooses by device."""


class Engine:
    """The library of the state's arrays, how tensors are shared with it, and how an update runs there.

    Parameters
    ----------
    name : {"auto", "torch", "numpy", "cupy"}
        "auto" takes NumPy on the CPU, where an update takes about half the time (XMat and LowRank(10), n from
        10^3 to 10^6, one thread), and PyTorch elsewhere.
    device : torch.device
        Where the parameters are.
    options : dict or None
        For `torch.compile`; None runs without.
    """

    def __init__(self, name: EngineName, device: torch.device, options: dict[str, Any] | None) -> None:
        if name == "auto":
            name = "numpy" if device.type == "cpu" and options is None else "torch"
        wanted = {"numpy": "cpu", "cupy": "cuda"}.get(name, device.type)
        if device.type != wanted:
            raise ValueError(
                f"`engine` must fit the device of the parameters, {device}, got {name!r}, which needs "
                f"{wanted}; use 'auto' or 'torch'"
            )
        if name == "cupy" and find_spec("cupy") is None:
            raise ImportError("CuPy is not installed; pip install cupy-cuda12x or cupy-cuda13x")
        self.name: EngineName = name
        self.device: torch.device = device
        self.options: dict[str, Any] | None = options

    def inward(self, x: Any) -> Array:
        """Return a tensor as an array of the engine, in the same memory."""
        found: Array = x
        if self.name == "numpy":  # on the hot path: no further checks
            plain = type(x) is Tensor and not x.is_neg()
            found = x.numpy() if plain else dlpack.to_numpy(found)
        elif self.name == "cupy":
            found = dlpack.to_cupy(found)
        return found

    def outward(self, x: Any) -> Tensor:
        """Return an array of the engine as a tensor, in the same memory (NumPy's scalars are copied)."""
        if isinstance(x, Tensor):
            return x
        if self.name == "numpy" and x.ndim == 0:
            return torch.from_numpy(np.array(x))
        if type(x) is np.ndarray and x.flags.c_contiguous and x.flags.writeable:
            return torch.from_numpy(x)
        return dlpack.to_torch(x)

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context to compute in: for CuPy, PyTorch's current stream."""
        if self.name != "cupy":
            return contextlib.nullcontext()
        import cupy

        stream = torch.cuda.current_stream(self.device).cuda_stream
        found: contextlib.AbstractContextManager[Any] = cupy.cuda.ExternalStream(stream, self.device.index)
        return found

    def advance(self, loop: Loop) -> Callable[..., tuple[Array, Any]]:
        """Return ``(state, x, g, v, h, value) -> (x, state)``, compiled if `options` are given.

        Without v, P is not fitted; without h, h follows from g (whitening).
        """

        def update(state: Any, x: Array, g: Array, v: Any, h: Any, value: Any) -> tuple[Array, Any]:
            pair, state = _pair(loop, state, x, g, v, h)
            return loop.update(state, x, g, pair=pair, value=value)

        return self._compiled(update)

    def halves(self, loop: Loop) -> tuple[Callable[..., Any], Callable[..., tuple[Array, Any]]]:
        """Return `advance` as two functions, for those who shorten the move between them.

        ``(state, x, g, v, h, value) -> (move, usable, x, before, after)``, and ``(before, after, x, usable,
        move) -> (x, state)``.
        """

        def propose(state: Any, x: Array, g: Array, v: Any, h: Any, value: Any) -> tuple[Any, ...]:
            pair, state = _pair(loop, state, x, g, v, h)
            here, usable, state = loop.observe(state, loop.point(x, g, value))
            move, after = loop.propose(state, here, usable, pair)
            return move, usable & finite(move), here.x, state, after

        return self._compiled(propose), self._compiled(loop.accept)

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function compiled, if `options` are given."""
        if self.options is None:
            return function
        compiled = torch.compile(function, **{"fullgraph": True, "dynamic": False, **self.options})

        def quietly(*args: Any) -> Any:
            with warnings.catch_warnings():  # array_api_compat caches pure functions of types
                warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
                return compiled(*args)

        return quietly


def _pair(loop: Loop, state: Any, x: Array, g: Array, v: Any, h: Any) -> tuple[Any, Any]:
    """Return ((v, h), state), None for the pair without v."""
    if v is not None and h is None:
        here = Point(x, g, x[0])  # the value has no part in whitening
        return loop.ask(state, here, here, Functions(gradient=lambda x: g), v)
    return None if v is None else (v, h), state
