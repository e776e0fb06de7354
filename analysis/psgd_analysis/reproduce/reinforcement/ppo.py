"""Proximal policy optimisation, part by part, left and taken up again bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import IO, Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...checks import require_count
from .. import optimizers
from ..experiment import Settings, never
from ..training import Batches, rate_of
from .environments import Environments
from .networks import Actor, Critic, log_probability
from .rollouts import Scales, advantages, collect

SETTINGS = {
    *("environment", "environments", "steps", "rollout", "parts"),
    *("discount", "trace", "clip", "epochs", "batch", "hidden", "actor", "critic"),
}

LEARNER = {"optimizer", "optimizer_settings", "lr", "step"}


class Lessons(NamedTuple):
    """What the networks learn from: the steps of a rollout in one row.

    Parameters
    ----------
    observations : Tensor, shape (m, d)
    actions : Tensor, shape (m, k)
    log_probabilities, advantages, returns : Tensors, shape (m,)
    """

    observations: Tensor
    actions: Tensor
    log_probabilities: Tensor
    advantages: Tensor
    returns: Tensor

    def of(self, indices: Tensor) -> Lessons:
        """Return a batch of them."""
        return Lessons(*(x[indices] for x in self))


def actor_loss(actor: Actor, lessons: Lessons, clip: float) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped loss of a batch, and how far the policy has gone.

    The loss is the mean of ``-min(rho A, clip(rho, 1 - clip, 1 + clip) A)``, with rho the ratio of the
    probability of the action now to that when it was drawn, and A the advantage, less its mean in the batch,
    in deviations (Schulman et al., Proximal policy optimization algorithms, 2017, eq. 7). How far it has
    gone is an estimate of KL(then || now): the mean of ``rho - 1 - log rho``.
    """
    log_ratio = log_probability(actor(lessons.observations), lessons.actions) - lessons.log_probabilities
    ratio = log_ratio.exp()
    better = lessons.advantages - lessons.advantages.mean()
    better = better / (better.square().mean().sqrt() + 1e-8)
    loss = -torch.minimum(ratio * better, ratio.clamp(1 - clip, 1 + clip) * better).mean()
    return loss, (ratio - 1 - log_ratio).detach().mean()


def critic_loss(critic: Critic, lessons: Lessons) -> tuple[Tensor, None]:
    """Return half of the mean squared error of the values of a batch; there is no more to say."""
    return 0.5 * (critic(lessons.observations) - lessons.returns).square().mean(), None


Model = TypeVar("Model", bound=torch.nn.Module)


