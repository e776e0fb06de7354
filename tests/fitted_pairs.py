"""Pairs to fit kernels to, and what a state consists of, for tests that compare with the plain code."""

import numpy as np


def pairs(n, dtype, count, seed):
    """Return pairs of an indefinite Hessian with a condition number of about 10."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.standard_normal((n, n)))[0]
    hessian = (vectors * rng.choice([-1, 1], n) * 10 ** rng.uniform(-0.5, 0.5, n)) @ vectors.T
    probes = rng.standard_normal((count, n))
    return [(v.astype(dtype), (hessian @ v).astype(dtype)) for v in probes]


def leaves(state):
    """Return all arrays of a state."""
    return [x for part in state for x in (leaves(part) if isinstance(part, tuple) else [part])]
