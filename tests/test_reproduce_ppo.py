"""PPO of `psgd reproduce`: advantages, losses, scales, environments, resuming, learning."""

from __future__ import annotations

import copy
import io
import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

torch = pytest.importorskip("torch", reason="needs PyTorch")
gymnasium = pytest.importorskip("gymnasium", reason="needs gymnasium")

from psgd_analysis.reproduce.reinforcement import PPOTraining  # noqa: E402
from psgd_analysis.reproduce.reinforcement.environments import Environments  # noqa: E402
from psgd_analysis.reproduce.reinforcement.networks import Actor, Critic, log_probability  # noqa: E402
from psgd_analysis.reproduce.reinforcement.ppo import Lessons, actor_loss, critic_loss  # noqa: E402
from psgd_analysis.reproduce.reinforcement.rollouts import Scales, advantages, collect  # noqa: E402

LINE, STEPS = "psgd-tests/Line-v0", 8


class Line(gymnasium.Env):
    """A point that goes by half an action; a reward for being near 0, and the end beyond 3."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-2, 2, 1)
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.state = self.state + 0.5 * action
        return self._seen(), float(1 - self.state[0] ** 2), bool(abs(self.state[0]) > 3), False, {}

    def _seen(self):
        # a second number on another scale
        return np.array([self.state[0], 1000.0 + 50 * self.state[0]])


@pytest.fixture(autouse=True, scope="module")
def _line():
    gymnasium.register(LINE, entry_point=Line, max_episode_steps=STEPS)
    yield
    del gymnasium.registry[LINE]


ADAM = {"optimizer": "adam", "lr": 0.003}
WHITENING = {"optimizer": "psgd_lowrank_whitening", "lr": 0.003, "step": 0.1}
EXACT = {"optimizer": "psgd_lowrank", "lr": 0.01, "step": 0.1, "optimizer_settings": {"every": 3}}

SMALL: dict[str, Any] = {
    "environment": LINE,
    "environments": 3,
    "steps": 240,
    "rollout": 20,
    "parts": 3,
    "discount": 0.9,
    "trace": 0.8,
    "clip": 0.2,
    "epochs": 2,
    "batch": 32,
    "hidden": [8],
    "actor": ADAM,
    "critic": ADAM,
}
"""Four rollouts of 60 = 32 + 28 steps; episodes go on from one to the next."""


def needs(environment: str) -> None:
    if environment.endswith("-v5"):
        pytest.importorskip("mujoco", reason="needs mujoco")


def flat(model: torch.nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


# -- advantages ----------------------------------------------------------------------------------------------


def episodes(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return random rewards and values, with episodes that end in both ways."""
    terminated = rng.random(shape) < 0.1
    return {
        "rewards": rng.standard_normal(shape),
        "values": rng.standard_normal(shape),
        "following": rng.standard_normal(shape),
        "terminated": terminated,
        "ended": terminated | (rng.random(shape) < 0.1),
    }


@pytest.mark.parametrize(("discount", "trace"), list(itertools.product((0.0, 0.9, 1.0), repeat=2)))
def test_advantages_are_sums_of_discounted_deltas(discount, trace):
    given = episodes(np.random.default_rng(0), (40, 3))
    expected = np.zeros((40, 3))
    for t, i in itertools.product(range(40), range(3)):
        for k in range(t, 40):
            after = 0.0 if given["terminated"][k, i] else given["following"][k, i]
            delta = given["rewards"][k, i] + discount * after - given["values"][k, i]
            expected[t, i] += (discount * trace) ** (k - t) * delta
            if given["ended"][k, i]:
                break
    np.testing.assert_allclose(advantages(**given, discount=discount, trace=trace), expected, rtol=1e-12)


def test_with_trace_one_advantages_are_returns_less_values():
    given = episodes(np.random.default_rng(1), (30, 2))
    # within an episode the value of what follows is that of the next observation
    given["following"][:-1] = np.where(given["ended"][:-1], given["following"][:-1], given["values"][1:])
    found = advantages(**given, discount=0.95, trace=1.0)
    for i in range(2):
        coming = given["following"][-1, i]
        for t in reversed(range(30)):
            if given["ended"][t, i]:
                coming = 0.0 if given["terminated"][t, i] else given["following"][t, i]
            coming = given["rewards"][t, i] + 0.95 * coming
            assert found[t, i] == pytest.approx(coming - given["values"][t, i], abs=1e-10)


