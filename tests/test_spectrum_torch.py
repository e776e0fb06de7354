"""Spectra of PyTorch's losses: random numbers, buffers, layers out of sight, tied parameters."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from psgd_analysis import spectrum

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


class Averaging(torch.nn.Module):
    """Averages of its own, and BatchNorm by the function."""

    def __init__(self, n):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(n))
        for name in ("mean", "calls"):
            self.register_buffer(name, torch.zeros(n))
        self.register_buffer("variance", torch.ones(n))

    def forward(self, x):
        self.calls += 1
        self.calls = self.calls.clone()  # another object, as some modules do
        return torch.nn.functional.batch_norm(x, self.mean, self.variance, self.w, training=True)


def network(*middle):
    torch.manual_seed(0)
    layers = (torch.nn.Linear(3, 4), *middle, torch.nn.Tanh(), torch.nn.Linear(4, 1))
    return torch.nn.Sequential(*layers).double()


X = torch.from_numpy(np.random.default_rng(0).standard_normal((10, 3)))


@pytest.mark.parametrize("given", ["module", "parameters"])
@pytest.mark.parametrize(
    "middle",
    [
        lambda: [torch.nn.BatchNorm1d(4)],
        lambda: [torch.nn.Sequential(torch.nn.BatchNorm1d(4, momentum=None), torch.nn.Dropout(0.0))],
        lambda: [Averaging(4)],
    ],
)
def test_buffers_do_not_move(given, middle):
    model = network(*middle())
    before = {name: x.clone() for name, x in model.state_dict().items()}
    op = spectrum.from_torch(
        lambda: model(X).square().mean(), model if given == "module" else list(model.parameters())
    )
    h = op.dense().numpy()
    assert np.abs(h).max() > 0.01
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name]), name
    # the same as with what stands in the buffers left out: they have no say in training
    names, values = zip(*[(n, p.detach()) for n, p in model.named_parameters()], strict=True)

    def loss(*values):
        held = dict(zip(names, values, strict=True)) | {n: b.clone() for n, b in model.named_buffers()}
        return torch.func.functional_call(model, held, (X,)).square().mean()

    blocks = torch.autograd.functional.hessian(loss, values)
    rows = [
        torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for p, row in zip(values, blocks, strict=True)
    ]
    np.testing.assert_allclose(h, torch.cat(rows).numpy(), atol=1e-10)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_is_said_and_the_same_in_every_product(p):
    model = network(torch.nn.Dropout(p))
    op = spectrum.from_torch(lambda: model(X).square().mean(), model)
    torch.manual_seed(3)
    torch.rand(5)
    state = torch.get_rng_state()

    def study():
        h = op.dense().numpy()
        torch.rand(7)  # whatever is drawn in between
        return h, op.hvp(torch.eye(op.n, dtype=torch.float64)[:, 2]).numpy()

    with pytest.warns(UserWarning, match=r"draws random numbers.*call eval\(\) on the model") as said:
        h, column = study()
    assert len(said) == 1
    np.testing.assert_allclose(column, h[:, 2], atol=1e-12)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.rand(7)
    assert torch.equal(torch.get_rng_state(), after)  # the study itself drew nothing
    leaves = list(model.parameters())
    step, columns = 1e-5, []

    def gradient(z):
        torch.nn.utils.vector_to_parameters(z, leaves)
        torch.set_rng_state(state)  # the draw that the first product saw
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(model(X).square().mean(), leaves)])

    point = torch.nn.utils.parameters_to_vector(leaves).detach()
    for e in torch.eye(op.n, dtype=torch.float64):
        columns.append((gradient(point + step * e) - gradient(point - step * e)) / (2 * step))
    np.testing.assert_allclose(h, torch.stack(columns, 1).numpy(), atol=1e-8)


def test_without_random_numbers_nothing_is_said():
    model = network(torch.nn.Dropout(0.5)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum.from_torch(lambda: model(X).square().mean(), model).dense()


@pytest.mark.parametrize("source", ["numpy", "cycle", "state"])
def test_losses_that_change_are_refused(source):
    model, rng, calls = network(), np.random.default_rng(0), []

    def loss():
        calls.append(0)
        if source == "numpy":
            rows = rng.permutation(10)[:4]
        elif source == "cycle":
            rows = np.arange(4) + len(calls) % 5
        else:
            return model(X).square().mean() * len(calls)
        return model(X[rows]).square().mean()

    with pytest.raises(ValueError, match="products of Hessian of the loss must be the same for the same v"):
        spectrum.from_torch(loss, model).hvp(torch.ones(21, dtype=torch.float64))


def test_checkpointed_layers_are_in_the_spectrum():
    from torch.utils.checkpoint import checkpoint

    model, x = network(torch.nn.Tanh()), X.clone().requires_grad_()
    found = [
        spectrum.from_torch(
            lambda way=way: (
                (model(x) if way is None else model[3](checkpoint(model[:3], x, use_reentrant=way)))
                .square()
                .mean()
            ),
            model,
        )
        .dense()
        .numpy()
        for way in (None, True, False)
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-12)
    np.testing.assert_allclose(found[2], found[0], atol=1e-12)


def test_tied_parameters_count_once():
    torch.manual_seed(0)
    e, out = torch.nn.Embedding(4, 2).double(), torch.nn.Linear(2, 4, bias=False)
    out.weight = e.weight
    model = torch.nn.Sequential(e, out)

    def loss():
        return model(torch.arange(4)).square().sum()

    ops = [
        spectrum.from_torch(loss, given)
        for given in (
            model,
            [e.weight],
            [e.weight, out.weight],
            (p for p in (*e.parameters(), *out.parameters())),
        )
    ]
    assert [op.n for op in ops] == [8] * 4
    for op in ops[1:]:
        np.testing.assert_array_equal(op.dense().numpy(), ops[0].dense().numpy())
