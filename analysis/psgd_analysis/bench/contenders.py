"""What is timed: psgd-core's preconditioners, on any library, with kernels and without.

A contender is set up for a preconditioner, a size, a library and a dtype, and returns the calls to time.
Other projects are in `peers`, with the same interface.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import psgd_core as psgd

from ..kinds import Size
from .costs import KINDS, orbit_sizes
from .libraries import Library
from .timing import nothing

STEP = 0.1
TURNS = 8
"""Updates of `LowRank` until every kind of update has occurred: U and V in turn, balanced every eighth."""


DENSE_MOST = 16384
"""The largest n for `Dense`, which holds n^2 numbers."""


class Absent(RuntimeError):
    """A contender is not installed or lacks what is asked for; the message is one sentence."""


@dataclass(frozen=True)
class Setting:
    """What a contender is set up for.

    Parameters
    ----------
    kind : str
        One of `costs.KINDS`.
    n : int
    library : Library
        Its dtype and device apply to contenders in other libraries, too.
    rank : int
        Of ``lowrank`` only; 0 otherwise.
    seed : int
    shape : tuple of int
        Of the tensor of ``kronecker``, whose n is the product; () otherwise.
    """

    kind: str
    n: int
    library: Library
    rank: int = 0
    seed: int = 0
    shape: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The preconditioner's name in tables."""
        return KINDS[self.kind].named(Size(self.n, self.rank, self.shape))

    def preconditioner(self) -> psgd.Preconditioner:
        """Return the preconditioner."""
        return KINDS[self.kind].make(Size(self.n, self.rank, self.shape))

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (v, h = H v) on the host, H a diagonal between 0.1 and 10, the same for all contenders."""
        rng = np.random.default_rng(self.seed)
        v = rng.standard_normal(self.n, dtype=self.library.host)
        h = rng.random(self.n, dtype=self.library.host)
        h *= 2
        h -= 1
        np.power(np.asarray(10, dtype=h.dtype), h, out=h)
        h *= v
        return v, h


def require_fit(setting: Setting) -> None:
    """Raise unless the preconditioner exists for n, and is not too large."""
    if setting.kind == "lowrank" and setting.rank >= setting.n:
        raise ValueError(f"`--rank` must be below n = {setting.n}, got {setting.rank}; lower it")
    if setting.kind == "dense" and setting.n > DENSE_MOST:
        raise ValueError(
            f"`--n` must be at most {DENSE_MOST} for dense, got {setting.n}; it holds n^2 numbers"
        )
    if KINDS[setting.kind].orbit is not None:
        orbit_sizes(setting.kind, setting.n)


class Calls(NamedTuple):
    """A contender that is set up; every call uses and replaces its own state."""

    update: Callable[[], Any]
    precondition: Callable[[], Any] | None
    wait: Callable[[Any], Any] = nothing
    period: int = 1  # updates until every kind of update has occurred
    state_bytes: int | None = None
    memory: Callable[[Callable[[], Any]], int | None] | None = None  # peak bytes that a call allocates
    note: str = ""


def have_kernels(device: str = "cpu") -> bool:
    """Return whether psgd-core has kernels for a device and their requirements are installed."""
    if importlib.util.find_spec("psgd_core.kernels") is None:
        return False
    kernels: Any = importlib.import_module("psgd_core.kernels")
    return importlib.util.find_spec("cupy") is not None if device == "gpu" else bool(kernels.available())


@dataclass(frozen=True)
class Own:
    """psgd-core, with its kernels or with plain code only."""

    kernels: bool = True

    @property
    def name(self) -> str:
        """The name in tables and files."""
        return "psgd-core" if self.kernels else "psgd-core, plain code"

    def within(self) -> Any:
        """Return the context for its calls, which switches the kernels on or off."""
        if importlib.util.find_spec("psgd_core.kernels") is None:
            return contextlib.nullcontext()
        kernels: Any = importlib.import_module("psgd_core.kernels")
        return kernels.on() if self.kernels else kernels.off()

    def set_up(self, setting: Setting) -> Calls:
        """Return the calls: in place where the library allows it, jitted with a donated state on JAX."""
        library = setting.library
        p = setting.preconditioner()
        v, h = (library.asarray(x) for x in setting.pair())
        state = p.init(setting.n, like=v)
        period = TURNS if setting.kind == "lowrank" and setting.rank else 1
        size = sum(_nbytes(leaf) for leaf in _leaves(state))
        if library.name == "jax":
            return _jitted(p, state, v, h, library, period, size)
        held = [state]

        def update() -> Any:
            held[0] = p.update(held[0], v, h, STEP, inplace=True)
            return held[0]

        return Calls(
            update,
            lambda: p.precondition(held[0], v),
            library.waiter(),
            period,
            size,
            lambda call: library.extra_memory(call, setting.n),
        )


def _jitted(
    p: psgd.Preconditioner, state: Any, v: Any, h: Any, library: Library, period: int, size: int
) -> Calls:
    jax: Any = importlib.import_module("jax")
    state = jax.tree.map(
        lambda leaf: leaf.copy(), state
    )  # leaves may share a buffer, which can be donated only once
    step = jax.jit(lambda s, v, h: p.update(s, v, h, STEP), donate_argnums=0).lower(state, v, h).compile()
    apply = jax.jit(p.precondition).lower(state, v).compile()
    held = [state]

    def update() -> Any:
        held[0] = step(held[0], v, h)
        return held[0]

    def precondition() -> Any:
        return apply(held[0], v)

    def memory(call: Callable[[], Any]) -> int | None:
        return compiled_memory(step if call is update else apply)

    return Calls(update, precondition, library.waiter(), period, size, memory)


def compiled_memory(compiled: Any) -> int | None:
    """Return the bytes that a compiled JAX function needs besides its arguments, by XLA's plan."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    return int(plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes)


def _leaves(tree: Any) -> list[Any]:
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, tuple) else [tree]


def _nbytes(array: Any) -> int:
    return int(array.nbytes) if hasattr(array, "nbytes") else 0
