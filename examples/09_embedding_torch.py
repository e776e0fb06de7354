# %% [markdown]
# # Embedding: PyTorch
#
# The mathematics runs on tensors as they are: probes, products and gradients are passed as tensors on any
# device, and results are on the same device. So PSGD fits into a training loop of your own. There is also a
# ready-made optimiser. This example needs PyTorch.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import psgd_core as psgd
from psgd_analysis.look import METHODS
from psgd_core.adapters.torch import PSGD, Affine, groups_of
from psgd_core.descent import stochastic

torch.manual_seed(0)

# %% [markdown]
# ## Fit on tensors
#
# A state takes its dtype and device from `like`.

# %%
n = 64
generator = torch.Generator().manual_seed(0)
half = torch.logspace(0, 2, n // 2, dtype=torch.float64)
diagonal = torch.cat([half, half.flip(0)])
H = torch.diag(diagonal) + 0.5 * torch.fliplr(torch.diag(diagonal))  # an X-matrix

p = psgd.XMat()
state = p.init(n, like=H)
for _ in range(300):
    v = torch.randn(n, generator=generator, dtype=H.dtype)
    state = p.update(state, v, H @ v, step=0.5)
w = torch.linalg.eigvals(p.matrix(state) @ H).real
print(f"eigenvalues of P H between {w.min():.9f} and {w.max():.9f}; P is a {type(p.matrix(state)).__name__}")
assert torch.max(torch.abs(w - 1)) < 1e-8

# %% [markdown]
# ## A training loop of your own
#
# Take the gradient with `create_graph=True` and differentiate it once more along a probe: this is the
# Hessian-vector product, on the same minibatch. `PSGD.update` does the rest: it fits `P` on the pair, clips
# `P g` and moves. `stochastic` returns settings for noisy functions; `due` says in which steps `P` is to be
# fitted, which become fewer and fewer.

# %%
x = torch.linspace(-2, 2, 512)[:, None]
y = torch.sin(3 * x) + 0.3 * x
net = torch.nn.Sequential(torch.nn.Linear(1, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
parameters = list(net.parameters())


def loss(batch):
    return torch.mean((net(x[batch]) - y[batch]) ** 2)


def gradient(batch, with_pair):
    """Return the gradient and, if asked for, a probe with its Hessian-vector product, of one minibatch."""
    g = parameters_to_vector(torch.autograd.grad(loss(batch), parameters, create_graph=with_pair))
    if not with_pair:
        return g, None
    v = torch.randn(g.shape, generator=generator)
    h = parameters_to_vector(torch.autograd.grad(g, parameters, grad_outputs=v))
    return g.detach(), (v, h.detach())


steps = 1000
optimizer = stochastic(psgd.LowRank(10), iterations=steps)
coins = np.random.default_rng(0)
everything = torch.arange(len(x))
theta = parameters_to_vector(parameters).detach()
state = optimizer.init(theta)
fits, losses = 0, [loss(everything).item()]
for i in range(steps):
    batch = torch.randint(len(x), (64,), generator=generator)
    due = optimizer.due(i, coins)
    g, pair = gradient(batch, due)
    theta, state = optimizer.update(state, theta, g, pair=pair)
    vector_to_parameters(theta, parameters)
    fits += due
    losses.append(loss(everything).item())

print(f"{len(theta)} parameters, {steps} gradients and {fits} products:")
print(f"mean squared error {losses[0]:.2e} before, {losses[-1]:.2e} after")
assert losses[-1] < 0.02 * losses[0]
assert fits < 0.5 * steps

# %% [markdown]
# ## The same, with the optimiser
#
# `PSGD` is a `torch.optim.Optimizer`, with parameter groups, `state_dict` and schedulers. `step` takes a
# closure that returns the undifferentiated loss, because products are made from it: there is no `zero_grad`
# and no `backward`.

# %%
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(1, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
ready = PSGD(net.parameters(), psgd.LowRank(10), lr=0.5, step=0.3)
first, ready_losses = loss(everything).item(), []
for _ in range(600):
    batch = torch.randint(len(x), (64,), generator=generator)
    ready.step(lambda batch=batch: loss(batch))
    ready_losses.append(loss(everything).item())

print(f"mean squared error {first:.2e} before, {ready_losses[-1]:.2e} after 600 steps, each with a product")
assert ready_losses[-1] < 0.01 * first

# %% [markdown]
# ## Layer by layer
#
# `groups_of` makes a group of each layer. With `affine=Affine` its weight and bias are one matrix `[W b]`,
# with a Kronecker product for P, the paper's affine preconditioner. P is fitted in every fifth step here, and
# `global_clip` limits the step of all layers together. A closure may return more than the loss.

# %%
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(1, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
layers = PSGD(groups_of(net, affine=Affine), lr=0.5, step=0.3, every=5, clip=None, global_clip=1.0)
layer_losses = []
for _ in range(600):
    batch = torch.randint(len(x), (64,), generator=generator)
    batch_loss, size = layers.step(lambda batch=batch: (loss(batch), len(batch)))
    layer_losses.append(loss(everything).item())

print([group["param_names"] for group in layers.param_groups], f"in batches of {size}")
print(f"mean squared error {first:.2e} before, {layer_losses[-1]:.2e} after 600 steps, with 120 products")
assert layer_losses[-1] < 0.02 * first

# %%
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
one, by_layer = METHODS["LowRank"], METHODS["Kronecker"]
ax.semilogy(losses, color=one, label="LowRank(10), own loop, fewer and fewer products")
ax.semilogy(ready_losses, "--", color=one, label="LowRank(10), a product in each step")
ax.semilogy(layer_losses, color=by_layer, label="[W b] of each layer, a product in every fifth step")
ax.legend(frameon=False)
ax.set(xlabel="steps", ylabel="mean squared error on all points")
ax.set_title("Training a module by PSGD, minibatches of 64", loc="left", fontsize=10)
ax.spines[["top", "right"]].set_visible(False)
plt.show()
