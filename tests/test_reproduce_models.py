"""The models of `psgd reproduce`: against other implementations, and differentiated twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch.nn import functional  # noqa: E402

from psgd_analysis.reproduce import models  # noqa: E402
from psgd_analysis.reproduce.convolution import InputConv2d  # noqa: E402
from psgd_analysis.reproduce.transformer import Attention  # noqa: E402
from psgd_analysis.reproduce.twice import differentiable_twice  # noqa: E402

IMAGES, TEXTS = (1, 28, 28), (9,)
CASES: dict[str, tuple[str, tuple[int, ...], int, dict[str, Any]]] = {
    "lenet5": ("lenet5", IMAGES, 10, {}),
    "softmax": ("softmax", IMAGES, 10, {}),
    "mlp": ("mlp", IMAGES, 10, {"hidden": [5, 4]}),
    "rnn": ("rnn", IMAGES, 10, {"width": 6}),
    "rnn on texts": ("rnn", TEXTS, 7, {"width": 6}),
    "transformer": ("transformer", IMAGES, 10, {"width": 8, "depth": 1}),
    "transformer on texts": ("transformer", TEXTS, 7, {"width": 8, "depth": 2}),
    "gpt": ("transformer", TEXTS, 7, {"width": 8, "tied": True, "bias": False, "deviation": 0.02}),
    "encoder": ("transformer", TEXTS, 7, {"width": 8, "causal": False}),
    "lstm": ("lstm", TEXTS, 7, {"width": 6, "hidden": 5, "depth": 2}),
}


def made(case: str, seed: int = 0) -> torch.nn.Module:
    name, shape, classes, settings = CASES[case]
    return models.make(name, shape, classes, settings, seed).double()


def batch(case: str, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    _, shape, classes, _ = CASES[case]
    generator = torch.Generator().manual_seed(1)
    if len(shape) == 1:
        x, y = (torch.randint(classes, (size, *shape), generator=generator) for _ in range(2))
        return x, y
    x = torch.rand(size, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (size,), generator=generator)


def loss(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z = model(x)
    return functional.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1))


def test_lenet5_is_that_of_the_paper():
    model = models.make("lenet5", IMAGES, 10, {}, 0)
    assert sum(p.numel() for p in model.parameters()) == 44_426  # E.1
    x = torch.rand(3, *IMAGES)
    w1, b1, w2, b2, *rest = model.parameters()
    h = functional.relu(functional.max_pool2d(functional.conv2d(x, w1, b1), 2))
    h = functional.relu(functional.max_pool2d(functional.conv2d(h, w2, b2), 2)).flatten(1)
    for w, b in zip(rest[:-2:2], rest[1:-2:2], strict=True):
        h = functional.relu(h @ w.T + b)
    torch.testing.assert_close(model(x), h @ rest[-2].T + rest[-1])


def test_initial_deviation():
    model = models.make("lenet5", IMAGES, 10, {"deviation": 0.1}, 0)
    values = torch.cat([p.detach().ravel() for p in model.parameters()])
    # 5 standard errors of mean and standard deviation over 44,426 normal draws
    assert abs(float(values.mean())) < 5 * 0.1 / 44_426**0.5
    assert float(values.std()) == pytest.approx(0.1, rel=5 / (2 * 44_426) ** 0.5)


@pytest.mark.parametrize("case", CASES)
def test_a_seed_decides_and_nothing_else(case):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = made(case)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    for a, b in zip(first.parameters(), made(case).parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), made(case, 1).parameters(), strict=True)
    )


@pytest.mark.parametrize("case", CASES)
def test_hessian_vector_products_against_differences_of_gradients(case):
    """Twice differentiable, and a product for every parameter; ReLU and pooling are kinked, so h is small."""
    model, (x, y) = made(case), batch(case)
    params = list(model.parameters())
    generator = torch.Generator().manual_seed(2)
    v = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in params]
    length = torch.cat([d.ravel() for d in v]).norm()
    v = [d / length for d in v]
    with differentiable_twice():
        value = loss(model, x, y)
    grads = torch.autograd.grad(value, params, create_graph=True)
    products = torch.autograd.grad(grads, params, v)
    found, h = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(params, v, strict=True):
                p.add_(d, alpha=sign * h)
        found.append(torch.autograd.grad(loss(model, x, y), params))
        with torch.no_grad():
            for p, d in zip(params, v, strict=True):
                p.sub_(d, alpha=sign * h)
    for exact, up, down in zip(products, *found, strict=True):
        torch.testing.assert_close(exact, (up - down) / (2 * h), rtol=1e-5, atol=1e-8)


def test_the_recurrent_network_is_torchs():
    model, (x, _) = made("rnn"), batch("rnn")
    other = torch.nn.RNN(28, 6, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        other.weight_ih_l0.copy_(model.read.weight)
        other.bias_ih_l0.copy_(model.read.bias)
        other.weight_hh_l0.copy_(model.remember.weight)
        other.bias_hh_l0.copy_(model.remember.bias)
    states, last = other(x[:, 0])  # a step for each row of pixels
    torch.testing.assert_close(model(x), model.say(last[0]))
    torch.testing.assert_close(model(x), model.say(states[:, -1]))


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_that_of_plain_products(causal):
    layer = Attention(8, 2, causal).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    q, k, v = (z.unflatten(-1, (2, 4)).transpose(1, 2) for z in layer.ask(x).split(8, dim=-1))
    scores = q @ k.transpose(-1, -2) / 2
    if causal:
        scores = scores + torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1)
    wanted = layer.answer((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x), wanted)
    with differentiable_twice():
        torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("case", ["rnn on texts", "transformer on texts", "gpt", "lstm"])
def test_texts_are_read_from_the_front(case):
    model, (x, _) = made(case), batch(case)
    other = x.clone()
    other[:, 5] = (x[:, 5] + 1) % 7
    a, b = model(x), model(other)
    assert a.shape == (5, 9, 7)
    assert torch.equal(a[:, :5], b[:, :5])
    assert not torch.equal(a[:, 5:], b[:, 5:])


def test_the_transformer_sees_every_pixel():
    model, (x, _) = made("transformer"), batch("transformer", 1)
    x.requires_grad_()
    model(x).square().sum().backward()
    assert bool((x.grad != 0).all())


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("lenet5", (1, 8, 8), "at least 16 x 16"),
        ("lenet5", (9,), "images"),
        ("mlp", (9,), "images"),
        ("x", (9,), "one of"),
    ],
)
def test_odd_models(name, shape, words):
    with pytest.raises(ValueError, match=words):
        models.make(name, shape, 10, {}, 0)


# -- the convolution of inputs -------------------------------------------------------------------------


def test_the_convolution_of_inputs_is_torchs():
    """Value, gradient and product with a vector; also where the input is differentiated."""
    own = InputConv2d(2, 3, 5).double()
    other = torch.nn.Conv2d(2, 3, 5).double()
    other.load_state_dict(own.state_dict())
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    v = [draw(3, 2, 5, 5), draw(3)]
    for wanted in (False, True):
        x = draw(4, 2, 9, 8).requires_grad_(wanted)
        found = []
        for layer in (own, other):
            params = list(layer.parameters())
            value = layer(x).tanh().square().sum()
            grads = torch.autograd.grad(value, params, create_graph=True)
            products = torch.autograd.grad(grads, [*params, *([x] if wanted else [])], v)
            found.append([value, *grads, *products])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # which torch.func uses itself
def test_the_convolution_of_inputs_is_smooth_in_every_mode():
    """Forward over reverse and three times backward, by finite differences."""
    layer = InputConv2d(1, 2, 3).double()
    x = torch.randn(2, 1, 5, 5, dtype=torch.float64)

    def value(weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,)).tanh().square().sum()

    point = tuple(p.detach() for p in layer.parameters())
    v = tuple(torch.randn_like(p) for p in point)
    grads = torch.func.grad(value, argnums=(0, 1))
    _, forward = torch.func.jvp(grads, point, v)
    _, back = torch.func.vjp(grads, *point)
    for a, b in zip(forward, back(v), strict=True):
        torch.testing.assert_close(a, b)
    leaves = tuple(p.clone().requires_grad_() for p in point)
    assert torch.autograd.gradcheck(value, leaves)
    assert torch.autograd.gradgradcheck(value, leaves)

    def slope(weight, bias):
        found = torch.autograd.grad(value(weight, bias), (weight, bias), create_graph=True)
        return sum((g * d).sum() for g, d in zip(found, v, strict=True))

    assert torch.autograd.gradgradcheck(slope, leaves)


def test_numpy_sees_the_same_correlation():
    layer = InputConv2d(1, 1, 2).double()
    w, b = (p.detach().numpy() for p in layer.parameters())
    x = np.arange(9.0).reshape(3, 3)
    wanted = [[(x[i : i + 2, j : j + 2] * w[0, 0]).sum() + b[0] for j in range(2)] for i in range(2)]
    np.testing.assert_allclose(layer(torch.from_numpy(x)[None, None])[0, 0].detach().numpy(), wanted)
