"""Parameters without gradient, frozen, unfrozen, tied; groups that are small: training, or one sentence."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD, functions  # noqa: E402

nn = torch.nn
CURVATURES = ["hvp", "finite_difference", "whitening"]
curvatures = pytest.mark.parametrize("curvature", CURVATURES)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()


X = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 3)))


def error(y):
    return (y[:, 0] - X.prod(1)).square().mean()


def end(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def quartic(*params):
    return sum((p**4).sum() for p in params)


# -- what gets none ------------------------------------------------------------------------------------


def test_parameters_without_gradient_are_named_once():
    model = nn.ModuleDict(
        {"used": nn.Linear(3, 1), "head": nn.Linear(3, 2), "cold": nn.Linear(2, 2)}
    ).double()
    model["cold"].requires_grad_(False)
    optimizer = PSGD(model.named_parameters(), psgd.XMat(), update_probability=0.5)

    def train():
        for _ in range(6):
            optimizer.step(lambda: error(model["used"](X)))

    with pytest.warns(UserWarning, match=r"2 of 6 parameters: `head.weight`, `head.bias`; they") as said:
        train()
    assert len(said) == 1
    assert said[0].filename == __file__
    again = pickle.loads(pickle.dumps(optimizer))
    assert again._waiting == optimizer._waiting


@pytest.mark.parametrize("way", ["closure", "backward"])
def test_a_loss_of_none_of_them_is_said(way):
    w, other = nn.Parameter(torch.ones(4)), torch.ones(4, requires_grad=True)
    optimizer = PSGD([w], psgd.XMat(), curvature="whitening")
    with pytest.warns(UserWarning, match="No gradient reaches 1 of 1 parameters: number 0 of group 0"):
        optimizer.step(None if way == "backward" else (lambda: other @ other))
    assert torch.all(w == 1)


@pytest.mark.filterwarnings("ignore:No gradient reaches")
@pytest.mark.parametrize("curvature", ["hvp", "whitening", "finite_difference"])
def test_parameters_that_were_replaced_in_the_model_are_said(curvature):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = PSGD(model.parameters(), psgd.Diagonal(), curvature=curvature)
    x, y = torch.randn(8, 3), torch.randn(8, 1)

    def loss():
        return torch.nn.functional.mse_loss(model(x), y)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            optimizer.step(loss)
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    with pytest.warns(UserWarning, match="No gradient reaches any of 2 parameters any more"):
        optimizer.step(loss)


def test_a_group_that_the_loss_never_uses_does_not_fit_in_every_step():
    a, b = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
    optimizer = PSGD([{"params": [a]}, {"params": [b]}], psgd.Diagonal(), update_probability=1e-9)
    fitted = []
    for _ in range(5):
        fitted.append(optimizer.due())
        optimizer.step(lambda: quartic(a))
    assert fitted == [True, False, False, False, False]


@pytest.mark.parametrize("curvature", ["hvp", "whitening"])
@pytest.mark.parametrize("together", [True, False])
def test_layers_frozen_first_and_unfrozen_later_train(curvature, together):
    """In a group with others, or in one of their own, whose first step fits P whenever it comes."""
    model = network()
    layers = [list(model[i].parameters()) for i in (0, 2, 4)]
    groups = [[p for layer in layers for p in layer]] if together else layers
    optimizer = PSGD(
        [{"params": g} for g in groups], psgd.XMat(), curvature=curvature, lr=0.02, update_probability=1e-9
    )
    starts = [[p.detach().clone() for p in layer] for layer in layers]

    def still(i):
        return [torch.equal(p, q) for p, q in zip(layers[i], starts[i], strict=True)]

    model[2].requires_grad_(False)
    for _ in range(3):
        optimizer.step(lambda: error(model(X)))
    assert all(still(1))
    assert not any(still(0) + still(2))
    model[2].requires_grad_(True)
    model[0].requires_grad_(False)
    starts[0] = [p.detach().clone() for p in layers[0]]
    for _ in range(3):
        optimizer.step(lambda: error(model(X)))
    assert all(still(0))
    assert not any(still(1))
    for i in range(len(groups)):
        assert int(optimizer.group_state(i).preconditioner.count) >= 1


def test_a_group_used_for_the_first_time_between_two_fits_waits_for_its_own():
    a, b = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = PSGD([{"params": [a]}, {"params": [b]}], psgd.Diagonal(), update_probability=1e-9)
    with pytest.warns(UserWarning, match="number 0 of group 1"):
        optimizer.step(lambda: quartic(a))
    assert not optimizer.due()
    optimizer.step(lambda: quartic(a, b))
    assert torch.all(b == 1)
    assert optimizer.due()
    resumed = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(resumed)
    assert optimizer.due()  # the checkpoint knows
    optimizer.step(lambda: quartic(a, b))
    assert torch.all(b < 1)
    assert not optimizer.due()


def test_frozen_layers_stay_whatever_is_left_in_grad():
    model = network()
    optimizer = PSGD(model.parameters(), psgd.XMat(), curvature="whitening", weight_decay=0.1)
    for t in range(4):
        if t == 2:
            model[0].requires_grad_(False)
            before = model[0].weight.detach().clone()
            rest = model[2].weight.detach().clone()
        else:
            optimizer.zero_grad(set_to_none=False)
        error(model(X)).backward()
        optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert not torch.equal(model[2].weight, rest)


def test_gradients_of_tensors_that_autograd_does_not_know():
    x = torch.ones(4)
    optimizer = PSGD([x], psgd.Diagonal(), curvature="whitening", update_probability=1e-9)
    for _ in range(2):
        x.grad = 2 * x
        optimizer.step()
    assert torch.all(x < 1)
    assert int(optimizer.group_state().preconditioner.count) == 1


@curvatures
def test_nothing_left_to_train_is_one_sentence(curvature):
    model = network().requires_grad_(False)
    other = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = PSGD(model.parameters(), psgd.XMat(), curvature=curvature)
    with pytest.raises(ValueError, match="`params` must hold a tensor that requires a gradient"):
        optimizer.step(lambda: error(model(X)) * other)
    with pytest.raises(ValueError, match="must return a loss with a graph"):
        optimizer.step(lambda: error(model(X)))
    model.requires_grad_(True)
    optimizer.step(lambda: error(model(X)))
    assert torch.all(end(model) != end(network()))


# -- defaults that fit, and parameters that are the same -----------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 10, 11, 12])
def test_the_default_takes_the_largest_rank_that_fits(n):
    w = nn.Parameter(torch.linspace(1.0, 2.0, n))
    optimizer = PSGD([w])
    assert optimizer.param_groups[0]["preconditioner"] == psgd.LowRank(min(10, n - 1))
    for _ in range(5):
        optimizer.step(lambda: quartic(w))
    assert torch.all(w.detach() < torch.linspace(1.0, 2.0, n))


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (psgd.LowRank(10), "`rank` must be below n = 4, got 10"),
        (psgd.Kronecker((5,)), "`n` must be the number of elements"),
        (psgd.Sparse(psgd.PermutationSubgroup.klein(8)), "n"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_moves(p, message):
    """Also in the second group, and before the closure is called."""
    a, b, called = nn.Parameter(torch.ones(20)), nn.Parameter(torch.ones(4)), []
    optimizer = PSGD([{"params": [a]}, {"params": [b], "preconditioner": p}], psgd.Diagonal())
    with pytest.raises(ValueError, match=message):
        optimizer.step(lambda: (called.append(0), (a**2).sum() + (b**2).sum())[1])
    assert not called
    assert torch.all(a == 1)
    assert not optimizer.state


def test_tied_parameters_count_once():
    ends = []
    for twice in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)).double()
        model[1].weight = model[0].weight
        named = list(model.named_parameters(remove_duplicate=not twice))
        assert len(named) == 1 + twice
        optimizer = PSGD(named if twice else model.parameters(), psgd.LowRank(3))
        assert len(optimizer.param_groups[0]["params"]) == 1
        for _ in range(3):
            optimizer.step(lambda m=model: m(torch.arange(5)).square().sum())
        ends.append(end(model))
        f = functions(lambda m=model: m(torch.arange(5)).square().sum(), [p for _, p in named])
        assert f.gradient(ends[-1].clone()).shape == (15,)
    assert torch.equal(*ends)


def test_two_parameters_in_one_memory_are_refused():
    a = nn.Parameter(torch.ones(4))
    b = nn.Parameter(a.data)
    for make in (PSGD, lambda params: functions(lambda: a @ b, params)):
        with pytest.raises(ValueError, match="`params` must not share memory, got two"):
            make([a, b])
