"""What to give to pip for an extra of this package, wherever it was installed from."""

from __future__ import annotations

import contextlib
import json
from importlib import metadata
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]
"""The clone that this is run from, if it is."""


def requirement(extra: str) -> str:
    """Return the words that install an extra: from the clone or folder this is run from, or else by name."""
    if (CLONE / "pyproject.toml").is_file():
        return f'pip install -e "{CLONE}[{extra}]"'
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError, TypeError):
        source = json.loads(metadata.distribution("psgd-core").read_text("direct_url.json") or "{}")
        if "dir_info" in source:
            return f'pip install "psgd-core[{extra}] @ {source["url"]}"'
    return f'pip install "psgd-core[{extra}]"'
