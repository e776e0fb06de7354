"""The spectral density by stochastic Lanczos quadrature, with error bars.

The density of the n eigenvalues, broadened by a Gaussian of width σ, is a trace of a function of the matrix:

    φ(t) = (1/n) sum_i g(t - λ_i) = E[v^T g(t - H) v],       v uniform on the unit sphere,

and each ``v^T g(t - H) v`` is a sum over the nodes and weights of a Lanczos run started at v (`lanczos`).
Two errors are made, and both are stated at every t:

- *From the probes.* For v on the sphere the variance is known: ``2/(n + 2) ((1/n) sum g_i^2 - φ^2)``, and
  what it consists of comes out of the same nodes and weights. N probes estimate φ with ν = 2 φ²/variance
  degrees of freedom, never fewer than N because g >= 0 (``(sum g_i)^2 >= sum g_i^2``), and the interval is
  that of a χ² variable with ν degrees (Satterthwaite). For one isolated eigenvalue that law is exact, and
  far from normal: its weight in a probe is a single squared component of v. As ν is itself estimated, it is
  taken two standard deviations lower, and the interval covers at least as often as it says (0.95 to 0.99 for
  a stated 0.95, measured).
- *From stopping at m steps.* The m-point anti-Gauss rule errs by as much as the (m-1)-point Gauss rule, the
  other way: the difference of the two, twice the estimated error, is added to the interval on both sides.

On a logarithmic scale g is a Gaussian in ``log10 |λ|``, for positive and negative eigenvalues apart. How
small the smallest eigenvalues are, products do not tell: below a floor, found from where the two rules
differ, the density is left out, and what lies there is given as one fraction.
"""

from __future__ import annotations

import warnings

import array_api_compat
import numpy as np

from ..arrays import Array, rounding, to_host
from ..checks import require_count, require_rng
from ..problems import probes as draw_probes
from .broadening import Scale, cells, evaluate, floor_of, grid_for, narrowest, place
from .operators import HessianOperator, as_operator
from .recurrence import Rule, gauss_rules, lanczos
from .results import Density

BASIS_BYTES = 2**30
"""By default vectors are held and reorthogonalised if they fit in this much memory."""


def density(
    hessian: HessianOperator | Array,
    rng: np.random.Generator,
    *,
    probes: int = 10,
    steps: int = 100,
    scale: Scale = "linear",
    width: float | None = None,
    grid: np.ndarray | None = None,
    confidence: float = 0.95,
    reorthogonalize: bool | None = None,
    batch: int | None = None,
) -> Density:
    """Return the spectral density of a Hessian from `probes` times `steps` products with it.

    Parameters
    ----------
    hessian : HessianOperator or array, shape (n, n)
    rng : numpy.random.Generator
        Draws the probes, on the host: the same ones for every library.
    probes : int
        N. The error from probes falls as ``1/sqrt(N)``, and with n: at n = 10^6 a single one does.
    steps : int
        m, at most n; with m = n and reorthogonalisation the rule is exact. Resolves details of about the
        spectrum's width over m, finer at its ends and at isolated eigenvalues.
    scale : {"linear", "log"}
        Density over λ, or over ``log10 |λ|``.
    width : float, optional
        σ, in units of λ (or decades). By default the narrowest at which stopping at m steps displaces no more
        than 2 % of the eigenvalues, but within 1/64 and 1/8 of what holds the middle 90 % of the spectrum.
    grid : array, shape (points,), optional
        Where to evaluate, ascending, on the host; by default every half width wherever there is a node.
    confidence : float
        Of the interval at each single t. It holds as long as the nodes are not further apart than `width`:
        there is a warning where they are.
    reorthogonalize : bool, optional
        See `lanczos`; by default True while the vectors fit in `BASIS_BYTES`.
    batch : int, optional
        Probes run together; all by default, or one at a time where the vectors would not fit.

    Returns
    -------
    Density
        On the host. Memory on the device: ``m n batch`` numbers with reorthogonalisation, about a dozen
        vectors for each probe of a batch without.

    Raises
    ------
    ValueError, TypeError
        For counts below 1, a width that is not positive, an unknown `scale`, products that are not finite.
    """
    op = as_operator(hessian)
    _require(op, rng, probes, steps, scale, width, confidence, batch)
    # hold all vectors, and run all probes at once, where memory allows it
    steps = min(steps, op.n)
    size = steps * op.n * array_api_compat.array_namespace(op.like).finfo(op.like.dtype).bits // 8
    if reorthogonalize is None:
        reorthogonalize = size <= BASIS_BYTES
    if batch is None:
        batch = probes if size * probes <= BASIS_BYTES else 1
    gauss, anti = _all_rules(op, rng, probes, steps, reorthogonalize, batch)

    # what lies below the floor is not resolved, and reported as one fraction
    weighty = gauss.nodes[gauss.weights > 1e-20]  # where a subspace is exhausted, the nodes left over weigh 0
    zero = 8 * rounding(op.like) * float(np.max(np.abs(gauss.nodes)))
    floor = floor_of(gauss, anti, zero) if scale == "log" else zero
    below = float(np.mean(np.sum(gauss.weights * (np.abs(gauss.nodes) <= floor), axis=1)))
    # the axis of the density: its width and its grid
    a, b = place(gauss, scale, zero), place(anti, scale, zero)
    if width is None:
        width = narrowest(a, b)
    t = grid_for(a, b, width) if grid is None else _user_grid(grid)
    if grid is None and scale == "log" and floor > zero:
        t = t[t >= np.log10(floor)]
    if t.size == 0:
        raise ValueError(
            f"`scale` must be 'linear' for {op.name}, got 'log', which resolves no |λ| above {floor:.2g}; "
            "or raise `steps`"
        )
    # the density with both errors
    value, second, truncation, negative = evaluate(a, b, t, width)
    displaced = float(np.sum(cells(t, width) * truncation))
    if displaced > 1:
        warnings.warn(
            f"a width of {width:.3g} is too narrow for {steps} steps on {op.name}: nodes lie further apart, "
            "and between them the interval says nothing; take more steps or a larger `width`",
            stacklevel=2,
        )
    lower, upper = _interval(value, second, probes, op.n, confidence)
    if scale == "log" and floor > zero:  # not resolved there, and the caller's grid may go below
        lower, upper = (np.where(t < np.log10(floor), np.nan, x) for x in (lower, upper))
    return Density(
        name=op.name,
        grid=t,
        density=value,
        lower=np.maximum(lower - truncation, 0.0),
        upper=upper + truncation,
        truncation=truncation,
        displaced=displaced,
        negative=negative,
        width=float(width),
        scale=scale,
        confidence=confidence,
        below=below,
        floor=float(floor),
        n=op.n,
        probes=probes,
        steps=steps,
        reorthogonalized=bool(reorthogonalize),
        extremes=(float(np.min(weighty)), float(np.max(weighty))),
    )


