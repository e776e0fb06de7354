"""What a classifier's logits say about each example: probabilities, entropy, margin, loss, correctness.

With logits ``x`` in row i, ``z = x - max x`` and ``s`` the sum of ``e^{z_k}`` over all classes but the
largest one, the softmax is ``p = e^z / (1 + s)`` and

    H = -sum p_k log p_k = log(1 + s) + sum (-z_k) e^{z_k} / (1 + s)        entropy, in nats, 0 <= H <= ln C
    L = -log p_y         = log(1 + s) - z_y                                cross-entropy, in nats
    m = t_y - max_{k != y} t_k                                             margin of scores t, label y

No term of H is negative and `log1p` takes the s that the largest class is not in, so that H and L keep their
*relative* accuracy however sure the network is: the paper's table 11 compares entropies of 6e-18, where
``-sum p log p`` in float64 rounds to 0 or to 1e-16. Below about 1e-38 (float32) or 1e-308 they are 0.

Margin: Toneva et al. (2018), whom section 5.4 follows, take the difference of *logits* between the correct
class and the best wrong one; table 6 has values in [0, 1], "a 95% certainty level", so the paper takes it of
*probabilities*. (The largest probability itself it cannot be: 0.144 for that would need an entropy of at
least 1.94 nats, above the 1.545 listed.) `margin` does both: give it logits, or their `softmax`. Without
labels it is the difference of the two largest, which agrees where the prediction is right.

All functions are pure, trace under `jax.jit`, and stay on the library, dtype and device of their input.
They check shapes and dtypes; NaN in a row gives NaN for that row. `uncertainty` checks values.
"""

from __future__ import annotations

from types import ModuleType

import array_api_compat

from ..arrays import Array, namespace

_NEGLIGIBLE = -1000.0
"""exp of this is 0 in float32 and float64: nothing below it can be told apart, -Inf included."""


def softmax(logits: Array) -> Array:
    """Return the probabilities ``e^{x_k} / sum_j e^{x_j}`` of each row.

    Parameters
    ----------
    logits : array, shape (n, C)
        float32 or float64. -Inf rules a class out.

    Returns
    -------
    array, shape (n, C)
        Rows sum to 1.

    Raises
    ------
    ValueError, TypeError
        If `logits` does not have this shape with C >= 2, or is not float32 or float64.
    """
    xp = require_scores("logits", logits)
    e, _, _ = _exponentials(xp, logits)
    return e / xp.sum(e, axis=1, keepdims=True)


