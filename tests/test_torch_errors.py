"""What the PyTorch optimiser refuses, and the sentence it says."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD, functions  # noqa: E402
from psgd_core.curvature import Gaussian, Secant  # noqa: E402
from psgd_core.descent import clips  # noqa: E402


def parameter(*shape, **kwargs):
    return torch.nn.Parameter(torch.ones(shape or (4,), **kwargs))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lr": -0.1}, ValueError, "`lr` must be finite and not negative, got -0.1"),
        ({"lr": float("nan")}, ValueError, "`lr` must be finite"),
        ({"lr": psgd.schedules.Cosine(1.0, 9)}, TypeError, "`lr` must be a number.*lr_scheduler"),
        ({"lr": "big"}, TypeError, "`lr` must be a number"),
        ({"step": 1.0}, ValueError, r"`step` must lie in \(0, 1\), got 1.0"),
        ({"momentum": 1.0}, ValueError, r"`momentum` must lie in \[0, 1\)"),
        ({"weight_decay": -1}, ValueError, "`weight_decay` must be finite and not negative"),
        ({"decay": "l1"}, ValueError, "`decay` must be one of 'decoupled', 'l2'"),
        ({"clip": -1.0}, ValueError, "`size` must be positive"),
        ({"clip": "norm"}, TypeError, "`clip` must be a Clip"),
        ({"preconditioner": 3}, TypeError, "`preconditioner` must be a Preconditioner"),
        ({"curvature": "hessian"}, ValueError, "`curvature` must be one of .*'hvp'.* got 'hessian'"),
        ({"curvature": Secant()}, ValueError, "`curvature` must be one of"),
        ({"update_probability": 0.0}, ValueError, r"`update_probability` must lie in \(0, 1\]"),
        ({"engine": "jax"}, ValueError, "`engine` must be one of .* got 'jax'"),
        ({"engine": "numpy", "compile": True}, ValueError, "`compile` must be False for engine 'numpy'"),
        ({"probes": 3}, TypeError, "`probes` must be Probes"),
        ({"rng": -1}, TypeError, "`rng` must be an int >= 0, a torch.Generator or"),
        ({"rng": np.random.default_rng(0)}, TypeError, "`rng` must be an int >= 0, a torch.Generator or"),
    ],
)
def test_settings(settings, error, message):
    with pytest.raises(error, match=message):
        PSGD([parameter()], **settings)


@pytest.mark.parametrize("name", ["curvature", "engine", "rng", "update_probability"])
def test_what_holds_for_all_groups_is_refused_in_one(name):
    with pytest.raises(ValueError, match=f"`{name}` must be given to PSGD, got another in a group"):
        PSGD([{"params": [parameter()], name: "another"}])


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (
            torch.ones(3, dtype=torch.complex64),
            r"must be real, got torch.complex64 for number 0 .*view_as_real",
        ),
        (torch.ones(3, dtype=torch.int32), "float16, bfloat16, float32 or float64, got torch.int32"),
        (torch.eye(3).to_sparse(), "`params` must be dense, got layout torch.sparse_coo"),
    ],
)
def test_parameters(p, message):
    with pytest.raises(TypeError, match=message):
        PSGD([p])
    optimizer = PSGD([parameter()])
    with pytest.raises(TypeError, match=message):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1  # refused as if it had never been there


def test_a_group_on_several_devices():
    optimizer = PSGD([parameter(), torch.nn.Parameter(torch.ones(2, device="meta"))])
    with pytest.raises(
        ValueError, match=r"`params` must be on one device, got cpu, meta \(number 1 .*group them by device"
    ):
        optimizer.step(lambda: torch.zeros(()))


@pytest.mark.parametrize("engine", ["numpy", "cupy"])
def test_an_engine_that_does_not_reach_the_device(engine):
    device = "cpu" if engine == "cupy" else "meta"
    p = parameter(4, device=device)
    with pytest.raises(
        ValueError, match=f"`engine` must fit the device of the parameters, {device}, got '{engine}'"
    ):
        PSGD([p], psgd.Diagonal(), engine=engine, rng=torch.Generator()).step(lambda: torch.sum(p**2))


def test_sparse_gradients():
    table = torch.nn.Embedding(5, 3, sparse=True)
    for curvature in ("hvp", "whitening"):
        with pytest.raises(
            TypeError, match=r"`params` must have dense gradients, got layout torch.sparse_coo"
        ):
            PSGD(table.parameters(), psgd.Diagonal(), curvature=curvature).step(
                lambda: table(torch.tensor([1, 2])).pow(2).sum()
            )
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="set sparse=False"):
        PSGD(table.parameters(), psgd.Diagonal(), curvature="whitening").step()


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda p: p.sum().item(), TypeError, "`closure` must return the loss, a tensor, got float"),
        (lambda p: None, TypeError, "`closure` must return the loss, a tensor, got NoneType"),
        (lambda p: p**2, ValueError, r"`closure` must return a scalar, got shape \(4,\)"),
        (lambda p: (p**2).sum().detach(), ValueError, "`closure` must return a loss with a graph"),
    ],
)
@pytest.mark.parametrize("curvature", ["hvp", "finite_difference", "whitening"])
def test_losses(curvature, loss, error, message):
    p = parameter()
    with pytest.raises(error, match=message):
        PSGD([p], psgd.Diagonal(), curvature=curvature).step(lambda: loss(p))
    assert torch.all(p == 1)


def test_a_closure_that_calls_backward_where_products_are_wanted():
    p = parameter()

    def backward():
        loss = (p**3).sum()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="`closure` must return the undifferentiated loss"):
        PSGD([p], psgd.Diagonal()).step(backward)

    def elsewhere():  # differentiated, though no .grad tells
        loss = (p**3).sum()
        torch.autograd.grad(loss, p)
        return loss

    with pytest.raises(ValueError, match="differentiated already"):
        PSGD([p], psgd.Diagonal()).step(elsewhere)


def test_what_cannot_be_differentiated_twice():
    q = parameter(1, 2, 8, 4)
    with pytest.raises(
        RuntimeError, match=r"must be differentiable twice .* use curvature='finite_difference'"
    ):
        PSGD([q], psgd.Diagonal()).step(
            lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q).square().sum()
        )


def test_closures_and_pairs():
    p = parameter()
    optimizer = PSGD([p], psgd.Diagonal())
    p.grad = torch.ones(4)
    for arguments, error, message in (
        ({}, ValueError, r"`closure` must be given to fit P by Exact"),
        ({"closure": (p**2).sum()}, TypeError, "`closure` must be a function .* got Tensor"),
        ({"h": torch.ones(4)}, ValueError, "`v` must be given with `h`"),
        ({"v": torch.ones(5), "h": torch.ones(4)}, ValueError, r"`v` must have shape \(4,\) or \(4, k\)"),
        ({"v": torch.ones(4), "h": [torch.ones(2, 2)]}, ValueError, "`h` must hold a tensor .* parameters"),
        ({"v": [torch.ones(4)] * 2, "h": torch.ones(4)}, ValueError, "`v` must hold a tensor"),
        ({"v": torch.ones(4, 2), "h": torch.ones(4)}, ValueError, "`h` must have the shape of `v`"),
    ):
        with pytest.raises(error, match=message):
            optimizer.step(**arguments)
    with pytest.raises(ValueError, match="`probes` must have k = 1"):
        PSGD([p], psgd.Diagonal(), probes=Gaussian(2)).probe()
    with pytest.raises(ValueError, match="`value` must be given for a clip that compares"):
        PSGD([p], psgd.Diagonal(), clip=clips.TrustRadius(), curvature="whitening").step()
    with pytest.raises(ValueError, match="`rank` must be below n = 4, got 10"):
        PSGD([p], psgd.LowRank(10)).step(lambda: torch.sum(p**2))


def test_differences_want_one_precise_dtype():
    p, q = parameter(dtype=torch.bfloat16), parameter(dtype=torch.float64)
    for params in ([p], [parameter(), q]):
        with pytest.raises(ValueError, match="`curvature` must be 'hvp' or 'whitening' unless"):
            PSGD(params, psgd.Diagonal(), curvature="finite_difference").step(
                lambda params=params: sum(x.double().pow(2).sum() for x in params)
            )


def test_functions():
    p = parameter()
    with pytest.raises(ValueError, match="`params` must hold tensors that require a gradient, got none"):
        functions(lambda: torch.zeros(()), [torch.ones(3)])
    f = functions(lambda: torch.sum(p**2), [p])
    with pytest.raises(ValueError, match=r"`x` must have shape \(4,\), got \(5,\)"):
        f.gradient(torch.ones(5))
    assert torch.all(p == 1)


def test_lazy_parameters_must_be_materialised_before_the_first_step():
    model = torch.nn.LazyLinear(2)
    optimizer = PSGD(model.parameters())
    with pytest.raises(
        ValueError, match=r"`params` must have shapes, got a lazy parameter, number 0 .*; run the model once"
    ):
        optimizer.step(lambda: model(torch.ones(1, 3)).pow(2).sum())


def test_a_model_converted_after_the_first_step():
    model = torch.nn.Linear(3, 2)
    optimizer = PSGD(model.parameters())
    optimizer.step(lambda: model(torch.ones(1, 3)).pow(2).sum())
    model.double()
    with pytest.raises(ValueError, match=r"`params` must keep their dtype, .* float32, got torch.float64"):
        optimizer.step(lambda: model(torch.ones(1, 3).double()).pow(2).sum())


def test_a_group_removed_before_the_first_step():
    a, b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = PSGD([{"params": [a]}, {"params": [b]}])
    optimizer.param_groups.pop()
    optimizer.step(lambda: torch.sum(a**2))
    assert not torch.equal(a, b)
