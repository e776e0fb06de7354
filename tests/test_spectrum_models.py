"""Curvature of models on data in batches: against brute force from the Jacobian of each example."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from psgd_analysis import spectrum
from psgd_analysis.spectrum import EmpiricalFisher, Fisher, GaussNewton, Hessian

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

EXAMPLES, FEATURES, OUTPUTS = 11, 3, 4
RNG = np.random.default_rng(0)
X = RNG.standard_normal((EXAMPLES, FEATURES))
TARGETS = {
    "categorical": RNG.integers(0, OUTPUTS, EXAMPLES),
    "bernoulli": RNG.integers(0, 2, (EXAMPLES, OUTPUTS)).astype(float),
    "normal": RNG.standard_normal((EXAMPLES, OUTPUTS)),
}
LIKELIHOODS = list(TARGETS)
LIBRARIES = ["torch", "jax"]


# -- the same network and losses in both libraries -----------------------------------------------------------


class InTorch:
    """A network with one hidden layer, its losses, and operators."""

    def __init__(self):
        torch.manual_seed(0)
        layers = torch.nn.Linear(FEATURES, 5), torch.nn.Tanh(), torch.nn.Linear(5, OUTPUTS)
        self.model = torch.nn.Sequential(*layers).double()
        self.point = torch.nn.utils.parameters_to_vector(self.model.parameters()).detach().numpy()

    def array(self, x):
        return torch.from_numpy(np.asarray(x))

    def loss(self, likelihood, reduction):
        functional = torch.nn.functional
        found = {
            "categorical": functional.cross_entropy,
            "bernoulli": functional.binary_cross_entropy_with_logits,
            "normal": functional.mse_loss,
        }[likelihood]
        return lambda z, y: found(z, y, reduction=reduction)

    def operator(self, likelihood, data, reduction="mean", **options):
        data = [(self.array(x), self.array(y)) for x, y in data]
        loss = self.loss(likelihood, reduction)
        return spectrum.from_torch_model(self.model, loss, data, reduction=reduction, **options)

    def dense(self, op):
        return op.dense().numpy()


class InJax(InTorch):
    """The same in JAX: parameters as PyTorch has them."""

    def __init__(self):
        super().__init__()
        jax = pytest.importorskip("jax", reason="JAX is not installed")
        self.jnp = jax.numpy

    def array(self, x):
        return self.jnp.asarray(x)

    def loss(self, likelihood, reduction):
        jnp = self.jnp

        def each(z, y):
            if likelihood == "categorical":
                top = jnp.max(z, axis=1, keepdims=True)
                logs = z - top - jnp.log(jnp.sum(jnp.exp(z - top), axis=1, keepdims=True))
                return -jnp.take_along_axis(logs, y[:, None], axis=1)
            if likelihood == "bernoulli":
                return jnp.logaddexp(0.0, z) - y * z
            return (z - y) ** 2

        return lambda z, y: (jnp.mean if reduction == "mean" else jnp.sum)(each(z, y))

    def operator(self, likelihood, data, reduction="mean", **options):
        def model(params, x):
            w1, b1, w2, b2 = params
            return self.jnp.tanh(x @ w1.T + b1) @ w2.T + b2

        params = [self.jnp.asarray(p.detach().numpy()) for p in self.model.parameters()]
        data = [(self.array(x), self.array(y)) for x, y in data]
        loss = self.loss(likelihood, reduction)
        return spectrum.from_jax_model(model, params, loss, data, reduction=reduction, **options)

    def dense(self, op):
        return np.asarray(op.dense())


@pytest.fixture(params=LIBRARIES)
def library(request):
    if request.param == "torch":
        yield InTorch()
        return
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    with jax.enable_x64(True):
        yield InJax()


@pytest.fixture
def in_torch():
    return InTorch()


def cut(likelihood, *sizes):
    """All of the data, in batches."""
    ends = np.cumsum(sizes)
    assert ends[-1] == EXAMPLES
    y = TARGETS[likelihood]
    return [(X[end - size : end], y[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


# -- brute force, by hand ----------------------------------------------------------------------------------


def by_example(point):
    """Jacobians (N, C, n) and outputs (N, C) of the network, one example and one output at a time."""
    model = InTorch().model
    leaves = list(model.parameters())
    torch.nn.utils.vector_to_parameters(torch.from_numpy(point), leaves)
    jacobians, outputs = [], []
    for x in X:
        z = model(torch.from_numpy(x))
        rows = [torch.autograd.grad(z[c], leaves, retain_graph=True) for c in range(OUTPUTS)]
        jacobians.append([torch.cat([g.reshape(-1) for g in row]).numpy() for row in rows])
        outputs.append(z.detach().numpy())
    return np.array(jacobians), np.array(outputs)


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def parts(likelihood, z):
    """The second derivative (N, C, C) of each example's loss in its outputs, and what means divide by."""
    n, c = z.shape
    if likelihood == "categorical":
        p = softmax(z)
        return np.stack([np.diag(q) - np.outer(q, q) for q in p]), n
    if likelihood == "bernoulli":
        p = 1 / (1 + np.exp(-z))
        return np.stack([np.diag(q * (1 - q)) for q in p]), n * c
    return np.broadcast_to(2 * np.eye(c), (n, c, c)), n * c


