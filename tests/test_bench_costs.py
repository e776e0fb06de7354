"""`psgd bench`'s table of bytes, against algorithms that meter every number they touch.

The metered algorithms are literal, and their results are those of psgd-core: the counted numbers suffice.
"""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd
from psgd_analysis.bench import costs

STEP = 0.1


class Memory:
    """Arrays behind a meter: every number read or written is counted."""

    def __init__(self, **arrays):
        self.arrays = {name: np.array(x) for name, x in arrays.items()}
        self.numbers = {"read": 0, "written": 0, "index": 0}

    def read(self, name, at=...):
        found = self.arrays[name][at]
        self.numbers["index" if self.arrays[name].dtype.kind == "i" else "read"] += np.size(found)
        return np.array(found)

    def write(self, name, at, value):
        self.numbers["written"] += np.size(self.arrays[name][at])
        self.arrays[name][at] = value

    def counts(self, cost):
        return (cost.read, cost.written, cost.index // costs.INDEX_BYTES) == tuple(self.numbers.values())


def started(p, n, seed=0, updates=2):
    """Return a state after some updates, and a further pair and gradient."""
    rng = np.random.default_rng(seed)
    state = p.init(n, like=np.zeros(1), scale=0.8)
    draws = rng.standard_normal((3, updates + 1, n)) + 0.1
    for v, h in zip(draws[0, 1:], draws[1, 1:], strict=True):
        state = p.update(state, v, h, STEP)
    return state, draws[0, 0], draws[1, 0], draws[2, 0]


GROUPS = [
    ("diagonal", psgd.Diagonal(damping=0), 7),
    ("xmat", psgd.XMat(damping=0), 8),
    ("xmat", psgd.XMat(damping=0), 9),
    ("butterfly", psgd.Butterfly(damping=0), 10),
    ("klein", psgd.Sparse(psgd.PermutationSubgroup.klein(12), damping=0), 12),
    ("cyclic", psgd.Sparse(psgd.PermutationSubgroup.cyclic(8, 4), damping=0), 8),
]


def orbits_of(p, state, n, memory):
    """Yield (block number, orbit number, members) once each; where K is given as an index, it is read."""
    indexed = "order" in memory.arrays
    start = 0
    for i, members in enumerate(p.group.subgroup(n).orbit_index):
        s, c = members.shape
        for j in range(c):
            place = start + j + c * np.arange(s)
            yield i, j, memory.read("order", place) if indexed else members[:, j]
        start += s * c


def of_group(p, state, n, **vectors):
    blocks = {f"q{i}": b for i, b in enumerate(state.q.blocks)}
    held = {f"held{i}": x for i, x in enumerate(state.held)}
    index = {"order": state.q.gather[0]} if state.q.gather else {}
    return Memory(**blocks, **held, **index, **vectors)


@pytest.mark.parametrize(("kind", "p", "n"), GROUPS)
def test_one_pass_over_the_counted_numbers_makes_an_update_of_a_group(kind, p, n):
    state, v, h, _ = started(p, n)
    memory = of_group(p, state, n, v=v, h=h)
    for i, j, members in orbits_of(p, state, n, memory):
        q, held = memory.read(f"q{i}", (..., j)), memory.read(f"held{i}", j)
        probe, product = memory.read("v", members), memory.read("h", members)
        a, b = q @ product, np.linalg.solve(q.T, probe)
        size = np.sqrt(a @ a + b @ b)
        scale = max(held, STEP**0.25 * size)
        move = np.outer(a, q.T @ a) - np.outer(b, probe)
        memory.write(f"q{i}", (..., j), q - STEP / scale**2 * move)
        memory.write(f"held{i}", j, 0.99 * held + 0.01 * min(size, 10 * held))
    new = p.update(state, v, h, STEP)
    for i, (block, held) in enumerate(zip(new.q.blocks, new.held, strict=True)):
        np.testing.assert_allclose(memory.arrays[f"q{i}"], block, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(memory.arrays[f"held{i}"], held, rtol=1e-12)
    assert memory.counts(costs.cost("update", kind, n))


@pytest.mark.parametrize(("kind", "p", "n"), GROUPS)
def test_one_pass_over_the_counted_numbers_applies_p_of_a_group(kind, p, n):
    state, _, _, g = started(p, n)
    memory = of_group(p, state, n, g=g, y=np.zeros(n))
    for i, j, members in orbits_of(p, state, n, memory):
        q = memory.read(f"q{i}", (..., j))
        memory.write("y", members, q.T @ (q @ memory.read("g", members)))
    np.testing.assert_allclose(memory.arrays["y"], p.precondition(state, g), rtol=1e-12)
    assert memory.counts(costs.cost("precondition", kind, n))


class Counted(float):
    """A number whose sums and products are counted."""

    done = 0

    def _count(self, value):
        Counted.done += 1
        return Counted(value)

    def __add__(self, other):
        return self._count(float(self) + float(other))

    def __sub__(self, other):
        return self._count(float(self) - float(other))

    def __mul__(self, other):
        return self._count(float(self) * float(other))

    def __truediv__(self, other):
        return self._count(float(self) / float(other))


def counted_sum(terms):
    total, *rest = terms
    for term in rest:
        total = total + term
    return total


def upper_times(q, x):
    return [
        [counted_sum([q[i][k] * x[k][j] for k in range(i, len(q))]) for j in range(len(x[0]))]
        for i in range(len(q))
    ]


def lower_times(q, x):
    """``Q^T x``."""
    return [
        [counted_sum([q[k][i] * x[k][j] for k in range(i + 1)]) for j in range(len(x[0]))]
        for i in range(len(q))
    ]


def lower_solve(q, x):
    """``Q^{-T} x``."""
    made = []
    for i in range(len(q)):
        row = []
        for j in range(len(x[0])):
            value = x[i][j]
            for k in range(i):
                value = value - q[k][i] * made[k][j]
            row.append(value / q[i][i])
        made.append(row)
    return made


def numbers(x):
    return [[Counted(value) for value in row] for row in np.atleast_2d(x)]


def test_the_counted_sums_and_products_make_an_update_of_kronecker():
    """(4, 100): triangular along 4 and diagonal along 100; the results are psgd-core's."""
    shape = (4, 100)
    p = psgd.Kronecker(shape, damping=0)
    rng = np.random.default_rng(0)
    state = p.init(400, np.zeros(1), scale=1.0)
    q, d = np.triu(rng.uniform(-1, 1, (4, 4))) + 2 * np.eye(4), rng.uniform(1, 2, 100)
    state = state._replace(factors=(q, d))
    v, h = rng.standard_normal((2, *shape))
    cq, cd = numbers(q), [Counted(x) for x in d]

    Counted.done = 0
    a = [[x * cd[j] for j, x in enumerate(row)] for row in upper_times(cq, numbers(h))]
    b = [[x / cd[j] for j, x in enumerate(row)] for row in lower_solve(cq, numbers(v))]
    for x in (a, b):
        for i in range(4):
            for j in range(i, 4):
                counted_sum([x[i][k] * x[j][k] for k in range(100)])
        for k in range(100):
            counted_sum([x[i][k] * x[i][k] for i in range(4)])
    for i in range(4):
        for j in range(i, 4):
            counted_sum([cq[i][k] * cq[k][j] for k in range(i, j + 1)])
    assert Counted.done == costs.flops("update", "kronecker", shape)
    np.testing.assert_allclose(np.ravel(a), p.apply(state, h.ravel()), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.ravel(b), p.solve_transpose(state, v.ravel()), rtol=1e-12, atol=1e-14)

    squares = [Counted(x * x) for x in d]
    Counted.done = 0
    y = lower_times(cq, upper_times(cq, numbers(h)))
    y = [[x * squares[j] for j, x in enumerate(row)] for row in y]
    assert Counted.done == costs.flops("precondition", "kronecker", shape)
    np.testing.assert_allclose(np.ravel(y), p.precondition(state, h.ravel()), rtol=1e-12)

    found = costs.cost("update", "kronecker", 400, shape=shape)
    q_numbers, held = 10 + 100, 1 + 100
    assert (found.read, found.written) == (q_numbers + held + 800, q_numbers + held)
    found = costs.cost("precondition", "kronecker", 400, shape=shape)
    assert (found.read, found.written) == (q_numbers + 400, 400)
    assert costs.flops("update", "xmat", ()) is None
    assert costs.triangular(shape) == 4
    assert costs.triangular((100,)) == 0
    assert costs.cost("precondition", "kronecker", 1, shape=()).bytes(4) == 12


def test_the_numbers_per_parameter_are_those_of_the_docstring():
    def per_parameter(operation, kind, rank=0):
        found = costs.cost(operation, kind, 1000, rank)
        return (found.read + found.written) / 1000

    assert [per_parameter("update", k) for k in ("diagonal", "xmat", "butterfly", "klein")] == [6, 7, 7, 10.5]
    assert [per_parameter("precondition", k) for k in ("diagonal", "xmat", "klein")] == [3, 4, 6]
    assert per_parameter("update", "lowrank", 10) == 60
    assert per_parameter("precondition", "lowrank", 10) == 38


@pytest.mark.parametrize("updates", [2, 3])  # the turn of U, and of V
def test_three_passes_over_the_counted_numbers_make_an_update_of_low_rank(updates):
    n, r = 11, 3
    p = psgd.LowRank(r, damping=0)
    state, v, h, _ = started(p, n, updates=updates)
    new = p.update(state, v, h, STEP)
    memory = Memory(u=state.u, v=state.v, d=state.d, h=h, p=v, work=np.zeros(n))

    def columns():
        for i in range(n):
            d = memory.read("d", i)
            x, y = d * memory.read("h", i), memory.read("p", i) / d
            yield i, np.concatenate([memory.read("u", (..., i)), memory.read("v", (..., i)), [x, y]])

    gram = sum(np.outer(row, row) for _, row in columns())
    in_u, in_v, x, y = slice(0, r), slice(r, 2 * r), 2 * r, 2 * r + 1
    small = np.eye(r) + gram[in_v, in_u]
    zero, unit = np.zeros(r), np.eye(2)
    a = np.concatenate([gram[in_v, x], zero, unit[0]])  # over [U V x y]
    t = np.linalg.solve(small.T, gram[in_u, y])
    b = np.concatenate([zero, -t, unit[1]])
    ph = a + np.concatenate([zero, gram[in_u] @ a, [0, 0]])
    inverse = b - np.concatenate([np.linalg.solve(small, gram[in_v] @ b), zero, [0, 0]])
    turn_u = updates % 2 == 0
    other, factor = (in_v, "u") if turn_u else (in_u, "v")
    weight = np.linalg.inv(gram[other, other])
    if turn_u:  # D.1.2.2, and (V^T V)^{-1}
        move = np.outer(small.T @ weight @ gram[other] @ a, a) - np.outer(
            small.T @ weight @ gram[other] @ b, b
        )
    else:  # D.1.2.3: (I + V U^T) a is P h / d, (I + V U^T) b is y
        move = np.outer(weight @ gram[other] @ a, ph) - np.outer(
            weight @ gram[other] @ b, b + np.concatenate([zero, t, [0, 0]])
        )
    # the step over the bound is a scalar: taken from one parameter of the result, and then it fits all
    first = np.concatenate([state.u[:, 0], state.v[:, 0], [state.d[0] * h[0], v[0] / state.d[0]]])
    mu = (1 - new.d[0] / state.d[0]) / (first[x] * (ph @ first) - first[y] * (inverse @ first))
    for i, row in columns():
        memory.write(factor, (..., i), row[in_u if turn_u else in_v] - mu * move @ row)
        memory.write("work", i, row[x] * (ph @ row) - row[y] * (inverse @ row))
    for i in range(n):
        memory.write("d", i, memory.read("d", i) * (1 - mu * memory.read("work", i)))
    np.testing.assert_allclose(memory.arrays["d"], new.d, rtol=1e-9)
    np.testing.assert_allclose(memory.arrays["u"], new.u, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(memory.arrays["v"], new.v, rtol=1e-9, atol=1e-12)
    assert memory.counts(costs.cost("update", "lowrank", n, r))


def test_rank_0_takes_two_passes():
    n, p = 9, psgd.LowRank(0, damping=0)
    state, v, h, _ = started(p, n)
    memory = Memory(d=state.d, h=h, v=v)
    plus = minus = 0.0
    for i in range(n):
        d = memory.read("d", i)
        plus = max(plus, (d * memory.read("h", i)) ** 2)
        minus = max(minus, (memory.read("v", i) / d) ** 2)
    size = np.sqrt(plus + minus)
    held = state.held[int(state.count) % 2]
    mu = STEP / max(held, STEP**0.25 * size) ** 2
    for i in range(n):
        d = memory.read("d", i)
        move = (d * memory.read("h", i)) ** 2 - (memory.read("v", i) / d) ** 2
        memory.write("d", i, d * (1 - mu * move))
    np.testing.assert_allclose(memory.arrays["d"], p.update(state, v, h, STEP).d, rtol=1e-12)
    assert memory.counts(costs.cost("update", "lowrank", n, 0))


@pytest.mark.parametrize("r", [0, 1, 3, 4, 10])
def test_the_cheaper_of_two_ways_to_apply_p_of_low_rank(r):
    n, p = 13, psgd.LowRank(r, damping=0)
    state, _, _, g = started(p, n)
    expected, numbers = p.precondition(state, g), []
    for way in ("two passes", "three passes"):
        memory = Memory(u=state.u, v=state.v, d=state.d, g=g, a=np.zeros(n), y=np.zeros(n))
        s, w = np.zeros(r), np.zeros(r)
        if r == 0:
            for i in range(n):
                memory.write("y", i, memory.read("d", i) ** 2 * memory.read("g", i))
        elif way == "two passes":
            uu = np.zeros((r, r))
            for i in range(n):
                u, x = memory.read("u", (..., i)), memory.read("d", i) * memory.read("g", i)
                s, w, uu = s + memory.read("v", (..., i)) * x, w + u * x, uu + np.outer(u, u)
            w = w + uu @ s
            for i in range(n):
                d = memory.read("d", i)
                a = d * memory.read("g", i) + memory.read("u", (..., i)) @ s
                memory.write("y", i, d * (a + memory.read("v", (..., i)) @ w))
        else:
            for i in range(n):
                s = s + memory.read("v", (..., i)) * memory.read("d", i) * memory.read("g", i)
            for i in range(n):
                u = memory.read("u", (..., i))
                a = memory.read("d", i) * memory.read("g", i) + u @ s
                w = w + u * a
                memory.write("a", i, a)
            for i in range(n):
                memory.write(
                    "y", i, memory.read("d", i) * (memory.read("a", i) + memory.read("v", (..., i)) @ w)
                )
        np.testing.assert_allclose(memory.arrays["y"], expected, rtol=1e-9)
        numbers.append((memory.numbers["read"], memory.numbers["written"]))
    cost = costs.cost("precondition", "lowrank", n, r)
    assert (cost.read, cost.written) == min(numbers, key=sum)


def test_dense_is_counted_by_rows():
    n, p = 6, psgd.Dense(damping=0)
    state, v, h, g = started(p, n)
    memory = Memory(q=state.q.blocks[0][:, :, 0], copy=np.zeros((n, n)), v=v, h=h)
    product, a, ph = memory.read("h"), np.zeros(n), np.zeros(n)
    for i in range(n):
        row = memory.read("q", i)
        a[i] = row @ product
        ph += a[i] * row
        memory.write("copy", i, row)
    factor, probe = memory.read("copy"), memory.read("v")
    memory.write("copy", ..., factor)  # the factors, in place
    b = np.linalg.solve(factor.T, probe)
    size, held = np.sqrt(a @ a + b @ b), state.held[0][0]
    mu = STEP / max(held, STEP**0.25 * size) ** 2
    for i in range(n):
        memory.write("q", i, memory.read("q", i) - mu * (a[i] * ph - b[i] * probe))
    np.testing.assert_allclose(
        memory.arrays["q"], p.update(state, v, h, STEP).q.blocks[0][:, :, 0], rtol=1e-9
    )
    assert memory.counts(costs.cost("update", "dense", n))
    again = Memory(q=state.q.blocks[0][:, :, 0], g=g, y=np.zeros(n))
    x, y = again.read("g"), np.zeros(n)
    for i in range(n):
        row = again.read("q", i)
        y += (row @ x) * row
    again.write("y", ..., y)
    np.testing.assert_allclose(y, p.precondition(state, g), rtol=1e-9)
    assert again.counts(costs.cost("precondition", "dense", n))


def test_bytes_follow_the_dtype_and_the_index_does_not():
    cost = costs.cost("update", "klein", 8)
    assert cost.bytes(8) - cost.bytes(4) == (cost.read + cost.written) * 4
    assert cost.bytes(0) == 64
    assert cost.bytes_in_place(4) == cost.bytes(4) + 4 * (4 * 8 + 2 * 8)


def test_costs_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="kind"):
        costs.cost("update", "kron", 8)
    with pytest.raises(ValueError, match="operation"):
        costs.cost("solve", "xmat", 8)
    with pytest.raises(ValueError, match="divisible by 4"):
        costs.cost("update", "klein", 10)
