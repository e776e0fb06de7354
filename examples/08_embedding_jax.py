# %% [markdown]
# # Embedding: JAX
#
# The methods of preconditioners are pure functions over an explicit state, which is a NamedTuple of arrays
# and so a pytree. They run on JAX arrays as they are, under `jit`, `scan` and `vmap`. There are also
# ready-made optax transformations. This example needs JAX and optax.

# %%
import jax
import jax.numpy as jnp
import optax

import psgd_core as psgd
from psgd_core import curvature
from psgd_core.adapters import jax as adapter

# %% [markdown]
# ## Fit under `scan`
#
# A whole fit is one compiled program. Probes are drawn from a key, and only the function `one` knows the
# matrix.

# %%
n = 12
key = jax.random.key(0)
basis = jnp.linalg.qr(jax.random.normal(key, (n, n)))[0]
values = jnp.geomspace(1.0, 10.0, n)
H = (basis * values) @ basis.T
p = psgd.Dense()


@jax.jit
def fit(key):
    def one(state, key):
        v = jax.random.normal(key, (n,))
        return p.update(state, v, H @ v, step=0.5), None

    return jax.lax.scan(one, p.init(n, like=H), jax.random.split(key, 1000))[0]


state = fit(jax.random.key(1))
spread = jnp.linalg.eigvals(p.matrix(state) @ H).real
print(f"eigenvalues of P H between {spread.min():.6f} and {spread.max():.6f}, in {H.dtype}")
assert jnp.max(jnp.abs(spread - 1)) < 1e-4

# %% [markdown]
# Eight fits at once, from eight keys:

# %%
states = jax.vmap(fit)(jax.random.split(key, 8))
errors = jnp.linalg.norm(jax.vmap(p.matrix)(states) @ H - jnp.eye(n), axis=(1, 2))
print("errors of eight fits:", errors)
assert errors.shape == (8,)
assert jnp.max(errors) < 1e-3

# %% [markdown]
# ## The whole step under `jit`
#
# `PSGD` is the iteration, one step at a time. Parameters can be a pytree. It needs gradients (`jax.grad`)
# and Hessian-vector products (forward over reverse). Here it fits a small network to a curve, with
# `LowRank`.

# %%
x = jnp.linspace(-2, 2, 64)[:, None]
y = jnp.sin(2 * x[:, 0]) + 0.3 * x[:, 0]


def network(params, x):
    return (jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"])[:, 0] + params["b2"]


def loss(params):
    return jnp.mean((network(params, x) - y) ** 2)


def hvp(params, v):
    return jax.jvp(jax.grad(loss), (params,), (v,))[1]


k1, k2 = jax.random.split(jax.random.key(2))
params = {
    "w1": jax.random.normal(k1, (1, 16)),
    "b1": jnp.zeros(16),
    "w2": 0.25 * jax.random.normal(k2, (16, 1)),
    "b2": jnp.zeros(()),
}
functions = curvature.Functions(gradient=jax.grad(loss), value=loss, hvp=hvp)
optimizer = psgd.PSGD(preconditioner=psgd.LowRank(10), lr=0.5, step_size=0.3, clip=1.0)
size = sum(leaf.size for leaf in jax.tree.leaves(params))


@jax.jit
def step(carry, key):
    params, state = carry
    v = jax.random.normal(key, (size,))
    return optimizer.step(state, params, functions, v)


def train(params, steps):
    def one(carry, key):
        params, state = step(carry, key)
        return (params, state), loss(params)

    start = (params, optimizer.init(params))
    return jax.lax.scan(one, start, jax.random.split(jax.random.key(3), steps))


(fitted, _), losses = train(params, 1000)
print(f"{size} parameters: loss {loss(params):.4f} before, {losses[-1]:.2e} after 1000 steps")

# %% [markdown]
# For comparison, gradient descent with twice as many steps (it needs no products) and the best of four
# learning rates:


# %%
def descend(lr):
    def one(params, _):
        return jax.tree.map(lambda w, g: w - lr * g, params, jax.grad(loss)(params)), None

    return loss(jax.lax.scan(one, params, length=2000)[0])


plain = float(jnp.nanmin(jax.vmap(descend)(jnp.array([0.01, 0.03, 0.1, 0.3]))))
print(f"gradient descent, 2000 steps: {plain:.2e}")
assert float(losses[-1]) < 0.1 * plain

# %% [markdown]
# ## With optax
#
# `psgd` is a gradient transformation like any other. By default each leaf has its own preconditioner,
# sharded like the leaf. A network as small as this one can afford a single P for all leaves, which also
# captures how leaves depend on each other. `value_grad_hvp` computes everything that a step needs from the
# loss, on one sample.

# %%
ready = adapter.psgd(0.5, psgd.LowRank(10), step=0.3, momentum=0.0, clip=1.0, per_leaf=False)
ask = adapter.value_grad_hvp(loss)


def ready_step(carry, key):
    params, state = carry
    value, grads, hvp, probe = ask(params, key)
    updates, state = ready.update(grads, state, params, hvp=hvp, probe=probe)
    return (optax.apply_updates(params, updates), state), value


start = (params, ready.init(params))
(_, state), values = jax.lax.scan(ready_step, start, jax.random.split(jax.random.key(4), 1000))
print(f"optax: loss {values[0]:.4f} before, {values[-1]:.2e} after 1000 steps")
assert float(values[-1]) < 0.1 * plain
