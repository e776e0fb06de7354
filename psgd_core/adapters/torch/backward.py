"""Whether a closure called backward: told by backward itself, not by what ``.grad`` looks like."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import Tensor


class Backward:
    """A context that notices gradients which arrive in ``.grad``.

    Hooks tell what backward accumulated. A gradient that was put there by hand is one that is another than
    before and not zero: ``zero_grad(set_to_none=False)`` writes as well.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params, self.arrived = params, False

    def __enter__(self) -> Backward:
        def note(p: Tensor) -> None:
            self.arrived = True

        self.before = [(p.grad, None if p.grad is None else p.grad._version) for p in self.params]
        self.hooks: list[Any] = []
        try:
            for p in self.params:
                if p.requires_grad and p.is_leaf:
                    self.hooks.append(p.register_post_accumulate_grad_hook(note))
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def called(self) -> bool:
        """Return whether gradients arrived."""
        return self.arrived or any(
            p.grad is not None
            and (p.grad is not old or p.grad._version != version)
            and (p.grad.is_sparse or bool((p.grad.detach() != 0).any()))
            for p, (old, version) in zip(self.params, self.before, strict=True)
        )
