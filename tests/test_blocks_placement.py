"""Blocks sit on the parameters they were made for, or are refused: names, shapes, orders."""

from __future__ import annotations

import itertools
from collections import OrderedDict, namedtuple

import numpy as np
import pytest

import psgd_core as psgd
from psgd_core import Blocks, Kronecker
from psgd_core.arrays import trees
from psgd_core.arrays.trees import Leaf
from psgd_core.preconditioners.placement import placed

SHAPES = [(6, 4), (6,), (4, 6), (4,), (3, 8), (24,)]  # four of them of one size
NAMES = ["w", "b", "10.w", "9.w", "a", "Z"]


def leaves(order=range(6), named=True):
    return [Leaf(NAMES[i] if named else "", SHAPES[i]) for i in order]


def shapes_of(blocks):
    return [getattr(part, "shape", (n,)) for n, part in blocks.parts]


ORDERS = [[5, 4, 3, 2, 1, 0], [2, 0, 1, 3, 5, 4], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("names", [(True, True), (True, False), (False, True), (False, False)])
def test_blocks_follow_the_order_of_the_parameters(order, names):
    """By name, or by shape alone: blocks of one shape are all the same."""
    made = Blocks(tuple((int(np.prod(s)), Kronecker(s)) for s in SHAPES), tuple(leaves(named=names[0])))
    met = leaves(order, named=names[1])
    there = placed(made, met)
    assert shapes_of(there) == [leaf.shape for leaf in met]
    assert placed(there, met) is there
    assert hash(there) == hash(placed(made, met))
    if order == sorted(order):
        assert there is made


@pytest.mark.parametrize("n", [3, 12])
def test_names_tell_blocks_of_one_shape_apart(n):
    """As `choose` may make them; without names an order of its own is taken, and another refused."""
    kinds = [psgd.XMat(), psgd.Diagonal(), psgd.Dense(), *[psgd.LowRank(r) for r in range(2, 20)]][:n]
    names, order = [f"layer{i}.weight" for i in range(n)], sorted(range(n), key=lambda i: f"{i}")[::-1]
    made = Blocks(tuple((40, p) for p in kinds), tuple(Leaf(name, (5, 8)) for name in names))
    there = placed(made, [Leaf(names[i], (5, 8)) for i in order])
    assert [p for _, p in there.parts] == [kinds[i] for i in order]
    assert placed(made, [Leaf("", (5, 8))] * n) is made  # the order is all there is
    with pytest.raises(ValueError, match="must have blocks for the parameters it meets"):
        placed(made, [Leaf(f"other{i}", (5, 8)) for i in range(n)])
    mixed = Blocks((*made.parts, (3, psgd.Diagonal())), (*made.arrays, Leaf("bias", (3,))))
    with pytest.raises(ValueError, match=r"bias \(3,\)|\.\.\."):
        placed(mixed, [Leaf("", (3,)), *[Leaf("", (5, 8))] * n])


@pytest.mark.parametrize(
    "met",
    [
        leaves()[:-1],
        [*leaves(), Leaf("more", (2,))],
        [Leaf(name, shape[::-1]) for name, shape in leaves()],
        [Leaf(name, (24,)) if shape == (3, 8) else Leaf(name, shape) for name, shape in leaves()],
        [
            Leaf(name, shape)
            for (name, _), shape in zip(leaves(), np.roll(np.array(SHAPES, object), 1), strict=True)
        ],
    ],
)
def test_blocks_of_other_arrays_are_refused(met):
    made = Blocks(tuple((int(np.prod(s)), Kronecker(s)) for s in SHAPES), tuple(leaves()))
    with pytest.raises(
        ValueError, match=r"`preconditioner` must have blocks for the parameters it meets, .*got"
    ):
        placed(made, met)


def test_a_vector_has_nothing_to_compare_with():
    made = Blocks(tuple((int(np.prod(s)), Kronecker(s)) for s in SHAPES), tuple(leaves()))
    assert placed(made, [Leaf("", (made.n,))]) is made


def test_blocks_made_by_hand_hold_whole_arrays_or_lie_within_one():
    d = psgd.Diagonal()
    met = [Leaf("", (6, 4)), Leaf("", (3,)), Leaf("", (2, 5))]
    for sizes in ([24, 3, 10], [27, 10], [37], [12, 12, 3, 10], [24, 1, 2, 4, 6]):
        blocks = Blocks(tuple((n, d) for n in sizes))
        assert placed(blocks, met) is blocks
    for sizes in ([10, 3, 24], [3, 24, 10], [12, 25], [20, 17], [24, 13, 1], [24, 3]):
        with pytest.raises(ValueError, match="`preconditioner` must have blocks"):
            placed(Blocks(tuple((n, d) for n in sizes)), met)


@pytest.mark.parametrize("shape", [(4, 6), (2, 6, 4), (6, 4)])
def test_factors_for_dimensions_in_another_order_are_refused(shape):
    turned = Kronecker(shape[::-1])
    n = int(np.prod(shape))
    for p in (turned, Blocks(((n, turned), (3, psgd.Diagonal())))):
        met = [Leaf("", shape)] if p is turned else [Leaf("", shape), Leaf("", (3,))]
        with pytest.raises(ValueError, match="must not have its dimensions in another order"):
            placed(p, met)
    flat = Kronecker((shape[0], n // shape[0]))  # convolutions as matrices
    assert placed(flat, [Leaf("", shape)]) is flat


# -- what `Blocks.of` takes ------------------------------------------------------------------------------


def test_trees_of_arrays_are_named_by_their_keys():
    Pair = namedtuple("Pair", ["left", "right"])
    tree = {
        "b": [np.zeros(2), np.zeros((3, 1))],
        "a": Pair(np.zeros(()), {"x": np.zeros(4)}),
        "none": np.zeros((0, 3)),
    }
    assert list(Blocks.of(tree).arrays) == [
        *(Leaf("a.left", ()), Leaf("a.right.x", (4,)), Leaf("b.0", (2,)), Leaf("b.1", (3, 1)))
    ]
    assert [name for name, _ in Blocks.of([np.zeros(2), (np.zeros(3), np.zeros(1))]).arrays] == ["", "", ""]
    assert Blocks.of(x for x in (np.zeros(2), np.zeros(3))).n == 5
    kept = OrderedDict(b=np.zeros(2), a=np.zeros(3))
    assert [name for name, _ in Blocks.of(kept).arrays] == ["b", "a"]
    assert [name for name, _ in Blocks.of(list(kept.items())).arrays] == ["b", "a"]


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({}, ValueError, "`tree` must hold at least one parameter, got none"),
        (iter([]), ValueError, "`tree` must hold at least one parameter, got none"),
        ({"a": np.zeros((0, 2))}, ValueError, "`tree` must hold at least one parameter"),
        (
            {"a": np.zeros(2), "b": np.arange(3)},
            TypeError,
            "`tree` must hold arrays of floats, got int64 at 'b'",
        ),
        (
            {"a": 1.0},
            TypeError,
            r"`tree\['a'\]` must be an array or a dict, list or tuple of arrays, got float",
        ),
        ("weights", TypeError, "`tree` must be an array or a dict, list or tuple of arrays, got str"),
        (None, TypeError, "`tree` must be an array .* got NoneType"),
        ({"a": np.zeros(2), 1: np.zeros(3)}, TypeError, "`tree` must have keys of one type"),
        (
            [("a", np.zeros(2)), ("a", np.zeros(3))],
            ValueError,
            r"must name each array once, got \['a', 'a'\]",
        ),
    ],
)
def test_what_is_no_tree_is_one_sentence(tree, error, message):
    with pytest.raises(error, match=message):
        Blocks.of(tree)


def test_arrays_must_go_with_the_blocks():
    with pytest.raises(ValueError, match="`arrays` must have a shape of as many elements as each block"):
        Blocks(((6, psgd.XMat()),), (("w", (2, 4)),))


def test_ordered_dicts_come_back_from_vectors_as_they_are():
    tree = OrderedDict(b=np.arange(2.0), a=np.arange(3.0))
    layout = trees.structure(tree)
    assert [name for name, _ in layout.leaves()] == ["a", "b"]
    back = layout.unflatten(layout.flatten(tree, "x"))
    assert type(back) is OrderedDict
    assert all(np.array_equal(back[key], tree[key]) for key in tree)


# -- the loop --------------------------------------------------------------------------------------------


TREE = {"w": np.ones((2, 3)), "b": np.ones((3, 2)), "a": np.ones(3)}


def curved(tree):
    """A quadratic with curvatures of their own for each element."""
    return {k: np.arange(1.0, x.size + 1).reshape(x.shape) * x for k, x in tree.items()}


@pytest.mark.parametrize("made_of", [OrderedDict(TREE), list(TREE.items()), dict(reversed(TREE.items()))])
def test_minimize_puts_blocks_on_their_parameters(made_of):
    blocks = Blocks.of(made_of, lambda shape: Kronecker(shape, "diagonal"))
    found = psgd.minimize(
        lambda t: 0.5 * sum(np.sum(x * g) for x, g in zip(t.values(), curved(t).values(), strict=True)),
        TREE,
        grad=curved,
        preconditioner=blocks,
        maxiter=300,
    )
    there = found.optimizer.preconditioner
    assert shapes_of(there) == [(3,), (3, 2), (2, 3)]  # the order of sorted keys
    assert there.n == there.size(found.state)
    assert found.fun < 1e-10


def test_the_loop_in_the_users_hands_refuses_another_order():
    loop = psgd.PSGD(preconditioner=Blocks.of(OrderedDict(TREE)))
    with pytest.raises(ValueError, match=r"must have its blocks in the order of the parameters, a .*got w "):
        loop.init(TREE)
    with pytest.raises(ValueError, match="must not have its dimensions in another order"):
        psgd.PSGD(preconditioner=Kronecker((3, 2))).init(TREE["w"])
    ready = psgd.PSGD(preconditioner=Blocks.of(TREE))
    x, state = ready.update(ready.init(TREE), TREE, curved(TREE))
    assert x["w"].shape == (2, 3)
    assert int(state.count) == 1


# -- PyTorch ---------------------------------------------------------------------------------------------


torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD  # noqa: E402


def deep(buffers=False):
    """Twelve layers: "10.weight" sorts before "2.weight", and weights before biases never."""
    torch.manual_seed(0)
    widths = [4, 6, 4, 6, 2, 12, 2, 3]
    layers = [
        layer for a, b in itertools.pairwise(widths) for layer in (torch.nn.Linear(a, b), torch.nn.Tanh())
    ]
    return torch.nn.Sequential(*layers, *([torch.nn.BatchNorm1d(3)] if buffers else []))


def reverse(named):
    return dict(reversed(list(named)))


WAYS = {
    "module": lambda net: net,
    "parameters": lambda net: net.parameters(),
    "named_parameters": lambda net: net.named_parameters(),
    "list": lambda net: list(net.parameters()),
    "dict": lambda net: dict(net.named_parameters()),
    "state_dict": lambda net: net.state_dict(),
    "reversed": lambda net: list(net.parameters())[::-1],
    "reversed dict": lambda net: reverse(net.named_parameters()),
    "by name": lambda net: dict(sorted(net.named_parameters())),
    "NumPy, by name": lambda net: {k: v.detach().numpy() for k, v in net.named_parameters()},
    "layers": lambda net: {
        f"layer{i}": layer for i, layer in enumerate(net) if isinstance(layer, torch.nn.Linear)
    },
    "wrapped": lambda net: torch.nn.ModuleDict({"module": net}),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("named", [True, False])
def test_the_optimiser_puts_blocks_on_their_parameters(way, named):
    net = deep()
    blocks = Blocks.of(WAYS[way](net), lambda shape: Kronecker(shape, "dense"))
    optimizer = PSGD(net.named_parameters() if named else net.parameters(), blocks)
    there = optimizer.param_groups[0]["preconditioner"]
    assert shapes_of(there) == [tuple(p.shape) for p in net.parameters()]
    optimizer.step(lambda: net(torch.ones(3, 4)).square().sum())


def test_vectors_in_the_order_of_a_module_need_no_placing():
    """`parameters_to_vector` is in the module's order: so are blocks made from its dicts."""
    net = deep()
    for way in ("module", "parameters", "named_parameters", "list", "dict", "state_dict"):
        assert shapes_of(Blocks.of(WAYS[way](net))) == [tuple(p.shape) for p in net.parameters()]


@pytest.mark.parametrize("way", ["dict", "state_dict", "reversed dict", "reversed"])
def test_fitted_blocks_make_products_of_their_hessians_well_conditioned(way):
    """Each parameter has a Hessian that is a Kronecker product in its own shape, and no other's."""
    shapes = {"w": (2, 3), "b": (3, 2), "a": (3,)}
    net = torch.nn.ParameterDict(OrderedDict((k, torch.zeros(s)) for k, s in shapes.items())).double()
    rng, hessians = np.random.default_rng(0), []
    for p in net.parameters():
        factors = [np.eye(s) + (a := rng.standard_normal((s, s))) @ a.T for s in p.shape]
        hessians.append(torch.from_numpy(factors[0] if len(factors) == 1 else np.kron(*factors)))
    blocks = Blocks.of(WAYS[way](net), lambda shape: Kronecker(shape, "dense"))
    optimizer = PSGD(net.parameters(), blocks, lr=0.0, step=0.5)

    def loss():
        rows = zip(net.parameters(), hessians, strict=True)
        return sum(0.5 * p.reshape(-1) @ h @ p.reshape(-1) for p, h in rows)

    for _ in range(300):
        optimizer.step(loss)
    there = optimizer.param_groups[0]["preconditioner"]
    p = np.asarray(there.matrix(optimizer.group_state().preconditioner))
    w = np.linalg.eigvals(p @ torch.block_diag(*hessians).numpy()).real
    assert w.max() / w.min() < 1.1


@pytest.mark.parametrize("way", ["dict", "NumPy, by name", "reversed dict"])
def test_what_choose_told_apart_stays_with_its_name(way):
    net = torch.nn.ParameterDict(OrderedDict((f"{i}", torch.zeros(4, 2)) for i in (2, 10, 1)))
    tree = WAYS[way](net)
    order = list(reversed(net)) if "reversed" in way else sorted(net) if "NumPy" in way else list(net)
    ranks = iter(int(key) % 7 for key in order)
    blocks = Blocks.of(tree, lambda shape: psgd.LowRank(next(ranks)))
    there = PSGD(net.named_parameters(), blocks).param_groups[0]["preconditioner"]
    assert [p.rank for _, p in there.parts] == [2, 3, 1]


def test_blocks_for_other_parameters_are_refused_before_anything_is_made():
    net, other = deep(), torch.nn.Linear(4, 6)
    for params, blocks in (
        (net.parameters(), Blocks.of(other)),
        ([{"params": [p]} for p in net.parameters()], Blocks.of(net)),
        ([{"params": net[0].parameters()}, {"params": net[2].parameters()}], Blocks.of(net[0])),
    ):
        with pytest.raises(ValueError, match="`preconditioner` must have blocks for the parameters it meets"):
            PSGD(params, blocks)
    with pytest.raises(
        TypeError, match=r"must hold arrays of floats, got torch.int64 at '14.num_batches_tracked'"
    ):
        Blocks.of(deep(buffers=True).state_dict())
    optimizer = PSGD(other.parameters())
    with pytest.raises(ValueError, match="must have blocks for"):
        optimizer.add_param_group({"params": net.parameters(), "preconditioner": Blocks.of(other)})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0]["preconditioner"] = Blocks.of([other.bias, other.weight])  # set later
    optimizer.step(lambda: other(torch.ones(2, 4)).square().sum())
    assert shapes_of(optimizer.param_groups[0]["preconditioner"]) == [(6, 4), (6,)]


def test_half_precision_and_tied_parameters():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)).to(
        torch.bfloat16
    )
    model[1].weight = model[0].weight
    for tree in (
        *(model, dict(model.named_parameters(remove_duplicate=False)), model.state_dict()),
        [model[0].weight, model[1].weight],
    ):
        assert shapes_of(Blocks.of(tree)) == [(5, 3)]
    PSGD(model.parameters(), Blocks.of(model)).step(lambda: model(torch.arange(5)).float().square().sum())
