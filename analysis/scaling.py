"""What an optimiser holds and sends per device, at sizes that fit no machine here: compiled, never run.

    python analysis/scaling.py --out analysis/results/scaling

The step of each optimiser is compiled by JAX for so many devices, which are pretended on the host, and for
parameters that are shapes without arrays: matrices of 2,048 x 2,048 in float32, their rows split over all
devices. What is counted stands in the compiled program: the bytes of state that a device holds, and the
bytes that it sends to others (in the mean over devices), in a step that fits P (for Shampoo: one that takes
roots) and in one that does not. An all-reduce of b bytes counts 2 b, an all-gather to b bytes and an
all-to-all of b bytes count b, a permutation of b bytes counts b, each less the part that stays. Gathering
parameters for the loss and scattering its gradients is the same for every optimiser, and not part of it:
fully sharded, each device sends about 3 times the bytes of all parameters per step, and again as much for an
exact product. The groups that act on a vector get all matrices as one leaf. Kronecker and Shampoo are
compiled for one matrix, and multiplied by their number. Shampoo is written here after its paper
(arXiv 1802.09568), its factors split by rows and each root taken in full on each device. Needs jax and optax.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

SIDE = 2048
"""Rows and columns of a matrix."""

SIZES = ((256, 8), (2560, 64), (25600, 512))
"""Matrices, and devices: 1.1e9, 1.1e10 and 1.1e11 parameters."""


# -- what a compiled program sends -----------------------------------------------------------------------

SENT: dict[str, Callable[[int, int], float]] = {  # with an output of b bytes, by each of d devices
    "all-reduce": lambda b, d: 2 * b * (d - 1) / d,
    "all-gather": lambda b, d: b * (d - 1) / d,
    "all-to-all": lambda b, d: b * (d - 1) / d,
    "reduce-scatter": lambda b, d: b * (d - 1),
    "collective-permute": lambda b, d: b,
}
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?\S+ = (.*?) ([a-z][a-z0-9-]*)\(")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s64": 8, "u64": 8, "f64": 8}


class Traffic(NamedTuple):
    """The bytes that one device sends: in a step with every branch at its least, and at its most."""

    least: dict[str, float]  # by kind of collective
    most: dict[str, float]


def traffic(program: str, devices: int) -> Traffic:
    """Return what a compiled program, as HLO text, sends per device.

    Raises
    ------
    ValueError
        If it communicates in a loop whose length is not known, or in a way that is not counted.
    """
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if found := re.match(r"^(ENTRY )?%?([\w.-]+) (?:\(.*)?\{$", line):
            name = found[2]
            bodies[name] = []
            entry = name if found[1] else entry
        elif name:
            bodies[name].append(line)

    def called(line: str, key: str) -> list[str]:
        found = re.search(rf"\b{key}=(?:\{{([^}}]*)\}}|%?([\w.-]+))", line)
        return re.findall(r"[\w.-]+", found[1] or found[2]) if found else []

    def cost(name: str, pick: Callable[..., Any]) -> dict[str, float]:
        total: dict[str, float] = {}

        def add(part: dict[str, float], times: float = 1) -> None:
            for kind, sent in part.items():
                total[kind] = total.get(kind, 0) + times * sent

        for line in bodies[name]:
            found = INSTRUCTION.match(line)
            operation = found[2].removesuffix("-start") if found else ""
            if found and operation in SENT:
                sent = SENT[operation](size_of(found[1]), devices)
                if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):  # not all need send
                    ends = re.findall(r"(\d+),(\d+)", pairs[1])
                    sent *= sum(source != target for source, target in ends) / devices
                add({operation: sent})
            elif operation in ("ragged-all-to-all", "collective-broadcast", "send", "recv"):
                raise ValueError(
                    f"`program` must hold collectives that are counted, got {line.strip()[:100]}"
                )
            elif operation == "conditional":
                branches = called(line, "branch_computations")
                branches = branches or called(line, "true_computation") + called(line, "false_computation")
                add(pick((cost(one, pick) for one in branches), key=lambda part: sum(part.values())))
            elif operation == "while":
                inside = cost(called(line, "body")[0], pick)
                times = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                if inside and not times:
                    raise ValueError(
                        f"`program` must not communicate in open loops, got {line.strip()[:100]}"
                    )
                add(inside, int(times[1]) if times else 0)
            elif operation in ("call", "fusion", "async"):
                for one in called(line, "calls") + called(line, "to_apply"):
                    add(cost(one, pick))
        return total

    return Traffic(cost(entry, min), cost(entry, max))


def size_of(shapes: str) -> int:
    """Return the bytes of an array, or of a tuple of arrays, as HLO writes their shapes."""
    found = re.findall(r"([a-z]+[0-9]*)\[([\d,]*)\]", shapes)
    return sum(BYTES.get(kind, 4) * math.prod(int(d) for d in dims.split(",") if d) for kind, dims in found)


# -- what is compiled ------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of the table; bytes are per device."""

    optimizer: str
    parameters: int
    devices: int
    held: float  # bytes of state
    least: dict[str, float]  # bytes sent in a step that does not fit
    most: dict[str, float]  # in one that does