def slopes(likelihood, z, y):
    """The gradient (N, C) of each example's loss in its outputs."""
    if likelihood == "categorical":
        return softmax(z) - np.eye(OUTPUTS)[y]
    return 1 / (1 + np.exp(-z)) - y if likelihood == "bernoulli" else 2 * (z - y)


def gauss_newton(likelihood, reduction, point):
    jacobian, z = by_example(point)
    inner, count = parts(likelihood, z)
    found = np.einsum("nci,ncd,ndj->ij", jacobian, inner, jacobian)
    return found / (count if reduction == "mean" else 1)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("reduction", "sizes"), [("mean", (4, 4, 3)), ("sum", (5, 6)), ("mean", (11,))])
def test_gauss_newton_and_the_exact_fisher_matrix(library, likelihood, reduction, sizes):
    if isinstance(library, InJax) and sizes == (11,):
        pytest.skip("batches have it")
    expected = gauss_newton(likelihood, reduction, library.point)
    for curvature in (GaussNewton(), Fisher(likelihood)):
        op = library.operator(likelihood, cut(likelihood, *sizes), reduction, curvature=curvature)
        np.testing.assert_allclose(library.dense(op), expected, atol=1e-12 * np.abs(expected).max())
        assert type(curvature).__name__ in op.name


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_fisher_matrix_is_the_mean_over_the_models_own_targets(in_torch, likelihood):
    """By its definition: gradients of log p(y | x), their outer products averaged over y, no ℓ'' in sight."""
    library = in_torch
    jacobian, z = by_example(library.point)
    total = 0.0
    for j, out in zip(jacobian, z, strict=True):
        if likelihood == "categorical":
            p = softmax(out[None])[0]
            scores = [(p[c], p - np.eye(OUTPUTS)[c]) for c in range(OUTPUTS)]
        elif likelihood == "bernoulli":
            p = 1 / (1 + np.exp(-out))
            y = np.array(np.meshgrid(*[[0, 1]] * OUTPUTS)).reshape(OUTPUTS, -1).T
            scores = [(np.prod(np.where(row, p, 1 - p)), p - row) for row in y]
        else:  # a normal law of variance 1: a rule that is exact for second moments
            scores = [(0.5 / OUTPUTS, s * np.sqrt(OUTPUTS) * e) for e in np.eye(OUTPUTS) for s in (1, -1)]
        total = total + sum(w * np.outer(j.T @ s, j.T @ s) for w, s in scores)
    # the loss is a multiple of the negative log-likelihood
    factor = {"categorical": 1, "bernoulli": 1 / OUTPUTS, "normal": 2 / OUTPUTS}[likelihood]
    op = library.operator(likelihood, cut(likelihood, 6, 5), curvature=Fisher(likelihood))
    expected = factor * total / EXAMPLES
    np.testing.assert_allclose(library.dense(op), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("likelihood", "reduction"), [("categorical", "mean"), ("bernoulli", "mean"), ("normal", "sum")]
)
def test_the_empirical_fisher_matrix(library, likelihood, reduction):
    jacobian, z = by_example(library.point)
    scale = 1 if likelihood == "categorical" or reduction == "sum" else 1 / OUTPUTS
    g = np.einsum("nci,nc->ni", jacobian, slopes(likelihood, z, TARGETS[likelihood])) * scale
    expected = g.T @ g / (EXAMPLES if reduction == "mean" else 1)
    for sizes in ((11,), (4, 7)):
        op = library.operator(likelihood, cut(likelihood, *sizes), reduction, curvature=EmpiricalFisher())
        np.testing.assert_allclose(library.dense(op), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_monte_carlo_is_of_low_rank_reproducible_and_unbiased(library, likelihood):
    data = cut(likelihood, 11)
    exact = gauss_newton(likelihood, "mean", library.point)
    few = Fisher(likelihood, samples=1, seed=3)
    first, again = (library.dense(library.operator(likelihood, data, curvature=few)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.linalg.matrix_rank(first, tol=1e-12) <= EXAMPLES
    if isinstance(library, InJax):  # the draws are the same in both
        same = InTorch().operator(likelihood, data, curvature=few).dense().numpy()
        np.testing.assert_allclose(first, same, atol=1e-12)
        return
    other = Fisher(likelihood, samples=1, seed=4)
    assert np.abs(library.dense(library.operator(likelihood, data, curvature=other)) - first).max() > 1e-3
    # within five standard errors, the spread over seeds taken from the draws themselves
    draws = np.stack(
        [
            library.dense(
                library.operator(likelihood, data, curvature=Fisher(likelihood, samples=50, seed=s))
            )
            for s in range(6)
        ]
    )
    vector = np.ones(len(exact))
    forms = np.einsum("i,sij,j->s", vector, draws, vector)
    error = np.std(forms, ddof=1) / np.sqrt(len(forms))
    assert abs(forms.mean() - vector @ exact @ vector) < 5 * error
    assert error < 0.2 * vector @ exact @ vector


def test_the_hessian_of_a_model_is_that_of_its_loss(library):
    whole = library.dense(library.operator("categorical", cut("categorical", 11)))
    np.testing.assert_allclose(
        library.dense(library.operator("categorical", cut("categorical", 5, 1, 5), curvature=Hessian())),
        whole,
        atol=1e-14,
    )
    model, x, y = InTorch().model, torch.from_numpy(X), torch.from_numpy(TARGETS["categorical"])
    plain = spectrum.from_torch(lambda: torch.nn.functional.cross_entropy(model(x), y), model)
    np.testing.assert_allclose(whole, plain.dense().numpy(), atol=1e-14)


# -- data in batches ---------------------------------------------------------------------------------------


def loader(**options):
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(TARGETS["normal"]))
    return torch.utils.data.DataLoader(data, **options)


@pytest.mark.parametrize(
    "options", [{"batch_size": 4}, {"batch_size": 1}, {"batch_size": 4, "shuffle": True}]
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loader_has_the_products_of_the_whole(options, reduction):
    """Shuffled ones too: what every batch holds does not matter to the sum."""
    model, loss = InTorch().model, InTorch().loss("normal", reduction)
    whole = spectrum.from_torch(
        lambda: loss(model(torch.from_numpy(X)), torch.from_numpy(TARGETS["normal"])), model
    )
    v = torch.from_numpy(np.random.default_rng(1).standard_normal((whole.n, 3)))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for op in (
            spectrum.from_torch_model(model, loss, loader(**options), reduction=reduction),
            spectrum.from_torch(
                lambda x, y: loss(model(x), y), model, data=loader(**options), reduction=reduction
            ),
        ):
            torch.testing.assert_close(op.hvp(v), whole.hvp(v), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(op.hvp(v), op.hvp(v), rtol=0, atol=0)  # in fixed order
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_of_dicts_and_of_one_array():
    model = InTorch().model
    x = torch.from_numpy(X)
    expected = spectrum.from_torch(lambda: model(x).square().mean(), model).dense()
    for data, loss in (
        ([{"x": x[:4]}, {"x": x[4:]}], lambda batch: model(batch["x"]).square().mean()),
        ([x[:4], x[4:]], lambda batch: model(batch).square().mean()),
    ):
        op = spectrum.from_torch(loss, model, data=data)
        torch.testing.assert_close(op.dense(), expected, rtol=1e-12, atol=1e-12)


def test_batches_of_a_function_in_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    with jax.enable_x64(True):
        w, x = jax.numpy.asarray(np.ones(FEATURES)), jax.numpy.asarray(X)

        def fun(w, x):
            return jax.numpy.mean(jax.numpy.tanh(x @ w) ** 2)

        whole = spectrum.from_jax(lambda w: fun(w, x), w).dense()
        op = spectrum.from_jax(fun, w, data=[x[:2], x[2:]])
        np.testing.assert_allclose(op.dense(), whole, atol=1e-14)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: iter([(1, 2)]), "starts anew for every product, got list_iterator, an iterator, which ends"),
        (
            lambda: (pair for pair in [(1, 2)]),
            "got generator, an iterator, which ends after one pass; give the",
        ),
        (lambda: (torch.ones(2), torch.ones(2)), r"got the arrays of one; put it in a list, \[\(x, y\)\]"),
        (lambda: torch.ones(2, 3), r"got the arrays of one; put it in a list, \[\(x, y\)\]"),
        (lambda: 3, "`data` must be an iterable of batches, got int; put it in a list"),
        (lambda: [], "`data` must hold a batch, got none"),
        (lambda: [torch.ones(11, 3)], r"batches of two, \(inputs, targets\), got Tensor"),
    ],
)
def test_data_that_cannot_be_summed(data, message):
    model, loss = InTorch().model, torch.nn.functional.mse_loss
    with pytest.raises((TypeError, ValueError), match=message):
        spectrum.from_torch_model(model, loss, data()).hvp(torch.ones(44, dtype=torch.float64))


def test_data_that_change_between_passes():
    model = InTorch().model
    batches = [(torch.from_numpy(X), torch.from_numpy(TARGETS["normal"]))]

    class Growing:
        def __iter__(self):
            yield from list(batches)
            batches.append(batches[0])

    op = spectrum.from_torch_model(model, torch.nn.functional.mse_loss, Growing())
    with pytest.raises(ValueError, match="`data` must be the same in every pass, got 22 examples after 11"):
        op.hvp(torch.ones(op.n, dtype=torch.float64))


# -- determinism -------------------------------------------------------------------------------------------


def test_what_is_left_of_a_shuffled_loader_is_refused_by_name():
    model = InTorch().model
    data = loader(batch_size=4, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0))
    op = spectrum.from_torch_model(model, torch.nn.functional.mse_loss, data)
    message = r"same for the same v.*call eval\(\) on the model, for dropout and BatchNorm.*shuffle=False"
    with pytest.raises(ValueError, match=message):
        op.hvp(torch.ones(op.n, dtype=torch.float64))


