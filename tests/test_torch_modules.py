"""Groups and blocks from a module, against those made by hand; and [W b] as one matrix."""

from __future__ import annotations

import io

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD, Affine, blocks_of, groups_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

nn = torch.nn
ENGINES = ("torch", "numpy")


def network(dtype=torch.float64):
    """Return a small network with kernels, matrices, vectors and a number, and its loss."""
    torch.manual_seed(2)
    model = nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten()),
        *(nn.Linear(12, 4, bias=False), nn.PReLU(), nn.Linear(4, 2)),
    ).to(dtype)
    x, y = torch.randn(16, 2, 4, 4, dtype=dtype), torch.randn(16, 2, dtype=dtype)
    return model, lambda: nn.functional.mse_loss(model(x), y)


def end(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()


def trained(make, steps=15, **settings):
    """Return where a network ends with the optimiser that `make` makes."""
    model, loss = network()
    optimizer = make(model, **settings)
    for _ in range(steps):
        optimizer.step(loss)
    return end(model)


SHAPES = {  # what preconditions each parameter, written down by hand
    "0.weight": psgd.Kronecker((3, 18)),
    "0.bias": psgd.Diagonal(),
    "1.weight": psgd.Diagonal(),
    "1.bias": psgd.Diagonal(),
    "4.weight": psgd.Kronecker((4, 12)),
    "5.weight": psgd.Diagonal(),
    "6.weight": psgd.Kronecker((2, 4)),
    "6.bias": psgd.Diagonal(),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("curvature", ["hvp", "whitening"])
def test_groups_are_those_made_by_hand(engine, curvature):
    def by_hand(model, **settings):
        groups = [{"params": [p], "preconditioner": SHAPES[name]} for name, p in model.named_parameters()]
        return PSGD(groups, **settings)

    def made(model, **settings):
        return PSGD(groups_of(model), **settings)

    settings = {"lr": 0.05, "curvature": curvature, "engine": engine, "global_clip": 1.0}
    np.testing.assert_array_equal(trained(made, **settings), trained(by_hand, **settings))


@pytest.mark.parametrize("engine", ENGINES)
def test_blocks_are_those_made_by_hand(engine):
    def by_hand(model, **settings):
        sizes = [p.numel() for p in model.parameters()]
        blocks = psgd.Blocks(tuple(zip(sizes, SHAPES.values(), strict=True)))
        return PSGD(model.parameters(), blocks, **settings)

    def made(model, **settings):
        return PSGD(model.named_parameters(), blocks_of(model), **settings)

    settings = {"lr": 0.05, "engine": engine}
    np.testing.assert_array_equal(trained(made, **settings), trained(by_hand, **settings))


def test_blocks_of_a_module_know_their_parameters():
    model, _ = network()
    arrays = blocks_of(model).arrays
    assert arrays == tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    backwards = PSGD(reversed(list(model.named_parameters())), blocks_of(model))
    assert backwards.param_groups[0]["preconditioner"].arrays == arrays[::-1]


def test_groups_have_the_names_and_the_order_of_the_module():
    model, _ = network()
    optimizer = PSGD(groups_of(model))
    assert [group["param_names"] for group in optimizer.param_groups] == [[name] for name in SHAPES]
    assert [group["preconditioner"] for group in optimizer.param_groups] == list(SHAPES.values())
    optimizer = PSGD(groups_of(model, affine=Affine))
    assert [group["param_names"] for group in optimizer.param_groups] == [
        *(["0.weight", "0.bias"], ["1.weight"], ["1.bias"]),
        *(["4.weight"], ["5.weight"], ["6.weight", "6.bias"]),
    ]
    shapes = [g["preconditioner"].shape for g in optimizer.param_groups if len(g["params"]) == 2]
    assert shapes == [(3, 19), (2, 5)]


def test_functions_of_the_shape_choose():
    model, _ = network()
    groups = groups_of(
        model,
        matrices=lambda shape: psgd.LowRank(min(shape)),
        vectors=lambda shape: psgd.XMat() if shape[0] > 2 else psgd.Diagonal(),
    )
    found = [group["preconditioner"] for group in groups]
    assert found[:2] == [psgd.LowRank(3), psgd.XMat()]
    assert found[-2:] == [psgd.LowRank(2), psgd.Diagonal()]


def test_tied_parameters_count_once_and_frozen_ones_not_at_all():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.scale = nn.Embedding(7, 3), nn.Parameter(torch.tensor(1.0))
            self.middle, self.out = nn.Linear(3, 3), nn.Linear(3, 7)
            self.out.weight = self.words.weight
            self.middle.bias.requires_grad_(False)

    def names(groups):
        return [[name for name, _ in group["params"]] for group in groups]

    model = Tied()
    separate = [["scale"], ["words.weight"], ["middle.weight"], ["out.bias"]]
    assert names(groups_of(model)) == separate
    # a weight that is tied elsewhere, or whose bias is frozen, has no column for it
    assert names(groups_of(model, affine=Affine)) == separate
    assert blocks_of(model).n == sum(p.numel() for p in model.parameters()) - 3
    with pytest.raises(ValueError, match="must have blocks for the parameters it meets"):
        PSGD(model.named_parameters(), blocks_of(model))


def test_transposed_kernels_and_norms_have_no_column_for_a_bias():
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.LayerNorm(4), nn.LayerNorm((2, 2)), nn.LSTM(2, 2))
    assert all(len(group["params"]) == 1 for group in groups_of(model, affine=Affine))


# -- [W b] ---------------------------------------------------------------------------------------------


class Homogeneous(nn.Module):
    """The network of `layers`, each as one matrix [W b] that takes the features and a 1."""

    def __init__(self, layers):
        super().__init__()
        self.matrices = nn.ParameterList(
            torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1).detach() for layer in layers
        )

    def forward(self, x):
        for i, matrix in enumerate(self.matrices):
            x = torch.cat([x, x.new_ones(len(x), 1)], 1) @ matrix.T
            x = torch.tanh(x) if i + 1 < len(self.matrices) else x
        return x


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("curvature", ["hvp", "finite_difference", "whitening"])
@pytest.mark.parametrize("blocks", [False, True], ids=["groups", "blocks"])
def test_layers_train_as_those_that_are_one_matrix(engine, curvature, blocks):
    torch.manual_seed(5)
    layers = [nn.Linear(4, 6), nn.Linear(6, 3)]
    model = nn.Sequential(layers[0], nn.Tanh(), layers[1]).double()
    other = Homogeneous(layers).double()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    settings = {"lr": 0.05, "step": 0.3, "curvature": curvature, "engine": engine}
    if blocks:
        first = PSGD(model.parameters(), blocks_of(model, affine=Affine), **settings)
    else:
        first = PSGD(groups_of(model, affine=Affine), **settings)
    of_matrices = {"matrices": lambda shape: psgd.Kronecker(shape, ("dense", "affine"))}
    if blocks:
        second = PSGD(other.parameters(), blocks_of(other, **of_matrices), **settings)
    else:
        second = PSGD(groups_of(other, **of_matrices), **settings)
    start = nn.functional.mse_loss(model(x), y).item()
    for _ in range(20):
        v = [torch.randn_like(p) for p in model.parameters()]
        joined = [torch.cat([w, b[:, None]], 1) for w, b in zip(v[::2], v[1::2], strict=True)]
        one = first.step(lambda: nn.functional.mse_loss(model(x), y), v=v)
        two = second.step(lambda: nn.functional.mse_loss(other(x), y), v=joined)
        np.testing.assert_allclose(one.item(), two.item(), rtol=1e-7)
    assert one < 0.8 * start
    for layer, matrix in zip(layers, other.matrices, strict=True):
        found = torch.cat([layer.weight, layer.bias[:, None]], 1)
        np.testing.assert_allclose(found.detach(), matrix.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("verb", ["apply", "apply_transpose", "solve", "solve_transpose", "precondition"])
def test_affine_acts_as_kronecker_on_the_matrix(verb, rng):
    out, wide = 3, 5
    p, plain = Affine((out, wide)), psgd.Kronecker((out, wide), ("dense", "affine"))
    n, w = out * wide, out * (wide - 1)
    order = np.concatenate([np.arange(n).reshape(out, wide)[:, :-1].ravel(), np.arange(wide - 1, n, wide)])
    assert order[w] == wide - 1  # the first of b
    state, other = p.init(n, like=np.zeros(1)), plain.init(n, like=np.zeros(1))
    v, h = rng.standard_normal((2, n, 12))
    for i in range(12):
        other = plain.update(other, v[:, i], h[:, i], 0.5)
        state = p.update(state, v[order, i], h[order, i], 0.5)
    np.testing.assert_allclose(
        getattr(p, verb)(state, v[order]), getattr(plain, verb)(other, v)[order], rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(p.log_det(state), plain.log_det(other), rtol=1e-10)
    np.testing.assert_allclose(
        p.criterion(state, v[order], h[order]), plain.criterion(other, v, h), rtol=1e-10
    )
    met, other = (q.init(n, like=v, pairs=pair) for q, pair in ((p, (v[order], h[order])), (plain, (v, h))))
    np.testing.assert_allclose(p.matrix(met), plain.matrix(other)[np.ix_(order, order)], rtol=1e-10)
    white = p.update(state, None, h[order, 0], 0.3)
    assert np.isfinite(p.matrix(white)).all()


def test_affine_takes_vectors_and_refuses_other_shapes():
    p = Affine((3, 5))
    state = p.init(15, like=np.zeros(1))
    with pytest.raises(ValueError, match=r"must have shape"):
        p.precondition(state, np.ones((3, 5)))
    for shape in ((3,), (3, 1), (3, 4, 5)):
        with pytest.raises(ValueError, match=r"`shape` must be \(outputs, inputs \+ 1\)|`factors` must be"):
            Affine(shape)


# -- checkpoints, and what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_with_everything_goes_on_bit_for_bit(engine):
    def make():
        model, loss = network(torch.float32)
        settings = {"lr": 0.05, "every": 3, "scale": 0.5, "clip": None, "engine": engine}
        return (
            model,
            PSGD(
                groups_of(model, affine=Affine), global_clip=psgd.descent.clips.AdaptiveNorm(1.2), **settings
            ),
            lambda: (loss(), "more"),
        )

    def go(run, steps):
        for _ in range(steps):
            run[1].step(run[2])
        return end(run[0])

    run = make()
    go(run, 7)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in run[:2]], file)
    file.seek(0)
    other = make()
    for part, saved in zip(other[:2], torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(saved)
    np.testing.assert_array_equal(go(other, 7), go(run, 7))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: groups_of([torch.ones(2)]), TypeError, "`module` must be a torch.nn.Module, got list"),
        (lambda: groups_of(nn.Tanh()), ValueError, "must have parameters that require a gradient, got none"),
        (lambda: blocks_of(nn.LazyLinear(2)), ValueError, "`module` must have shapes, got lazy 'weight'"),
        (
            lambda: groups_of(nn.Linear(3, 2), matrices=lambda shape: None),
            TypeError,
            r"`matrices` must return a Preconditioner, got None for 'weight' as \(2, 3\)",
        ),
        (
            lambda: groups_of(nn.Linear(3, 2), affine=lambda shape: psgd.Kronecker),
            TypeError,
            r"`affine` must return a Preconditioner, got .* for 'weight' as \(2, 4\)",
        ),
    ],
)
def test_what_is_no_module_or_preconditioner_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
