"""What PyTorch's users type without looking: maximize, names, attention, compiled models, one-liners."""

from __future__ import annotations

import contextlib
import pickle
from functools import partial

import numpy as np
import pytest

import psgd_core as psgd

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from psgd_core.adapters.torch import PSGD, blocks_of, functions  # noqa: E402
from psgd_core.descent import clips  # noqa: E402

nn = torch.nn
X = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 3)))
Y = X.prod(1, keepdim=True)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def loss_of(model, sign=1.0):
    return sign * nn.functional.mse_loss(model(X), Y)


def end(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# -- maximize --------------------------------------------------------------------------------------------

SETTINGS = {
    "hvp": {"curvature": "hvp"},
    "differences": {"curvature": "finite_difference"},
    "whitening": {"curvature": "whitening"},
    "decay": {"weight_decay": 0.1},
    "l2": {"weight_decay": 0.1, "decay": "l2", "curvature": "whitening"},
    "trust": {"clip": clips.TrustRadius(), "momentum": 0.0},
    "global": {"global_clip": 0.1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_maximising_is_minimising_minus_the_loss(engine, settings):
    ends = []
    for maximize in (False, True):
        model = network()
        optimizer = PSGD(model.parameters(), psgd.XMat(), engine=engine, maximize=maximize, **settings)
        sign = -1.0 if maximize else 1.0
        for _ in range(8):
            value = optimizer.step(partial(loss_of, model, sign))
            assert sign * value > 0  # as the closure returned it
        ends.append(end(model))
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], end(network()))


def test_one_group_up_and_one_down_find_a_saddle():
    x, y = (nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64)) for _ in "xy")
    groups = [{"params": [x]}, {"params": [y], "maximize": True}]
    optimizer = PSGD(groups, psgd.Diagonal(), lr=0.3, momentum=0.0, clip=None)
    for _ in range(100):
        optimizer.step(lambda: (x**2).sum() + 0.1 * (x * y).sum() - (y**2).sum())
    assert float(x.detach().abs().max()) < 1e-6
    assert float(y.detach().abs().max()) < 1e-6


def test_maximize_is_kept_and_checked():
    model = network()
    optimizer = PSGD(model.parameters(), psgd.Diagonal(), maximize=True)
    other = PSGD(model.parameters(), psgd.Diagonal())
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["maximize"] is True
    assert pickle.loads(pickle.dumps(optimizer)).param_groups[0]["maximize"] is True
    old = optimizer.state_dict()
    del old["param_groups"][0]["maximize"]  # from before there was one
    other.load_state_dict(old)
    assert other.param_groups[0]["maximize"] is False
    with pytest.raises(TypeError, match="`maximize` must be True or False, got 1"):
        PSGD(model.parameters(), maximize=1)


# -- names -----------------------------------------------------------------------------------------------


def parameter(*shape, **kwargs):
    return nn.Parameter(torch.ones(shape, **kwargs))


def stepped(named, curvature="whitening", **arguments):
    total = lambda: sum(p.double().sum() for _, p in named)  # noqa: E731
    PSGD(named, psgd.Diagonal(), curvature=curvature).step(total, **arguments)


def sparse(named):
    table = nn.Embedding(5, 3, sparse=True)
    named = [("head.weight", parameter(2)), ("table.weight", table.weight)]
    PSGD(named, psgd.Diagonal(), curvature="whitening").step(
        lambda: table(torch.tensor([1])).sum() + named[0][1].sum()
    )


def shared(named):
    p = named[0][1]
    PSGD([*named, ("tied.weight", nn.Parameter(p.data))])


WRONG = {
    "complex": (lambda named: PSGD([*named, ("phase", parameter(2, dtype=torch.complex64))]), "`phase`"),
    "integers": (lambda named: PSGD([*named, ("count", torch.ones(2, dtype=torch.int32))]), "`count`"),
    "layout": (lambda named: PSGD([*named, ("sparse", torch.eye(2).to_sparse())]), "`sparse`"),
    "sparse gradient": (sparse, "`table.weight`"),
    "shared memory": (shared, "`body.0` and `tied.weight`"),
    "devices": (lambda named: stepped([*named, ("far", parameter(2, device="meta"))]), "`far` on meta"),
    "lazy": (lambda named: stepped([*named, ("new", nn.UninitializedParameter())]), "`new`"),
    "16 bits": (
        lambda named: stepped([*named, ("half", parameter(2, dtype=torch.float16))], "finite_difference"),
        "`half`",
    ),
    "shape of v": (lambda named: stepped(named, v=[torch.ones(3), torch.ones(2)]), r"`body.1` has \(4,\)"),
}


