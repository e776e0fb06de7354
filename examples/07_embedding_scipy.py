# %% [markdown]
# # Embedding: SciPy
#
# PSGD can be a `method=` of `scipy.optimize.minimize`, and a fitted preconditioner can be the `M` of
# SciPy's linear solvers.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize, rosen, rosen_der, rosen_hess_prod
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import cg

import psgd_core as psgd
from psgd_core.adapters.scipy import as_linear_operator, psgd_method

# %% [markdown]
# ## Minimise
#
# The arguments are those of SciPy's own methods. Settings go into `options`.

# %%
result = minimize(
    rosen,
    [-1.2, 1.0, -1.2, 1.0],
    jac=rosen_der,
    hessp=rosen_hess_prod,
    method=psgd_method,
    options={"preconditioner": psgd.Dense(), "gtol": 1e-8},
)
assert result.success
assert np.allclose(result.x, 1)
result

# %%
result.plot()
plt.show()

# %% [markdown]
# The result carries the fitted `P` as a `LinearOperator`, close to the inverse Hessian at the minimum:

# %%
from scipy.optimize import rosen_hess

left = result.hess_inv @ rosen_hess(result.x)
print("eigenvalues of P H:", np.linalg.eigvals(left).real.round(3))
assert np.linalg.cond(left) < 1e-2 * np.linalg.cond(rosen_hess(result.x))

# %% [markdown]
# ## Precondition a solver
#
# This is a symmetric system of 400 unknowns with a badly scaled diagonal, in which each unknown is coupled
# with its mirror image: the pattern of the X-matrices. `P` is fitted on products `A v` alone, and can then
# be used for any number of right-hand sides.

# %%
rng = np.random.default_rng(0)
n = 400
scale = np.geomspace(1, 1e4, n)[rng.permutation(n)]
scale = np.sqrt(scale * scale[::-1])  # the same for an unknown and its mirror image
mirror = csr_array((0.5 * scale, (np.arange(n), np.arange(n)[::-1])), shape=(n, n))
weak = diags_array([0.1, 0.1], offsets=[-1, 1], shape=(n, n))
A = (diags_array(scale) + mirror + weak).tocsr()

p = psgd.XMat()
state = p.init(n, like=np.zeros(n))
for _ in range(200):
    v = rng.standard_normal(n)
    state = p.update(state, v, A @ v, step=0.5)
M = as_linear_operator(p, state)

# %% [markdown]
# Its eigenvalues come from its blocks of two, and follow the scales of `1/A`:

# %%
eigenvalues = p.eigenvalues(state)
assert np.allclose(eigenvalues, np.linalg.eigvalsh(p.matrix(state)))
p.plot(state)
plt.show()


# %%
def iterations(M=None):
    """Solve ten systems by conjugate gradients; return the mean number of iterations."""
    counts = []
    for _ in range(10):
        b, count = rng.standard_normal(n), 0

        def step(_):
            nonlocal count
            count += 1

        x, info = cg(A, b, M=M, rtol=1e-8, maxiter=5000, callback=step)
        assert info == 0
        assert np.linalg.norm(A @ x - b) < 1e-7 * np.linalg.norm(b)
        counts.append(count)
    return np.mean(counts)


plain, helped = iterations(), iterations(M)
print(f"CG: {plain:.1f} iterations without M, {helped:.1f} with the fitted one")
assert helped < 0.1 * plain
