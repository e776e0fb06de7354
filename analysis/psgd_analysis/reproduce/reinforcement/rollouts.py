"""What a policy lives through, on the scale that networks like, and how much better than expected it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.wrappers.utils import RunningMeanStd

from .environments import Environments
from .networks import Actor, log_probability

LIMIT = 10.0
"""Observations and rewards are clipped to ± so many deviations."""


class Rollout(NamedTuple):
    """T steps in each of N environments.

    Parameters
    ----------
    observations, following : ndarrays, shape (T, N, d)
        Before and after each action, as the environments give them.
    actions : Tensor, shape (T, N, k)
        As they were drawn, before they were clipped to what is allowed.
    log_probabilities : Tensor, shape (T, N)
        Of the actions, when they were drawn.
    rewards : ndarray, shape (T, N)
    terminated, ended : ndarrays of bool, shape (T, N)
        See `Step`.
    """

    observations: np.ndarray
    following: np.ndarray
    actions: torch.Tensor
    log_probabilities: torch.Tensor
    rewards: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray


def collect(
    environments: Environments, actor: Actor, scales: Scales, length: int, generator: torch.Generator
) -> Rollout:
    """Return `length` steps of a policy in each environment; its noise comes from `generator`."""
    before, steps, actions, logs = [], [], [], []
    for _ in range(length):
        before.append(environments.observations)
        with torch.no_grad():
            policy = actor(scales.observed(environments.observations))
            noise = torch.randn(policy.mean.shape, generator=generator)
            action = policy.mean + policy.stddev * noise
            logs.append(log_probability(policy, action))
        actions.append(action)
        steps.append(environments.step(action.numpy()))
    following, rewards, terminated, ended = map(np.stack, zip(*steps, strict=True))
    return Rollout(
        np.stack(before), following, torch.stack(actions), torch.stack(logs), rewards, terminated, ended
    )


def advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    following: np.ndarray,
    terminated: np.ndarray,
    ended: np.ndarray,
    discount: float,
    trace: float,
) -> np.ndarray:
    """Return generalised advantage estimates (T, N).

    They are ``A_t = delta_t + discount trace A_{t+1}``, without the second term where an episode ended, with
    ``delta_t = r_t + discount V(s_{t+1}) - V(s_t)``, without V(s_{t+1}) where it terminated (Schulman et al.,
    High-dimensional continuous control using generalized advantage estimation, 2016). Where only time was up
    the value of what would have come counts.

    Parameters
    ----------
    rewards, values, following : ndarrays, shape (T, N)
        `following` has the values of the observations after the actions.
    terminated, ended : ndarrays of bool, shape (T, N)
    discount, trace : float
        gamma and lambda.
    """
    deltas = rewards + discount * np.where(terminated, 0.0, following) - values
    found, later = np.empty_like(deltas), np.zeros(deltas.shape[1])
    for t in reversed(range(len(deltas))):
        later = deltas[t] + discount * trace * np.where(ended[t], 0.0, later)
        found[t] = later
    return found


class Scales:
    """Means and deviations of all observations so far, and of the discounted sums of past rewards.

    Both stay as they are through a rollout and the steps that learn from it, so that the policy that learns
    is the one that acted.

    Parameters
    ----------
    environments : Environments
    discount : float
    """

    def __init__(self, environments: Environments, discount: float) -> None:
        count, size = environments.observations.shape
        self._discount = discount
        # nothing weighs in what has been seen but what has been seen
        self._observations = RunningMeanStd(epsilon=0, shape=(size,))
        self._sums = RunningMeanStd(epsilon=0)
        self._sum = np.zeros(count)

    def observed(self, observations: np.ndarray) -> torch.Tensor:
        """Return observations (..., d) less their mean, in deviations, clipped; as they are at first."""
        seen = self._observations
        scaled = (observations - seen.mean) / np.sqrt(seen.var + 1e-8)
        return torch.from_numpy(np.clip(scaled, -LIMIT, LIMIT).astype(np.float32))

    def rewarded(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Return rewards (T, N) in deviations of the discounted sums, those of this rollout included."""
        sums = np.empty_like(rewards)
        for t in range(len(rewards)):
            sums[t] = self._sum = self._discount * self._sum + rewards[t]
            self._sum = np.where(ended[t], 0.0, self._sum)
        self._sums.update(sums.ravel())
        return np.clip(rewards / np.sqrt(self._sums.var + 1e-8), -LIMIT, LIMIT)

    def learn(self, observations: np.ndarray) -> None:
        """Take the observations (T, N, d) of a rollout into account from now on."""
        self._observations.update(observations.reshape(-1, observations.shape[-1]))

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as lists and numbers."""
        moments = [
            [np.asarray(m.mean).tolist(), np.asarray(m.var).tolist(), m.count]
            for m in (self._observations, self._sums)
        ]
        return {"moments": moments, "sum": self._sum.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        for m, (mean, variance, count) in zip(
            (self._observations, self._sums), state["moments"], strict=True
        ):
            m.mean, m.var, m.count = np.array(mean), np.array(variance), count
        self._sum = np.array(state["sum"])
