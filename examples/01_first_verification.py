# %% [markdown]
# # A first verification
#
# PSGD fits `P = Q^T Q` to pairs of a random probe `v` and its Hessian-vector product `h = H v`. `P` should
# converge to `|H|^{-1}`, the inverse of the *absolute* Hessian (the same eigenvectors, absolute
# eigenvalues), whether `H` is definite or not. If `H` is known, so is this target, and we can measure the
# distance of the fit from it.

# %%
import matplotlib.pyplot as plt
import numpy as np

import psgd_core as psgd
from psgd_analysis import figures, problems
from psgd_core import convergence, schedules

n, kappa = 16, 30.0
definite = problems.hessians.dense(n, kappa, np.random.default_rng(0))
indefinite = problems.hessians.dense(n, kappa, np.random.default_rng(0), indefinite=True)
print("eigenvalues of the indefinite one:", np.linalg.eigvalsh(indefinite).round(2))

# %% [markdown]
# The target is computed from the eigenvalues of `H`. Let us check it.

# %%
target = convergence.target(indefinite)
w, vectors = np.linalg.eigh(indefinite)
assert np.allclose(target.minimizer, (vectors / abs(w)) @ vectors.T)

# %% [markdown]
# ## Fit, and measure
#
# `Dense` is the group GL(n) of all invertible matrices, in which every `|H|^{-1}` can be reached. The
# error is the affine-invariant distance of `P` from the target: the typical relative error of `P` over all
# directions.


# %%
def fit(hessian, draw, step, updates):
    """Fit Dense on pairs from `draw`; return the distances from the target at checkpoints."""
    p, goal, trace = psgd.Dense(), convergence.target(hessian), convergence.Trace()
    state = p.init(len(hessian), like=hessian)
    for t in range(updates):
        v, h = draw(hessian)
        state = p.update(state, v, h, step=step(t) if callable(step) else step)
        if (t + 1) % 50 == 0:
            q = p.apply(state, np.eye(len(hessian)))
            trace.record(t + 1, distance=convergence.distance(q, goal))
    return trace


rng = np.random.default_rng(1)


def exact(hessian):
    """Return n orthogonal probes and their products: the mean of v v^T is exactly the identity."""
    return problems.exact_pairs(hessian, rng)


def online(hessian):
    """Return one random probe and its product, as in training."""
    return problems.pairs(hessian, rng)


# %% [markdown]
# Four runs of `Dense`:
#
# 1. on *exact expectations*, for the indefinite Hessian. Theory predicts the rate: about `2 step / κ` per
#    update;
# 2. *online*, with one probe per update, for the definite Hessian;
# 3. online, for the indefinite one;
# 4. the same, with a step that falls to zero.

# %%
step = 0.5
traces = {
    "exact, indefinite": fit(indefinite, exact, step, 1500),
    "online, definite": fit(definite, online, step, 5000),
    "online, indefinite": fit(indefinite, online, step, 5000),
    "the same, annealed": fit(indefinite, online, schedules.Cosine(step, over=5000, end=1e-4), 5000),
}
rate = float(convergence.predicted_rate(target.spectra, step))
final = {name: trace.distance[-1] for name, trace in traces.items()}
for name, d in final.items():
    print(f"{name:20} {traces[name].updates[-1]} updates, distance {d:.1e}")

# %% [markdown]
# The first two end at rounding error. In the third, single samples disagree at the target: there `a = Q h`
# and `b = Q^{-T} v` have the same covariance, but they are not the same vectors if `H` is indefinite. So a
# constant step leaves an error floor, and annealing the step brings it down.

# %%
assert final["exact, indefinite"] < 1e-12
assert final["online, definite"] < 1e-12
assert 0.01 < final["online, indefinite"] < 1
assert final["the same, annealed"] < 0.3 * convergence.level(traces["online, indefinite"].distance)

fitted = convergence.fit_rate(traces["exact, indefinite"].updates, traces["exact, indefinite"].distance)
print(f"rate per update: predicted {rate:.4f}, fitted {fitted.rate:.4f}")
assert abs(fitted.rate / rate - 1) < 0.05

# %%
looks = (("sky", "-", 4.0), ("green", "-.", 1.6), ("vermilion", "-", 1.6), ("purple", "--", 1.6))
curves = [
    figures.Curve(
        trace,
        name,
        {"color": figures.COLORS[color], "linestyle": dash, "linewidth": width, "zorder": 0.5},
        rate=rate if name == "exact, indefinite" else None,
    )
    for (name, trace), (color, dash, width) in zip(traces.items(), looks, strict=True)
]
fig, ax = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
figures.convergence(
    ax, curves, f"Dense on GL({n}), κ = {kappa:g}, step {step:g}; dashes on the first: theory's slope"
)
plt.show()

# %% [markdown]
# `psgd verify` does this for every preconditioner, inside and outside the group, with and without noise,
# compares it with other methods, and says whether each run did what theory predicts.
