"""Peers' preconditioners of tensors: one update of their Kronecker factors on a pair, and P g.

psgd-core's `Kronecker` and all of these move ``dQ_i = E_i Q_i`` with triangular factors, and diagonal ones
in the same dimensions: each gets the largest dimension that psgd-core makes triangular as its own limit. What
one update is:

- psgd-core: the pair (v, h) as it is; checks that it is finite, adds its damping, steps by a running bound of
  each factor, balances the factors, and skips what is not finite;
- psgd-jax: (v, h); the sample's own lower bound of the norm; no balancing, no damping (its optimiser does
  these outside of the function); jitted, the state donated;
- heavyball: (v, h); balances in every update, two power iterations, a running bound; compiled through its
  own switch, in torch.compile's default mode. At its usual one, max-autotune, that takes a minute and
  fails for 3 x 3 matrices on a CPU (heavyball 3.2.1, torch 2.13);
- kron-torch: whitens h with a v that it draws inside, and adds its damping to h; the sample's own lower
  bound; compiled, as it comes;
- pytorch_optimizer: (v, h); the sample's own lower bound; eager, as it comes;
- psgd_torch: (v, h); damping, a running bound, balances in one update of a hundred; eager, as it comes.

The peers' optimisers may merge dimensions before they come here, so that a convolution is a matrix to them;
here every one keeps the shape that it is given.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

from .contenders import STEP, Calls, Setting
from .costs import triangular
from .libraries import Library
from .peer import in_torch, jitted, torch_pair

TINY = 1.2e-38


def psgd_jax(setting: Setting) -> Calls:
    """Return the calls of `psgd_jax.kron`'s functions."""
    kron: Any = importlib.import_module("psgd_jax.kron")
    library = Library("jax", setting.library.dtype, setting.library.device)
    v, h = (library.asarray(x).reshape(setting.shape) for x in setting.pair())
    q, expressions = kron._init_Q_exprs(h, 1.0, triangular(setting.shape), 0, None, None)

    def step(q: Any, v: Any, h: Any) -> Any:
        return kron._update_precond(q, h, kron._conjB(q, h, v), expressions, STEP)

    return jitted(library, q, step, lambda q, g: kron._precond_grad(q, g, expressions), v, h)


def heavyball(setting: Setting) -> Calls:
    """Return the calls of `heavyball.utils`: a bucket of one tensor, compiled unless it is a vector."""
    torch, library, pair = torch_pair(setting)
    utils: Any = importlib.import_module("heavyball.utils")
    shape, largest, mode = _form(setting)
    if setting.shape:
        utils.compile_mode = "default"
    else:
        utils.compile_mode = utils.compile_mode_recommended_to_none = None
    v, h = (x.reshape((1, *shape)) for x in pair)
    q = utils.init_Q_exprs(h, 1.0, None, None, largest, 0, mode, None, None, dtype=v.dtype)
    bound = [torch.zeros(1, dtype=v.dtype, device=v.device) for _ in q]

    def update() -> None:
        utils.psgd_update_precond(h, STEP, q, False, 0.999, v, bound, 0.9, 2)

    calls = in_torch(setting, library, q, update, lambda: utils.psgd_precond_grad(v, q))
    return calls._replace(note=_note(setting, "compiled" if setting.shape else "eager"))


def kron_torch(setting: Setting) -> Calls:
    """Return the calls of `kron_torch.kron`."""
    torch, library, pair = torch_pair(setting)
    kron: Any = importlib.import_module("kron_torch.kron")
    shape, largest, mode = _form(setting)
    v, h = (x.reshape(shape) for x in pair)
    q, expressions = kron._init_Q_exprs(h, 1.0, largest, 0, mode, v.dtype)
    step, tiny = (torch.tensor(x, dtype=v.dtype, device=v.device) for x in (STEP, TINY))
    calls = in_torch(
        setting,
        library,
        q,
        lambda: kron._update_precond(q, expressions, h, step, tiny),
        lambda: kron._precond_grad(q, expressions, v),
    )
    return calls._replace(note=_note(setting, "compiled, draws its probe"))


def pytorch_optimizer(setting: Setting) -> Calls:
    """Return the calls of `pytorch_optimizer`'s functions."""
    _, library, pair = torch_pair(setting)
    module: Any = importlib.import_module("pytorch_optimizer.optimizer.psgd")
    shape, largest, mode = _form(setting)
    v, h = (x.reshape(shape) for x in pair)
    q, expressions = module.initialize_q_expressions(h, 1.0, largest, 0, mode, v.dtype)
    calls = in_torch(
        setting,
        library,
        q,
        lambda: module.update_precondition(q, expressions, v, h, STEP, TINY),
        lambda: module.get_precondition_grad(q, expressions, v),
    )
    return calls._replace(note=_note(setting, "eager"))


def _form(setting: Setting) -> tuple[tuple[int, ...], float, str | None]:
    """Return the tensor's shape, its largest triangular dimension, and the mode that makes all diagonal.

    Vectors are tensors of one dimension, with a triangular factor, or a diagonal one.
    """
    if setting.shape:
        return setting.shape, triangular(setting.shape), None
    return (setting.n,), math.inf, "all_diag" if setting.kind == "diagonal" else None


def _note(setting: Setting, how: str) -> str:
    """Return how a peer is called, and that its factor of a vector is triangular."""
    return how if setting.shape or setting.kind == "diagonal" else f"{how}, triangular"


def psgd_torch(setting: Setting, module: Any) -> Calls:
    """Return the calls of ``psgd.py`` of a checkout."""
    _, library, pair = torch_pair(setting)
    v, h = (x.reshape(setting.shape) for x in pair)
    largest = triangular(setting.shape)
    state, expressions = module.init_kron(h, 1.0, max_size=largest, max_skew=float("inf"), dQ="EQ")
    calls = in_torch(
        setting,
        library,
        [*state[0], *state[1]],
        lambda: module.update_precond_kron_newton_eq(state, expressions, v, h, lr=STEP),
        lambda: module.precond_grad_kron(state, expressions, v),
    )
    return calls._replace(note="eager")
