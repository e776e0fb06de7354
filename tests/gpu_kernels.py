"""The kernels there are, all of which the tests compile, and the preconditioners that have them."""

import psgd_core as psgd
from psgd_core import PermutationSubgroup

DTYPES = {"float32": "float", "float64": "double"}
SHAPES = [(1, "direct"), (2, "shifted"), (2, "mirrored"), *((s, "gathered") for s in (1, 2, 3, 4))]
HOW = {"direct": 1, "shifted": 1, "mirrored": 2, "gathered": 3}


def widths(dtype: str, size: int, how: str) -> list[int]:
    """Return how many orbits a thread may take."""
    wide = {"float32": 4, "float64": 2}[dtype] // size
    return [1] if how == "gathered" or wide <= 1 else [1, wide]


def orbit_kernels(dtypes=DTYPES, shapes=SHAPES) -> list[str]:
    """Return the names of all kernels of ``orbits.cu``."""
    names = []
    for dtype in dtypes:
        t = DTYPES[dtype]
        wide = {"float32": 4, "float64": 2}[dtype]
        names += [f"settle<{t}>", f"finish<{t}>", f"inspect<{t}, 1>", f"inspect<{t}, {wide}>"]
        for size, how in shapes:
            key = f"{t}, {size}, {HOW[how]}"
            names.append(f"measure<{key}>")
            for w in widths(dtype, size, how):
                names += [f"move<{key}, {w}>", f"precondition<{key}, {w}>"]
    return sorted(set(names))


def low_rank_kernels(dtypes=DTYPES) -> list[str]:
    """Return the names of all kernels of ``low_rank.cu``."""
    names = ("survey", "judge", "gram", "arrange", "combine", "extremes", "rewrite")
    return ["gram_sum", *(f"{name}<{DTYPES[dtype]}>" for dtype in dtypes for name in names)]


KINDS = {
    "diagonal": lambda n: psgd.Diagonal(),
    "xmat": lambda n: psgd.XMat(),
    "butterfly": lambda n: psgd.Butterfly(),
    "klein": lambda n: psgd.Sparse(PermutationSubgroup.klein(n)),
    "thirds": lambda n: psgd.Sparse(PermutationSubgroup.on_blocks(n, [(1, 2, 0)])),
    "uneven": lambda n: psgd.Sparse(PermutationSubgroup.from_generators([[1, 2, 0, *range(3, n)]])),
    "sample": lambda n: psgd.XMat(normalizer=psgd.normalizers.Sample()),
    "undamped": lambda n: psgd.XMat(damping=0.0),
    "much-damped": lambda n: psgd.Sparse(PermutationSubgroup.klein(n), damping=0.3),
}
MULTIPLE = {"butterfly": 2, "klein": 4, "much-damped": 4, "thirds": 3}
LEAST = {"uneven": 3}


def fitting(kind, n):
    """Return the next n that the preconditioner has."""
    return max(n + -n % MULTIPLE.get(kind, 1), LEAST.get(kind, 1))