# -- losses --------------------------------------------------------------------------------------------------


def policy(seed: int, hidden: tuple[int, ...] = ()) -> Actor:
    """Return an actor in float64, with parameters of order one."""
    torch.manual_seed(seed)
    actor = Actor(3, 2, hidden).double()
    for p in actor.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return actor


def lessons(actor: Actor, ratios: list[float], better: list[float]) -> Lessons:
    """Return actions that are now so much more probable than when they were drawn."""
    m = len(ratios)
    observations, actions = torch.randn(m, 3).double(), torch.randn(m, 2).double()
    now = log_probability(actor(observations), actions).detach()
    then = now - torch.tensor(ratios, dtype=torch.float64).log()
    return Lessons(
        observations, actions, then, torch.tensor(better, dtype=torch.float64), torch.randn(m).double()
    )


def test_log_probabilities_are_those_of_scipy():
    actor = policy(0, (5,))
    observations, actions = torch.randn(4, 7, 3).double(), torch.randn(4, 7, 2).double()
    found = actor(observations)
    mean = found.mean.detach().numpy()
    deviation = np.exp(actor.log_deviation.detach().numpy())
    expected = norm.logpdf(actions.numpy(), mean, deviation).sum(-1)
    np.testing.assert_allclose(log_probability(found, actions).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("up", "down"), list(itertools.product((0.5, 0.79, 0.9, 1.0, 1.1, 1.21, 1.5), repeat=2))
)
def test_the_clipped_loss_and_its_gradient_are_those_by_hand(up, down):
    # of two, with advantages of +1 and -1: only what goes too far where it should go is clipped
    actor = policy(1)
    batch = lessons(actor, [up, down], [5.0, 3.0])
    loss, gone = actor_loss(actor, batch, 0.2)
    assert loss.item() == pytest.approx(-(min(up, 1.2) - max(down, 0.8)) / 2)
    assert float(gone) == pytest.approx(np.mean([up - 1 - math.log(up), down - 1 - math.log(down)]))
    loss.backward()
    weights = np.array([-up / 2 if up < 1.2 else 0.0, down / 2 if down > 0.8 else 0.0])
    mean = actor(batch.observations).mean.detach().numpy()
    deviation = np.exp(actor.log_deviation.detach().numpy())
    away = (batch.actions.numpy() - mean) / deviation
    of_mean = weights[:, None] * away / deviation  # of a normal: d log p / d mean
    np.testing.assert_allclose(actor.mean[0].bias.grad, of_mean.sum(0), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(
        actor.mean[0].weight.grad, of_mean.T @ batch.observations.numpy(), rtol=1e-6, atol=1e-12
    )
    np.testing.assert_allclose(actor.log_deviation.grad, weights @ (away**2 - 1), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("which", ["actor", "critic"])
def test_gradients_are_those_of_finite_differences(which):
    actor, critic = policy(2, (4,)), Critic(3, (4,)).double()
    # away from the kinks at 0.8 and 1.2
    batch = lessons(actor, [0.6, 0.7, 0.9, 1.05, 1.1, 1.4, 1.5], [1.0, -2.0, 0.5, 3.0, -1.0, 0.0, 2.0])
    model = {"actor": actor, "critic": critic}[which]

    def loss() -> torch.Tensor:
        return actor_loss(actor, batch, 0.2)[0] if which == "actor" else critic_loss(critic, batch)[0]

    loss().backward()
    for p in model.parameters():
        for i in range(p.numel()):
            ends = []
            for h in (1e-6, -1e-6):
                with torch.no_grad():
                    before = p.view(-1)[i].clone()
                    p.view(-1)[i] += h
                    ends.append(loss().item())
                    p.view(-1)[i] = before
            assert float(p.grad.view(-1)[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    actor = policy(3, (6,))
    batch = lessons(actor, [1.0] * 50, np.random.default_rng(3).normal(4.0, 9.0, 50).tolist())
    loss, gone = actor_loss(actor, batch, 0.2)
    a = batch.advantages.numpy()
    standard = torch.tensor((a - a.mean()) / a.std())
    plain = -(standard * log_probability(actor(batch.observations), batch.actions)).mean()
    parameters = list(actor.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(plain, parameters), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-12)
    assert float(gone) == pytest.approx(0, abs=1e-12)


def test_how_far_it_has_gone_estimates_the_divergence():
    then, now = policy(4), policy(4)
    with torch.no_grad():
        now.mean[0].bias += 0.1
        now.log_deviation += torch.tensor([0.1, -0.05])
    observations = torch.randn(40_000, 3).double()
    drawn = then(observations).sample()
    old = log_probability(then(observations), drawn).detach()
    batch = Lessons(observations, drawn, old, torch.randn(40_000).double(), old)
    exact = torch.distributions.kl_divergence(then(observations[:1]), now(observations[:1])).sum()
    assert actor_loss(now, batch, 0.2)[1].item() == pytest.approx(exact.item(), rel=0.1)


# -- scales --------------------------------------------------------------------------------------------------


def test_observations_are_scaled_by_all_that_were_seen():
    scales = Scales(Environments(LINE, 2, 0), 0.9)
    rng = np.random.default_rng(5)
    rollouts = [rng.normal([3.0, -900.0], [0.1, 70.0], (n, 2, 2)) for n in (1, 30, 7)]
    np.testing.assert_allclose(scales.observed(np.array([[0.5, 2.0]])), [[0.5, 2.0]], rtol=1e-6)
    for one in rollouts:
        scales.learn(one)
    seen = np.concatenate([one.reshape(-1, 2) for one in rollouts])
    expected = (seen - seen.mean(0)) / seen.std(0)
    np.testing.assert_allclose(scales.observed(seen), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scales.observed(np.array([[1e9, -1e9]])), [[10.0, -10.0]])


def test_rewards_are_scaled_by_the_deviation_of_discounted_sums():
    scales = Scales(Environments(LINE, 2, 0), 0.9)
    rng = np.random.default_rng(6)
    rewards = rng.normal(2.0, 3.0, (50, 2))
    ended = rng.random((50, 2)) < 0.1
    sums = np.zeros((50, 2))
    for t, i in itertools.product(range(50), range(2)):
        before = np.flatnonzero(ended[:t, i])
        first = before[-1] + 1 if before.size else 0
        sums[t, i] = sum(0.9 ** (t - k) * rewards[k, i] for k in range(first, t + 1))
    half = scales.rewarded(rewards[:25], ended[:25])
    np.testing.assert_allclose(half, rewards[:25] / sums[:25].std(), rtol=1e-6)
    rest = scales.rewarded(rewards[25:], ended[25:])
    np.testing.assert_allclose(rest, rewards[25:] / sums.std(), rtol=1e-6)


# -- environments --------------------------------------------------------------------------------------------


def test_episodes_end_by_time_and_by_falling_and_begin_anew():
    made = Environments(LINE, 2, 0)
    assert not np.array_equal(made.observations[0], made.observations[1]), "seeds of their own"
    x, length, total, reasons = made.observations[:, 0].copy(), np.zeros(2), np.zeros(2), set()
    returns: list[float] = []
    for t in range(60):
        action = np.array([[5.0], [(-0.3) ** t]])  # the first goes to the right as fast as it may
        step = made.step(action)
        x = x + 0.5 * np.clip(action[:, 0], -1, 1)
        length, total = length + 1, total + step.rewards
        np.testing.assert_allclose(step.following[:, 0], x, atol=1e-6)
        np.testing.assert_allclose(step.rewards, 1 - x**2, atol=1e-5)
        np.testing.assert_array_equal(step.terminated, abs(x) > 3)
        np.testing.assert_array_equal(step.ended, (abs(x) > 3) | (length == STEPS))
        for i in np.flatnonzero(step.ended):
            reasons.add((bool(step.terminated[i]), int(length[i]) == STEPS))
            returns.append(total[i])
            assert abs(made.observations[i, 0]) <= 2, "a new beginning"
            length[i], total[i] = 0, 0
        going = ~step.ended
        np.testing.assert_array_equal(made.observations[going], step.following[going])
        x = made.observations[:, 0].copy()
    assert {(True, False), (False, True)} <= reasons
    np.testing.assert_allclose(made.finished, returns, atol=1e-9)


@pytest.mark.parametrize("name", [LINE, "Pendulum-v1", "HalfCheetah-v5", "Walker2d-v5"])
def test_an_environment_is_taken_up_bit_for_bit(name):
    needs(name)
    rng = np.random.default_rng(7)
    made, other = Environments(name, 2, 3), Environments(name, 2, 4)
    actions = rng.normal(0, 2, (2500 if name.endswith("v5") else 500, 2, made.actions))
    for action in actions[:37]:
        made.step(action)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    for action in actions[:5]:
        other.step(action)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    np.testing.assert_array_equal(made.observations, other.observations)
    for action in actions[37:]:
        for mine, theirs in zip(made.step(action), other.step(action), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(made.observations, other.observations)
    assert len(made.finished) >= 2, "beyond the ends of episodes"
    assert made.finished == other.finished


def test_a_rollout_is_what_the_policy_did():
    made = Environments(LINE, 3, 0)
    actor, scales = Actor(2, 1, [4]), Scales(made, 0.9)
    made.step(np.zeros((3, 1)))
    scales.learn(np.random.default_rng(0).normal(1.0, 3.0, (9, 3, 2)))
    seen = collect(made, actor, scales, 30, torch.Generator().manual_seed(1))
    now = log_probability(actor(scales.observed(seen.observations)), seen.actions)
    np.testing.assert_allclose(now.detach(), seen.log_probabilities, atol=1e-6)
    x = seen.observations[..., 0] + 0.5 * np.clip(seen.actions.numpy()[..., 0], -1, 1)
    np.testing.assert_allclose(seen.following[..., 0], x, atol=1e-6)
    np.testing.assert_array_equal(made.observations[~seen.ended[-1]], seen.following[-1][~seen.ended[-1]])
    assert float(seen.actions.std()) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("name", "words"),
    [("CartPole-v1", "whose actions are vectors"), ("FrozenLake-v1", "whose actions are vectors")],
)
def test_environments_of_another_kind_are_refused(name, words):
    with pytest.raises(ValueError, match=words):
        Environments(name, 1, 0)


# -- the training --------------------------------------------------------------------------------------------


def finished(seed: int = 0, **changed: Any) -> tuple[PPOTraining, list[dict[str, Any]]]:
    made, metrics = PPOTraining({**SMALL, **changed}, seed), []
    while made.status == "going":
        metrics.append(made.advance())
    return made, metrics


@pytest.mark.parametrize(
    ("environment", "learner"),
    [(LINE, ADAM), (LINE, WHITENING), (LINE, EXACT), ("Walker2d-v5", WHITENING), ("HalfCheetah-v5", EXACT)],
)
def test_a_run_is_taken_up_bit_for_bit(environment, learner):
    needs(environment)
    settings = {"environment": environment, "actor": learner, "critic": learner}
    whole, told = finished(**settings)
    made, again = PPOTraining({**SMALL, **settings}, 0), []
    while made.status == "going":
        again.append(made.advance())
        file = io.BytesIO()
        made.save(file)
        made = PPOTraining({**SMALL, **settings}, 0)
        made.load(io.BytesIO(file.getvalue()))
    assert again == told
    assert made.final() == whole.final()
    for mine, theirs in ((made.actor, whole.actor), (made.critic, whole.critic)):
        np.testing.assert_array_equal(flat(mine.model), flat(theirs.model))


def test_what_is_told_of_a_run():
    made, metrics = finished(steps=241)
    # a rollout that is begun is finished: five of them, in three parts
    assert [one["steps"] for one in metrics] == [60, 180, 300]
    assert sum(one["episodes"] for one in metrics) >= 300 // STEPS - 3
    final = made.final()
    assert final["return"] == metrics[-1]["return"]
    assert final["mean_return"] == pytest.approx(np.mean([one["return"] for one in metrics]))
    assert final["gradients"] == 2 * 5 * 2 * 2, "two networks, five rollouts, two epochs of two batches"
    assert final["parameters"] == (2 * 8 + 8 + 8 + 1 + 1) + (2 * 8 + 8 + 8 + 1)


def test_seeds_give_all_optimisers_the_same_beginning():
    first, second = (PPOTraining({**SMALL, "actor": o, "critic": o}, 5) for o in (ADAM, EXACT))
    np.testing.assert_array_equal(flat(first.actor.model), flat(second.actor.model))
    np.testing.assert_array_equal(flat(first.critic.model), flat(second.critic.model))
    np.testing.assert_array_equal(first.environments.observations, second.environments.observations)
    assert not np.array_equal(flat(first.actor.model), flat(PPOTraining(SMALL, 6).actor.model))


def test_each_network_has_an_optimiser_of_its_own():
    still = {"optimizer": "sgd", "lr": 0.0}
    begun = PPOTraining(SMALL, 0)
    for moving, resting in (("actor", "critic"), ("critic", "actor")):
        made, _ = finished(**{resting: still})
        np.testing.assert_array_equal(flat(getattr(made, resting).model), flat(getattr(begun, resting).model))
        assert not np.array_equal(flat(getattr(made, moving).model), flat(getattr(begun, moving).model))


def test_the_critic_acts_on_the_policy_by_advantages_alone():
    once = {"steps": 60, "parts": 1}
    mine, theirs = finished(**once)[0], finished(**once, critic=WHITENING)[0]
    np.testing.assert_array_equal(flat(mine.actor.model), flat(theirs.actor.model))
    assert not np.array_equal(flat(mine.critic.model), flat(theirs.critic.model))
    mine, theirs = finished()[0], finished(critic=WHITENING)[0]
    assert not np.array_equal(flat(mine.actor.model), flat(theirs.actor.model))


@pytest.mark.parametrize("learner", [{"optimizer": "adam", "lr": 0.01}, {**WHITENING, "lr": 0.01}, EXACT])
def test_it_learns_what_is_best(learner):
    # the best is to go to 0 at once and stay there
    starts = np.linspace(-2, 2, 4001)
    best = 0.0
    x = starts.copy()
    for _ in range(STEPS):
        x -= 0.5 * np.clip(2 * x, -1, 1)
        best += np.mean(1 - x**2)
    settings = {"environments": 8, "rollout": 64, "steps": 16_384, "parts": 8, "epochs": 5, "batch": 128}
    made, metrics = finished(**settings, actor=learner, critic=learner)
    assert metrics[0]["return"] < best - 6, "it is not easy"
    # what acts without noise is near the best
    with torch.no_grad():
        found, x = 0.0, starts.copy()
        for _ in range(STEPS):
            seen = made.scales.observed(np.stack([x, 1000 + 50 * x], axis=1))
            x += 0.5 * np.clip(made.actor.model(seen).mean[:, 0].numpy(), -1, 1)
            found += np.mean(1 - x**2)
    assert found == pytest.approx(best, abs=0.7)


def test_a_run_that_diverges_says_so():
    made, metrics = finished(actor={"optimizer": "sgd", "lr": 1e38})
    assert made.status == "diverged"
    assert len(metrics) == 1
    made.final()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"colour": 1}, "'colour'"),
        ({"parts": 5}, "`parts` must be an integer between 1 and 4"),
        ({"rollout": 0}, "`rollout` must be an integer"),
        ({"actor": {**ADAM, "beta": 1}}, "`actor` must have settings among"),
        ({"critic": {**ADAM, "lr": "fast"}}, "`critic: lr` must be"),
        ({"critic": {**ADAM, "step": 0.1}}, "`step` must be None"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        finished(**changed)


def test_a_setting_that_is_left_out_is_named():
    short = copy.deepcopy(SMALL)
    del short["clip"]
    with pytest.raises(ValueError, match="'clip'"):
        PPOTraining(short, 0)


def test_the_command_says_what_installs_the_environments(monkeypatch, capsys, tmp_path):
    pytest.importorskip("typer")
    from psgd_analysis.cli import run
    from psgd_analysis.reproduce import command

    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "mujoco" else True)
    assert run(["reproduce", "ppo", "--scale", "smoke", "--out", str(tmp_path)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "`ppo` needs mujoco; pip install 'psgd-core[reproduce,reproduce-rl]'" in told
