# %% [markdown]
# # A new group in one file
#
# A preconditioner is a Lie group plus one fitting rule. This page adds a group that the package does not
# have, the lower triangular matrices, from an empty file to a verified fit. The result has the same methods
# as all other preconditioners, and works wherever they do.
#
# Why this group? Every positive definite `P` is `Q^T Q` for exactly one lower triangular `Q` with a
# positive diagonal. So, like GL(n), the group can represent every `|H|^{-1}`. But `Q` has no freedom to
# rotate, so `Q` itself converges, and not only `P`.

# %%
import importlib.util
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg

import psgd_core as psgd
from psgd_analysis import problems
from psgd_core import convergence
from psgd_core.arrays.library import device_of, namespace
from psgd_core.preconditioners import Fitted

# %% [markdown]
# ## The state
#
# The state is a NamedTuple of arrays, so it is a JAX pytree and `psgd.save` can write it. First come the
# fields that are special to the group, then `held`, which belongs to the normaliser, then the counters,
# which belong to the base class (`psgd_core.preconditioners.Counters` describes them).


# %%
class TriangularState(NamedTuple):
    """State of `Triangular`."""

    q: Any  # (n, n): Q, lower triangular with a positive diagonal
    held: Any  # 0-d: the running bound
    damping: Any
    pending: Any
    off_scale: Any
    count: Any
    skipped: Any


# %% [markdown]
# ## The preconditioner
#
# A frozen dataclass without arrays. The base class supplies `init`, `update`, `precondition`, `matrix`,
# `criterion` and `check`. In an update it checks the pair, says whether the scale is due and how large the
# damping is, keeps the old state if the pair is unusable, and counts. What remains is special to the group:
#
# - how to start (`_start`), and what a multiple of `Q` is (`_scaled`);
# - which dtypes and shapes its arrays have (`_form`): it is given those of the state at hand, and returns n
#   and those that they should be;
# - how to fit (`_fit`). With `a = Q h` and `b = Q^{-T} v`, the gradient for a move `dQ = E Q` is
#   `a a^T - b b^T` (eq. (11)), projected on the Lie algebra of the group: here, its lower triangle. The
#   move `Q <- (I - step G / N) Q` stays in the group, as a product of lower triangular matrices;
# - how `Q` acts (`_act`), and its determinant (`_log_det`).
#
# The normaliser makes N from the sum of the Frobenius norms of `a a^T` and `b b^T`. This sum bounds the
# norm of the gradient, projected or not, so with a step below 1 the diagonal of `I - step G / N` stays
# positive. Everything is in units of the largest entry, so that no square overflows. The code uses only
# functions of the array API standard, and never looks at a value. So it also runs on PyTorch tensors, on
# CuPy arrays, and under `jax.jit`.


# %%
@dataclass(frozen=True)
class Triangular(psgd.Preconditioner):
    """Q lower triangular. P tends to ``|H|^{-1}``, and Q to its unique triangular factor."""

    damping: float | None = None
    normalizer: psgd.normalizers.Normalizer = field(default_factory=psgd.normalizers.Running)

    state_type = TriangularState

    def _start(self, n, like, rng):
        xp = namespace(like)
        return identity(n, like), xp.zeros((), dtype=like.dtype, device=device_of(like))

    def _scaled(self, state, scale):
        return state._replace(q=state.q * scale)

    def _form(self, own, real):
        (_, (n, _)), _ = own
        return n, ((real, (n, n)), (real, ()))

    def _fit(self, state, given):
        xp, (n, k), q = namespace(state.q), given.h.shape, state.q
        # without v, n probes whose mean v v^T is I; the damping as n more products, in expectation
        one = identity(n, q)
        v = k**0.5 * one if given.v is None else given.v
        h = xp.concat([given.h, k**0.5 * given.damping * one], axis=1)
        a, b = q @ h, xp.linalg.solve(q.T, v)
        # the pair that sets the scale: the criterion at c Q is least for c^4 = |b|^2 / |a|^2
        length_a, length_b = norm(a), norm(b)
        scale = xp.ones_like(length_a)
        if given.due is not None:
            scale = (xp.where(given.due, length_b, scale) / xp.where(given.due, length_a, scale)) ** 0.5
            q, a, b = q * scale, a * scale, b / scale
        # the generator in units of unit^2, and its size
        unit = xp.maximum(xp.max(xp.abs(a)), xp.max(xp.abs(b)))
        unit = xp.where(unit > 0, unit, xp.ones_like(unit))
        a, b = a / unit, b / unit
        aa, bb = a @ a.T / k, b @ b.T / k
        size = unit * (xp.linalg.matrix_norm(aa) + xp.linalg.matrix_norm(bb)) ** 0.5
        # ask the normaliser, and move
        rate, held = self.normalizer.rate(state.held, size, unit, given.step)
        new = state._replace(q=q - rate * (xp.tril(aa - bb) @ q), held=held)
        return Fitted(new, moved=xp.isfinite(size), growth=scale**2, sizes=(length_a, length_b))

    def _act(self, state, x, verb):
        q = state.q.T if verb.endswith("transpose") else state.q
        return q @ x if verb.startswith("apply") else namespace(q).linalg.solve(q, x)

    def _log_det(self, state):
        xp = namespace(state.q)
        return 2 * xp.sum(xp.log(xp.linalg.diagonal(state.q)))


