# %% [markdown]
# # Noise damps itself
#
# In training, the products `h = H v + ε` are noisy, because each comes from a sample. PSGD does not average
# the noise away: it converges to `P = (H^2 + E[ε ε^T])^{-1/2}`. Where the curvature is smaller than the
# noise, `P` stops growing, and no damping has to be chosen.

# %%
import matplotlib.pyplot as plt
import numpy as np

import psgd_core as psgd
from psgd_analysis import figures, problems
from psgd_core import convergence, criterion, schedules

n = 16
rng = np.random.default_rng(0)
H = problems.hessians.dense(n, 300.0, rng, indefinite=True)
w = np.linalg.eigvalsh(H)
print(f"|λ| from {abs(w).min():.2g} to {abs(w).max():.2g}; {np.sum(w < 0)} of {n} negative")


# %%
def fit(sigma, updates=3000):
    """Fit Dense on products with isotropic noise of size sigma; return P."""
    p = psgd.Dense()
    state = p.init(n, like=H)
    step = schedules.Cosine(0.5, over=updates, end=1e-3)
    root = sigma * np.eye(n)
    for t in range(updates):
        v, h = problems.pairs(H, rng, 8, noise_root=root)  # eight probes in one update
        state = p.update(state, v, h, step=step(t))
    return p, state


fits = {sigma: fit(sigma) for sigma in (1.0, 0.25)}

# %% [markdown]
# In the eigenbasis of `H` the limit is `1/sqrt(λ^2 + σ^2)`. The fits agree with it.

# %%
vectors = np.linalg.eigh(H)[1]
magnitudes = np.geomspace(abs(w).min(), abs(w).max())
fig, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
ax.loglog(magnitudes, 1 / magnitudes, color="0.5", label="1/|λ|, without noise")
for (sigma, (p, state)), color, marker in zip(fits.items(), ("blue", "vermilion"), "os", strict=True):
    P = p.matrix(state)
    diagonal = np.diagonal(vectors.T @ P @ vectors)
    exact = 1 / np.sqrt(w**2 + sigma**2)
    error = np.max(np.abs(np.log(diagonal / exact)))
    distance = convergence.distance(
        p.apply(state, np.eye(n)), convergence.target(H, noise=sigma**2 * np.eye(n))
    )
    print(f"σ = {sigma:<4}: largest error along an eigenvector {error:.1%}, distance {float(distance):.3f}")
    assert distance < 0.1
    assert np.linalg.eigvalsh(P).max() < 1.1 / sigma  # bounded by the noise, not by 1/|λ|
    style = figures.COLORS[color]
    ax.loglog(magnitudes, 1 / np.sqrt(magnitudes**2 + sigma**2), "--", color=style)
    ax.loglog(
        abs(w), diagonal, marker, color=style, markersize=5, label=f"fitted, σ = {sigma} (dashes: limit)"
    )
ax.set(xlabel="|λ| of H", ylabel="P along the eigenvector")
ax.set_title("P follows 1/|λ| down to the noise σ", loc="left", fontsize=10)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# At the minimiser, `P E[h h^T] P = E[v v^T]`: the preconditioned noisy products are white, which
# generalises Newton's method (appendix A). For the exact minimiser the residual is at rounding level.

# %%
M = criterion.second_moment(H, 0.25**2 * np.eye(n))
P = criterion.minimizer(H, 0.25**2 * np.eye(n))
assert np.abs(criterion.damping_residual(P, M)).max() < 1e-10
