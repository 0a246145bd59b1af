"""Numbers of an environment or of an action that are not finite are named, or left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_numbers import Broken, Source, model, sac, sources, watched_by
from environments import Bandit
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_rfm import SAC, RFMFlow
from sb3_rfm.common.finite import LARGEST, NonFiniteError, not_finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_reward_that_is_not_finite_is_named_with_its_step(value: float) -> None:
    one = model("reward", value=value)
    with pytest.raises(NonFiniteError, match=rf"^reward\[0\] is {value} at step 130 "):
        one.learn(200)
    assert one.replay_buffer is not None
    assert one.replay_buffer.size() == 129  # nothing of that step was stored


def test_observation_is_named_with_its_place() -> None:
    with pytest.raises(NonFiniteError, match=r"^observation\[0, 1\] is nan at step 125 "):
        model("observation", at=125).learn(200)
    with pytest.raises(NonFiniteError, match=r"^observation\['b'\]\[0, 0\] is nan at step 125 "):
        model("observation", at=125, observation="dict").learn(200)


def test_last_observation_of_an_episode_is_watched_too() -> None:
    with pytest.raises(NonFiniteError, match=r"terminal observation of environment 0\[1\] is nan"):
        model("observation", at=120).learn(200)


@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("at", [50, 120, 125])
@pytest.mark.parametrize(("observation", "n_steps"), [("vector", 1), ("vector", 3), ("dict", 1)])
def test_skip_leaves_the_transition_out(what: str, at: int, observation: str, n_steps: int) -> None:
    one = model(what, at, observation=observation, on_nan="skip", n_steps=n_steps).learn(200)
    buffer: Any = one.replay_buffer
    # an observation spoils two transitions unless it ended an episode (length 10)
    lost = 2 if what == "observation" and at % 10 else 1
    assert one.n_skipped == lost
    assert buffer.size() == 200 - lost
    stored = buffer.observations, buffer.next_observations
    for part in stored if observation == "vector" else [p for d in stored for p in d.values()]:
        assert np.isfinite(part).all()
    assert np.isfinite(buffer.rewards).all()
    assert bool(buffer.timeouts[at - 2]), "returns over several steps end before the gap"
    assert all(bool(p.isfinite().all()) for p in one.policy.parameters())
    assert one.num_timesteps == 200


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("value", [np.nan, 1e37])
def test_the_first_observation_is_watched(normalized: bool, value: float) -> None:
    def env() -> VecEnv:
        made = sources({0: ("observation", value)})
        return VecNormalize(made) if normalized else made

    with pytest.raises(NonFiniteError, match=r"^observation\[0, 1\] is (nan|1e\+37) at step 0 "):
        watched_by(env()).learn(30)
    one = watched_by(env(), on_nan="skip").learn(30)
    assert one.n_skipped == 1
    assert np.abs(one.replay_buffer.observations[: one.replay_buffer.size()] - 1000).max() < 100


def test_a_new_episodes_first_observation_is_none_of_the_old_ones() -> None:
    class BadReset(Source):
        def reset(self, **kwargs: Any) -> Any:
            obs, info = super().reset(**kwargs)
            return (obs * np.float32(np.nan) if self.total == 10 else obs), info

    one = watched_by(DummyVecEnv([lambda: BadReset({})]), on_nan="skip").learn(30)
    assert one.n_skipped == 1
    assert one.replay_buffer.size() == 29
    with pytest.raises(NonFiniteError, match=r"^observation\[0, 0\] is nan at step 10 "):
        watched_by(DummyVecEnv([lambda: BadReset({})])).learn(30)


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_numbers_too_large_for_float32_are_named(what: str) -> None:
    size = LARGEST * 1.01
    place = r"reward\[0\]" if what == "reward" else r"observation\[0, 1\]"
    with pytest.raises(NonFiniteError, match=rf"^{place} is 1.01e\+15 at step 13 .*at most 1e\+15"):
        watched_by(sources({13: (what, size)})).learn(30)
    env = sources(dict.fromkeys(range(100), (what, float(LARGEST) * 0.99)))
    one = watched_by(env)
    one.learning_starts, one.batch_size = 20, 16
    one.learn(40)  # which can be computed with
    assert all(bool(p.isfinite().all()) for p in one.policy.parameters())


def test_lists_and_numbers_are_watched_too() -> None:
    value = {"a": [0.0, np.nan], "b": np.float64(np.inf), "c": 3, "d": "nan", "e": None}
    found = list(not_finite("x", value))
    assert found == ["x['a'][1] is nan", "x['b'] is inf"]

    class Lists(Source):
        def observe(self) -> Any:
            return super().observe().tolist()

    env = DummyVecEnv([lambda: Lists({10: ("observation", np.nan)})])
    one = watched_by(env, on_nan="skip").learn(30)
    assert one.n_skipped == 2  # the end of an episode, and the beginning of the next
    assert np.isfinite(one.replay_buffer.next_observations).all()


class BrokenNoise(NormalActionNoise):
    """Not finite once, for one environment."""

    calls = resets = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return super().__call__() * (np.nan if self.calls == 13 else 1.0)

    def reset(self) -> None:
        self.resets += 1


def test_an_action_that_is_not_finite_never_reaches_the_environment() -> None:
    env = Broken(Bandit(), 10**9, "")  # which asserts that actions are finite
    noise = BrokenNoise(np.zeros(2), np.ones(2))
    with pytest.raises(
        NonFiniteError, match=r"^action\[0, 0\] is nan at step 13 .*look at action_noise"
    ):
        watched_by(DummyVecEnv([lambda: env]), action_noise=noise).learn(30)
    noise = BrokenNoise(np.zeros(2), np.ones(2))
    one = watched_by(DummyVecEnv([lambda: env]), action_noise=noise, on_nan="skip").learn(30)
    assert one.n_skipped == 1
    assert one.replay_buffer.size() == 29
    one = watched_by(DummyVecEnv([lambda: env]))
    one.learning_starts = 0
    next(one.actor.network.parameters()).data.fill_(np.nan)
    with pytest.raises(NonFiniteError, match=r"the policy's actor\.network.* is nan"):
        one.learn(1)


@pytest.mark.parametrize("algorithm", [RFMFlow, SAC])
def test_nothing_is_learnt_from_nothing(algorithm: Any) -> None:
    env = sources(dict.fromkeys(range(100), ("observation", np.nan)))
    one = watched_by(env, algorithm, on_nan="skip")
    one.learning_starts = 10
    one.learn(30)
    assert (one.n_skipped, one.replay_buffer.size(), one._n_updates) == (30, 0, 0)


def test_an_error_of_numbers_is_a_value_error() -> None:
    """So that a search prunes the trial."""
    assert issubclass(NonFiniteError, ValueError)
    assert issubclass(NonFiniteError, FloatingPointError)


def test_sac_is_guarded_too(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"^reward\[0\] is nan at step 130 "):
        sac("reward").learn(200)
    one = sac("observation", on_nan="skip").learn(200)
    assert one.n_skipped == one.logger.name_to_value["rfm/n_skipped"] == 1  # it ended an episode
    one.save(tmp_path / "model")
    assert SAC.load(tmp_path / "model").on_nan == "skip"


@pytest.mark.parametrize("wrong", ["ignore", None, True])
def test_on_nan_is_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match="on_nan"):
        model("reward", on_nan=wrong)
    with pytest.raises(ValueError, match="on_nan"):
        sac("reward", on_nan=wrong)
