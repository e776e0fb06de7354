"""Losses differentiated once or twice; no graph is kept, and ``.grad`` is left alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checkpointing import layers_in_sight, nodes, require_in_sight
from .flat import is_sharded, local_of
from .forward import agree, refusals, tangents, tangents_of
from .names import called
from .twice import REFUSED, not_twice

Grads = list[Tensor | None]
"""One per parameter, None where the loss does not depend on it."""

Looked = set[tuple[bool, ...]]
"""Which parameters had gradients, and whether the graph was that of products, in graphs examined before."""

ONCE = (
    "`closure` must return the undifferentiated loss for exact products, which differentiate it twice, got "
    "one that was differentiated already; leave backward out of the closure"
)


GATHERED = (
    "the loss must depend on the sharded parameters within its graph for curvature='hvp', got one that does "
    "not, as under fully_shard (FSDP2): it computes with gathered copies, and sums their gradients outside "
    "of the graph, so that PyTorch cannot differentiate them again; use curvature='finite_difference' or "
    "'whitening'"
)


class Found(NamedTuple):
    """The results of evaluating the loss; nothing in it has a graph, but for what is the closure's own."""

    loss: Any
    grads: Grads
    products: list[Grads]  # one list per probe
    own: bool  # the gradient was taken here, not by the closure's backward
    more: tuple[Any, ...] = ()  # what the closure returned beside the loss

    @property
    def returned(self) -> Any:
        """What the closure returned: the loss, or (loss, more)."""
        return (self.loss, *self.more) if self.more else self.loss


def given(params: Sequence[Tensor]) -> Grads:
    """Return what backward left in ``.grad``; None for parameters that are frozen while others are not.

    Raises
    ------
    TypeError
        If a gradient is sparse.
    """
    by_hand = not any(p.requires_grad for p in params)  # gradients without autograd
    return [_dense(p.grad, p) if p.requires_grad or by_hand else None for p in params]


def evaluate(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    probes: Sequence[Sequence[Tensor]] = (),
    *,
    once: bool = False,
    forward: bool = False,
    looked: Looked,
) -> Found:
    """Evaluate the loss and its gradient, and the Hessian's products with probes.

    Parameters
    ----------
    closure : callable
        Returns the loss, a scalar tensor, or (loss, more).
    params : sequence of tensors
    probes : sequence of sequences of tensors
        For each probe, tensors in the shapes and dtypes of `params`.
    once : bool
        Refuse a closure that calls backward; otherwise what it leaves in ``.grad`` is the gradient.
    forward : bool
        Take the products with the probe, one only, by forward-over-reverse differentiation.
    looked : set
        Patterns of gradients for which the graph was searched for hidden layers. The search takes as long as
        some operations, so it is done once for each pattern.
    """
    probe = probes[0] if forward and probes else ()
    with torch.enable_grad(), layers_in_sight(), contextlib.ExitStack() as level:
        level.enter_context(tangents(params, probe))
        with _noticing_backward(params) as was_called:
            loss, more = closure(), ()
        if isinstance(loss, tuple) and len(loss) == 2:
            loss, more = loss[0], loss[1:]
        if was_called():
            if once:
                raise ValueError(ONCE)
            return Found(loss.detach() if isinstance(loss, Tensor) else loss, given(params), [], False, more)
        _require_loss(loss)
        if not once and any(map(is_sharded, params)):
            return Found(loss.detach(), _by_backward(loss, params), [], False, more)
        products: list[Grads] = []
        if probe:
            grads, products = _tangents(loss, params, probe, looked, level.close)
        elif probes:
            grads, products = _products(loss, params, probes, looked)
        else:
            grads = _gradient(loss, params, looked, twice=False)
    return Found(loss.detach(), grads, products, True, more)


def _by_backward(loss: Tensor, params: Sequence[Tensor]) -> Grads:
    """Return the gradient as backward leaves it: ``fully_shard`` sums it there alone; ``.grad`` is kept."""
    held = [p.grad for p in params]
    try:
        for p in params:
            p.grad = None
        backward: Callable[[], None] = loss.backward
        backward()
        return given(params)
    finally:
        for p, grad in zip(params, held, strict=True):
            p.grad = grad


