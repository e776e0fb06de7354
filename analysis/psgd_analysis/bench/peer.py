"""The interface of all peers, and what those written in torch or JAX share."""

from __future__ import annotations

import contextlib
import importlib
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from .contenders import Absent, Calls, Setting, compiled_memory
from .libraries import Library


class Peer(ABC):
    """Another project's preconditioners.

    Attributes
    ----------
    name : str
        In tables, files and on the command line.
    package : str
        Its distribution, for the version; "" if it has none.
    kinds : tuple of str
        The preconditioners that it offers, of `costs.KINDS`.
    """

    name: ClassVar[str]
    package: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]]

    def within(self) -> Any:
        """Return the context for its calls, which does nothing."""
        return contextlib.nullcontext()

    def set_up(self, setting: Setting) -> Calls:
        """Return the calls.

        Raises
        ------
        Absent
            If it is not installed or has no such preconditioner.
        """
        if setting.kind not in self.kinds:
            raise self.lacks(setting)
        try:
            return self._calls(setting)
        except (ImportError, AttributeError) as error:
            raise Absent(f"{self.name}: {self._missing(error)}") from error

    def lacks(self, setting: Setting) -> Absent:
        """Return what says that it has no such preconditioner."""
        return Absent(f"{self.name} has no {setting.label.partition('(')[0]}")

    @abstractmethod
    def _calls(self, setting: Setting) -> Calls:
        """Return the calls for a kind that it offers."""

    def _missing(self, error: Exception) -> str:
        root = self.package.replace("-", "_") or self.name
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == root:
            return f"not installed (pip install {self.package})"
        return f"cannot be imported ({plain_message(error)})"


def plain_message(error: BaseException) -> str:
    """Return an error's first line without local paths."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"\s*\((/|[A-Za-z]:\\)[^)]*\)|(?<!\w)/[\w.+@-]+(/[\w.+@-]+)+", "", line)


def torch_pair(setting: Setting) -> tuple[Any, Library, list[Any]]:
    """Return torch, torch as a library on the setting's device, and (v, h) there."""
    torch: Any = importlib.import_module("torch")
    library = Library("torch", setting.library.dtype, setting.library.device)
    return torch, library, [library.asarray(x) for x in setting.pair()]


def in_torch(setting: Setting, library: Library, state: list[Any], update: Any, precondition: Any) -> Calls:
    """Return the calls of functions that update a state of tensors in place."""
    return Calls(
        update,
        precondition,
        library.waiter(),
        state_bytes=sum(t.numel() * t.element_size() for t in state),
        memory=lambda call: library.extra_memory(call, setting.n),
    )


def jitted(library: Library, state: Any, step: Any, apply: Any, v: Any, h: Any) -> Calls:
    """Return the calls of functions of (state, v, h) and (state, g) in JAX, jitted, the state donated."""
    jax: Any = importlib.import_module("jax")
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    compiled = jax.jit(step, donate_argnums=0).lower(state, v, h).compile()
    applied = jax.jit(apply).lower(state, v).compile()
    held = [state]

    def update() -> Any:
        held[0] = compiled(held[0], v, h)
        return held[0]

    return Calls(
        update,
        lambda: applied(held[0], v),
        library.waiter(),
        state_bytes=size,
        memory=lambda call: compiled_memory(compiled if call is update else applied),
    )


def factors(torch: Any, setting: Setting, v: Any) -> list[Any]:
    """Return U, V and d to start from, the same numbers for every torch peer."""
    rng = np.random.default_rng(setting.seed + 1)
    size = (setting.n * (setting.rank + 10)) ** -0.5
    drawn = rng.standard_normal((2, setting.n, setting.rank), dtype=setting.library.host)
    u, w = (torch.asarray(x * np.asarray(size, x.dtype), device=v.device) for x in drawn)
    return [u, w, torch.ones_like(v)]
