"""PSGD in the training loops of others: a plain one, Lightning's, accelerate's, and as they call it."""

from __future__ import annotations

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD  # noqa: E402

nn = torch.nn
X = torch.from_numpy(np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32))
Y = X.prod(1, keepdim=True)
STEPS = 10


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loss_of(model):
    return nn.functional.mse_loss(model(X), Y)


def end(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def whitening(model, **settings):
    return PSGD(model.named_parameters(), psgd.Kronecker, lr=1e-2, curvature="whitening", **settings)


def plain(model, optimizer, steps=STEPS):
    """Train by the loop that every optimiser knows."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return end(model)


def expected():
    model = network()
    return plain(model, whitening(model))


def test_a_plain_loop_trains():
    model = network()
    before = float(loss_of(model).detach())
    plain(model, whitening(model), steps=200)
    assert float(loss_of(model).detach()) < before / 2


# -- as they call it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["zero_grad first", "zero_grad between"])
def test_a_closure_that_does_all_of_a_step_as_lightnings(order):
    """``optimizer.step(closure=closure)``; the closure returns the loss, detached, after backward."""
    model = network()
    optimizer = whitening(model)

    def closure():
        with torch.enable_grad():
            if order == "zero_grad first":
                optimizer.zero_grad()
            loss = loss_of(model)
            if order == "zero_grad between":
                optimizer.zero_grad()
            loss.backward()
            return loss.detach()

    for _ in range(STEPS):
        returned = optimizer.step(closure=closure)
        assert returned.shape == ()
        assert not returned.requires_grad
    assert torch.equal(end(model), expected())


def test_such_a_closure_is_refused_where_products_are_wanted():
    model = network()
    optimizer = PSGD(model.parameters(), psgd.Kronecker)

    def closure():
        loss = loss_of(model)
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="leave backward out of the closure"):
        optimizer.step(closure=closure)


def moved(state):
    """A state_dict as `accelerate` moves it: containers are rebuilt, tensors copied."""
    if isinstance(state, list | tuple):
        return type(state)(moved(x) for x in state)
    if isinstance(state, dict):
        return type(state)({key: moved(x) for key, x in state.items()})
    return state.clone() if isinstance(state, torch.Tensor) else state


class Wrapped(torch.optim.Optimizer):
    """An optimiser in another's place, as `AcceleratedOptimizer` is: it forwards, and accumulates."""

    def __init__(self, optimizer, every):
        self.optimizer, self.every, self.calls = optimizer, every, 0
        self.optimizer.load_state_dict(moved(self.optimizer.state_dict()))  # to the device, before a step

    param_groups = property(lambda self: self.optimizer.param_groups)

    def zero_grad(self, set_to_none=None):
        if self.calls % self.every == 0:
            self.optimizer.zero_grad()

    def step(self, closure=None):
        self.calls += 1
        if self.calls % self.every == 0:
            self.optimizer.step(closure)


def test_a_wrapped_optimiser_that_accumulates():
    model = network()
    optimizer = Wrapped(whitening(model), every=2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer.optimizer, lambda t: 1.0)
    for i in range(2 * STEPS):
        half = slice(None, None, 2) if i % 2 == 0 else slice(1, None, 2)
        optimizer.zero_grad()
        (nn.functional.mse_loss(model(X[half]), Y[half]) / 2).backward()
        optimizer.step()
        if i % 2:
            scheduler.step()
    torch.testing.assert_close(end(model), expected(), rtol=1e-3, atol=1e-4)


def test_a_gradient_scaler_on_a_patched_step():
    """`GradScaler.step` unscales, and leaves out steps with Inf; accelerate patches `step` to see which."""
    model = network()
    optimizer = whitening(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    called, step = [], optimizer.step

    def patched(*args, **kwargs):
        called.append(True)
        return step(*args, **kwargs)

    optimizer.step = patched
    for i in range(STEPS + 1):
        optimizer.zero_grad()
        loss = loss_of(model) * (float("inf") if i == 3 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert len(called) == STEPS
    torch.testing.assert_close(end(model), expected(), rtol=1e-4, atol=1e-5)


# -- the real ones ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.filterwarnings("ignore")
def test_lightning(manual, tmp_path):
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.automatic_optimization = network(), not manual

        def configure_optimizers(self):
            if manual:
                return PSGD(self.net.named_parameters(), psgd.Kronecker, lr=0.1)
            return whitening(self.net)

        def training_step(self, batch, _):
            x, y = batch
            if not manual:
                return nn.functional.mse_loss(self.net(x), y)
            self.optimizers().step(closure=lambda: nn.functional.mse_loss(self.net(x), y))

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=len(X))
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=STEPS, logger=False, enable_checkpointing=False, barebones=True
    )
    module = Module()
    trainer.fit(module, data)
    if manual:
        model = network()
        optimizer = PSGD(model.named_parameters(), psgd.Kronecker, lr=0.1)
        for _ in range(STEPS):
            optimizer.step(lambda: loss_of(model))
        torch.testing.assert_close(end(module.net), end(model))
    else:
        torch.testing.assert_close(end(module.net), expected())


def test_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    model, optimizer = accelerator.prepare(model, whitening(model))
    for i in range(STEPS):
        optimizer.zero_grad()
        accelerator.backward(loss_of(model))
        optimizer.step()
        if i == 4:
            accelerator.save_state(str(tmp_path))
    assert torch.equal(end(model), expected())
    accelerator.load_state(str(tmp_path))
    assert torch.equal(plain(model, optimizer, steps=STEPS - 5), expected())
