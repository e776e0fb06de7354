"""`scale_by_psgd`: g becomes P m. `psgd`: the optimiser around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from ...descent import clips
from ...preconditioners import Replay
from ...schedules import Schedule
from .engines import EngineName
from .rule import Choice, Rule


def scale_by_psgd(
    preconditioner: Choice | None = None,
    step: Schedule = 0.1,
    *,
    momentum: float = 0.0,
    clip: clips.Clip | tuple[clips.Clip, ...] | float | None = None,
    every: int = 1,
    probability: Schedule = 1.0,
    key: int | jax.Array | None = None,
    sampler: Callable[..., jax.Array] | None = None,
    scale: float | None = None,
    per_leaf: bool = True,
    engine: EngineName = "jax",
    replay: Replay | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation of gradients g into ``P m``, with P fitted on curvature pairs along the way.

    The sign stays: `optax.scale_by_learning_rate` comes after it.

    Parameters
    ----------
    preconditioner : Preconditioner, or callable
        `XMat` by default. A callable takes a leaf's `jax.ShapeDtypeStruct`: ``lambda leaf: LowRank(10) if
        leaf.size > 10 else Dense()``.
    step : float or schedule
        Step size of the fitting, in (0, 1): a number, or a function of the count (optax's too).
    momentum, clip, every, probability
        As in `psgd_core.PSGD`. A norm is that of all leaves together. `TrustRadius` is refused: it takes
        steps back.
    key : int or JAX key
        Draws probes that are not given, and coins; 0 by default. The state holds its data, as an array.
    sampler : callable
        ``sampler(key, shape, dtype)`` of these probes; `jax.random.normal` by default.
    scale : float, optional
        Q starts as this multiple of the identity; set by the first pair by default.
    per_leaf : bool
        A preconditioner for each leaf. False concatenates all of them to one vector and one P, which sees
        the curvature between leaves, and gathers sharded ones.
    engine : {"jax", "numpy", "cupy"}
        Outside ``jax.jit``, NumPy or CuPy may do the work, on views of the JAX arrays; the state then holds
        their arrays.
    replay : Replay, optional
        Fits each pair together with some of those before it, which are kept in the state: see
        `psgd_core.Replay`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``update(grads, state, params=None, *, hvp=None, probe=None)`` takes the product ``H v`` and the
        probe v, in the structure of the gradients (or with a leading axis of k probes), as `value_grad_hvp`
        returns them; or ``hvp=(v, H v)``; or ``hvp`` a function of v, which is called only in updates that
        fit P (under ``lax.cond``) and draws v itself. Without it the gradient whitens: h = g.
        Leaves of 16 bits have a float32 state. Under `optax.masked` and what is made of it (`partition`)
        products and probes may be of all parameters, and a function gets a v of all, zero where hidden.

    Raises
    ------
    TypeError, ValueError
        For invalid settings, and for trees of another structure.
    """
    rule = Rule(
        preconditioner,
        step,
        momentum,
        clip,
        every,
        probability,
        key,
        sampler,
        scale,
        per_leaf,
        engine,
        replay,
    )
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


def psgd(
    learning_rate: optax.ScalarOrSchedule,
    preconditioner: Choice | None = None,
    step: Schedule = 0.1,
    *,
    momentum: float = 0.9,
    clip: clips.Clip | tuple[clips.Clip, ...] | float | None = clips.AdaptiveNorm(),  # noqa: B008 (frozen)
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    every: int = 1,
    probability: Schedule = 1.0,
    key: int | jax.Array | None = None,
    sampler: Callable[..., jax.Array] | None = None,
    scale: float | None = None,
    per_leaf: bool = True,
    engine: EngineName = "jax",
    replay: Replay | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the optimiser ``x <- (1 - lr w) x - lr P m``: `scale_by_psgd`, decay, learning rate.

    Parameters
    ----------
    learning_rate : float or optax schedule
        1 is Newton's step once P is fitted (0.1 and less where gradients are noisy).
    preconditioner, step, momentum, clip, every, probability, key, sampler, scale, per_leaf, engine, replay
        As in `scale_by_psgd`. `optax.inject_hyperparams` may inject all numbers among them; a preconditioner
        that is a function is one of its ``static_args``.
    weight_decay : float or optax schedule
        w, decoupled.
    mask : pytree of bools, or callable
        Which parameters decay, as in `optax.add_decayed_weights`.
    """
    return optax.chain(
        scale_by_psgd(
            preconditioner,
            step,
            momentum=momentum,
            clip=clip,
            every=every,
            probability=probability,
            key=key,
            sampler=sampler,
            scale=scale,
            per_leaf=per_leaf,
            engine=engine,
            replay=replay,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
