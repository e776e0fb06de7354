"""A step of the PyTorch optimiser is done as a whole or not at all, wherever it fails."""

from __future__ import annotations

import copy

import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from psgd_core.adapters.torch import PSGD  # noqa: E402
from psgd_core.adapters.torch.flat import Flat  # noqa: E402
from psgd_core.adapters.torch.saved import leaves  # noqa: E402
from psgd_core.curvature import Central, Gaussian  # noqa: E402
from psgd_core.descent import clips  # noqa: E402

FAILING = 2
"""The step that fails: there are states, momenta and a clip's memory to lose by then."""


class Stop(Exception):
    """What is raised."""


class Fuse:
    """Raises when it is asked for the k-th time after it was lit."""

    def __init__(self):
        self.left, self.blown = None, False

    def light(self, k, error):
        self.left, self.error, self.blown = k, error, False

    def __call__(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left, self.blown = None, True
                raise self.error


class Training:
    """A network with dropout in two groups, and everything that a step may change."""

    def __init__(self, fuse, *, backward=False, dtype=torch.float32, **settings):
        torch.manual_seed(5)
        nn = torch.nn
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1)).to(dtype)
        self.x, self.y = torch.randn(12, 3, dtype=dtype), torch.randn(12, 1, dtype=dtype)
        groups = [
            {"params": self.model[0].parameters(), "preconditioner": psgd.LowRank(2)},
            {"params": self.model[3].parameters(), "preconditioner": psgd.XMat(), "momentum": 0.5},
        ]
        self.optimizer = PSGD(groups, probes=Gaussian(2), **settings)
        self.fuse, self.backward = fuse, backward

    def loss(self):
        self.fuse()
        loss = (self.model(self.x) - self.y).square().mean()
        self.fuse()
        if self.backward:
            loss.backward()
            self.fuse()
        return loss

    def step(self, t):
        if self.backward == "zeroed" and t != FAILING:
            self.optimizer.zero_grad()
        self.optimizer.step(self.loss)

    def everything(self):
        optimizer = self.optimizer
        found = {f"p{i}": p.detach() for i, p in enumerate(self.model.parameters())}
        found |= {f"g{i}": p.grad for i, p in enumerate(self.model.parameters())}
        for i in range(2):
            found |= {f"{i}.{name}": x for name, x in leaves(optimizer.group_state(i)).items()}
        saved = optimizer.state_dict()["psgd"]
        found |= {"iteration": saved["iteration"], "waiting": saved["waiting"]}
        found |= {"probes": saved["generator"]["state"], "dropout": torch.get_rng_state()}
        return {name: copy.deepcopy(x) for name, x in found.items()}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        assert (actual[name] is None) == (x is None), name
        if x is not None:
            same = torch.equal(*(torch.as_tensor(a).flatten().view(torch.uint8) for a in (actual[name], x)))
            assert same, name


def run(fuse, k, error, **settings):
    """Train for four steps; light the fuse in the third, and do that again once it has blown."""
    training = Training(fuse, **settings)
    for t in range(4):
        if t == FAILING and k is not None:
            before = training.everything()
            fuse.light(k, error)
            try:
                training.step(t)
            except type(error):
                assert_same(training.everything(), before)
                fuse.left = None
                training.step(t)
            fuse.left = None
        else:
            training.step(t)
    return training.everything()


def assert_whole_everywhere(fuse, least, **settings):
    """Fail at the first, the second, ... place until none is left; there must be `least` at least."""
    never = run(fuse, None, None, **settings)
    k = 0
    while True:
        error = KeyboardInterrupt() if k % 2 else Stop()
        ends = run(fuse, k, error, **settings)
        assert_same(ends, never)
        if not fuse.blown:
            break
        k += 1
    assert k >= least


SETTINGS = [
    ({}, 2),
    ({"curvature": "finite_difference"}, 6),
    ({"curvature": Central()}, 10),
    ({"curvature": Central(), "dtype": torch.float64}, 10),
    ({"curvature": "finite_difference", "backward": True}, 9),
    ({"curvature": "finite_difference", "backward": "zeroed"}, 9),
    ({"curvature": "whitening", "backward": True}, 3),
    ({"clip": clips.TrustRadius(), "engine": "torch"}, 2),
    ({"dtype": torch.bfloat16, "curvature": "whitening"}, 2),
]


@pytest.mark.parametrize(("settings", "places"), SETTINGS, ids=lambda x: str(x)[:60])
def test_a_closure_that_raises_anywhere(settings, places):
    assert_whole_everywhere(Fuse(), places, **settings)


@pytest.mark.parametrize(
    "settings", [{}, {"curvature": "finite_difference"}], ids=["products", "differences"]
)
def test_differentiation_that_raises_at_any_call(settings, monkeypatch):
    """The gradient, and the product of each probe."""
    fuse, plain = Fuse(), torch.autograd.grad

    def grad(*args, **kwargs):
        fuse()
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(Training, "loss", lambda self: (self.model(self.x) - self.y).square().mean())
    assert_whole_everywhere(fuse, 3, **settings)


@pytest.mark.parametrize("settings", [{}, {"curvature": Central()}], ids=["products", "differences"])
def test_interrupts_between_any_two_writes(settings, monkeypatch):
    """Groups are written one after another: Ctrl-C after the first puts it back."""
    fuse, plain = Fuse(), Flat.write

    def write(*args):
        plain(*args)
        fuse()

    monkeypatch.setattr(Flat, "write", write)
    monkeypatch.setattr(Training, "loss", lambda self: (self.model(self.x) - self.y).square().mean())
    assert_whole_everywhere(fuse, 2, **settings)


@pytest.mark.parametrize("curvature", ["hvp", "whitening"])
def test_hooks_and_schedules_that_raise(curvature, monkeypatch):
    fuse = Fuse()

    class Scheduled:
        def __call__(self, t):
            fuse()
            return 0.2

    plain = Training.__init__

    def with_hooks(self, *args, **kwargs):
        plain(self, *args, step=Scheduled(), **kwargs)
        for p in self.model.parameters():
            p.register_hook(lambda g: fuse())

    monkeypatch.setattr(Training, "__init__", with_hooks)
    assert_whole_everywhere(fuse, 4, curvature=curvature)


def test_the_first_step_too():
    """With a generator that is not there yet, groups that have no state, and parameters not warned of."""
    torch.manual_seed(0)
    a, b, unused = (torch.nn.Parameter(torch.randn(4)) for _ in range(3))
    ends = []
    for fails in (False, True):
        for p in (a, b):
            p.data.fill_(1.0)
        optimizer = PSGD([{"params": [a, unused]}, {"params": [b]}], update_probability=1e-9)
        if fails:
            with pytest.raises(ZeroDivisionError):
                optimizer.step(lambda: 1 / 0)
            assert optimizer.due()
            assert optimizer.group_state() is None
            assert not optimizer.state

        def loss():
            return (a**4).sum() + (a * b).sum().square()

        with pytest.warns(UserWarning, match="number 1 of group 0"):
            optimizer.step(loss)
        for _ in range(2):
            optimizer.step(loss)
        ends.append(torch.cat([a.detach(), b.detach()]))
    assert torch.equal(*ends)


@pytest.mark.filterwarnings("error")
def test_warnings_taken_for_errors_leave_everything():
    a, unused = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(2))
    optimizer = PSGD([a, unused], psgd.Diagonal())

    def loss():
        return (a**2).sum()

    for _ in range(2):  # said again, because nothing was done
        with pytest.raises(UserWarning, match="number 1 of group 0"):
            optimizer.step(loss)
        assert torch.all(a == 1)
        assert not optimizer.state
