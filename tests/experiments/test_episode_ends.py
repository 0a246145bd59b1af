"""Episodes that wrappers end, and those that nothing ends."""

import gymnasium as gym
import numpy as np
import pytest
from environments import Bandit
from gymnasium.wrappers import RescaleAction, TimeLimit, TransformReward
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from sb3_rfm.envs import FlatFloat32
from sb3_rfm.experiments import episodes
from sb3_rfm.experiments.episodes import (
    BoundedEvaluation,
    EndlessEpisode,
    EpisodeEnds,
    with_episode_ends,
)


class LosesALife(gym.Wrapper):
    """Ends an episode every third step, and then begins without a reset of the environment."""

    def reset(self, **kwargs):
        self.steps = getattr(self, "steps", 0)
        return self.env.reset(**kwargs) if not self.steps else (self.seen, {})

    def step(self, action):
        self.seen, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        return self.seen, reward, terminated or self.steps % 3 == 0, truncated, info


def _episodes(wrap, steps=12):
    env = with_episode_ends(wrap)(Monitor(Bandit(length=10**9)))
    env.reset(seed=0)
    found, rewards = [], []
    for step in range(steps):
        action = np.full(2, step / steps, np.float32)
        rewards.append(-float(np.square(action).mean()))
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            found.append(info["episode"])
            env.reset()
    return found, rewards


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: TimeLimit(env, 4),
        lambda env: FlatFloat32(TransformReward(TimeLimit(env, 4), lambda reward: 9 * reward)),
    ],
    ids=["TimeLimit", "within others"],
)
def test_an_episode_that_a_wrapper_ends_has_the_environments_own_return(wrap):
    found, rewards = _episodes(wrap)
    assert [episode["l"] for episode in found] == [4, 4, 4]
    sums = np.reshape(rewards, (3, 4)).sum(1)
    np.testing.assert_allclose([episode["r"] for episode in found], sums, atol=1e-5)


def test_an_episode_that_begins_without_a_reset_has_its_own_rewards():
    found, rewards = _episodes(LosesALife)
    assert [episode["l"] for episode in found] == [3, 3, 3, 3]
    sums = np.reshape(rewards, (4, 3)).sum(1)
    np.testing.assert_allclose([episode["r"] for episode in found], sums, atol=1e-5)


def test_monitors_own_note_stays():
    env = with_episode_ends(lambda env: TimeLimit(env, 9))(Monitor(Bandit(length=2)))
    env.reset(seed=0)
    env.step(np.ones(2, np.float32))
    assert env.step(np.ones(2, np.float32))[4]["episode"]["l"] == 2


def test_wrappers_that_end_nothing_stay_as_they_are():
    assert with_episode_ends(None) is None
    for wrap in (FlatFloat32, lambda env: RescaleAction(env, np.float32(-2), np.float32(2))):
        assert not isinstance(with_episode_ends(wrap)(Monitor(Bandit())), EpisodeEnds)


def _evaluate(length, limit, monkeypatch):
    monkeypatch.setattr(episodes, "MOST_STEPS", 30)

    def make():
        env = Bandit(length=length)
        env.spec = gym.envs.registration.EnvSpec("Endless-v0")
        return TimeLimit(env, limit) if limit else env

    evaluation = BoundedEvaluation(make_vec_env(make, 2), n_eval_episodes=2, eval_freq=1, verbose=0)
    SAC("MlpPolicy", Bandit(), buffer_size=9, policy_kwargs={"net_arch": [4]}).learn(1, evaluation)
    return evaluation.last_mean_reward


def test_an_evaluation_without_an_end_names_the_environment_and_the_steps(monkeypatch):
    with pytest.raises(EndlessEpisode, match=r"Endless-v0 did not end in the 30 steps of an eval"):
        _evaluate(10**9, None, monkeypatch)


@pytest.mark.parametrize(("length", "limit"), [(30, None), (10**9, 40)])
def test_a_long_evaluation_that_ends_is_left_alone(length, limit, monkeypatch):
    assert np.isfinite(_evaluate(length, limit, monkeypatch))
