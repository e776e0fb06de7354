"""Environments of gymnasium, which can be left in the middle of an episode and taken up again bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from ...checks import require_count


class Step(NamedTuple):
    """What one action in each of N environments led to.

    Parameters
    ----------
    following : ndarray, shape (N, d)
        Observations after the actions, also where an episode ended.
    rewards : ndarray, shape (N,)
    terminated : ndarray of bool, shape (N,)
        Whether nothing comes after, as when a walker fell.
    ended : ndarray of bool, shape (N,)
        Whether the episode is over, terminated or because its time is up.
    """

    following: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray


class Environments:
    """Several copies of one environment; an episode that ended is followed by the next one.

    Parameters
    ----------
    name : str
        As gymnasium has it, such as "HalfCheetah-v5".
    count : int
        N, how many.
    seed : int
        Of all that they draw.

    Raises
    ------
    ValueError
        If observations or actions are not vectors of real numbers, or the state cannot be kept: it must be
        MuJoCo's, or all be in an array `state`, as in gymnasium's classic control.
    """

    def __init__(self, name: str, count: int, seed: int) -> None:
        require_count("count", count)
        # the time limit is counted here, since the count of a wrapper could not be kept
        self._made: list[Any] = [
            gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True) for _ in range(count)
        ]
        self._limit = gymnasium.spec(name).max_episode_steps or math.inf
        seeds = np.random.SeedSequence(seed).generate_state(count)
        first = [made.reset(seed=int(own))[0] for made, own in zip(self._made, seeds, strict=True)]
        _require_vectors(name, self._made[0])
        self.observations = np.array(first, dtype=np.float64)
        """What the next actions are for, (N, d)."""
        self.actions: int = self._made[0].action_space.shape[0]
        """How many numbers an action has."""
        self._lengths = np.zeros(count, dtype=np.int64)
        self._returns = np.zeros(count)
        self.finished: list[float] = []
        """The sum of rewards of each episode that ended; whoever takes them empties it."""

    def step(self, actions: np.ndarray) -> Step:
        """Do one action (k,) in each, of ``(N, k)``, clipped to what it may be."""
        following = np.empty_like(self.observations)
        rewards = np.empty(len(self._made))
        terminated, ended = np.zeros((2, len(self._made)), dtype=bool)
        for i, made in enumerate(self._made):
            space = made.action_space
            allowed = np.clip(actions[i], space.low, space.high).astype(space.dtype)
            following[i], rewards[i], terminated[i], ended[i], _ = made.step(allowed)
        self._lengths += 1
        self._returns += rewards
        ended |= terminated | (self._lengths >= self._limit)
        self.observations = following.copy()
        for i in np.flatnonzero(ended).tolist():
            self.finished.append(float(self._returns[i]))
            self.observations[i], _ = self._made[i].reset()
            self._lengths[i], self._returns[i] = 0, 0.0
        return Step(following, rewards, terminated, ended)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next steps depend on, as lists, numbers and texts."""
        return {
            "states": [_state(made.unwrapped).tolist() for made in self._made],
            "generators": [json.dumps(made.unwrapped.np_random.bit_generator.state) for made in self._made],
            "observations": self.observations.tolist(),
            "lengths": self._lengths.tolist(),
            "returns": self._returns.tolist(),
            "finished": list(self.finished),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        for made, held, generator in zip(self._made, state["states"], state["generators"], strict=True):
            _restore(made.unwrapped, held)
            made.unwrapped.np_random.bit_generator.state = json.loads(generator)
        self.observations = np.array(state["observations"])
        self._lengths, self._returns = np.array(state["lengths"]), np.array(state["returns"])
        self.finished = list(state["finished"])


def _state(bare: Any) -> np.ndarray:
    """Return the state of an environment without its wrappers."""
    if not hasattr(bare, "model"):
        return np.asarray(bare.state)
    mujoco = _mujoco()
    # with what its solver starts from, so that the next step is equal to the last bit
    held = np.empty(mujoco.mj_stateSize(bare.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(bare.model, bare.data, held, mujoco.mjtState.mjSTATE_INTEGRATION)
    return held


def _restore(bare: Any, held: list[float]) -> None:
    """Set the state of an environment to what `_state` returned."""
    if hasattr(bare, "model"):
        mujoco = _mujoco()
        mujoco.mj_setState(bare.model, bare.data, np.array(held), mujoco.mjtState.mjSTATE_INTEGRATION)
    else:
        bare.state = np.array(held, dtype=np.asarray(bare.state).dtype)


def _mujoco() -> Any:
    return import_module("mujoco")  # only its own environments need it, and it has no types


def _require_vectors(name: str, made: Any) -> None:
    spaces = {"actions": made.action_space, "observations": made.observation_space}
    for what, space in spaces.items():
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"`name` must be an environment whose {what} are vectors, got {name!r}: {space}")
    if not hasattr(made.unwrapped, "model") and not hasattr(made.unwrapped, "state"):
        raise ValueError(
            f"`name` must be an environment of MuJoCo, or one that keeps all of its state in `state`, "
            f"got {name!r}; its runs could not be taken up again"
        )
