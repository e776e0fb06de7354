"""The core's clips on several vectors at once: a norm is that of all of them together."""

from __future__ import annotations

from typing import Any

from ...arrays.library import Array, namespace
from ...descent import clips


def require_clip(clip: clips.Clip, *, per_leaf: bool) -> None:
    """Raise unless optax's updates, and states per leaf, can do what the clip does."""
    if clip.needs_value:
        raise ValueError(
            f"`clip` must not go back to earlier points, as {clip!r} does; take clips.AdaptiveNorm(), or "
            "psgd_core.PSGD, which owns the parameters"
        )
    parts = clip.clips if isinstance(clip, clips.Chain) else (clip,)
    for part in parts:
        if per_leaf and not isinstance(part, clips.Norm | clips.AdaptiveNorm | clips.Elements):
            raise ValueError(
                f"`clip` must be made of Norm, Running and Elements for a state per leaf, got {part!r}; "
                "pass per_leaf=False"
            )


def limit(clip: clips.Clip, memory: Any, moves: list[Array]) -> tuple[list[Array], Any]:
    """Return (the moves within their limit, memory)."""
    if len(moves) == 1:
        limited, memory = clip.limit(memory, moves[0])
        return [limited], memory
    if isinstance(clip, clips.Chain):
        after = []
        for one, held in zip(clip.clips, memory, strict=True):
            moves, new = limit(one, held, moves)
            after.append(new)
        return moves, tuple(after)
    if isinstance(clip, clips.Elements):
        return [clip.limit(memory, move)[0] for move in moves], memory
    # what limits a norm is asked about the vector of the norms, which has the same
    xp, dtype = namespace(*moves), moves[0].dtype
    norms = xp.stack([xp.astype(clips.norm(move), dtype) for move in moves])
    limited, memory = clip.limit(memory, norms)
    some = norms > 0
    factors = xp.where(some, limited / xp.where(some, norms, xp.ones_like(norms)), xp.ones_like(norms))
    return [xp.astype(factors[i], move.dtype) * move for i, move in enumerate(moves)], memory
