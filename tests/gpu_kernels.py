"""The kernels there are: what the tests compile, all of them."""

DTYPES = {"float32": "float", "float64": "double"}
SHAPES = [(1, "direct"), (2, "shifted"), (2, "mirrored"), *((s, "gathered") for s in (1, 2, 3, 4))]
HOW = {"direct": 1, "shifted": 1, "mirrored": 2, "gathered": 3}


def widths(dtype: str, size: int, how: str) -> list[int]:
    """Return how many orbits a thread may take."""
    wide = {"float32": 4, "float64": 2}[dtype] // size
    return [1] if how == "gathered" or wide <= 1 else [1, wide]


def orbit_kernels(dtypes=DTYPES, shapes=SHAPES) -> list[str]:
    """Return the names of all kernels of ``orbits.cu``."""
    names = ["finish"]
    for dtype in dtypes:
        t = DTYPES[dtype]
        wide = {"float32": 4, "float64": 2}[dtype]
        names += [f"settle<{t}>", f"inspect<{t}, 1>", f"inspect<{t}, {wide}>"]
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