def shampoo(every: int) -> Any:
    """Return Shampoo for matrices, with roots taken in every so many steps."""
    import jax
    import jax.numpy as jnp
    import optax

    def root(a: Any) -> Any:
        values, vectors = jnp.linalg.eigh(a)
        return (vectors * jnp.maximum(values, 1e-12) ** -0.25) @ vectors.T

    def init(params: Any) -> Any:
        def one(x: Any) -> Any:
            return tuple(jnp.zeros((side, side), x.dtype) for side in (*x.shape, *x.shape))

        return jnp.zeros((), jnp.int32), jax.tree.map(one, params), jax.tree.map(jnp.zeros_like, params)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        count, factors, momentum = state

        def one(g: Any, held: Any) -> Any:
            left, right = held[0] + g @ g.T, held[1] + g.T @ g
            roots = jax.lax.cond(
                count % every == 0, lambda: (root(left), root(right)), lambda: (held[2], held[3])
            )
            return left, right, *roots

        factors = jax.tree.map(one, grads, factors)
        moves = jax.tree.map(lambda g, held: held[2] @ g @ held[3], grads, factors)
        momentum = jax.tree.map(lambda m, move: 0.9 * m + move, momentum, moves)
        return momentum, (count + 1, factors, momentum)

    return optax.GradientTransformation(init, update)


def optimizers() -> dict[str, tuple[Any, bool]]:
    """Return (optimiser, whether it takes one matrix at a time) by name; all of them with momentum."""
    import optax

    import psgd_core as psgd
    from psgd_core.adapters import jax as adapter

    vectors = {
        "Diagonal": psgd.Diagonal(),
        "XMat": psgd.XMat(),
        "Butterfly": psgd.Butterfly(),
        "LowRank(10)": psgd.LowRank(10),
    }

    def kronecker(factors: str) -> Any:
        return adapter.scale_by_psgd(lambda leaf: psgd.Kronecker(leaf.shape, factors), momentum=0.9, every=10)

    return {
        "AdamW": (optax.adamw(1e-3), False),
        **{name: (adapter.scale_by_psgd(p, momentum=0.9, every=10), False) for name, p in vectors.items()},
        "Kronecker, diagonal": (kronecker("diagonal"), True),
        "Kronecker, dense": (kronecker("dense"), True),
        "Shampoo": (shampoo(every=10), True),
    }


def compiled(name: str, matrices: int, devices: int, side: int) -> Row:
    """Compile an optimiser's start and step for devices that are not there; return what that shows."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    optimizer, one_matrix = optimizers()[name]
    optimizer = optax.with_extra_args_support(optimizer)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("a",))
    rows = NamedSharding(mesh, PartitionSpec("a", None))
    leaf = jax.ShapeDtypeStruct(((1 if one_matrix else matrices) * side, side), jnp.float32, sharding=rows)

    def init() -> Any:
        state = optimizer.init(leaf)
        if name not in ("AdamW", "Shampoo"):
            return state  # sharded as the parameters by itself
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows) if x.ndim == 2 else x, state)

    start = jax.jit(init).lower().compile()
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(init),
        start.output_shardings,
    )

    def step(params: Any, grads: Any, hvp: Any, probe: Any, state: Any) -> Any:
        pair = {} if name in ("AdamW", "Shampoo") else {"hvp": hvp, "probe": probe}
        return optimizer.update(grads, state, params, **pair)

    whole = jax.tree.map(lambda x: x.sharding, (leaf, state))
    program = jax.jit(step, out_shardings=whole).lower(leaf, leaf, leaf, leaf, state).compile()
    sent = traffic(program.as_text(), devices)
    times = matrices if one_matrix else 1
    held = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state))
    least, most = ({kind: times * b for kind, b in part.items()} for part in sent)
    return Row(name, matrices * side * side, devices, times * held, least, most)


# -- the tables ------------------------------------------------------------------------------------------


def amount(number: float) -> str:
    """Return bytes in the unit that suits."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB" if number < 1000 else f"{number:,.0f} GiB"


