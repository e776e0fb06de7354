"""One preconditioner per block of parameters: ``Q = diag(Q_1, Q_2, ...)``, for several tensors at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from ..arrays import trees
from ..arrays.arguments import described, require_count
from ..arrays.brief import brief
from ..arrays.library import Array, device_of, namespace
from ..arrays.vectors import SMALL, largest
from .base import Preconditioner, Verb
from .first_contact import two
from .forms import COUNTERS, Form, first_dtype, require_form
from .joint import Together, together
from .kronecker import Kronecker
from .sparse import Diagonal


@brief
class BlocksState(NamedTuple):
    """State of `Blocks`."""

    parts: tuple[Any, ...]  # the state of each block's preconditioner
    skipped: Array  # 0-d int32: pairs left out (NaN, Inf, zero probe), by all of them


def by_shape(shape: tuple[int, ...]) -> Preconditioner[Any]:
    """Return `Kronecker` for matrices and tensors, `Diagonal` for vectors and numbers."""
    return Kronecker(shape) if len(shape) > 1 else Diagonal()


@dataclass(frozen=True, repr=False)
class Blocks(Preconditioner[BlocksState]):
    """A direct product: block i of the parameters has a preconditioner, a step and a scale of its own.

    A pair is used by all blocks or by none.

    Parameters
    ----------
    parts : tuple of (int, Preconditioner)
        Number of parameters of each block, in their order, and what preconditions it.
    arrays : tuple of (name, shape), optional
        What the blocks were made for, as `of` remembers it: optimisers put the blocks in the order of the
        parameters they meet, or refuse them. Names are "" where there are none.
    """

    state_type: ClassVar[type] = BlocksState

    parts: tuple[tuple[int, Preconditioner[Any]], ...]
    arrays: tuple[trees.Leaf, ...] | None = field(default=None, repr=False)

    # which of them move together, and how; it follows from the fields
    _joint: ClassVar[tuple[tuple[Together, tuple[int, ...]], ...]]

    def __post_init__(self) -> None:
        good = isinstance(self.parts, tuple | list) and len(self.parts) > 0
        if not good or not all(
            isinstance(part, tuple | list) and len(part) == 2 and isinstance(part[1], Preconditioner)
            for part in self.parts
        ):
            raise TypeError(
                "`parts` must hold pairs (number of parameters, Preconditioner), "
                f"got {described(self.parts)}; "
                "Blocks.of makes them from a tree of parameters"
            )
        sizes = [require_count(f"parts[{i}][0]", n, "it is a size") for i, (n, _) in enumerate(self.parts)]
        object.__setattr__(self, "parts", tuple((n, p) for n, (_, p) in zip(sizes, self.parts, strict=True)))
        if not (self.takes_memory or self.takes_step):
            raise ValueError(
                "`parts` must all take a step, or all a memory, got some of both; use normalizer=Kalman() "
                "for all of them or for none"
            )
        if self.arrays is not None:
            arrays = tuple(trees.Leaf(str(name), tuple(shape)) for name, shape in self.arrays)
            if [math.prod(shape) for _, shape in arrays] != [n for n, _ in self.parts]:
                raise ValueError(
                    f"`arrays` must have a shape of as many elements as each block, got {self.arrays!r} for "
                    f"blocks of {[n for n, _ in self.parts]}; Blocks.of makes both"
                )
            object.__setattr__(self, "arrays", arrays)
        alike: dict[Any, list[int]] = {}
        for i, (_, p) in enumerate(self.parts):
            alike.setdefault(p, []).append(i)
        ways = [(together(p), tuple(members)) for p, members in alike.items() if len(members) > 1]
        object.__setattr__(self, "_joint", tuple((way, members) for way, members in ways if way is not None))

    @classmethod
    def of(cls, tree: Any, choose: Callable[[tuple[int, ...]], Preconditioner[Any]] = by_shape) -> Blocks:
        """Return blocks for the arrays of a dict, list or tuple of parameters, or of a PyTorch module.

        Parameters
        ----------
        tree : array, tree of arrays, module, or iterator of arrays or of (name, array) pairs
            Only names and shapes matter. Dicts go by their sorted keys, as in `minimize`; those of PyTorch's
            tensors, such as ``dict(module.named_parameters())``, and OrderedDicts in their own order. Tensors
            that share their memory count once.
        choose : callable
            ``choose(shape)`` returns the preconditioner of an array; by default `Kronecker` for two
            dimensions and more, `Diagonal` for vectors and numbers.

        Raises
        ------
        TypeError, ValueError
            If there are no arrays, or something else among them.
        """
        arrays = tuple(trees.arrays(tree, "tree"))
        return cls(tuple((math.prod(shape), choose(shape)) for _, shape in arrays), arrays)

    @property
    def n(self) -> int:
        """Number of parameters."""
        return sum(n for n, _ in self.parts)

    @property
    def takes_memory(self) -> bool:
        """Whether `update` takes `memory`, in place of a step: whether all its parts do."""
        return all(p.takes_memory for _, p in self.parts)

    @property
    def takes_step(self) -> bool:
        """Whether `update` takes `step`: whether all its parts do."""
        return all(p.takes_step for _, p in self.parts)

    @property
    def _faster_by_numpy(self) -> bool:
        return all(p._faster_by_numpy or n <= SMALL for n, p in self.parts)

    def _form(self, own: Form, real: str) -> tuple[int, Form]:
        return self.n, own

    def _require_form(self, seen: Form) -> int:
        _, parts, skipped = seen
        if parts[0] is not tuple or len(parts) != len(self.parts) + 1:
            raise ValueError(
                f"`state.parts` must be a tuple of {len(self.parts)} states, got another number; "
                "make a state with `init`"
            )
        for i, ((n, p), part) in enumerate(zip(self.parts, parts[1:], strict=True)):
            if part[0] is not p.state_type:
                raise TypeError(
                    f"`state.parts.{i}` must be a {p.state_type.__name__}, got {part[0].__name__}; make a "
                    "state with `init`"
                )
            size = p._require_form(part)
            if size != n:
                raise ValueError(
                    f"`state.parts.{i}` must be a state of {n} parameters for {p!r}, got one of {size}; "
                    "make a state with `init`"
                )
            dtypes = first_dtype(part), first_dtype(parts[1])
            if dtypes[0] != dtypes[1]:
                raise TypeError(
                    f"`state.parts.{i}` must have the dtype of `state.parts.0`, {dtypes[1]}, got "
                    f"{dtypes[0]}; convert it with `astype`"
                )
        require_form("state.skipped", skipped, COUNTERS[-1])
        return self.n

    def _begin(self, n: int, like: Array, scale: float | Array | None, rng: Any) -> BlocksState:
        if n != self.n:
            raise ValueError(f"`n` must be the number of parameters of all blocks, {self.n}, got {n}")
        xp, device = namespace(like), device_of(like)
        return BlocksState(
            parts=tuple(p.init(size, like, scale=scale, rng=rng) for size, p in self.parts),
            skipped=xp.zeros((), dtype=xp.int32, device=device),
        )

    def _met(self, state: BlocksState, pairs: tuple[Array, Array]) -> BlocksState:
        v, h = self._pair(state, *two(pairs))
        assert v is not None
        xp = namespace(h)
        usable = xp.isfinite(largest(v)) & xp.isfinite(largest(h))
        h = xp.where(usable, h, xp.full_like(h, xp.nan))  # by all blocks or by none
        rows = zip(self.parts, state.parts, self._cut(v), self._cut(h), strict=True)
        return state._replace(parts=tuple(p._met(part, (v_i, h_i)) for (_, p), part, v_i, h_i in rows))

    def _advance(
        self, state: Any, v: Array | None, h: Array, usable: Array, seen: Array, step: float | Array
    ) -> BlocksState:
        xp, parts = namespace(h), list(state.parts)
        vs, hs = None if v is None else self._cut(v), self._cut(h)
        alone = dict.fromkeys(range(len(parts)))
        for advance, members in self._joint:
            p, states = self.parts[members[0]][1], [parts[i] for i in members]
            v_all = None if vs is None else [vs[i] for i in members]
            found = advance(p, states, v_all, [hs[i] for i in members], usable, step)
            for i, new in zip(members, found or (), strict=False):
                parts[i] = new
                del alone[i]
        for i in alone:
            v_i = None if vs is None else vs[i]
            seen = usable & (largest(hs[i]) > 0)
            parts[i] = self.parts[i][1]._advance(parts[i], v_i, hs[i], usable, seen, step)
        return BlocksState(tuple(parts), state.skipped + (1 - xp.astype(usable, xp.int32)))

    def _cut(self, x: Array) -> list[Array]:
        """Return the part of a vector, or of columns, that belongs to each block."""
        edges = itertools.accumulate((n for n, _ in self.parts), initial=0)
        return [x[start:stop, ...] for start, stop in itertools.pairwise(edges)]

    def _log_det(self, state: BlocksState) -> Array:
        values = [p.log_det(part) for (_, p), part in zip(self.parts, state.parts, strict=True)]
        return sum(values[1:], start=values[0])

    def _eigenvalues(self, state: BlocksState) -> Array:
        parts = [p._eigenvalues(part) for (_, p), part in zip(self.parts, state.parts, strict=True)]
        return namespace(*parts).concat(parts)

    def _acted(self, state: BlocksState, x: Array, verb: Verb) -> Array:
        found = []
        for (_, p), part, here in zip(self.parts, state.parts, self._cut(x), strict=True):
            fused = p._fused(part, here) if verb == "precondition" else None
            found.append(p._acted(part, here, verb) if fused is None else fused)
        return namespace(x).concat(found, axis=0)
