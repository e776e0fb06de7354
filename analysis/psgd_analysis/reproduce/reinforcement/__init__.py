"""Proximal policy optimisation (PPO) of a policy and of a value, each with an optimiser of its own."""

from .ppo import PPOTraining

__all__ = ["PPOTraining"]
