"""Loops that may end early: a graph of one turn for JAX, plain turns elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from . import trees
from .library import Array, known
from .trees import Tree


def turns(
    times: int, going: Array, body: Callable[[Any, Tree], tuple[Tree, Array]], carry: Tree
) -> tuple[Tree, Array]:
    """Return (carry, going) after at most so many turns of `body`, none after one that says to stop.

    Parameters
    ----------
    times : int
    going : array, 0-d bool
        Whether to begin.
    body : callable
        ``body(i, carry)`` returns the next carry, of the same structure, shapes and dtypes, and whether to go
        on, a 0-d bool. For JAX, i is a traced int32, and the body is traced once; elsewhere it is an int.
    carry : tree of arrays
    """
    if array_api_compat.is_jax_array(going):
        import jax

        def turn(at: Any) -> Any:
            i, _, carry = at
            carry, going = body(i, carry)
            return i + 1, going, carry

        _, going, carry = jax.lax.while_loop(
            lambda at: at[1] & (at[0] < times), turn, (np.int32(0), going, carry)
        )
        return carry, going
    for i in range(times):
        if known(going) is False:
            break
        after, still = body(i, carry)
        carry, going = trees.where(going, after, carry), going & still
    return carry, going