@pytest.mark.parametrize(("wrong", "name"), WRONG.values(), ids=WRONG)
def test_messages_name_the_parameter(wrong, name):
    with pytest.raises((TypeError, ValueError), match=name):
        wrong([("body.0", parameter(3)), ("body.1", parameter(4))])


def test_messages_without_names_say_which_one():
    with pytest.raises(TypeError, match=r"number 1 of group 0, \(2,\)"):
        PSGD([parameter(3), parameter(2, dtype=torch.complex64)])
    table = nn.Embedding(5, 3, sparse=True)
    f = functions(lambda: table(torch.tensor([1])).sum(), table)
    with pytest.raises(TypeError, match="`weight`; set sparse=False"):
        f.gradient(torch.zeros(15))


# -- attention and compiled models ------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(*self.mix(x).chunk(3, -1))


def attentive(kind):
    """Return a model with fused attention, and its loss."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    if kind == "function":
        model = Attention()
        return model, lambda: model(x[:, None]).square().mean()
    if kind == "module":
        model = nn.MultiheadAttention(8, 2, batch_first=True)
        return model, lambda: model(x, x, x, need_weights=False)[0].square().mean()
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return model, lambda: model(x).square().mean()


def compiled(kind):
    model = network()
    ready = torch.compile(model if kind == "module" else partial(loss_of, model), backend="aot_eager")
    return model, (lambda: loss_of(ready)) if kind == "module" else ready


@contextlib.contextmanager
def in_the_message(message):
    """Do what the message says."""
    if "sdpa_kernel" in message:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        with torch.compiler.set_stance("force_eager"):
            yield


CASES = {
    **{f"attention, {kind}": partial(attentive, kind) for kind in ("function", "module", "layer")},
    **{f"compiled {kind}": partial(compiled, kind) for kind in ("module", "loss")},
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_the_way_out_is_in_the_message_and_works(make):
    torch._dynamo.reset()
    model, loss = make()
    what = "fused attention" if make.func is attentive else "a compiled model"
    x0 = nn.utils.parameters_to_vector(model.parameters()).detach()
    f = functions(loss, model)
    pattern = (
        f"must be differentiable twice for Hessian-vector products, but {what} is not; .*or use curvature="
    )
    with pytest.raises(RuntimeError, match=pattern) as caught:
        PSGD(model.parameters(), psgd.Diagonal()).step(loss)
    with pytest.raises(RuntimeError, match=pattern):
        f.hvp(x0, torch.ones_like(x0))
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), x0)
    with in_the_message(str(caught.value)):
        PSGD(model.parameters(), psgd.Diagonal()).step(loss)
        assert bool(f.hvp(x0, torch.ones_like(x0)).isfinite().all())
    for curvature in ("finite_difference", "whitening"):
        PSGD(model.parameters(), psgd.Diagonal(), curvature=curvature).step(loss)


def test_the_compiled_and_the_plain_module_are_trained_alike():
    torch._dynamo.reset()
    plain, other = network(), network()
    ready = torch.compile(other, backend="aot_eager")
    PSGD(plain.parameters(), psgd.Diagonal()).step(lambda: loss_of(plain))
    with torch.compiler.set_stance("force_eager"):
        PSGD(ready.parameters(), psgd.Diagonal()).step(lambda: loss_of(ready))
    torch.testing.assert_close(end(plain), end(other))


# -- one-liners ------------------------------------------------------------------------------------------


def test_the_ways_to_say_matrices_kronecker_vectors_diagonal_are_one():
    ends = []
    for choose in (lambda m: psgd.Kronecker, lambda m: "kronecker", psgd.Blocks.of, blocks_of):
        model = network()
        optimizer = PSGD(model.named_parameters(), choose(model))
        for _ in range(5):
            optimizer.step(partial(loss_of, model))
        kinds = [type(p).__name__ for _, p in optimizer.param_groups[0]["preconditioner"].parts]
        assert kinds == ["Kronecker", "Diagonal"] * 2
        ends.append(end(model))
    assert all(torch.equal(ends[0], other) for other in ends[1:])


def test_names_and_classes_per_group_and_in_checkpoints():
    model = network()
    groups = [
        {"params": model[0].parameters(), "preconditioner": "kronecker"},
        {"params": model[2].parameters(), "preconditioner": psgd.LowRank},
    ]
    optimizer = PSGD(groups, psgd.Dense)
    optimizer.step(partial(loss_of, model))
    assert [type(g["preconditioner"]) for g in optimizer.param_groups] == [psgd.Blocks, psgd.LowRank]
    assert optimizer.param_groups[1]["preconditioner"].rank == 4
    copy = PSGD([{**g, "params": list(g["params"])} for g in optimizer.param_groups], psgd.Dense)
    copy.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"`preconditioner` must be one of .* got 'adam'"):
        PSGD(model.parameters(), "adam")
    lazy = nn.LazyLinear(2)
    optimizer = PSGD(lazy.parameters(), "kronecker")
    lazy(torch.ones(1, 3))
    optimizer.step(lambda: lazy(torch.ones(1, 3)).square().sum())
    assert isinstance(optimizer.param_groups[0]["preconditioner"], psgd.Blocks)


# -- tensors that are more than numbers ----------------------------------------------------------------------


def negated(n):
    """A parameter with PyTorch's lazy sign, as the imaginary part of a conjugate has."""
    return nn.Parameter((torch.ones(n) - 1j * torch.arange(1.0, n + 1)).conj().imag)


