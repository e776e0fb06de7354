"""How much memory a call takes of the system."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident_peak(call: Callable[[], Any]) -> int | None:
    """Return by how much a call raises the resident memory of the process at most; None off Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
        before = _status("VmRSS")
        out = call()
        peak = _status("VmHWM")
        del out
    except (OSError, KeyError):
        return None
    return max(peak - before, 0)


def _status(key: str) -> int:
    for line in Path(f"/proc/{os.getpid()}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
