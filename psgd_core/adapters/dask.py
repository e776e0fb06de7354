"""Data in parts on the workers of a Dask cluster: value, gradient and product as sums over the parts.

The parts stay where they are, in whatever library they were loaded with. Parameters go to the workers once
per point, and what comes back is one sum. What takes `psgd_core.curvature.Functions` takes these too::

    parts = client.map(load, range(8))  # futures; load(i) returns a part, on a worker
    functions = summed(Functions(gradient=gradient, value=value, hvp=hvp), parts)  # each of x, and of a part
    result = psgd_core.minimize(functions.both, x0, jac=True, hvp=functions.hvp)

It needs dask and distributed, the extra ``dask``.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

try:
    import distributed
    from dask.base import is_dask_collection
except ImportError as error:
    raise ImportError(
        f"`psgd_core.adapters.dask` needs dask and distributed, and {error.name} is not installed; "
        "pip install dask distributed"
    ) from error

from ..arrays.arguments import described, require_number
from ..arrays.library import is_array, namespace
from ..arrays.trees import Tree, leaves_with_names, mapped, owned
from ..curvature import Functions

__all__ = ["summed"]

TRIES = 4
"""Evaluations of one sum that may be lost with workers, in a row."""

FAN = 8
"""Terms that one task adds up; a power of two, so that all tasks together add in pairs."""

LOOK = 0.5
"""Seconds between two looks at the workers."""

ARRIVAL = 60.0
"""Seconds that a sum may take on its way here."""

Future = Any
"""A `distributed.Future`."""


def summed(functions: Functions, *data: Any, client: Any = None, patience: float = 60.0) -> Functions:
    """Return functions that are sums over parts of data, which lie on the workers of a Dask cluster.

    Parameters
    ----------
    functions : Functions
        Of one part: ``value(x, *part)``, ``gradient(x, *part)``, ``hvp(x, v, *part)``, ``both(x, *part)``,
        where a part has an element of each of `data`; what `Functions.at` binds comes after them. They run on
        the workers, which get them, and all that they close over, with each new x. Their sum over the parts
        is meant: divide a mean by the size of all data, and add what belongs to no part to one of them.
    *data : Dask collections, or sequences of futures or delayed objects
        All in the same number of parts. Of a Dask array the parts are its chunks, along the first axis only.
        What a worker held when it died is made again, by the tasks that made it: of data that
        `Client.scatter` has sent there are none.
    client : distributed.Client, optional
        The current one by default.
    patience : float
        Seconds that a cluster may be without workers, or without a scheduler, before a RuntimeError.

    Returns
    -------
    Functions
        Of x and v in any structure and library that the given functions take, and with those of `value`,
        `hvp`, `both` and `batched` that follow from them. They block until the sum is there.

    Raises
    ------
    TypeError, ValueError
        If `data` are something else, or differ in their number of parts. What the given functions raise on a
        worker passes through.
    RuntimeError
        From the functions, if there are no workers, or if they die whenever the sum is evaluated.

    Notes
    -----
    With m parts and n parameters an evaluation sends n numbers to each worker, and moves at most m n numbers
    between workers: few large parts are better than many small ones, two to four per worker.

    The sum is taken in pairs, in an order that depends on m only. So a run repeats bit for bit on any number
    of workers, whatever their speed, and if some of them die; and other numbers of parts differ by rounding.

    Each part is evaluated on a worker that holds its first element (a GPU's arrays are not moved), and never
    anywhere else while that worker lives.
    """
    if not isinstance(functions, Functions):
        raise TypeError(f"`functions` must be a Functions, got {described(functions)}; make one")
    patience = require_number("patience", patience, "(0, inf)", "it is a time in seconds")
    client = distributed.get_client() if client is None else client
    if not isinstance(client, distributed.Client) or client.asynchronous:
        raise TypeError(f"`client` must be a distributed.Client that blocks, got {described(client)}")
    total = _Sum(functions, _parts(client, data), client, patience)
    values = functions.value is not None
    return Functions(
        gradient=lambda x, *bound: total.of("gradient", x, (), bound),
        value=(lambda x, *bound: total.of("value", x, (), bound)) if values else None,
        hvp=(lambda x, v, *bound: total.of("hvp", x, (v,), bound)) if functions.hvp is not None else None,
        both=(lambda x, *bound: total.of("both", x, (), bound)) if values or functions.both else None,
        batched=functions.batched,
    )


class _Lost(Exception):
    """Something was lost with a worker."""


class _Sent(NamedTuple):
    """A point on the workers."""

    x: Tree
    future: Future  # of (functions, x)


class _Sum:
    """Sums over parts, and what of them is on the workers."""

    def __init__(
        self, functions: Functions, parts: list[tuple[Future, ...]], client: Any, patience: float
    ) -> None:
        self._functions, self._parts = functions, parts
        self._client, self._patience = client, patience
        self._sent: _Sent | None = None

    def of(self, name: str, x: Tree, along: tuple[Tree, ...], bound: tuple[Any, ...]) -> Any:
        """Return the sum of the function of that name, at x and along v."""
        for _ in range(TRIES):
            try:
                return self._try(name, x, along, bound)
            except _Lost:
                self._sent = None
                self._require_parts()
        raise RuntimeError(
            f"`{name}` must not end the workers that evaluate it, but workers were lost in {TRIES} tries "
            "in a row; is their memory enough for a part?"
        )

    def _try(self, name: str, x: Tree, along: tuple[Tree, ...], bound: tuple[Any, ...]) -> Any:
        client = self._client
        # where the parts are
        first = [part[0] for part in self._parts]
        self._wait(first, set())
        holders = client.who_has(first)
        places = [list(holders.get(future.key, ())) for future in first]
        # send
        point = self._at(x)
        vs = tuple(self._send(v) for v in along)
        # evaluate, each part in its place
        terms = [
            client.submit(_term, name, point, vs, part, bound, workers=place or None, pure=False)
            for part, place in zip(self._parts, places, strict=True)
        ]
        # add
        while len(terms) > 1:
            groups = [terms[i : i + FAN] for i in range(0, len(terms), FAN)]
            terms = [client.submit(_added, group, pure=False) for group in groups]
        self._wait(terms, {worker for place in places for worker in place})
        try:
            return terms[0].result(timeout=ARRIVAL)
        except (OSError, distributed.CancelledError):
            if terms[0].status == "error":  # the function's own
                raise
            raise _Lost from None  # it was on a worker that died, and its terms are bound to others

    def _at(self, x: Tree) -> Future:
        """Return the functions and x on the workers, sent unless they are there."""
        if self._sent is None or not _same(self._sent.x, x):
            self._sent = _Sent(owned(x), self._send((self._functions, x)))
        return self._sent.future

    def _send(self, thing: Any) -> Future:
        """Return the future of a thing on a worker; the others fetch it, from any that has it.

        Dask can send it to all of them at once, but waits for ever if one of them dies just then.
        """
        try:
            return self._client.scatter([thing], hash=False)[0]
        except (OSError, distributed.CancelledError):  # a worker died meanwhile
            raise _Lost from None

    def _wait(self, futures: list[Future], workers: set[str]) -> None:
        """Wait until all futures have ended, as long as there are workers, and the given ones live."""
        wait: Any = distributed.wait  # without types
        limit = time.monotonic() + self._patience
        while True:
            try:
                wait(futures, timeout=LOOK)
                return
            except distributed.CancelledError:
                raise _Lost from None
            except distributed.TimeoutError:
                there = self._workers()
            if there and not workers <= there:
                raise _Lost
            if there:
                limit = time.monotonic() + self._patience
            if time.monotonic() > limit or self._client.status in ("closing", "closed"):
                raise RuntimeError(
                    f"`client` must have a cluster with workers, got none for {self._patience:g} s "
                    f"({self._client.status}); start workers, or a new client"
                )

    def _workers(self) -> set[str]:
        try:
            return set(self._client.nthreads())
        except (OSError, distributed.CancelledError):  # no scheduler answers
            return set()

    def _require_parts(self) -> None:
        """Raise if a part is lost for good."""
        for i, part in enumerate(self._parts):
            if any(future.status == "cancelled" for future in part):  # "lost" ones are being made again
                raise RuntimeError(
                    f"`data` must be there, or be made again by tasks, but part {i} was lost with its "
                    "worker; load it by client.submit or client.map, or as a Dask collection, not by scatter"
                )


def _parts(client: Any, data: tuple[Any, ...]) -> list[tuple[Future, ...]]:
    """Return the parts of data as futures: an element of each of `data`."""
    columns = [_futures(client, one) for one in data]
    counts = [len(column) for column in columns]
    if not counts or len(set(counts)) > 1 or counts[0] == 0:
        raise ValueError(
            f"`data` must be in the same number of parts, one or more, got {counts}; rechunk or repartition"
        )
    return list(zip(*columns, strict=True))


def _futures(client: Any, data: Any) -> list[Future]:
    """Return the futures of the parts of one collection or sequence."""
    if is_dask_collection(data) and hasattr(data, "to_delayed"):
        if any(number > 1 for number in getattr(data, "numblocks", ())[1:]):
            raise ValueError(
                f"`data` must be in chunks along the first axis only, got {data.numblocks} of them; "
                "rechunk it with {1: -1}"
            )
        delayed = data.to_delayed()
        found = list(delayed.ravel() if hasattr(delayed, "ravel") else delayed)
        return list(client.compute(found))
    if isinstance(data, list | tuple) and all(
        isinstance(one, distributed.Future) or is_dask_collection(one) for one in data
    ):
        return [one if isinstance(one, distributed.Future) else client.compute(one) for one in data]
    raise TypeError(
        "`data` must be a Dask collection or a list of futures or delayed objects, got "
        f"{described(data)}; load each part on a worker, by client.map(load, names)"
    )


def _term(name: str, point: tuple[Functions, Tree], vs: tuple[Tree, ...], part: Any, bound: Any) -> Any:
    """Return a function of one part; on a worker."""
    functions, x = point
    function: Callable[..., Any] | None = getattr(functions, name)
    if function is not None:
        return function(x, *vs, *part, *bound)
    assert functions.value is not None  # `both` was asked for, and is made of two
    return functions.value(x, *part, *bound), functions.gradient(x, *part, *bound)


def _added(terms: list[Any]) -> Any:
    """Return the sum, in pairs; on a worker."""
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2], strict=False)
        rest = terms[len(terms) - len(terms) % 2 :]
        terms = [mapped(operator.add, one, other) for one, other in pairs] + rest
    return terms[0]


def _same(x: Tree, y: Tree) -> bool:
    """Whether two points are equal, to the type of their arrays."""
    rows = [leaves_with_names(tree, "x") for tree in (x, y)]
    if [name for name, _ in rows[0]] != [name for name, _ in rows[1]]:
        return False
    return all(_equal(a, b) for (_, a), (_, b) in zip(*rows, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if not (is_array(a) and is_array(b)):
        return bool(a == b)
    if type(a) is not type(b) or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(namespace(a).all(a == b))
