"""Compilation by numba, cached on disk with checksums; where nothing can be cached, without.

numba trusts its files: machine code with a flipped bit would run, and so would code that calls a function of
another file that has changed since. Here a checksum follows what is stored, and code goes with the times and
sizes of all sources beside its own. A file that is missing, damaged, of another version or cannot be written
means that the function is compiled again, in memory. Processes share code through these files alone.
"""

# numba has no annotations
# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import caching
from numba.core.compiler_lock import global_compiler_lock

# A child forked while another thread compiles would wait forever for that thread, which it does not have.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )

_Function = TypeVar("_Function", bound=Callable[..., Any])
_DIGEST = hashlib.sha256().digest_size


@cache
def _sources() -> tuple[tuple[str, int, int], ...]:
    """Return the names, times and sizes of the files whose functions call each other."""
    found = ((path.name, path.stat()) for path in sorted(Path(__file__).parent.glob("*.py")))
    return tuple((name, about.st_mtime_ns, about.st_size) for name, about in found)


class _CheckedFile(caching.IndexDataCacheFile):
    """Files that end in the SHA-256 of the rest."""

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()

    def _load_index(self) -> dict[Any, str]:
        try:
            with open(self._index_path, "rb") as file:
                if pickle.load(file) != self._version:
                    return {}
                stamp, overloads = self._checked(file.read())
        except Exception:  # whatever damaged bytes lead the unpickler into
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            return self._checked(file.read())

    def _checked(self, data: bytes) -> Any:
        content, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            raise OSError("the file is damaged")  # which numba takes for a missing one
        return pickle.loads(content)


class _CheckedCache(caching.FunctionCache):
    """The cache of a function; whatever goes wrong with it counts as a miss."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        base, stamp = self._impl.filename_base, (self._impl.locator.get_source_stamp(), _sources())
        self._cache_file = _CheckedFile(self._cache_path, f"{base}.checked", stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(Exception):
            super().save_overload(sig, data)


def njit(**options: Any) -> Callable[[_Function], _Function]:
    """Return a decorator that compiles as `numba.njit` does, with checked files for ``cache=True``."""
    kept = options.pop("cache", False)

    def decorate(function: _Function) -> _Function:
        compiled: Any = numba.njit(**options)(function)
        if kept:
            with contextlib.suppress(
                Exception
            ):  # no folder can be written to, or numba's internals have changed
                compiled._cache = _CheckedCache(function)
        typed: _Function = compiled
        return typed

    return decorate
