"""How far a pair walks: calls, functions, files and changes of file in one update, plain and with kernels.

    python tools/walk.py            # a table
    python tools/walk.py XMat       # every call of one plain update, indented

Only functions of psgd_core count. The third update is traced: the scale is set then, and everything compiled.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import psgd_core as psgd

ROOT = str(Path(psgd.__file__).parent)
N = 64


@contextlib.contextmanager
def followed(calls: list[tuple[str, str, int]]) -> Iterator[None]:
    """Append (file, function, depth) for every call of a function of psgd_core within the block."""
    depth = 0

    def watch(frame, event, _):
        nonlocal depth
        if not frame.f_code.co_filename.startswith(ROOT):
            return
        if event == "call":
            calls.append((frame.f_code.co_filename[len(ROOT) + 1 :], frame.f_code.co_qualname, depth))
            depth += 1
        elif event == "return":
            depth -= 1

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)


def walk(update: Callable[[], None]) -> list[tuple[str, str, int]]:
    """Return the calls of the third run."""
    update(), update()
    calls: list[tuple[str, str, int]] = []
    with followed(calls):
        update()
    return calls


def updates(p: psgd.Preconditioner) -> Callable[[], None]:
    """Return what updates p by a pair each time it is called."""
    rng, state = np.random.default_rng(0), p.init(N, like=np.zeros(1))

    def update() -> None:
        nonlocal state
        v = rng.standard_normal(N)
        state = p.update(state, v, np.linspace(1, 2, N) * v, step=0.1)

    return update


def torch_step() -> Callable[[], None]:
    """Return a step of the PyTorch adapter with XMat and an exact product."""
    import torch

    from psgd_core.adapters.torch import PSGD

    weight, scale = torch.nn.Parameter(torch.zeros(N)), torch.linspace(1, 2, N)
    optimizer = PSGD([weight], psgd.XMat())
    return lambda: optimizer.step(lambda: torch.sum(scale * (weight - 1) ** 2))


def row(name: str, calls: list[tuple[str, str, int]]) -> str:
    """Return a row of the table."""
    files = [file for file, _, _ in calls]
    changes = sum(a != b for a, b in itertools.pairwise(files))
    return f"{name:24} {len(calls):6} {len({c[:2] for c in calls}):10} {len(set(files)):6} {changes:8}"


def main(argv: list[str]) -> None:
    """Print the table, or the calls of one update."""
    kinds = {
        "XMat": psgd.XMat(),
        "LowRank": psgd.LowRank(5),
        "LowRank, left": psgd.LowRank(5, diagonal="left"),
        "Kronecker": psgd.Kronecker((8, 8)),
    }
    if argv:
        with psgd.kernels.off():
            for file, name, depth in walk(updates(kinds[argv[0]])):
                print("  " * depth + name, f"  ({file})")
        return
    print(f"{'one update of':24} {'calls':>6} {'functions':>10} {'files':>6} {'changes':>8}")
    for name, p in kinds.items():
        with psgd.kernels.off():
            plain = walk(updates(p))
        print(row(f"{name}, plain", plain))
        if not psgd.kernels.available():
            continue
        calls = walk(updates(p))
        if len(calls) < len(plain):  # otherwise there are none for it, and it took the plain way
            print(row(f"{name}, kernels", calls))
    with contextlib.suppress(ImportError):
        print(row("PyTorch step, XMat", walk(torch_step())))


if __name__ == "__main__":
    main(sys.argv[1:])
