"""The crossing with four goals: its spaces, rewards and ends, by hand."""

import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common import env_checker

from sb3_rfm import four_goals
from sb3_rfm.envs import any_env_id
from sb3_rfm.four_goals import ENV_ID, EPISODE_STEPS, FourGoals


def at(*place):
    env = FourGoals()
    env.reset(options={"place": place})
    return env


def move(*action):
    return np.array(action, np.float32)


def test_gymnasium_and_stable_baselines3_accept_it():
    check_env(gym.make(ENV_ID, render_mode="rgb_array").unwrapped)
    env_checker.check_env(FourGoals())


def test_the_command_line_knows_it():
    assert any_env_id(ENV_ID) == ENV_ID
    assert isinstance(gym.make(ENV_ID).unwrapped, FourGoals)


def test_the_same_moves_have_the_same_episode():
    """Nothing is random: a seed changes the start as little as the way."""
    episodes = []
    for seed in (0, 1):
        env = FourGoals()
        first, info = env.reset(seed=seed)
        np.testing.assert_array_equal(first, [0, 0])
        assert info == {}
        episodes.append([env.step(move(0.3, -0.2 * k))[:2] for k in range(3)])
    for one, other in zip(*episodes, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1]


@pytest.mark.parametrize(
    ("place", "action", "reward", "goal"),
    [
        ((0, 0), (1, 0), -1 / 3, 0),  # .5 from the goal, on the road
        ((0, 0), (0, 0), -1.0, -1),
        ((0, 0), (0.5, 0.5), -(math.sqrt(1.25) + 0.5) / 1.5, -1),
        ((0, 0), (-1, -1), -(math.sqrt(1.25) + 1) / 1.5, -1),  # between two roads
        ((0, 0), (0, 0.75), -0.5, -1),  # .75 from it: not yet
        ((0, 1), (0, 0.5), 0.0, 1),
        ((-1, 0), (-0.5, 0.25), -1 / 3, 2),
        ((0, -1), (0, 0), -1 / 3, 3),
    ],
)
def test_rewards_and_ends(place, action, reward, goal):
    observation, got, terminated, truncated, info = at(*place).step(move(*action))
    np.testing.assert_allclose(observation, np.add(place, action), rtol=1e-6)
    assert got == pytest.approx(reward, rel=1e-6)
    assert (terminated, truncated, info) == (goal >= 0, False, {"goal": goal})


def test_the_plane_has_walls():
    observation, reward, *_ = at(2, -2).step(move(1, -1))
    np.testing.assert_array_equal(observation, [2.5, -2.5])
    assert reward == pytest.approx(-(math.sqrt(7.25) + 2.5) / 1.5)


def test_a_quarter_turn_changes_no_reward():
    """The four goals are equally good, from wherever."""
    generator = np.random.default_rng(0)
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    for place, action in generator.uniform(-1, 1, (50, 2, 2)):
        _, reward, reached, _, info = at(*place).step(action)
        _, turned, reached_too, _, info_too = at(*turn @ place).step(turn @ action)
        assert turned == pytest.approx(reward, abs=1e-6)
        assert reached_too == reached
        if reached:
            assert info_too["goal"] == (info["goal"] + 1) % 4


def test_an_episode_that_reaches_nothing_is_truncated():
    env = gym.make(ENV_ID)
    env.reset(seed=0)
    ends = [env.step(move(0, 0))[2:4] for _ in range(EPISODE_STEPS)]
    assert ends == [(False, False)] * (EPISODE_STEPS - 1) + [(False, True)]


@pytest.mark.parametrize("place", [(0.0, 3.5), (0.0,), (math.nan, 0.0)])
def test_a_start_outside_is_refused(place):
    with pytest.raises(ValueError, match="place must be two numbers within"):
        FourGoals().reset(options={"place": place})


def test_a_frame_shows_roads_goals_the_agent_and_where_it_was() -> None:
    env = FourGoals(render_mode="rgb_array")
    env.reset()
    env.step(np.array([0.5, 0.0], np.float32))
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((240, 240, 3), np.uint8)

    def pixel(x: float, y: float) -> tuple[int, ...]:
        """The colour at a place; north is at the top."""
        return tuple(frame[round((2.5 - y) / 5 * 239), round((x + 2.5) / 5 * 239)])

    assert pixel(0.5, 0) == tuple(four_goals.AGENT)
    assert pixel(0, 0) == tuple(four_goals.TRAIL)
    assert pixel(0, 0.5) == tuple(four_goals.ROAD)
    assert pixel(0, 1.5) == pixel(0, -1.5) == pixel(-1.5, 0) == tuple(four_goals.GOAL)
    assert pixel(1.5, 1.5) == tuple(four_goals.GROUND)
    assert FourGoals().render() is None
    with pytest.raises(ValueError, match=r"render_mode must be None or 'rgb_array', got 'human'"):
        FourGoals("human")