def entropy(logits: Array) -> Array:
    """Return the entropy of each row's softmax, in nats, with full relative accuracy down to underflow.

    Parameters
    ----------
    logits : array, shape (n, C)
        float32 or float64. -Inf rules a class out.

    Returns
    -------
    array, shape (n,)
        From 0 (certain) to ln C (all classes alike).

    Raises
    ------
    ValueError, TypeError
        As for `softmax`.
    """
    xp = require_scores("logits", logits)
    e, z, s = _exponentials(xp, logits)
    return xp.log1p(s) + xp.sum(-z * e, axis=1) / (1 + s)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return ``-log softmax(logits)[label]`` for each row, in nats, with full relative accuracy.

    Parameters
    ----------
    logits : array, shape (n, C)
        float32 or float64.
    labels : array of integers, shape (n,)
        NaN comes out where a label is not in 0..C-1.

    Returns
    -------
    array, shape (n,)

    Raises
    ------
    ValueError, TypeError
        As for `softmax`, or if `labels` does not fit.
    """
    xp = require_scores("logits", logits)
    own = _own_class(xp, logits, labels)
    _, _, s = _exponentials(xp, logits)
    z = logits - xp.max(logits, axis=1, keepdims=True)
    loss = xp.log1p(s) - xp.sum(xp.where(own, z, xp.zeros_like(z)), axis=1)
    return xp.where(xp.any(own, axis=1), loss, xp.full_like(loss, xp.nan))


def margin(scores: Array, labels: Array | None = None) -> Array:
    """Return by how much each row's correct class leads the best other one.

    ``margin(softmax(logits), labels)`` is the margin of the paper's table 6, in [-1, 1];
    ``margin(logits, labels)`` the misclassification margin of Toneva et al. (2018). Negative where the
    prediction is wrong, 0 at a tie.

    Parameters
    ----------
    scores : array, shape (n, C)
        Probabilities or logits, float32 or float64.
    labels : array of integers, shape (n,), optional
        The correct classes; NaN comes out where one is not in 0..C-1. Without them the class with the
        largest score counts as correct: the lead of the prediction, never negative.

    Returns
    -------
    array, shape (n,)

    Raises
    ------
    ValueError, TypeError
        If the arguments do not have these shapes and dtypes.
    """
    xp = require_scores("scores", scores)
    own = _largest(xp, scores) if labels is None else _own_class(xp, scores, labels)
    mine = xp.sum(xp.where(own, scores, xp.zeros_like(scores)), axis=1)
    best_other = xp.max(xp.where(own, xp.full_like(scores, -xp.inf), scores), axis=1)
    known = xp.any(own, axis=1)
    return xp.where(known, mine - best_other, xp.full_like(mine, xp.nan))


def correct(scores: Array, labels: Array) -> Array:
    """Return whether the correct class alone has the largest score: ``margin(scores, labels) > 0``.

    A tie for the first place is not correct, whichever index an `argmax` would prefer: otherwise a network
    with constant logits would be right about class 0.

    Parameters
    ----------
    scores : array, shape (n, C)
        Probabilities or logits.
    labels : array of integers, shape (n,)

    Returns
    -------
    array of bool, shape (n,)
        False where a score is NaN or a label not in 0..C-1.
    """
    return margin(scores, labels) > 0


def _exponentials(xp: ModuleType, logits: Array) -> tuple[Array, Array, Array]:
    """Return e^z, z (cut off where e^z is 0), and the sum s of e^z without the largest class."""
    z = logits - xp.max(logits, axis=1, keepdims=True)
    device = array_api_compat.device(logits)
    z = xp.maximum(z, xp.asarray(_NEGLIGIBLE, dtype=logits.dtype, device=device))
    e = xp.exp(z)
    return e, z, xp.sum(xp.where(_largest(xp, logits), xp.zeros_like(e), e), axis=1)


def _largest(xp: ModuleType, scores: Array) -> Array:
    """Return the mask (n, C) of one largest score per row."""
    return _classes(xp, scores) == xp.argmax(scores, axis=1)[:, None]


def _own_class(xp: ModuleType, scores: Array, labels: Array) -> Array:
    """Return the mask (n, C) of the correct classes."""
    require_labels(scores, labels)
    classes = _classes(xp, scores)
    return classes == xp.astype(labels, classes.dtype)[:, None]


def _classes(xp: ModuleType, scores: Array) -> Array:
    return xp.arange(scores.shape[1], device=array_api_compat.device(scores))[None, :]


def require_labels(scores: Array, labels: Array) -> None:
    """Raise unless `labels` are integers, one per row of `scores`, of the same library."""
    xp = namespace(logits=scores, labels=labels)
    if not xp.isdtype(labels.dtype, "integral"):
        raise TypeError(f"`labels` must be integers, got {labels.dtype}; give each example's class index")
    if tuple(labels.shape) != (scores.shape[0],):
        raise ValueError(
            f"`labels` must have shape ({scores.shape[0]},), one per row, got {tuple(labels.shape)}; "
            "turn one-hot rows into indices with `argmax`"
        )


def require_scores(name: str, x: Array) -> ModuleType:
    """Return the namespace of `x`, or raise unless it is float32 or float64 of shape (n, C), C >= 2."""
    xp = namespace(**{name: x})
    if x.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"`{name}` must be float32 or float64, got {x.dtype}; convert it with `astype`")
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(
            f"`{name}` must have shape (n, C) with C >= 2 classes, a row per example, got {tuple(x.shape)}; "
            "reshape it (binary scores x become the two columns 0 and x)"
        )
    return xp
