"""The two networks: a policy with a Gaussian of its own width, and a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal


class Actor(nn.Module):
    """A policy: actions are normal, their mean a network's, their deviation the same for all observations.

    Parameters
    ----------
    observations, actions : int
        How many numbers they have.
    hidden : sequence of int
        Widths of the layers between.
    """

    def __init__(self, observations: int, actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.mean = network(observations, actions, hidden, 0.01)
        self.log_deviation = nn.Parameter(torch.zeros(actions))

    def forward(self, observations: Tensor) -> Normal:
        """Return the distribution of the actions (..., k) for observations (..., d)."""
        mean = self.mean(observations)
        return Normal(mean, self.log_deviation.exp().expand_as(mean), validate_args=False)


def log_probability(policy: Normal, actions: Tensor) -> Tensor:
    """Return the logarithm of the density of whole actions (..., k): (...)."""
    found: Tensor = policy.log_prob(actions).sum(-1)
    return found


class Critic(nn.Module):
    """The value of an observation.

    Parameters
    ----------
    observations : int
    hidden : sequence of int
    """

    def __init__(self, observations: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.value = network(observations, 1, hidden, 1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """Return the values (...) of observations (..., d)."""
        found: Tensor = self.value(observations).squeeze(-1)
        return found


def network(inputs: int, outputs: int, hidden: Sequence[int], gain: float) -> nn.Sequential:
    """Return layers with tanh between them, orthogonal at the start, the last one by a factor of `gain`."""
    widths = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layer = nn.Linear(widths[i], widths[i + 1])
        nn.init.orthogonal_(layer.weight, math.sqrt(2) if i < len(hidden) else gain)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])
