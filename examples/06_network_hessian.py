# %% [markdown]
# # Low rank on a small network's Hessian
#
# What does the Hessian of a trained network look like, and how many columns does a preconditioner need for
# it? The network here has 218 parameters, so that every answer can be checked against the dense matrix.
# Only the checks and the closed forms need that matrix. This example needs PyTorch.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from psgd_analysis import spectrum

rng = np.random.default_rng(0)
torch.manual_seed(0)

# %% [markdown]
# The data are two spirals. A network with two hidden layers is trained until it separates them.

# %%
m = 300
angle = np.repeat(np.linspace(0.3, 1.0, m // 2), 2) * 3 * np.pi
turn = np.tile([0, np.pi], m // 2)
points = np.stack([angle * np.cos(angle + turn), angle * np.sin(angle + turn)], axis=1) / 10
x = torch.tensor(points + 0.02 * rng.standard_normal((m, 2)))
y = torch.tensor(np.tile([0, 1], m // 2))

net = torch.nn.Sequential(
    torch.nn.Linear(2, 12), torch.nn.Tanh(), torch.nn.Linear(12, 12), torch.nn.Tanh(), torch.nn.Linear(12, 2)
).double()


def loss():
    return torch.nn.functional.cross_entropy(net(x), y)


adam = torch.optim.Adam(net.parameters(), lr=1e-2)
for _ in range(300):
    adam.zero_grad()
    value = loss()
    value.backward()
    adam.step()
accuracy = (net(x).argmax(dim=1) == y).double().mean().item()
print(f"loss {loss().item():.4f}, accuracy {accuracy:.1%}")
assert accuracy > 0.99

# %% [markdown]
# ## The spectrum, from products alone
#
# `from_torch` makes an operator from the Hessian of a loss; each product differentiates twice. The density
# is estimated from 6 probes with 40 products each. Most eigenvalues are close to zero, a few are not, and
# some are negative.

# %%
H = spectrum.from_torch(loss, net, name="the network")
density = spectrum.density(H, rng, probes=6, steps=40)
density

# %%
w = np.linalg.eigvalsh(H.dense().numpy())  # for comparison: 218 products
print(f"{np.sum(abs(w) > 0.01)} of {len(w)} eigenvalues beyond 0.01, {np.sum(w < 0)} negative")
assert np.sum(abs(w) > 0.01) < 20
assert abs(density.extremes[1] - w[-1]) < 1e-6 * w[-1]  # the largest one is found accurately

density.plot(exact=w)
plt.show()

# %% [markdown]
# ## How many columns
#
# `|H|^{-1}` does not exist if eigenvalues vanish, so we add a damping: curvature below it does not matter.
# With 0.01, only the eigenvalues above it remain to be corrected: one tail, the upper one. The form
# `ρI + U U^T` cannot correct it, whatever the rank, because it can only lift eigenvalues of `P`. To compare
# with the closed forms, `LowRank(r)` is fitted online.

# %%
study = spectrum.rank_study(
    spectrum.damped(H, 0.01), (0, 2, 5, 10), rng=np.random.default_rng(1), products=1000
)
study

# %%
study.plot()
plt.show()

# %%
kappa = study.condition_number
assert np.allclose(study.one_tail_condition, kappa)  # this form reaches the wrong tail
assert study.best_condition[-1] < 0.1 * kappa
assert study.fitted_condition[-1] < 0.2 * kappa
assert study.fitted_criterion[-1] < 1.02  # 1: all that any preconditioner can do

# %% [markdown]
# By the criterion, ten columns fitted to a thousand products are within 2 % of the best possible `P`. The
# diagonal of `LowRank` helps as well: with rank 0, the fit has a lower criterion than the closed form, with a
# single ρ, although its condition number is worse. Fitting minimises the criterion, not the condition
# number; see the group study in *Choosing K*.

# %%
assert study.fitted_criterion[0] < study.best_criterion[0]
assert study.fitted_condition[0] > study.best_condition[0]
