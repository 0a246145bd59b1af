"""Critics that diverge are told from critics that have learnt nothing yet."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_rfm import QNE, RFMFlow
from sb3_rfm.common.critic_watch import IMPOSSIBLE, CriticWatch
from sb3_rfm.experiments.hyperparams import merged

SMALL: dict[str, Any] = {
    "learning_starts": 50,
    "batch_size": 16,
    "buffer_size": 1000,
    "policy_kwargs": {"net_arch": [16]},
    "seed": 0,
    "device": "cpu",
}


class Rewarded(gym.Env):
    """
    Random observations of some size; rewards by the step, of all episodes together.

    :param reward: step and whether an episode ends there -> reward
    :param size: of observations
    """

    def __init__(self, reward: Any, size: float = 1.0) -> None:
        self.reward, self.size, self.total = reward, size, 0
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def observe(self) -> np.ndarray:
        return (self.size * self.np_random.normal(size=3)).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.t, self.total = self.t + 1, self.total + 1
        over = self.t >= 20
        return self.observe(), float(self.reward(self.total, over)), over, False, {}


REWARDS = {
    "none": lambda total, over: 0.0,
    "tiny at first": lambda total, over: -1e-6 if total < 90 else -1.0,
    "none at first": lambda total, over: 0.0 if total < 90 else 1.0,
    "at the end alone": lambda total, over: float(over),
    "negative": lambda total, over: -1.0,
}


def alarms(algorithm: Any, env: Any, steps: int, **changes: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = algorithm("MlpPolicy", env, **{**SMALL, **changes})
        model.learn(steps, log_interval=10**6)
    return [str(w.message) for w in seen if "diverge" in str(w.message)]


SCALED = [(kind, 1.0) for kind in REWARDS]
SCALED += [(kind, scale) for kind in ("tiny at first", "negative") for scale in (1e-3, 1e3)]


@pytest.mark.parametrize(("kind", "scale"), SCALED)
def test_the_verdict_is_the_same_at_every_scale_of_rewards(kind: str, scale: float) -> None:
    env = Rewarded(lambda total, over: scale * REWARDS[kind](total, over))
    seldom = {"actor_update": {"every": 50}}
    assert alarms(RFMFlow, env, 130, **seldom) == []
    rates = {"learning_rate": 1e3, "critic_update": {"learning_rate": 1e3}}
    plain = {
        "net_arch": [8],
        "critic_kwargs": {"layer_norm": False},
    }  # zero rewards leave others at zero
    assert len(alarms(RFMFlow, env, 130, **seldom, policy_kwargs=plain, **rates)) >= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma": 1.0},
        {"gamma": 0.999, "n_steps": 3},
        {"critic_update": {"reward_scale": 100.0}},
        {"size": 1000.0},
        {"critic_update": {"entropy": True}, "temperature": 1.0, "gamma": 0.5, "tau": 0.5},
    ],
    ids=str,
)
def test_no_alarm_and_alarm(changes: dict[str, Any]) -> None:
    env = Rewarded(REWARDS["tiny at first"], changes.pop("size", 1.0))
    changes = {"actor_update": {"every": 20}, **changes}
    assert alarms(RFMFlow, env, 130, **changes) == []
    fast = merged(changes, {"critic_update.learning_rate": 1e3})
    assert len(alarms(RFMFlow, env, 130, **fast)) >= 1


def test_the_soft_value_of_no_rewards_is_no_divergence() -> None:
    changes = {"temperature": 5.0, "gamma": 0.9, "tau": 0.2, "actor_update": {"every": 50}}
    changes |= {
        "flow": {"steps": 2},
        "candidates": {"n": 2},
        "critic_update": {"learning_rate": 0.03},
    }
    assert alarms(QNE, Rewarded(REWARDS["none"]), 110, **changes) == []


def test_rewards_are_those_that_are_sampled() -> None:
    """Normalised as they are now, computed in hindsight, or in a buffer that was loaded."""
    env = VecNormalize(DummyVecEnv([lambda: Rewarded(lambda *_: 1e3)]), norm_obs=False)
    model = RFMFlow("MlpPolicy", env, **SMALL).learn(80)
    assert 0 < model.critic_watch.going_on <= env.clip_reward / (1 - model.gamma)

    class Hindsight(Rewarded):
        def __init__(self) -> None:
            super().__init__(lambda *_: 0.0)
            box = self.observation_space
            names = ("observation", "achieved_goal", "desired_goal")
            self.observation_space = spaces.Dict(dict.fromkeys(names, box))

        def observe(self) -> Any:
            return {name: super(Hindsight, self).observe() for name in self.observation_space}

        def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
            return np.full(len(achieved), 7.0)

    model = RFMFlow("MultiInputPolicy", Hindsight(), replay_buffer_class=HerReplayBuffer, **SMALL)
    model.learn(80)
    assert model.critic_watch.going_on == pytest.approx(7 / (1 - model.gamma))
    assert model.critic_watch.last == 7


def test_the_largest_return_that_rewards_allow() -> None:
    """Of equal rewards for ever; once, where they end an episode; of n-step returns the same."""
    watch = CriticWatch()
    watch.see_rewards(np.array([1.0, -2.0, 30.0]), np.array([False, False, True]), 0.9, 1000)
    assert (watch.going_on, watch.last) == (pytest.approx(20.0), 30.0)
    of_three = CriticWatch()
    three = 2.0 * (1 + 0.9 + 0.81)
    of_three.see_rewards(np.array([three]), np.array([False]), np.array([0.9**3]), 1000)
    assert of_three.going_on == pytest.approx(20.0)
    endless = CriticWatch()
    endless.see_rewards(np.array([-2.0]), np.array([False]), 1.0, 1000)
    assert endless.going_on == 2000.0


def test_the_entropy_that_counts_is_not_that_of_one_update() -> None:
    watch = CriticWatch()
    for _ in range(3):
        watch.see_entropy(-2.0, 0.9, 1000)
    assert watch.bonus == pytest.approx(20.0)
    watch.see_entropy(1002.0, 0.9, 1000)
    assert watch.bonus == pytest.approx(10 * (2 + 0.01 * 1000))
    watch.see_entropy(0.0, 0.9, 1000)
    assert watch.bonus == pytest.approx(120.0)


def test_critics_recover_and_diverge_again() -> None:
    watch = CriticWatch()
    above, between = IMPOSSIBLE + 0.1, IMPOSSIBLE - 0.1
    ratios = [0.1, above, 1e9, between, above, 0.9, between, above]
    found = [watch.diverges_anew(ratio) for ratio in ratios]
    assert found == [False, True, False, False, False, False, False, True]
    assert not watch.diverges_anew(np.nan)
    assert watch.diverged
