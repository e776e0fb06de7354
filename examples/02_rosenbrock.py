# %% [markdown]
# # Rosenbrock's valley with every group
#
# Rosenbrock's function has a narrow, curved valley: its Hessian has condition number 2508 at the minimum,
# and is indefinite above the parabola. PSGD steps to `x - lr P g`, and on the way fits `P` to the
# inverse of the *absolute* Hessian. How well this works depends on the group of `Q`.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize as scipy_minimize

import psgd_core as psgd
from psgd_analysis import figures, problems
from psgd_analysis.look import styles

# %% [markdown]
# ## Two variables
#
# `psgd.minimize` is called like SciPy's `minimize`, and returns the same kind of result. A callback
# collects the points on the way. Up to 300 steps each, with default settings:


# %%
def solve(problem, preconditioner, maxiter=300):
    """Minimise a problem from its start; return the result and the points on the way."""
    points = [problem.start]
    result = psgd.minimize(
        problem.value,
        problem.start,
        grad=problem.gradient,
        hvp=problem.hvp,
        preconditioner=preconditioner,
        maxiter=maxiter,
        callback=points.append,
    )
    return result, np.array(points)


plane = problems.rosenbrock()
runs, final, evaluations = {}, {}, {}
for name, p in {"Dense": psgd.Dense(), "LowRank(1)": psgd.LowRank(1), "Diagonal": psgd.Diagonal()}.items():
    result, runs[f"PSGD, {name}"] = solve(plane, p)
    final[name], evaluations[name] = result.fun, result.njev + result.nhev
    print(f"{name:11} f = {result.fun:8.1e} after {result.nit:3} steps. {result.message}")

# %% [markdown]
# With two variables GL(2), the X-matrices and the butterflies are the same group, so `Dense` stands for all
# three. It reaches the minimum to rounding. A diagonal `P` cannot rotate into the direction of the valley,
# and creeps along it. `LowRank(1)` is in between: it can represent the right `P`, but it has to move a
# diagonal and two vectors to follow a Hessian that changes in every step, while `Dense` moves one matrix.

# %%
assert final["Dense"] < 1e-15 < final["LowRank(1)"] < final["Diagonal"]

# %% [markdown]
# The paths, with that of SciPy's BFGS. A smooth function of two variables without noise is what BFGS is
# best at, and it needs fewer evaluations here. PSGD has advantages on the next problem, and with noise.

# %%
points = [plane.start]
bfgs = scipy_minimize(plane.value, plane.start, jac=plane.gradient, method="BFGS", callback=points.append)
print(f"BFGS: f = {bfgs.fun:.1e} after {bfgs.nit} steps and {bfgs.njev} gradients")
assert bfgs.njev < len(runs["PSGD, Dense"])

fig, ax = plt.subplots(figsize=(7.2, 5), layout="constrained")
shown = {
    "PSGD, Dense": runs["PSGD, Dense"],
    "BFGS": np.array(points),
    "PSGD, Diagonal": runs["PSGD, Diagonal"],
}
figures.paths(ax, plane.value, shown, "Ways down Rosenbrock's valley; contours: f", minimum=plane.solution)
plt.show()

# %% [markdown]
# ## A hundred variables, in pairs
#
# Fifty such valleys side by side: the Hessian has a 2 x 2 block for each pair `{2i, 2i + 1}`. The group of
# Theorem 3.1 whose permutations swap these neighbours contains it, so each pair is fitted as if it were
# alone. The X-matrices and the butterflies pair other variables, and can do no more here than a diagonal.
# GL(100) contains the Hessian too, but has to learn ten thousand numbers from 100 numbers per step: it gets
# there in four times as many steps.

# %%
pairs = problems.rosenbrock_pairs(100)
groups = {
    "Sparse(neighbours)": psgd.Sparse(psgd.PermutationSubgroup.neighbour_swap(100)),
    "Dense": psgd.Dense(),
    "XMat": psgd.XMat(),
    "Butterfly": psgd.Butterfly(),
    "LowRank(10)": psgd.LowRank(10),
    "Diagonal": psgd.Diagonal(),
}
results = {name: solve(pairs, p)[0] for name, p in groups.items()}
for name, result in results.items():
    print(f"{name:19} f = {result.fun:8.1e}  gradients and products: {result.njev + result.nhev}")

# %%
best = results.pop("Sparse(neighbours)")
assert best.success
assert best.njev + best.nhev < 2 * evaluations["Dense"]  # of a single pair
assert best.fun < 1e-15
assert all(result.fun > 1e10 * best.fun for name, result in results.items() if name != "Dense")
assert results["Dense"].njev + results["Dense"].nhev > 2 * (best.njev + best.nhev)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
shown = {"Sparse(neighbours)": best, **results}
looks = styles(shown)
for ax in (left, right):
    for name, result in shown.items():
        h, look = result.history, {key: looks[name][key] for key in ("color", "linestyle")}
        ax.semilogy(h["njev"] + h["nhev"], h["fun"], label=name, lw=1.8, **look)
    ax.set_xlabel("gradients + Hessian-vector products")
    ax.spines[["top", "right"]].set_visible(False)
left.set_ylabel("f (minimum: 0)")
left.set_title("Rosenbrock in 50 pairs", loc="left", fontsize=10)
left.legend(frameon=False, fontsize=8)
right.set_title("The same, enlarged", loc="left", fontsize=10)
right.set_ylim(50, 300)
plt.show()