class Learner(Generic[Model]):
    """A network with an optimiser of its own, and its rates.

    Parameters
    ----------
    name : str
        Of the setting.
    model : torch.nn.Module
    settings : dict
        "optimizer" by name, "lr" and, for PSGD, "step" (see `rate_of`), "optimizer_settings".
    updates : int
        How many rollouts there are to learn from, over which rates go.
    seed : int
        Of what the optimiser draws.
    """

    def __init__(self, name: str, model: Model, settings: Settings, updates: int, seed: int) -> None:
        wrong = sorted(set(settings) - LEARNER)
        if wrong:
            raise ValueError(
                f"`{name}` must have settings among {', '.join(sorted(LEARNER))}, got {wrong[0]!r}"
            )
        self.model = model
        own = settings.get("optimizer_settings", {})
        self.steps = optimizers.make(settings["optimizer"], model, own, seed)
        self._lr = rate_of(f"{name}: lr", settings["lr"], updates)
        step = settings.get("step")
        self._step = None if step is None else rate_of(f"{name}: step", step, updates)

    def rates(self, update: int) -> None:
        """Set the rates of an update, 0 .. updates - 1."""
        self.steps.rates(self._lr(update), None if self._step is None else self._step(update))

    @property
    def finite(self) -> bool:
        """Whether all parameters are finite."""
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and optimiser."""
        return {"model": self.model.state_dict(), "steps": self.steps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.steps.load_state_dict(state["steps"])


class PPOTraining:
    """A `Training` of a policy and a value by PPO, on the CPU, where the environments are.

    The same seed gives all optimisers the same initial networks, environments, noise and order of batches.

    Parameters
    ----------
    settings : dict
        "environment" of gymnasium, by name, and how many "environments"; "steps" in all of them together;
        "rollout", the steps in each before the networks learn from them, in so many "epochs" of batches of
        "batch"; "discount" (gamma), "trace" (lambda) and "clip" (epsilon); "hidden", the widths of layers;
        "actor" and "critic", see `Learner`; "parts", at most as many as there are rollouts.
    seed : int

    Raises
    ------
    ValueError
        For settings that are not known or not possible.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        if set(settings) != SETTINGS:
            wrong = sorted(set(settings) ^ SETTINGS)[0]
            raise ValueError(
                f"`settings` must be {', '.join(sorted(SETTINGS))}, got another set: see {wrong!r}"
            )
        self.settings = settings
        # independent streams of one seed
        streams = np.random.SeedSequence(seed).spawn(6)
        born, initial, noise, shuffled, one, two = (int(s.generate_state(1)[0]) for s in streams)
        self.environments = Environments(settings["environment"], settings["environments"], born)
        together = settings["environments"] * require_count("rollout", settings["rollout"])
        self._updates = -(-require_count("steps", settings["steps"]) // together)
        self.parts = require_count("parts", settings["parts"], most=self._updates)
        inputs = self.environments.observations.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(initial)
            actor = Actor(inputs, self.environments.actions, settings["hidden"])
            critic = Critic(inputs, settings["hidden"])
        self.actor = Learner("actor", actor, settings["actor"], self._updates, one)
        self.critic = Learner("critic", critic, settings["critic"], self._updates, two)
        self.scales = Scales(self.environments, settings["discount"])
        self._noise = torch.Generator().manual_seed(noise)
        self._together = together
        self._batches = Batches(together, settings["batch"], shuffled)
        self._update = 0
        self._returns: list[float | None] = []  # of each part
        self._last: dict[str, float] = {}
        self._finite = True

    @property
    def status(self) -> Literal["going", "done", "diverged"]:
        """Diverged if a parameter, or a loss of the last update, is not finite."""
        if not self._finite:
            return "diverged"
        return "done" if len(self._returns) == self.parts else "going"

    @property
    def skipped(self) -> int:
        """Pairs and steps that the optimisers left out."""
        return self._used("skipped")

    def advance(self, pause: Callable[[], bool] = never) -> dict[str, Any] | None:
        """Run the next part; return the mean return of the episodes that ended in it, and the last losses.

        An episode's return is the sum of its rewards, as the environment gives them.
        """
        last = (len(self._returns) + 1) * self._updates // self.parts
        while self._finite and self._update < last:
            self._last = self._learn(self._collect())
            self._update += 1
            self._finite = (
                self.actor.finite and self.critic.finite and all(map(math.isfinite, self._last.values()))
            )
            if self._finite and self._update < last and pause():
                return None
        ended, self.environments.finished = self.environments.finished, []
        self._returns.append(float(np.mean(ended)) if ended else None)
        return {"steps": self._steps, "return": self._returns[-1], "episodes": len(ended), **self._last}

    def final(self) -> dict[str, Any]:
        """Return the mean return of the last tenth of the parts, that of all parts, and what was used."""
        late = self._returns[-max(1, round(self.parts / 10)) :]
        return {
            "return": _mean(late),
            "mean_return": _mean(self._returns),
            "steps": self._steps,
            "gradients": self._used("gradients"),
            "products": self._used("products"),
            "parameters": sum(p.numel() for m in (self.actor, self.critic) for p in m.model.parameters()),
            "optimizer": self.actor.steps.version,
            **self._last,
        }

    def save(self, file: IO[bytes]) -> None:
        """Write all that the next part depends on, as tensors, numbers and texts."""
        held = {
            "environments": self.environments.state_dict(),
            "scales": self.scales.state_dict(),
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "batches": self._batches.state_dict(),
            "noise": self._noise.get_state(),
            "progress": [self._update, self._returns, self._last, self._finite],
        }
        torch.save(held, file)

    def load(self, file: IO[bytes]) -> None:
        """Take up what `save` wrote; nothing is unpickled but tensors, numbers and texts."""
        held = torch.load(file, weights_only=True)
        self.environments.load_state_dict(held["environments"])
        self.scales.load_state_dict(held["scales"])
        self.actor.load_state_dict(held["actor"])
        self.critic.load_state_dict(held["critic"])
        self._batches.load_state_dict(held["batches"])
        self._noise.set_state(held["noise"])
        self._update, self._returns, self._last, self._finite = held["progress"]

    # -- its parts -------------------------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        return self._update * self._together

    def _used(self, name: str) -> int:
        """Return how many gradients, products or refusals both optimisers had."""
        count: int = getattr(self.actor.steps, name) + getattr(self.critic.steps, name)
        return count

    def _collect(self) -> Lessons:
        """Act for a rollout; return what is to be learned from it."""
        seen = collect(
            self.environments, self.actor.model, self.scales, self.settings["rollout"], self._noise
        )
        observations = self.scales.observed(seen.observations)
        with torch.no_grad():
            values = self.critic.model(observations).double().numpy()
            following = self.critic.model(self.scales.observed(seen.following)).double().numpy()
        rewards = self.scales.rewarded(seen.rewards, seen.ended)
        better = advantages(
            rewards,
            values,
            following,
            seen.terminated,
            seen.ended,
            self.settings["discount"],
            self.settings["trace"],
        )
        self.scales.learn(seen.observations)
        return Lessons(
            observations.flatten(0, 1),
            seen.actions.flatten(0, 1),
            seen.log_probabilities.flatten(),
            torch.from_numpy(better).float().flatten(),
            torch.from_numpy(better + values).float().flatten(),
        )

    def _learn(self, lessons: Lessons) -> dict[str, float]:
        """Improve both networks; return the means of the last epoch, and the policy's deviation."""
        for learner in (self.actor, self.critic):
            learner.rates(self._update)
        told = []
        for _ in range(self.settings["epochs"] * self._batches.per_epoch):
            batch = lessons.of(self._batches.next())
            policy, gone = self.actor.steps.step(
                partial(actor_loss, self.actor.model, batch, self.settings["clip"])
            )
            value, _ = self.critic.steps.step(partial(critic_loss, self.critic.model, batch))
            told.append(torch.stack((policy, value, gone)))
        means = torch.stack(told[-self._batches.per_epoch :]).mean(0).tolist()
        found = dict(zip(("actor_loss", "critic_loss", "kl"), means, strict=True))
        return found | {"deviation": float(self.actor.model.log_deviation.detach().exp().mean())}


def _mean(returns: list[float | None]) -> float | None:
    """Return the mean of the parts in which an episode ended, or None."""
    there = [one for one in returns if one is not None]
    return float(np.mean(there)) if there else None
