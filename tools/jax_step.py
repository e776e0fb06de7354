"""What a training step costs in JAX beside the same written by hand: operations, compile time, run time.

The model is the recurrent network of delayed XOR (T = 32, 30 units, 128 sequences). Steps by hand have the
paper's formulas and nothing else: no scale set by the first pair, no damping, no pairs that are left out, no
change of gauge. Both sides draw their probe, and get value, gradient and product from one ``jax.jvp``.

Times are of the processor, on one thread: compiled from scratch several times, and run in turns, ours and by
hand. Loops are those that XLA compiles, each by itself, and calls of libraries.

    python tools/jax_step.py [--compiles 5] [--runs 300] [--only LowRank]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false {os.environ.get('XLA_FLAGS', '')}"

import jax
import jax.numpy as jnp
import optax

import psgd_core as psgd
from psgd_core.adapters import jax as adapter

Tree = Any
LENGTH, COUNT, UNITS = 32, 128, 30
LR, RATE, CLIP, RANK = 0.01, 0.01, 1.0, 10


class Case(NamedTuple):
    """A step and what it starts from."""

    step: Callable[..., Any]  # step(params, state, key, batch) returns (loss, params, state)
    params: Tree
    state: Any


# -- the model -------------------------------------------------------------------------------------------


def weights() -> dict[str, jax.Array]:
    """Return the network's first weights."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "input": 0.1 * jax.random.normal(keys[0], (2, UNITS)),
        "recurrent": jnp.linalg.qr(jax.random.normal(keys[1], (UNITS, UNITS)))[0],
        "bias": jnp.zeros(UNITS),
        "output": 0.1 * jax.random.normal(keys[2], (UNITS,)),
    }


def batch() -> tuple[jax.Array, jax.Array]:
    """Return sequences and labels, of no matter what values."""
    signs = jax.random.rademacher(jax.random.key(1), (LENGTH, COUNT, 2), jnp.float32)
    return signs, signs[0, :, 0] * signs[1, :, 0]


