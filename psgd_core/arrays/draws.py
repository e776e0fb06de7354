"""Normal draws from the generator that the caller gives: there is no global state to draw from."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from .library import Array, device_of, namespace


def normal(rng: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Return standard normal draws with the namespace, dtype and device of `like`.

    Parameters
    ----------
    rng : numpy.random.Generator, cupy.random.Generator, torch.Generator or JAX key
        A NumPy generator serves every library: it draws on the host, in float64, so that all of them get the
        same values; the others draw on their own device.
    """
    xp, device = namespace(like), device_of(like)
    if isinstance(rng, np.random.Generator):
        return xp.asarray(rng.standard_normal(shape), dtype=like.dtype, device=device)
    library = type(rng).__module__.split(".")[0]
    if library == "torch" and array_api_compat.is_torch_namespace(xp):
        import torch

        return torch.randn(shape, generator=rng, dtype=like.dtype, device=device)
    if library == "cupy" and array_api_compat.is_cupy_namespace(xp):
        return xp.astype(rng.standard_normal(shape), like.dtype)
    if array_api_compat.is_jax_namespace(xp) and array_api_compat.is_jax_array(rng):
        import jax

        return jax.random.normal(rng, shape, like.dtype)
    raise TypeError(
        f"`rng` must be a numpy.random.Generator or the generator (in JAX: key) of {xp.__name__}, "
        f"got {type(rng).__module__}.{type(rng).__name__}; make one with numpy.random.default_rng(seed)"
    )
