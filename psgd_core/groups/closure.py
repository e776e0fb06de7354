"""What permutations, as index arrays on the host, generate: all elements, or the orbits alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def close(n: int, generators: Sequence[np.ndarray], limit: int) -> list[np.ndarray] | None:
    """Return the closure of the generators, breadth first from the identity, or None above `limit`."""
    rows = [np.arange(n, dtype=np.int64)]
    if limit < 1:
        return None
    seen = {rows[0].tobytes()}
    for row in rows:  # grows while it is read
        for sigma in generators:
            product = sigma[row]  # row ∘ sigma
            key = product.tobytes()
            if key not in seen:
                if len(rows) >= limit:
                    return None
                seen.add(key)
                rows.append(product)
    return rows


def missing_product(rows: Sequence[np.ndarray], given: dict[bytes, int]) -> tuple[int, int]:
    """Return (i, j) of the first product ``rows[i] ∘ rows[j]`` that is not given."""
    pairs = ((i, j) for i in range(len(rows)) for j in range(len(rows)))
    return next((i, j) for i, j in pairs if rows[j][rows[i]].tobytes() not in given)


def components(n: int, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the orbits' labels, numbered by smallest member, as components of the graph i -> σ(i)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    m = len(arrays)
    edges = np.stack(arrays, axis=1).reshape(-1)
    graph = csr_array((np.ones(n * m, dtype=np.int8), edges, np.arange(0, n * m + 1, m)), shape=(n, n))
    # Powers of a permutation lead back, so strong components are the orbits: no transposed graph is needed.
    count, labels = connected_components(graph, directed=True, connection="strong")
    smallest = np.empty(count, dtype=np.int64)
    smallest[labels[::-1]] = np.arange(n)[::-1]  # of repeated writes the last one stays
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(smallest)] = np.arange(count)
    found: np.ndarray = rank[labels]
    return found