ATEN = torch.ops.aten
KNOWN = ("detach", "copy_", "view", "cat", "clone", "_to_copy", "_unsafe_view", "_reshape_alias", "alias")


class Wrapped(torch.Tensor):
    """A tensor that knows some operations only, and none on lists but ``cat``."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, strides=inner.stride()
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function not in [getattr(ATEN, name).default for name in KNOWN]:
            raise NotImplementedError(f"{function} is not supported")
        found = function(*torch.utils._pytree.tree_map(_inner, args), **(kwargs or {}))
        if function is ATEN.copy_.default:
            return args[0]
        return found if function is ATEN.cat.default else cls(found)


def _inner(x):
    return x.inner if isinstance(x, Wrapped) else x


def test_parameters_with_a_lazy_sign_step_as_their_copies():
    ends = []
    for plain in (False, True):
        a, b = nn.Parameter(torch.ones(3)), negated(4)
        assert b.is_neg()
        if plain:
            b = nn.Parameter(b.detach().clone().resolve_neg())
        optimizer = PSGD([{"params": [a]}, {"params": [b]}])
        for _ in range(3):
            optimizer.step(lambda a=a, b=b: (a**4).sum() + (b**4).sum())
        ends.append(torch.cat([a.detach(), b.detach()]))
    torch.testing.assert_close(*ends)


def test_a_closure_s_own_error_comes_out_whatever_the_parameters_are():
    optimizer = PSGD([negated(4), nn.Parameter(torch.ones(2))])
    with pytest.raises(KeyError, match="mine"):
        optimizer.step(lambda: {}["mine"])


def test_parameters_of_a_class_with_few_operations():
    ends = []
    for wrap in (Wrapped, torch.clone):
        a, b = nn.Parameter(wrap(torch.ones(3))), nn.Parameter(torch.ones(4))
        optimizer = PSGD([a, b], curvature="whitening", engine="torch")
        for k in range(3):
            a.grad, b.grad = wrap(torch.arange(3.0) - k), torch.arange(4.0) + k
            optimizer.step()
        ends.append(torch.cat([_inner(a.data), b.detach()]))
    assert torch.equal(*ends)


def test_what_cannot_be_undone_leaves_the_optimiser_as_it_was():
    a, spread = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1).expand(4))  # which nothing can write
    optimizer = PSGD([{"params": [a]}, {"params": [spread]}])
    generator = torch.get_rng_state()

    def loss():
        return (a * torch.rand(3)).square().sum() + spread.square().sum()

    with pytest.raises(RuntimeError, match="single memory location"):
        optimizer.step(loss)
    assert not optimizer.state
    assert optimizer.group_state(0) is None
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(a, torch.ones(3))