@contextlib.contextmanager
def _noticing_backward(params: Sequence[Tensor]) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether gradients have arrived in ``.grad``.

    Hooks notice what backward accumulates. A gradient counts as put there by hand if it has changed and is
    not zero: ``zero_grad(set_to_none=False)`` writes as well.
    """
    before = [(p.grad, None if p.grad is None else local_of(p.grad)._version) for p in params]
    hooks: list[Any] = []
    arrived: list[Tensor] = []

    def was_called() -> bool:
        return bool(arrived) or any(
            p.grad is not None
            and (p.grad is not old or local_of(p.grad)._version != version)
            and (p.grad.is_sparse or bool((p.grad.detach() != 0).any()))
            for p, (old, version) in zip(params, before, strict=True)
        )

    try:
        for p in params:
            leaf: Any = p
            if p.requires_grad and p.is_leaf:
                hooks.append(leaf.register_post_accumulate_grad_hook(arrived.append))
        yield was_called
    finally:
        for hook in hooks:
            hook.remove()


def _look(loss: Tensor, grads: Grads, looked: Looked) -> None:
    """Raise RuntimeError if the graph hides layers, or, where gradients have a graph, curvature."""
    twice = any(g is not None and g.requires_grad for g in grads)
    pattern = (twice, *(g is not None for g in grads))
    if pattern in looked:
        return
    require_in_sight(loss)
    if twice and any("autograd::Error" in node.name() for node in nodes(grads)):
        raise not_twice([loss, *grads])
    looked.add(pattern)


def _products(
    loss: Tensor, params: Sequence[Tensor], probes: Sequence[Sequence[Tensor]], looked: Looked
) -> tuple[Grads, list[Grads]]:
    """Return the gradients of a loss, and its Hessian times each probe, by double backward.

    Hooks on parameters see and change gradients, as in backward, but not products, which are of the loss.
    """
    with _without_hooks(params) as hooks:
        grads = _gradient(loss, params, looked, twice=True)
        keep = [True] * (len(probes) - 1) + [False]
        products = [_product(grads, params, v, keep=k) for v, k in zip(probes, keep, strict=True)]
    return _hooked(grads, hooks, params), products


def _tangents(
    loss: Tensor, params: Sequence[Tensor], probe: Sequence[Tensor], looked: Looked, leave: Callable[[], None]
) -> tuple[Grads, list[Grads]]:
    """Return what `_products` does, from the tangents that the parameters have until `leave` is called."""
    compared = any(twice for twice, *_ in looked)
    with _without_hooks(params) as hooks:
        grads = _gradient(loss, params, looked, twice=False, keep=not compared)
        product = tangents_of(grads)
        leave()
        if not compared:  # the same by double backward: PyTorch takes other formulas there
            seen: Looked = set()
            with refusals():
                again = _gradient(loss, params, seen, twice=True)
                reference = _product(again, params, probe, keep=False)
            if agree(product, reference):
                looked.update(seen)
    return _hooked(grads, hooks, params), [product]


def _gradient(
    loss: Tensor, params: Sequence[Tensor], looked: Looked, *, twice: bool, keep: bool = False
) -> Grads:
    """Return the gradients of a loss, with a graph if they are to be differentiated `twice`.

    The graph of the loss is kept for that, and if `keep` says so.
    """
    # Every gradient is a linear function of the seed, so one without a graph was cut off; and a backward that
    # is `once_differentiable` leaves an error node only if its input requires a gradient.
    seed = torch.ones_like(loss, requires_grad=twice)
    grads = _differentiate([loss], params, [seed], create_graph=twice, retain_graph=twice or keep)
    if twice and any(g is not None and not g.requires_grad and bool((g != 0).any()) for g in grads):
        raise not_twice([loss])
    if twice and any(map(is_sharded, params)) and all(g is None for g in grads):
        raise RuntimeError(GATHERED)
    _look(loss, grads, looked)
    return grads


@contextlib.contextmanager
def _without_hooks(params: Sequence[Tensor]) -> Iterator[list[list[Callable[..., Any]]]]:
    """Remove the hooks of the parameters, yield those of each, and put them back."""
    held = [(p, p._backward_hooks) for p in params if p.is_leaf and p._backward_hooks]
    listed = [list((p._backward_hooks or {}).values()) if p.is_leaf else [] for p in params]
    try:
        for p, _ in held:
            p._backward_hooks = None
        yield listed
    finally:
        for p, hooks in held:
            p._backward_hooks = hooks


@torch.no_grad()
def _hooked(grads: Grads, hooks: Sequence[Sequence[Callable[..., Any]]], params: Sequence[Tensor]) -> Grads:
    """Return what the hooks of the parameters make of their gradients."""
    found: Grads = []
    for grad, own, p in zip(grads, hooks, params, strict=True):
        g = None if grad is None else grad.detach()
        for hook in own if g is not None else ():
            changed = hook(g)
            g = g if changed is None else changed
        found.append(_dense(g, p))
    return found


def _product(grads: Grads, params: Sequence[Tensor], probe: Sequence[Tensor], *, keep: bool) -> Grads:
    """Return the Hessian times a probe, from gradients with a graph; None where it is zero."""
    outputs, directions = [], []
    for g, v in zip(grads, probe, strict=True):
        if g is not None and g.requires_grad:  # not of a parameter behind a sign, or a rounding
            outputs.append(g)
            directions.append(v.to(g.dtype))
    if not outputs:
        return [None] * len(params)
    return _differentiate(outputs, params, directions, create_graph=False, retain_graph=keep)


def _differentiate(
    outputs: list[Tensor],
    params: Sequence[Tensor],
    directions: list[Tensor] | None,
    *,
    create_graph: bool,
    retain_graph: bool,
) -> Grads:
    """Return the gradients of `outputs`, None for parameters that are frozen or not used."""
    wanted = [p for p in params if p.requires_grad]
    if not wanted:
        raise ValueError("`params` must hold a tensor that requires a gradient, got frozen ones only")
    try:
        found = torch.autograd.grad(
            outputs,
            wanted,
            directions,
            create_graph=create_graph,
            retain_graph=retain_graph,
            allow_unused=True,
        )
    except RuntimeError as error:
        if "second time" in str(error):
            raise ValueError(ONCE) from error
        if any(words in str(error) for words in REFUSED):
            raise not_twice(outputs, str(error)) from error
        raise
    rest = iter(found)
    return [_dense(next(rest), p) if p.requires_grad else None for p in params]


def _dense(grad: Tensor | None, p: Tensor) -> Tensor | None:
    if grad is not None and grad.layout != torch.strided:
        raise TypeError(
            f"`params` must have dense gradients, got layout {grad.layout} for {called(p)}; set sparse=False"
        )
    return grad


def _require_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"`closure` must return the loss, a tensor, got {type(loss).__name__}; return it, or (loss, more)"
        )
    if loss.numel() != 1:
        raise ValueError(f"`closure` must return a scalar, got shape {tuple(loss.shape)}; take the mean")
    if loss.is_complex():
        raise TypeError(f"`closure` must return a real loss, got {loss.dtype}; take its real part or its abs")
    if not loss.requires_grad:
        raise ValueError(
            "`closure` must return a loss with a graph, got one that requires no gradient; evaluate the "
            "model inside the closure, without detach, item, no_grad or inference_mode"
        )
