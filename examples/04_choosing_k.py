# %% [markdown]
# # Choosing K
#
# The groups of Theorem 3.1 differ only in their permutation subgroup K, and only the *orbits* of K matter:
# up to a permutation, the group is the product of GL(|O|) over the orbits O. So for any Hessian the best
# `P` that K allows is known in closed form, one small inverse root per orbit. K can be chosen before
# anything is fitted.

# %%
import matplotlib.pyplot as plt
import numpy as np

import psgd_core as psgd
from psgd_analysis import problems, spectrum
from psgd_core import PermutationSubgroup, convergence, criterion, schedules

# %% [markdown]
# A Hessian whose structure is hidden: parameters are coupled in fours, and weakly to all others, and they
# have been shuffled. It is indefinite.

# %%
rng = np.random.default_rng(0)
n = 32
fours = PermutationSubgroup.cyclic(n, 4)
blocks = problems.hessians.in_group(fours.orbit_index, n, 300.0, rng, indefinite=True)
coupling = problems.hessians.dense(n, 3.0, rng, indefinite=True)
shuffle = rng.permutation(n)
H = (blocks + 0.01 * coupling)[np.ix_(shuffle, shuffle)]

# %% [markdown]
# ## The study
#
# For the exact minimiser over each group, the study gives the condition number of `P H` and, in brackets,
# the criterion divided by its minimum over GL(n), which is 1 if the group contains `|H|^{-1}`.

# %%
study = spectrum.group_study(H)
study

# %%
study.plot()
plt.show()

# %% [markdown]
# Except for GL(n), none of the named groups does well, because the parameters are in the wrong order.
# `best_order` searches for a better order, here for orbits of four.

# %%
order = spectrum.best_order(H, fours)
order

# %%
K = fours.conjugate(order.order)  # the same orbits, on the parameters as they are
chosen = {name: spectrum.named_subgroups(n)[name] for name in ("Diagonal", "XMat", "cyclic(4)", "GL(n)")}
study = spectrum.group_study(H, {**chosen, "cyclic(4), reordered": K})
study

# %%
left = dict(zip(study.groups, study.condition_numbers, strict=True))
assert left["cyclic(4), reordered"] < 0.1 * left["cyclic(4)"]
assert np.max(K.orbit_sizes) == 4
found = {frozenset(shuffle[orbit].tolist()) for orbit in K.orbit_index[0].T}
assert found == {frozenset(orbit.tolist()) for orbit in fours.orbit_index[0].T}  # the hidden fours

# %% [markdown]
# ## Fit it
#
# `Sparse(K)` stores and moves 4 x 4 blocks, while `Dense` has a 32 x 32 matrix. The Hessian is outside
# the group (because of its weak coupling) and indefinite, so samples disagree at the minimiser and the step
# has to be annealed. The target is the closed form that the study used.

# %%
p = psgd.Sparse(K)
state = p.init(n, like=H)
target = convergence.target(H, K.orbit_index)
step = schedules.Cosine(0.5, over=6000, end=1e-3)
trace = convergence.Trace("Sparse(K)")
for t in range(6000):
    v, h = problems.pairs(H, rng)
    state = p.update(state, v, h, step=step(t))
    if (t + 1) % 100 == 0:
        q = p.apply(state, np.eye(n))
        trace.record(t + 1, **convergence.measure(q, target)._asdict())
print(f"distance {trace.distance[-1]:.3f}, criterion above its minimum by {trace.gap[-1]:.1e} of it")
assert trace.gap[-1] < 1e-3

# %%
comparison = spectrum.compare(H, {"Sparse(K), fitted": (p, state)})
P = criterion.group_minimizer(H, K.orbit_index)
best = spectrum.condition_number(np.linalg.eigvals(P @ H).real)
print(f"κ(P H) fitted {comparison.condition_numbers[1]:.3g}, at the exact minimiser {best:.3g}")
assert comparison.condition_numbers[1] < 1.3 * best
comparison.plot()
plt.show()
