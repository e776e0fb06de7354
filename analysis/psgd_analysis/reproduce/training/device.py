"""Where PyTorch's trainings run: a GPU if there is one."""

from __future__ import annotations

import os

import torch

VARIABLE = "PSGD_DEVICE"
"""The environment variable that names another device of PyTorch than the default: "cpu", "cuda:1"."""


def device() -> torch.device:
    """Return the device that this process trains on; each machine of a cluster has its own.

    Raises
    ------
    ValueError
        If the environment variable names none.
    """
    given = os.environ.get(VARIABLE)
    try:
        return torch.device(given or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(
            f"`{VARIABLE}` must name a device of PyTorch such as 'cuda:0', got {given!r}"
        ) from error


def name_of(device: torch.device) -> str:
    """Return what records say of a device: its kind, and of a GPU which one."""
    return f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