def kinds(sent: dict[str, float]) -> str:
    """Return what is sent, and by which collectives."""
    parts = sorted(((b, kind) for kind, b in sent.items() if b > 0), reverse=True)
    if not parts:
        return "nothing"
    names = ", ".join(kind for b, kind in parts if b > 0.01 * parts[0][0])
    return f"{amount(sum(b for b, _ in parts))} ({names})"


def page(rows: list[Row], title: str, about: str | None, packages: tuple[str, ...]) -> str:
    """Return a page under a title in Markdown: what a script says of itself, its command, and the tables."""
    level = "#" + title.partition(" ")[0]
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages)
    lines = [
        title,
        "",
        (about or "").split("\n\n", 2)[2].strip(),
        "",
        "```sh",
        f"python {' '.join(sys.argv)}",
        "```",
        "",
        f"Python {platform.python_version()}, {versions}; float32, momentum of 0.9. Bytes are per device.",
    ]
    for size in dict.fromkeys((row.parameters, row.devices) for row in rows):
        share = 4 * size[0] / size[1]
        lines += [
            "",
            f"{level} {size[0]:.2g} parameters on {size[1]} devices: {amount(share)} of parameters on each",
            "",
            "| optimiser | state | of the parameters' share | sent in a step | in a step that fits |",
            "|---|---|---|---|---|",
            *(
                f"| {row.optimizer} | {amount(row.held)} | {row.held / share:.3g} × "
                f"| {kinds(row.least)} | {kinds(row.most)} |"
                for row in rows
                if (row.parameters, row.devices) == size
            ),
        ]
    return "\n".join([*lines, ""])


class Asked(NamedTuple):
    """What a script is asked for."""

    sizes: list[tuple[int, int]]  # matrices, and devices
    side: int
    optimizers: list[str] | None  # None: all
    out: Path | None

    @classmethod
    def parsed(cls, about: str | None) -> Asked:
        """Return what the command line says."""
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
        sizes = [f"{m}x{d}" for m, d in SIZES]
        parser.add_argument("--sizes", nargs="+", default=sizes, help="MATRICESxDEVICES")
        parser.add_argument("--side", type=int, default=SIDE, help="rows and columns of a matrix")
        parser.add_argument("--optimizers", nargs="+", help="names; all by default")
        parser.add_argument("--out", type=Path, help="without suffix: writes .md and .json")
        asked = parser.parse_args()
        pairs = [(int(m), int(d)) for m, d in (size.split("x") for size in asked.sizes)]
        return cls(pairs, asked.side, asked.optimizers, asked.out)

    def rows(self, known: list[str], compiled: Callable[[str, int, int, int], Row]) -> list[Row]:
        """Return a row for each size and optimiser, and tell of each."""
        rows = []
        for matrices, devices in self.sizes:
            for name in self.optimizers or known:
                rows.append(compiled(name, matrices, devices, self.side))
                print(rows[-1], file=sys.stderr, flush=True)
        return rows

    def write(self, rows: list[Row], text: str) -> None:
        """Write a page and its rows, or print the page."""
        if self.out is None:
            print(text)
            return
        self.out.with_suffix(".md").write_text(text, encoding="utf-8")
        data = json.dumps([row._asdict() for row in rows], indent=1) + "\n"
        self.out.with_suffix(".json").write_text(data, encoding="utf-8")


def main() -> None:
    """Compile everything and write the tables."""
    asked = Asked.parsed(__doc__)
    # before jax is imported: so many devices on this host, and little of what makes programs fast to run
    pretended = f"--xla_force_host_platform_device_count={max(d for _, d in asked.sizes)}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {pretended}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    rows, title = asked.rows(list(optimizers()), compiled), "# State and communication past one machine"
    asked.write(rows, page(rows, title, __doc__, ("jax", "jaxlib", "optax")))


if __name__ == "__main__":
    main()
