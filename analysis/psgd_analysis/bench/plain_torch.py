"""The paper's updates as a PyTorch user would write them: the peers "torch" and "torch.compile".

From appendices B and D of the paper: dQ = E Q for the sparse groups, ``Q = (I + U V^T) diag(d)`` for low rank
with d on the right generator and U, V in turn on theirs, every step divided by the curvature bound of its own
sample. The functions change their state in place, without checks or safeguards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .contenders import STEP, Calls, Setting
from .libraries import Library
from .peer import Peer, factors, in_torch, torch_pair

Tensor = Any


def diagonal_update(q: Tensor, v: Tensor, h: Tensor, step: float) -> None:
    """Move Q = diag(q), with a step per element: section D.1.2.1."""
    a, b = q * h, v / q
    aa, bb = a * a, b * b
    q.sub_(step * (aa - bb) / (aa + bb) * q)


def diagonal_precondition(q: Tensor, g: Tensor) -> Tensor:
    """Return P g."""
    return q * q * g


def xmat_update(a: Tensor, b: Tensor, v: Tensor, h: Tensor, step: float) -> None:
    """Move Q = diag(a) + adiag(b), with one step for all."""
    x = a * h + b * h.flip(0)
    a_flip, b_flip = a.flip(0), b.flip(0)
    y = (a_flip * v - b_flip * v.flip(0)) / (a * a_flip - b * b_flip)
    xx, yy = x * x, y * y
    on, off = xx - yy, x * x.flip(0) - y * y.flip(0)
    if len(a) % 2:
        off[len(a) // 2] = 0
    mu = step / (xx + yy).max()
    new_a = a - mu * (on * a + off * b_flip)
    b.sub_(mu * (on * b + off * a_flip))
    a.copy_(new_a)


def xmat_precondition(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Return P g."""
    ab = a * b
    return (a * a + (b * b).flip(0)) * g + (ab + ab.flip(0)) * g.flip(0)


def low_rank_update(u: Tensor, v: Tensor, d: Tensor, p: Tensor, h: Tensor, step: float, turn_u: bool) -> None:
    """Move Q = (I + U V^T) diag(d), U and V of shape (n, r): section D.1.2."""
    import torch

    small = torch.eye(u.shape[1], dtype=u.dtype, device=u.device) + v.T @ u
    x = d * h
    a = x + u @ (v.T @ x)
    ph = d * (a + v @ (u.T @ a))
    y = p / d
    b = y - v @ torch.linalg.solve(small.T, u.T @ y)
    inverse_p = (b - u @ torch.linalg.solve(small, v.T @ b)) / d

    plus, minus = ph * h, p * inverse_p
    new_d = d - step / (plus.abs().max() + minus.abs().max()) * (plus - minus) * d
    other = v if turn_u else u
    at, bt = a @ other, b @ other
    bound = a.norm() * (other @ at).norm() + b.norm() * (other @ bt).norm()
    if turn_u:
        u.sub_(step / bound * (torch.outer(a, at @ small) - torch.outer(b, bt @ small)))
    else:
        v.sub_(step / bound * (torch.outer(a + v @ at, at) - torch.outer(b + v @ bt, bt)))
    d.copy_(new_d)


def low_rank_precondition(u: Tensor, v: Tensor, d: Tensor, g: Tensor) -> Tensor:
    """Return P g."""
    x = d * g
    x = x + u @ (v.T @ x)
    return d * (x + v @ (u.T @ x))


def dense_update(q: Tensor, v: Tensor, h: Tensor, step: float) -> None:
    """Move Q on GL(n), dQ = E Q: eq. (11)."""
    import torch

    a, b = q @ h, torch.linalg.solve(q.T, v)
    mu = step / (a @ a + b @ b)
    q.sub_(mu * (torch.outer(a, q.T @ a) - torch.outer(b, v)))  # b^T Q = v^T


def dense_precondition(q: Tensor, g: Tensor) -> Tensor:
    """Return P g."""
    return q.T @ (q @ g)


UPDATES: dict[str, Callable[..., Any]] = {
    "diagonal": diagonal_update,
    "xmat": xmat_update,
    "dense": dense_update,
}
PRODUCTS: dict[str, Callable[..., Any]] = {
    "diagonal": diagonal_precondition,
    "xmat": xmat_precondition,
    "dense": dense_precondition,
}


class PlainTorch(Peer):
    """The paper's formulas, eager."""

    name = "torch"
    package = "torch"
    kinds = ("diagonal", "xmat", "lowrank", "dense")

    def _wrap(self, torch: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def _calls(self, setting: Setting) -> Calls:
        torch, library, (v, h) = torch_pair(setting)
        if setting.kind == "lowrank":
            return self._low_rank(torch, library, setting, v, h)
        if setting.kind == "dense":
            state = [torch.eye(setting.n, dtype=v.dtype, device=v.device)]
        else:
            state = [torch.ones_like(v)] + [torch.zeros_like(v)] * (setting.kind == "xmat")
        step = self._wrap(torch, UPDATES[setting.kind])
        apply = self._wrap(torch, PRODUCTS[setting.kind])
        return in_torch(setting, library, state, lambda: step(*state, v, h, STEP), lambda: apply(*state, v))

    def _low_rank(self, torch: Any, library: Library, setting: Setting, v: Any, h: Any) -> Calls:
        state = factors(torch, setting, v)
        step = self._wrap(torch, low_rank_update)
        apply = self._wrap(torch, low_rank_precondition)
        turn = [False]

        def update() -> None:
            turn[0] = not turn[0]
            step(*state, v, h, STEP, turn[0])

        calls = in_torch(setting, library, state, update, lambda: apply(*state, v))
        return calls._replace(period=2)


class CompiledTorch(PlainTorch):
    """The same through ``torch.compile``."""

    name = "torch.compile"

    def _wrap(self, torch: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False)
