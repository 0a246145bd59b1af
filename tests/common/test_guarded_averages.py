"""Averages and stacks of environments' wrappers count all but what is not finite."""

import warnings
from typing import Any

import numpy as np
import pytest
from bad_numbers import Source, sources, watched_by
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
)


class Recorded(VecEnvWrapper):
    """Keeps what the environments gave."""

    def __init__(self, env: VecEnv) -> None:
        super().__init__(env)
        self.obs: list[Any] = []
        self.rewards: list[np.ndarray] = []
        self.dones: list[np.ndarray] = []

    def reset(self) -> Any:
        self.obs.append(self.venv.reset())
        return self.obs[-1]

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.obs.append(obs)
        self.rewards.append(rewards)
        self.dones.append(dones)
        return obs, rewards, dones, infos


def moments(rows: Any) -> Any:
    """VecNormalize's averages of some rows, one update a step."""
    averages = RunningMeanStd(shape=rows[0].shape[1:])
    for row in rows:
        if len(row):
            averages.update(row)
    return averages.mean, averages.var, averages.count


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e37])
@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_averages_count_all_but_what_is_wrong(what: str, value: float, observation: str) -> None:
    wrong = {0: (what, value), 13: (what, value), 20: (what, value), 21: (what, value)}
    below = Recorded(sources(wrong, {}, {13: (what, value)}, observation=observation))
    env = VecNormalize(below, gamma=0.9)
    one = watched_by(env, on_nan="skip").learn(90)
    keys = ("a", "b") if observation == "dict" else (None,)
    # what Recorded sees is watched already: look at the environments' own numbers
    bad = {(0, 0), (13, 0), (20, 0), (21, 0), (13, 2)}
    for key in keys:
        rows = [obs if key is None else obs[key] for obs in below.obs]
        good = [np.array([(t, i) not in bad or what == "reward" for i in range(3)])
                for t in range(31)]  # fmt: skip
        rms: Any = env.obs_rms if key is None else env.obs_rms[key]
        expected = moments([row[g] for row, g in zip(rows, good, strict=True)])
        np.testing.assert_allclose([*rms.mean, *rms.var], [*expected[0], *expected[1]], rtol=1e-5)
        assert rms.count == pytest.approx(expected[2])
        if key != "a":
            assert abs(rms.mean - 1000.0).max() < 3
    returns, seen = np.zeros(3), []
    for t, (reward, done) in enumerate(zip(below.rewards, below.dones, strict=True), start=1):
        returns = 0.9 * returns + reward
        seen.append(returns[[(t, i) not in bad or what != "reward" for i in range(3)]])
        returns = np.where(done, 0.0, returns)
    mean, var, count = moments(seen)
    assert [env.ret_rms.mean, env.ret_rms.var] == pytest.approx([mean, var], rel=1e-5)
    assert env.ret_rms.count == pytest.approx(count)
    assert np.isfinite(env.returns).all()
    assert one.replay_buffer.size() == 30


@pytest.mark.parametrize("norm_obs", [True, False])
def test_averages_that_are_not_counted_stay(norm_obs: bool) -> None:
    env = VecNormalize(sources({13: ("observation", np.nan)}), training=False, norm_obs=norm_obs)
    before = env.ret_rms.copy()
    one = watched_by(env, on_nan="skip").learn(30)
    assert vars(env.ret_rms) == vars(before)
    assert one.n_skipped == 2


def test_the_environment_is_as_it_was_after_learning() -> None:
    env = VecNormalize(sources({}))
    chain = env.venv
    evaluated = VecNormalize(DummyVecEnv([lambda: Monitor(Source({}))]))
    evaluation = EvalCallback(evaluated, eval_freq=5, n_eval_episodes=1, verbose=0)
    one = watched_by(env, on_nan="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.learn(20, evaluation)
    assert one.env is env
    assert env.venv is chain
    plain = sources({})
    two = watched_by(plain, on_nan="raise")
    seen: list[Any] = []
    two.learn(5, lambda local, _: seen.append(local["env"]) or True)
    assert two.env is plain
    assert all(isinstance(one, DummyVecEnv) for one in seen)
    assert seen[0].envs is plain.envs


@pytest.mark.parametrize("normalized", [False, True])
def test_what_is_stacked_is_left_out_as_long_as_it_is_held(normalized: bool) -> None:
    env: VecEnv = sources({13: ("observation", np.nan), 30: ("observation", np.nan)}, {})
    env = VecFrameStack(env, 3)
    env = VecNormalize(env) if normalized else env
    one = watched_by(env, on_nan="skip").learn(80)
    # 12 -> 13 to 15 -> 16; 29 -> 30, which ended an episode, and the next one's first three
    assert one.n_skipped == 8
    stored = one.replay_buffer.observations[: one.replay_buffer.size()].reshape(-1, 3, 2)
    assert (stored[:, 2] > 900).all(), "no frame that was made up"
    earlier = stored[:, :2] > 900  # none, or the zeros before an episode's first frame
    assert (earlier[:, :1] <= earlier[:, 1:]).all()
    assert (stored[:, :2][~earlier] == 0).all()


def test_returns_that_are_not_finite_are_not_averaged() -> None:
    env = DummyVecEnv([lambda: Monitor(Source({13: ("reward", np.nan)}))])
    one = watched_by(env, on_nan="skip").learn(30)
    assert len(one.ep_info_buffer) == 2  # of three episodes
    assert np.isfinite([info["r"] for info in one.ep_info_buffer]).all()
