"""Hessians, Gauss-Newton and Fisher matrices of functions in JAX, on one batch or on many."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .batches import Batches, Reduction, arguments, inputs_and_targets
from .checks import checked
from .curvatures import Curvature, Head, Hessian, half_squares, require_curvature
from .operators import HessianOperator

ADVICE = "fix the key of random numbers, and the batches"
"""What to do about a function that is not the same every time."""


def from_jax(
    fun: Callable[..., Any],
    x: Any,
    *,
    data: Iterable[Any] | None = None,
    reduction: Reduction = "mean",
    name: str = "Hessian of the function",
) -> HessianOperator:
    """Return the Hessian of a JAX function at x, an array or a pytree of arrays (flattened in its order).

    Parameters
    ----------
    fun : callable
        ``fun(x)``, a scalar; with `data` ``fun(x, *batch)``.
    x : array, or pytree of arrays
    data : iterable of batches, optional
        Whatever can be gone through again. The members of a tuple or list are arguments; anything else is
        one. The Hessian is that of the function on all of them, a sum in their order.
    reduction : {"mean", "sum"}
        How the function comes from the examples of a batch. Means are weighted by the number of examples, the
        length of the first array of the batch.

    Returns
    -------
    HessianOperator
        Products are forward over reverse, ``jvp(grad(fun))``, compiled once for each shape of batch and
        number of columns.
    """
    import jax
    from jax.flatten_util import ravel_pytree

    point, unravel = ravel_pytree(x)

    def product(v: Any, *batch: Any) -> Any:
        gradient = jax.grad(lambda z: fun(unravel(z), *batch))
        return jax.vmap(lambda one: jax.jvp(gradient, (point,), (one,))[1], in_axes=1, out_axes=1)(v)

    compiled = jax.jit(product)
    if data is None:
        return HessianOperator(point.shape[0], point[:0], compiled, name)
    batches = Batches(data, reduction)

    def summed(v: Any) -> Any:
        return batches.sum(lambda batch, number: compiled(v, *arguments(batch)))

    return HessianOperator(point.shape[0], point[:0], checked(summed, name, ADVICE), name)


def from_jax_model(
    model: Callable[[Any, Any], Any],
    params: Any,
    loss: Callable[[Any, Any], Any],
    data: Iterable[Any],
    *,
    curvature: Curvature = Hessian(),  # noqa: B008
    reduction: Reduction = "mean",
    name: str | None = None,
) -> HessianOperator:
    """Return a curvature matrix of ``loss(model(params, inputs), targets)`` over all batches.

    Parameters
    ----------
    model : callable
        ``model(params, inputs)``, an array with a row for each example.
    params : array, or pytree of arrays
        With respect to which, flattened in their order.
    loss : callable
        ``loss(outputs, targets)``, a scalar.
    data : iterable of (inputs, targets)
        A list such as ``[(x, y)]``: whatever can be gone through again.
    curvature : Hessian, GaussNewton, Fisher or EmpiricalFisher
        See `psgd_analysis.spectrum.curvatures`; the last three leave the curvature of the outputs out.
    reduction : {"mean", "sum"}
        As the loss has it; means are weighted by the number of examples, as in `from_jax`.

    Returns
    -------
    HessianOperator
        Compiled once for each shape of batch and number of columns.

    Raises
    ------
    TypeError, ValueError
        If `data` are an iterator, or the loss is not the negative log-likelihood that a Fisher matrix asks
        for.
    """
    require_curvature(curvature)
    if name is None:
        called = getattr(model, "__name__", "<")
        name = f"{type(curvature).__name__} of {'the model' if called.startswith('<') else called}"
    if isinstance(curvature, Hessian):

        def whole(p: Any, *batch: Any) -> Any:
            inputs, targets = inputs_and_targets(batch)
            return loss(model(p, inputs), targets)

        return from_jax(whole, params, data=data, reduction=reduction, name=name)
    import jax
    from jax.flatten_util import ravel_pytree

    point, unravel = ravel_pytree(params)
    batches = Batches(data, reduction)

    @jax.jit
    def outputs(inputs: Any) -> Any:
        return model(unravel(point), inputs)

    @jax.jit
    def slope(z: Any, targets: Any) -> Any:
        return jax.grad(loss)(z, targets)

    @jax.jit
    def bend(z: Any, u: Any, targets: Any) -> Any:
        return jax.jvp(lambda at: jax.grad(loss)(at, targets), (z,), (u,))[1]

    @jax.jit
    def product(v: Any, inputs: Any, targets: Any, directions: Any) -> Any:
        bent = (lambda z: loss(z, targets)) if directions is None else (lambda z: half_squares(z, directions))
        one = gauss_newton(lambda at: model(unravel(at), inputs), bent, point)
        return jax.vmap(one, in_axes=1, out_axes=1)(v)

    def term(batch: Any, number: int, v: Any) -> Any:
        inputs, targets = inputs_and_targets(batch)
        z = outputs(inputs)
        head = Head(lambda at: slope(at, targets), lambda at, u: bend(at, u, targets), batches.mean)
        return product(v, inputs, targets, curvature.directions(z, head, number))

    def summed(v: Any) -> Any:
        return batches.sum(lambda batch, number: term(batch, number, v))

    return HessianOperator(point.shape[0], point[:0], checked(summed, name, ADVICE), name)


def gauss_newton(outputs: Callable[[Any], Any], loss: Callable[[Any], Any], x: Any) -> Callable[[Any], Any]:
    """Return the product with the Gauss-Newton matrix ``J^T ℓ'' J`` at x.

    Parameters
    ----------
    outputs : callable
        ``outputs(x)``, whose Jacobian is J.
    loss : callable
        ``loss(outputs)``, a scalar.
    x : array, shape (n,)
    """
    import jax

    z, push = jax.linearize(outputs, x)
    pull = jax.linear_transpose(push, x)
    slope = jax.grad(loss)
    return lambda v: pull(jax.jvp(slope, (z,), (push(v),))[1])[0]
