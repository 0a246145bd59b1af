"""Replay buffers know where episodes end: at gaps, at resets, where training was broken off."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_rfm import SAC, RFMFlow
from sb3_rfm.utils.episodes import close_episode

LENGTH = 10
SMALL: dict[str, Any] = {
    "learning_starts": 10**6,
    "buffer_size": 600,
    "policy_kwargs": {"net_arch": [8]},
    "seed": 0,
    "device": "cpu",
}
each_class = pytest.mark.parametrize("algorithm", [RFMFlow, SAC])


class Numbered(gym.Env):
    """
    Observes its own number, the episode's and the step's; the reward is 1.

    :param number: its own
    :param bad: steps, of all episodes together, at which the reward is NaN
    :param goals: whether observations are a dictionary with goals
    :param ends: whether episodes end themselves, instead of being cut short
    """

    def __init__(
        self, number: int = 0, bad: Any = (), goals: bool = False, ends: bool = False
    ) -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = spaces.Dict(dict.fromkeys(names, box)) if goals else box
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.number, self.bad, self.goals, self.ends = number, set(bad), goals, ends
        self.episode, self.total = -1, 0

    def observe(self) -> Any:
        here = np.float32([self.number, self.episode, self.t])
        names = ("observation", "achieved_goal", "desired_goal")
        return dict.fromkeys(names, here) if self.goals else here

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode += 1
        self.t = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        self.total += 1
        reward = np.nan if self.total in self.bad else 1.0
        over = self.t >= LENGTH
        return self.observe(), reward, over and self.ends, over and not self.ends, {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        return np.ones(len(achieved), np.float32)


def model(algorithm: Any = RFMFlow, bads: Any = ((),), **changes: Any) -> Any:
    goals = changes.pop("goals", False)
    ends = changes.pop("ends", False)
    env = DummyVecEnv(
        [lambda i=i, bad=bad: Numbered(i, bad, goals, ends) for i, bad in enumerate(bads)]
    )
    policy = "MultiInputPolicy" if goals else "MlpPolicy"
    return algorithm(policy, env, on_nan="skip", **{**SMALL, **changes})


def sampled(buffer: Any, count: int = 4000) -> Any:
    """Observation, next observation, return and whether nothing follows, of many samples."""
    np.random.seed(0)  # noqa: NPY002  (SB3's buffers draw from it)
    data = buffer.sample(count)
    parts = data.observations, data.next_observations, data.rewards, data.dones
    return [part.numpy() for part in parts]


def assert_transitions(buffer: Any, n_steps: int = 1) -> None:
    """
    Each sample is of one episode of one environment and its return has as many rewards as there are
    steps between its two observations.
    """
    obs, following, returns, ends = sampled(buffer)
    free = ends[:, 0] == 0  # with a memory-efficient buffer nothing is read where nothing follows
    np.testing.assert_array_equal(obs[free, :2], following[free, :2])
    steps = following[free, 2] - obs[free, 2]
    assert ((steps >= 1) & (steps <= n_steps)).all()
    np.testing.assert_array_equal(steps, returns[free, 0])


BADS = [
    pytest.param(((13, 14, 20, 21, 30),), id="one environment"),
    pytest.param(((13, 20), (), (13, 14, 21)), id="three environments"),
    pytest.param(((), (1, 2, *range(25, 40))), id="from the beginning"),
]


@each_class
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("bads", BADS)
def test_no_return_runs_across_a_gap(algorithm: Any, n_steps: int, bads: Any) -> None:
    one = model(algorithm, bads, n_steps=n_steps, gamma=1.0).learn(60 * len(bads))
    all_bad = len(set.intersection(*map(set, bads)))
    assert one.n_skipped == sum(map(len, bads))
    assert one.replay_buffer.size() == 60 - all_bad  # the other environments' are stored
    assert np.isfinite(one.replay_buffer.rewards).all()
    assert_transitions(one.replay_buffer, n_steps)
    left = {(i, *divmod(t - 1, LENGTH)) for i, bad in enumerate(bads) for t in bad}
    stored = set(map(tuple, sampled(one.replay_buffer)[0].astype(int).tolist()))
    assert not stored & left
    assert len(stored) == 60 * len(bads) - len(left)


@pytest.mark.parametrize("bads", BADS)
def test_the_memory_efficient_buffer_ends_before_a_gap(bads: Any) -> None:
    kwargs = {"handle_timeout_termination": False}
    one = model(bads=bads, optimize_memory_usage=True, replay_buffer_kwargs=kwargs)
    assert_transitions(one.learn(60 * len(bads)).replay_buffer)


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
@pytest.mark.parametrize("bads", BADS)
def test_hindsight_goals_are_of_the_same_episode(strategy: str, bads: Any) -> None:
    kwargs = {"n_sampled_goal": 10**6, "goal_selection_strategy": strategy}
    buffer = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": kwargs}
    one = model(bads=bads, goals=True, **buffer)
    one.learn(63 * len(bads)).learn(60 * len(bads))
    data = one.replay_buffer.sample(4000)  # the first of which keeps its own goal
    goals, own = (data.observations[key].numpy()[1:] for key in ("desired_goal", "observation"))
    np.testing.assert_array_equal(goals[:, :2], own[:, :2])
    if strategy != "episode":
        assert (goals[:, 2] > own[:, 2]).all()


def test_an_episode_that_ended_is_not_made_one_that_was_cut_short() -> None:
    one = model(bads=((LENGTH + 1,),), ends=True, n_steps=1).learn(2 * LENGTH)
    close_episode(one.replay_buffer)
    obs, _, _, ends = sampled(one.replay_buffer)
    np.testing.assert_array_equal(ends[:, 0], obs[:, 2] == LENGTH - 1)


@each_class
def test_a_return_ends_where_learn_begins_anew(algorithm: Any) -> None:
    one = model(algorithm, n_steps=3, gamma=1.0)
    for reset in (True, True, False, True):
        one.learn(7, reset_num_timesteps=reset)
    one.set_env(DummyVecEnv([Numbered]))  # which is reset
    one.learn(7, reset_num_timesteps=False)
    assert one.replay_buffer.size() == 35
    # an episode that goes on in the next learn is not cut: 7 + 3 steps, then 4
    cut = np.flatnonzero(one.replay_buffer.timeouts[:35]).tolist()
    assert cut == [6, 16, 20, 27]
    assert_transitions(one.replay_buffer, 3)


class StopAt(BaseCallback):
    """Ends training, or raises, after so many steps."""

    def __init__(self, at: int, raises: bool = False) -> None:
        super().__init__()
        self.at, self.raises = at, raises

    def _on_step(self) -> bool:
        if self.raises and self.n_calls == self.at:
            raise KeyboardInterrupt
        return self.n_calls < self.at


@each_class
@pytest.mark.parametrize("n_envs", [1, 2])
def test_training_goes_on_after_the_step_at_which_a_callback_ended_it(
    algorithm: Any, n_envs: int
) -> None:
    one = model(algorithm, ((),) * n_envs, n_steps=3, gamma=1.0)
    for at in (4, 6, 25):
        one.learn(10**6, StopAt(at), reset_num_timesteps=False)
    assert one.replay_buffer.size() == 35
    assert one.num_timesteps == 35 * n_envs
    assert one._episode_num == 3 * n_envs
    # no gap, and no end but the episodes' own
    assert np.flatnonzero(one.replay_buffer.timeouts[:, 0]).tolist() == [9, 19, 29]
    assert_transitions(one.replay_buffer, 3)


def test_as_many_episodes_as_asked_for_are_stored_whole() -> None:
    one = model(n_steps=3, gamma=1.0)
    for _ in range(2):
        one.learn(10**6, StopTrainingOnMaxEpisodes(1), reset_num_timesteps=False)
    assert one.replay_buffer.size() == 2 * LENGTH
    assert_transitions(one.replay_buffer, 3)


def test_an_episode_that_an_exception_broke_off_is_over() -> None:
    one = model(n_steps=3, gamma=1.0)
    with pytest.raises(KeyboardInterrupt):
        one.learn(100, StopAt(5, raises=True))
    one.learn(30, reset_num_timesteps=False)
    assert_transitions(one.replay_buffer, 3)
