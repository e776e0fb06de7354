"""The machine that a command runs on: processor, memory, threads, versions; no host names or paths."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("numba", "torch", "jax", "jaxlib", "cupy-cuda12x", "cupy-cuda13x")
"""Packages whose versions matter to every measurement, besides NumPy and SciPy."""

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "XLA_FLAGS")
"""Environment variables that set the number of threads."""


def describe(device: str = "cpu") -> dict[str, Any]:
    """Return processor, cores, memory, operating system, and the GPU if one was used."""
    found: dict[str, Any] = {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "cores_available": available_cores(),
        "memory_bytes": memory(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }
    if device != "cpu":
        found["gpu"] = gpu()
    return found


def processor() -> str:
    """Return the processor's model."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int | None:
    """Return the bytes of memory of the machine, or None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def gpu() -> str | None:
    """Return the GPU's name, from whichever library is loaded."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return str(sys.modules["torch"].cuda.get_device_name())
    if "cupy" in sys.modules:
        cupy = sys.modules["cupy"]
        return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    if "jax" in sys.modules:
        return str(sys.modules["jax"].devices()[0].device_kind)
    return None


def set_threads(count: int) -> None:
    """Set the number of threads of every library that allows it, loaded or not.

    Of numba it is a mask: its variable must not change once it runs.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ[name] = str(count)  # read by libraries that are loaded later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    with contextlib.suppress(ImportError):
        numba: Any = importlib.import_module("numba")
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    with contextlib.suppress(ImportError):
        importlib.import_module("threadpoolctl").threadpool_limits(count)


def threads() -> dict[str, Any]:
    """Return how many threads each library reports, and the environment's settings."""
    found: dict[str, Any] = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if "torch" in sys.modules:
        found["torch"] = sys.modules["torch"].get_num_threads()
    if "numba" in sys.modules:
        found["numba"] = sys.modules["numba"].get_num_threads()
    with contextlib.suppress(ImportError):
        import threadpoolctl

        for pool in threadpoolctl.threadpool_info():
            found[f"{pool['user_api']}: {pool['internal_api']}"] = pool["num_threads"]
    return found