def _all_rules(op, rng, probes: int, steps: int, reorthogonalize: bool, batch: int) -> tuple[Rule, Rule]:
    parts = []
    for start in range(0, probes, batch):
        v = draw_probes(op.n, rng, min(batch, probes - start), like=op.like)
        t = lanczos(op, v, steps, reorthogonalize=reorthogonalize)
        if not (np.all(np.isfinite(to_host(t.alpha))) and np.all(np.isfinite(to_host(t.beta)))):
            raise ValueError(
                f"the products of {op.name} must be finite, got NaN or Inf; look at the function"
            )
        parts.append(gauss_rules(t, exhausted=reorthogonalize and steps == op.n))
    gauss, anti = (Rule(*map(np.concatenate, zip(*rules, strict=True))) for rules in zip(*parts, strict=True))
    return gauss, anti


def _interval(value, second, probes: int, n: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the χ² interval of a mean of `probes` quadratic forms on the sphere."""
    from scipy.special import gammaincinv

    some = value > 0
    ratio = np.where(some, second, 1.0) / np.where(some, value, 1.0) / np.where(some, value, 1.0)
    with np.errstate(divide="ignore"):  # no variance, infinitely many degrees: the function is constant
        half = np.minimum(probes * (n + 2) / np.maximum(ratio - 1, 0.0) / 2, 1e12)
    half = np.maximum(probes / 2, half - 2 * np.sqrt(half))  # ν, less two standard deviations of its own
    tail = (1 - confidence) / 2
    return value * half / gammaincinv(half, 1 - tail), value * half / gammaincinv(half, tail)


def _user_grid(grid: np.ndarray) -> np.ndarray:
    t = np.asarray(grid, dtype=np.float64)
    if t.ndim != 1 or t.size == 0 or not np.all(np.isfinite(t)) or np.any(np.diff(t) <= 0):
        raise ValueError("`grid` must hold finite, ascending numbers, shape (points,); got others")
    return t


def _require(op, rng, probes, steps, scale, width, confidence, batch) -> None:
    require_rng(rng)
    require_count("probes", probes)
    require_count("steps", steps, 1 if op.n == 1 else 2)  # the error estimate compares two rules
    require_count("batch", 1 if batch is None else batch)
    if scale not in ("linear", "log"):
        raise ValueError(f"`scale` must be 'linear' or 'log', got {scale!r}; choose one of these")
    if width is not None and not (np.isfinite(width) and width > 0):
        raise ValueError(f"`width` must be positive and finite, got {width!r}; leave it out to choose one")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1), got {confidence!r}; 0.95 is usual")