def test_batchnorm_in_training_mode_is_said_once_where_batches_differ():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    loss = torch.nn.functional.mse_loss
    op = spectrum.from_torch_model(model, loss, loader(batch_size=6))
    v = torch.ones(op.n, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"BatchNorm in training mode.*call eval\(\) on the model") as said:
        _ = op.hvp(v), op.hvp(v)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrum.from_torch_model(model, loss, loader(batch_size=11)).hvp(v)
        spectrum.from_torch_model(model.eval(), loss, loader(batch_size=6)).hvp(v)


def test_dropout_is_the_same_in_every_product_and_said():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5)).double()
    op = spectrum.from_torch_model(
        model, torch.nn.functional.mse_loss, loader(batch_size=6), curvature=GaussNewton()
    )
    v = torch.ones(op.n, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"draws random numbers.*call eval\(\)"):
        first = op.hvp(v)
    torch.testing.assert_close(op.hvp(v), first, rtol=0, atol=0)


# -- refusals ----------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_likelihood_has_no_fisher_matrix(in_torch):
    library = in_torch
    op = library.operator("normal", cut("normal", 11), curvature=Fisher("bernoulli"))
    with pytest.raises(ValueError, match="must be the negative log-likelihood of likelihood='bernoulli'"):
        library.dense(op)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: Fisher("poisson"),
            "`likelihood` must be one of categorical, bernoulli, normal, got 'poisson'",
        ),
        (lambda m: Fisher("normal", samples=0), "`samples` must be an integer of at least 1, got 0"),
        (
            lambda m: spectrum.from_torch_model(m, None, [], curvature="ggn"),
            r"`curvature` must be Hessian\(\)",
        ),
        (
            lambda m: spectrum.from_torch_model(m, None, [], reduction="none"),
            "`reduction` must be one of mean",
        ),
        (
            lambda m: spectrum.from_torch_model(lambda x: x, None, []),
            "`parameters` must be given where `model`",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(InTorch().model)


def test_outputs_that_are_no_tensor():
    model, x = InTorch().model, torch.ones(2, 3, dtype=torch.float64)
    op = spectrum.from_torch_model(
        lambda x: {"logits": model(x)}, None, [(x, 0)], parameters=model, curvature=GaussNewton()
    )
    with pytest.raises(TypeError, match="`model` must return a tensor with a row for each example, got dict"):
        op.hvp(torch.ones(op.n, dtype=torch.float64))
