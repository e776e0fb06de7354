"""What a preconditioner's states and vectors must be, checked in every call without looking at values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic

from ..arrays.library import Array
from ..arrays.vectors import columns_of, require_vectors
from .forms import COMPLEX, COUNTERS, Form, require_form, require_state
from .states import State


class Checked(ABC, Generic[State]):
    """A preconditioner as far as its states are known by their form."""

    state_type: ClassVar[type[Any]]
    """The NamedTuple of its states; its last fields are those of `Counters`."""

    @abstractmethod
    def _form(self, own: Form, real: str) -> tuple[int, Form]:
        """Return n, and the form (see `forms`) that the fields before `Counters` must have.

        Parameters
        ----------
        own : tuple
            The form that they have, with anything in it. If it is not one that `init` makes, this may fail
            with a TypeError, ValueError or IndexError.
        real : str
            The dtype of the damping, by name.
        """

    def size(self, state: State) -> int:
        """Return n."""
        return self._require_state(state)[0]

    def like(self, state: State) -> Array:
        """Return an array of the state: its library, dtype and device are those of the vectors it takes."""
        return self._require_state(state)[1]

    def _require_state(self, state: State) -> tuple[int, Array]:
        """Raise unless `state` is one of this preconditioner's; return n and its first array."""
        if type(state) is not self.state_type:
            raise TypeError(
                f"`state` must be a {self.state_type.__name__} of this {type(self).__name__}, got "
                f"{type(state).__name__}; make one with `init`"
            )
        return require_state(self, state)

    def _require_form(self, seen: Form) -> int:
        """Raise unless the form of a state, of the right class, is one that `init` makes; return n."""
        own, real = seen[1:-5], seen[-5][0]
        if real not in COMPLEX:
            real = "float32 or float64"
        try:
            n, wanted = self._form(own, real)
        except (TypeError, ValueError, IndexError):  # it has not even the structure
            raise ValueError(
                f"`state` must be one that `init` of this {type(self).__name__} makes, got one of another "
                "structure; make one with `init`"
            ) from None
        require_form("state", seen, (self.state_type, *wanted, (real, ()), *COUNTERS))
        return n

    def _require_vectors(self, state: State, **vectors: Any) -> None:
        """Raise unless `state` is this preconditioner's, and the vectors go with it."""
        n, like = self._require_state(state)
        for name, x in vectors.items():
            require_vectors(name, x, n, like)

    def _pair(self, state: State, v: Array | None, h: Array) -> tuple[Array | None, Array]:
        """Return (v, h) as columns (n, k), after checking them."""
        self._require_vectors(state, **({"h": h} if v is None else {"v": v, "h": h}))
        return columns_of(v, h)
