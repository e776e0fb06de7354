"""Checkpoints with a right checksum and any content."""

from __future__ import annotations

import hashlib
import json
import zipfile

import numpy as np
import pytest

from psgd_core import checkpoint
from psgd_core.checkpoint import CheckpointError, load


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load(path)
    assert repr(str(path)) in str(caught.value)
    with pytest.raises(CheckpointError, match=match):
        checkpoint.inspect(path)


def forge(path, header, **entries):
    """Write a file with a right checksum and any content."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, x in ({"psgd_checkpoint": np.frombuffer(raw, dtype=np.uint8)} | entries).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, x)
        archive.comment = b"sha256:" + b"0" * 64
    body = path.read_bytes()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())


def header_of(structure):
    return {"version": 1, "structure": structure, "config": None, "metadata": None}


ARRAY = {"array": 0, "dtype": "float64", "shape": [3], "order": [0]}