def loss(w: dict[str, jax.Array], data: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the mean logistic loss."""
    x, labels = data

    def advance(state: jax.Array, given: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(given @ w["input"] + w["bias"] + state @ w["recurrent"]), None

    last, _ = jax.lax.scan(advance, jnp.zeros((COUNT, UNITS)), x)
    return jnp.mean(jax.nn.softplus(-labels * (last @ w["output"])))


def with_product(f: Callable[[Tree], jax.Array], x: Tree, v: Tree) -> tuple[jax.Array, Tree, Tree]:
    """Return value, gradient and product."""
    (value, g), (_, h) = jax.jvp(jax.value_and_grad(f), (x,), (v,))
    return value, g, h


# -- by hand ---------------------------------------------------------------------------------------------


def clipped(moves: Tree) -> Tree:
    """Return moves of norm at most `CLIP` together, times the learning rate."""
    size = jnp.sqrt(sum(jnp.sum(m * m) for m in jax.tree.leaves(moves)))
    factor = -LR * jnp.minimum(1.0, CLIP / size)
    return jax.tree.map(lambda m: factor * m, moves)


def low_rank(state: Any, v: jax.Array, h: jax.Array) -> Any:
    """Return (U, V, d, count) after an update, section D.1.2; U and V in turn."""
    u, w, d, count = state
    core = jnp.eye(RANK) + w.T @ u
    dh, a = d * h, v / d
    a = dh + u @ (w.T @ dh)
    b = v / d
    b = b - w @ jnp.linalg.solve(core.T, u.T @ b)
    ph = d * (a + w @ (u.T @ a))
    pv = (b - u @ jnp.linalg.solve(core, w.T @ b)) / d
    slope = ph * h - v * pv
    d = d * (1 - RATE / jnp.max(jnp.abs(slope)) * slope)

    def slope_of(stays: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        s, t = a @ stays, b @ stays
        x, y = stays @ s, stays @ t
        square = (a @ a) * (x @ x) + (b @ b) * (y @ y) - 2 * (a @ b) * (x @ y)
        return s, t, RATE / jnp.sqrt(jnp.abs(square))

    def move_u() -> tuple[jax.Array, jax.Array]:
        s, t, rate = slope_of(w)
        return u - rate * (jnp.outer(a, s @ core) - jnp.outer(b, t @ core)), w

    def move_v() -> tuple[jax.Array, jax.Array]:
        s, t, rate = slope_of(u)
        return u, w - rate * (jnp.outer(a + w @ (u.T @ a), s) - jnp.outer(b + w @ (u.T @ b), t))

    return *jax.lax.cond(count % 2 == 0, move_u, move_v), d, count + 1


def low_rank_product(state: Any, g: jax.Array) -> jax.Array:
    """Return ``P g``."""
    u, w, d, _ = state
    x = d * g
    x = x + u @ (w.T @ x)
    return d * (x + w @ (u.T @ x))


def diagonal(q: jax.Array, v: jax.Array, h: jax.Array) -> jax.Array:
    """Return q after an update."""
    a, b = q * h, v / q
    slope = a * a - b * b
    return q * (1 - RATE / jnp.max(jnp.abs(slope)) * slope)


def triangular(q: jax.Array, plus: jax.Array, minus: jax.Array) -> jax.Array:
    """Return a triangular factor after an update by its Gram matrices of a and b."""
    size = jnp.max(jnp.sum(jnp.abs(plus + minus), axis=0))
    return q - RATE / size * jnp.triu(plus - minus) @ q


def kronecker(state: Any, v: jax.Array, h: jax.Array) -> Any:
    """Return both factors after an update: triangular, or diagonal for a longer side; or a vector's one."""
    if h.ndim == 1:
        return diagonal(state, v, h)
    left, right = state
    a = left @ h
    b = jax.scipy.linalg.solve_triangular(left, v, trans=1)
    if right.ndim == 1:
        a, b = a * right, b / right
        plus, minus = jnp.sum(a * a, axis=0), jnp.sum(b * b, axis=0)
        right = right * (1 - RATE / jnp.max(plus + minus) * (plus - minus))
        return triangular(left, a @ a.T, b @ b.T), right
    a = a @ right.T
    b = jax.scipy.linalg.solve_triangular(right, b.T, trans=1).T
    return triangular(left, a @ a.T, b @ b.T), triangular(right, a.T @ a, b.T @ b)


def kronecker_product(state: Any, g: jax.Array) -> jax.Array:
    """Return ``P g``."""
    if g.ndim == 1:
        return state * state * g
    left, right = state
    if right.ndim == 1:
        return left.T @ ((left @ g) * (right * right))
    return left.T @ (left @ g @ right.T) @ right


def on_vector(move: Callable[..., tuple[jax.Array, Any]], start: Callable[[jax.Array], Any]) -> Case:
    """Return a step with one vector of all parameters: ``move(x, state, v, g, h)`` returns (x, state)."""
    x, tree_of = jax.flatten_util.ravel_pytree(weights())

    def step(x: Tree, state: Any, key: Any, data: Any) -> Any:
        v = jax.random.normal(key, x.shape)
        value, g, h = with_product(lambda x: loss(tree_of(x), data), x, v)
        return value, *move(x, state, v, g, h)

    return Case(step, x, start(x))


def by_hand_low_rank() -> Case:
    """Return the step of `LowRank`."""

    def move(x: jax.Array, state: Any, v: jax.Array, g: jax.Array, h: jax.Array) -> tuple[jax.Array, Any]:
        state = low_rank(state, v, h)
        return x + clipped(low_rank_product(state, g)), state

    def start(x: jax.Array) -> Any:
        u, w = jax.random.normal(jax.random.key(2), (2, x.size, RANK)) / (x.size * RANK) ** 0.5
        return u, w, jnp.ones(x.size), jnp.zeros((), jnp.int32)

    return on_vector(move, start)


def by_hand(update: Callable[..., Any], product: Callable[..., Any], start: Callable[..., Any]) -> Case:
    """Return the step with a state for each parameter."""

    def step(x: Tree, states: Any, key: Any, data: Any) -> Any:
        v = optax.tree.random_like(key, x)
        value, g, h = with_product(lambda x: loss(x, data), x, v)
        states = {name: update(states[name], v[name], h[name]) for name in x}
        moves = clipped({name: product(states[name], g[name]) for name in x})
        return value, {name: x[name] + moves[name] for name in x}, states

    params = weights()
    return Case(step, params, {name: start(w) for name, w in params.items()})


def by_hand_kronecker() -> Case:
    """Return the step of `Kronecker`, vectors diagonal."""

    def start(w: jax.Array) -> Any:
        if w.ndim == 1:
            return jnp.ones_like(w)
        left, right = w.shape
        return jnp.eye(left), jnp.eye(right) if right == left else jnp.ones(right)

    return by_hand(kronecker, kronecker_product, start)


def core_low_rank() -> Case:
    """Return the step of `psgd_core.PSGD`."""
    optimizer = psgd.PSGD(psgd.LowRank(RANK), lr=LR, step_size=RATE, clip=CLIP)
    return on_vector(lambda x, s, v, g, h: optimizer.update(s, x, g, pair=(v, h)), optimizer.init)


def of_adapter(preconditioner: Any, *, per_leaf: bool = True) -> Case:
    """Return the step of the optax transformation."""
    optimizer = adapter.psgd(LR, preconditioner, RATE, momentum=0, clip=CLIP, per_leaf=per_leaf)
    evaluate = adapter.value_grad_hvp(loss)

    def step(x: Tree, state: Any, key: Any, data: Any) -> Any:
        value, g, h, v = evaluate(x, key, data)
        updates, state = optimizer.update(g, state, x, hvp=h, probe=v)
        return value, optax.apply_updates(x, updates), state

    params = weights()
    return Case(step, params, optimizer.init(params))


CASES: dict[str, tuple[Callable[[], Case], Callable[[], Case]]] = {
    "LowRank(10), psgd_core.PSGD": (core_low_rank, by_hand_low_rank),
    "LowRank(10), adapter": (lambda: of_adapter(psgd.LowRank(RANK), per_leaf=False), by_hand_low_rank),
    "Diagonal, adapter": (
        lambda: of_adapter(psgd.Diagonal()),
        lambda: by_hand(diagonal, lambda q, g: q * q * g, jnp.ones_like),
    ),
    "Kronecker, adapter": (
        lambda: of_adapter(lambda leaf: psgd.Kronecker(leaf.shape)),
        by_hand_kronecker,
    ),
}
"""By name: ours, and by hand."""


# -- counts and times ------------------------------------------------------------------------------------


def operations(jaxpr: Any) -> Iterator[str]:
    """Yield the names of all operations of a jaxpr, those of inner ones in place of the call."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        values = equation.params.values()
        inner = [x for value in values for x in (value if isinstance(value, list | tuple) else [value])]
        inner = [x for x in inner if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
        if not inner or equation.primitive.name == "reduce":  # whose inner one says how two are joined
            yield equation.primitive.name
            continue
        for one in inner:
            yield from operations(one)


def arguments(case: Case) -> tuple[Any, ...]:
    """Return what a step is called with."""
    return case.params, case.state, jax.random.key(3), batch()


def count(case: Case) -> int:
    """Return how many operations a step has."""
    return sum(1 for _ in operations(jax.make_jaxpr(case.step)(*arguments(case))))


def loops(made: Any) -> int:
    """Return how many loops and calls a compiled step has."""
    return len(re.findall(r" (?:fusion|custom-call|dot|copy|concatenate)\(", made.as_text()))


def compiled(case: Case) -> tuple[Any, float]:
    """Return a step traced, lowered and compiled from scratch, and the seconds of that."""
    given = arguments(case)
    jax.clear_caches()
    before = time.process_time()
    made = jax.jit(case.step).lower(*given).compile()
    return made, time.process_time() - before


def run(made: Any, case: Case, calls: int) -> tuple[float, Case]:
    """Return the seconds of a call, and the case after so many of them."""
    x, state, key, data = arguments(case)
    keys = jax.block_until_ready(list(jax.random.split(key, calls)))
    before = time.process_time()
    for one in keys:
        _, x, state = made(x, state, one, data)
    jax.block_until_ready(x)
    return (time.process_time() - before) / calls, Case(case.step, x, state)


def row(name: str, compiles: int, runs: int) -> str:
    """Return a row of the table."""
    median, pair = statistics.median, [make() for make in CASES[name]]
    operations = [count(case) for case in pair]
    made: list[Any] = [None, None]
    whole: list[list[float]] = [[], []]
    for _ in range(compiles):
        for i, case in enumerate(pair):
            made[i], took = compiled(case)
            whole[i].append(took)
    each: list[list[float]] = [[], []]
    for _ in range(runs // 10):
        for i, case in enumerate(pair):
            took_each, pair[i] = run(made[i], case, 10)
            each[i].append(1e3 * took_each)
    ratios = [median(a / b for a, b in zip(*times, strict=True)) for times in (whole, each)]
    return (
        f"| {name} | {operations[0]} / {operations[1]} | {loops(made[0])} / {loops(made[1])} "
        f"| {median(whole[0]):.2f} / {median(whole[1]):.2f} s | {ratios[0]:.2f} "
        f"| {median(each[0]):.2f} / {median(each[1]):.2f} ms | {ratios[1]:.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--compiles", type=int, default=5)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--only", default="", help="a part of a name")
    chosen = parser.parse_args()
    print("| step | operations: ours / by hand | loops | compile | ratio | run | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in CASES:
        if chosen.only in name:
            print(row(name, chosen.compiles, chosen.runs), flush=True)


if __name__ == "__main__":
    main()