# %% [markdown]
# Two small functions that it uses. (`psgd_core.arrays` has `namespace`, which tells the library of an
# array, and `device_of`, which leaves it to JAX where to put an array that is not tied to a device.)


# %%
def identity(n, like):
    """The identity matrix, on the library, dtype and device of `like`."""
    xp = namespace(like)
    return xp.eye(n, dtype=like.dtype, device=device_of(like))


def norm(x):
    """The Euclidean norm of all entries, without overflow."""
    xp = namespace(x)
    unit = xp.max(xp.abs(x))
    unit = xp.where(unit > 0, unit, xp.ones_like(unit))
    return unit * xp.linalg.vector_norm(x / unit)


# %% [markdown]
# ## Is it what it says?
#
# First we check the methods against dense matrices, after some updates:

# %%
rng = np.random.default_rng(0)
n = 12
H = problems.hessians.dense(n, 20.0, rng, indefinite=True)
p = Triangular()
state = p.init(n, like=H)
for _ in range(20):
    state = p.update(state, *problems.pairs(H, rng), step=0.2)

Q, X = state.q, rng.standard_normal((n, 3))
assert np.array_equal(Q, np.tril(Q))
assert np.all(np.diagonal(Q) > 0)
assert np.allclose(p.precondition(state, X), Q.T @ Q @ X)
assert np.allclose(p.solve(state, p.apply(state, X)), X)
assert np.allclose(p.apply_transpose(state, p.solve_transpose(state, X)), X)
assert np.isclose(p.log_det(state), np.linalg.slogdet(p.matrix(state))[1])
p.check(state)

# %% [markdown]
# Then we check the fit, on exact expectations (n orthogonal probes in one update), for an indefinite
# Hessian. `P` goes to `|H|^{-1}` at a constant rate, and `Q` to its triangular factor, which SciPy's
# Cholesky gives after reversing the rows and columns.

# %%
target = convergence.target(H)
turned = scipy.linalg.cholesky(target.minimizer[::-1, ::-1], lower=True)
factor = turned[::-1, ::-1].T
assert np.allclose(factor.T @ factor, target.minimizer)

trace, errors = convergence.Trace(f"Lower triangular matrices, n = {n}, step 0.5"), []
state = p.init(n, like=H)
for t in range(3000):
    state = p.update(state, *problems.exact_pairs(H, rng), step=0.5)
    if t % 50 == 49:
        trace.record(t + 1, distance=convergence.distance(state.q, target))
        errors.append(np.max(np.abs(state.q - factor)))
print(f"distance of P from |H|^-1: {trace.distance[-1]:.1e}, largest error of Q: {errors[-1]:.1e}")
assert trace.distance[-1] < 1e-12
assert errors[-1] < 1e-12

# %%
ax = trace.plot()
ax.semilogy(trace.updates, errors, "--", label="largest error of Q's entries")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Other libraries give the same result, if they are installed, JAX also compiled:

# %%
start, (v, h) = p.init(n, like=H.astype("float32")), problems.pairs(H, rng)
v, h = v.astype("float32"), h.astype("float32")
expected = p.update(start, v, h, step=0.2).q
for name in ("torch", "jax"):
    if importlib.util.find_spec(name) is None:
        print(f"{name} is not installed")
        continue
    library = importlib.import_module("jax.numpy" if name == "jax" else name)
    v_there, h_there = library.asarray(v), library.asarray(h)
    update = partial(p.update, step=0.2)
    if name == "jax":
        update = importlib.import_module("jax").jit(update)
    there = update(p.init(n, like=v_there), v_there, h_there)
    print(f"{name}: {type(there.q).__name__}, {there.q.dtype}")
    assert np.allclose(np.asarray(there.q), expected, atol=1e-6)

# %% [markdown]
# And it works in `minimize` like any other:

# %%
plane = problems.rosenbrock()
result = psgd.minimize(
    plane.value, plane.start, grad=plane.gradient, hvp=plane.hvp, preconditioner=Triangular()
)
print(result.message, "x =", result.x)
assert result.success
assert np.allclose(result.x, 1)

# %% [markdown]
# To bring a group into the package, put it into a file of `psgd_core/preconditioners/`, export it, and add
# a row to the table in `tests/registry.py`. With that row, every property test runs on it, on every array
# library. This example is in the table as well.
