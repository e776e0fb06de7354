# %% [markdown]
# # Data in parts: Dask
#
# The data lie in parts on the workers of a cluster, and value, gradient and Hessian-vector product are sums
# over the parts. PSGD itself runs here, and does not notice. The problem is a softmax regression on images
# of digits: MNIST, if the environment variable `PSGD_DATA` says where it is, else scikit-learn's small ones.
# This example needs dask, distributed and scikit-learn, and runs everything on this machine.

# %%
import os
import signal

import dask
import distributed
import numpy as np
import sklearn
from distributed.deploy.subprocess import SubprocessCluster

import psgd_core as psgd
from psgd_analysis.reproduce.data import load
from psgd_core.adapters.dask import summed
from psgd_core.curvature import Functions

print(f"dask {dask.__version__}, scikit-learn {sklearn.__version__}")

# %% [markdown]
# ## The functions of a part
#
# A part is a tuple of inputs and labels. Each function takes the parameters and a part, and returns what the
# part contributes. The loss is a mean over all images, so each divides by their number.

# %%
digits = load("mnist")
total = len(digits.train_x)
PARTS = 8
print(f"{digits.name}: {total} images")


def part(i):
    """Load a part: on a worker, which needs the package, and the data if they are files."""
    found = load("mnist")
    images, labels = (np.array_split(x, PARTS)[i] for x in (found.train_x, found.train_y))
    inputs = images.reshape(len(images), -1) / images.max()
    return np.hstack([inputs, np.ones((len(images), 1))]), np.eye(10)[labels]


def probabilities(w, inputs):
    logits = inputs @ w
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def both(w, part):
    inputs, labels = part
    p = probabilities(w, inputs)
    return -np.sum(np.log(p[labels > 0])) / total, inputs.T @ (p - labels) / total


def hvp(w, v, part):
    inputs, _ = part
    p, along = probabilities(w, inputs), inputs @ v
    return inputs.T @ (p * (along - np.sum(p * along, axis=1, keepdims=True))) / total


one = Functions(gradient=lambda w, part: both(w, part)[1], both=both, hvp=hvp)

# %% [markdown]
# ## The cluster
#
# Two processes of this machine. For a real cluster, give its address: `distributed.Client("tcp://...")`.
# The futures in `parts` are the data as tasks, of which Dask keeps the results where they were made.

# %%
cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50)
client = distributed.Client(cluster)
client.wait_for_workers(2)
parts = client.map(part, range(PARTS))
functions = summed(one, parts, client=client)

# %% [markdown]
# ## Minimise
#
# The same call as for any function. In the middle a worker is killed: its parts are loaded again by the
# other, and the evaluation that missed it is repeated.


# %%
def minimise(functions, callback=None):
    return psgd.minimize(
        functions.both,
        np.zeros((W, 10)),
        jac=True,
        hvp=functions.hvp,
        preconditioner=psgd.LowRank(10),
        maxiter=15,
        callback=callback,
    )


W = digits.train_x[0].size + 1
before = client.run(os.getpid)
points = []


def kill(x):
    points.append(x)
    if len(points) == 5:
        os.kill(next(iter(before.values())), signal.SIGKILL)


found = minimise(functions, kill)
print(found.message)
print(f"loss {found.history['fun'][0]:.4f} before, {found.fun:.4f} after {found.nit} iterations")
assert len(points) == found.nit == 15
assert not set(before.values()) <= set(client.run(os.getpid).values())

# %% [markdown]
# ## One process
#
# With all parts in this process, the trajectory is the same, to rounding.

# %%
here = [part(i) for i in range(PARTS)]
whole = tuple(np.concatenate(rows) for rows in zip(*here, strict=True))
alone = minimise(
    Functions(
        gradient=lambda w: both(w, whole)[1],
        both=lambda w: both(w, whole),
        hvp=lambda w, v: hvp(w, v, whole),
    )
)
apart = np.max(np.abs(found.history["fun"] / alone.history["fun"] - 1))
print(f"losses differ by {apart:.1e} of their size")
assert apart < 1e-9
assert found.fun < 0.5 * found.history["fun"][0]

# %%
client.close()
cluster.close()
