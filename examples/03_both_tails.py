# %% [markdown]
# # Both tails of a spectrum
#
# Hessians of real problems often have many similar eigenvalues, a few that are much larger and a few that
# are much smaller. `P = ρI + U U^T` can only lift eigenvalues above ρ, so it corrects one of the two tails.
# `Q = ρ(I + U V^T)`, with as many columns, corrects both (Theorem 3.2). How much is that worth?

# %%
import matplotlib.pyplot as plt
import numpy as np

import psgd_core as psgd
from psgd_analysis import problems, spectrum

rng = np.random.default_rng(0)
H = problems.hessians.two_tails(48, 2, 2, rng, gap=5.0).hessian
w = np.linalg.eigvalsh(H)
print(f"n = {len(w)}: {w[:3].round(3)} ... {w[-3:].round(3)}, κ = {w[-1] / w[0]:.0f}")

# %% [markdown]
# ## Look at the spectrum
#
# The spectral density is estimated by stochastic Lanczos quadrature, from products `H v` alone, with error
# bars. Here the eigenvalues are known, so we can draw the exact density for comparison.

# %%
density = spectrum.density(H, rng, scale="log", width=0.03)
density

# %%
density.plot(exact=w)
plt.show()

# %% [markdown]
# ## What rank r can do
#
# The best result that each form can reach for this spectrum is known in closed form. To compare,
# `LowRank(r)` is fitted to 300 Hessian-vector products.

# %%
study = spectrum.rank_study(H, (0, 1, 2, 4), rng=rng, products=300)
study

# %%
study.plot()
plt.show()

# %% [markdown]
# With rank 2, the form `ρ(I + U V^T)` removes two eigenvalues from *each* tail: nothing is left. With the
# form `ρI + U U^T`, the two large ones stay, whatever the rank. The fitted preconditioner reaches the
# closed form.

# %%
r2 = list(study.ranks).index(2)
assert np.isclose(study.best_condition[r2], 1)
assert np.allclose(study.one_tail_condition[r2:], 5)  # the upper tail alone, from any rank on
assert study.fitted_condition[r2] < 1.1

# %% [markdown]
# ## Before and after
#
# Now compare preconditioners that are fitted to the Hessian. A diagonal cannot rotate into the directions
# of the tails, rank 1 removes one eigenvalue from each end, and rank 2 removes all four.

# %%
fitted = {}
for p in (psgd.Diagonal(), psgd.LowRank(1, geometry="natural"), psgd.LowRank(2, geometry="natural")):
    name = f"LowRank({p.rank})" if isinstance(p, psgd.LowRank) else "Diagonal"
    fitted[name] = (p, spectrum.fit(H, p, rng))
comparison = spectrum.compare(H, fitted)
comparison

# %%
comparison.plot()
plt.show()

# %%
before, diagonal, one, two = comparison.condition_numbers
assert two < 1.1 < one < diagonal < 2 * before
