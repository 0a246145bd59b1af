"""Observations normalised inside the policy: what training passes on and what networks see."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from environments import Bandit, Reach, observations
from normalised_models import OFF, ON, Far, each_class, each_shell, small, statistics
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_rfm import RFMFlow
from sb3_rfm.common.observations import CLIP, EPSILON, PRIOR_STEPS


class Recording(gym.Wrapper):
    """Keeps each observation that an action answers to."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.answered: list[np.ndarray] = []

    def reset(self, **kwargs: Any) -> Any:
        self.last, info = self.env.reset(**kwargs)
        return self.last, info

    def step(self, action: Any) -> Any:
        self.answered.append(self.last.copy())
        self.last, *rest = self.env.step(action)
        return self.last, *rest


@each_shell
@pytest.mark.parametrize(("n_envs", "learning_starts"), [(1, 8), (2, 8), (1, 10**6)])
def test_each_observation_is_seen_once(name: str, n_envs: int, learning_starts: int) -> None:
    env = make_vec_env(lambda: Recording(Bandit(length=3)), n_envs)
    model = small(name, env, learning_starts=learning_starts).learn(20)
    model.predict(observations(model), deterministic=True)
    model.predict(observations(model))
    model.learn(20, reset_num_timesteps=False)
    seen = np.concatenate(env.get_attr("answered"))
    count, mean, variance = model.policy.normalizer.statistics.numpy()
    assert count == pytest.approx(PRIOR_STEPS + len(seen)) == pytest.approx(PRIOR_STEPS + 40)
    expected = statistics(seen.astype(np.float64))
    np.testing.assert_allclose(mean, expected[0], rtol=1e-10)
    np.testing.assert_allclose(variance, expected[1], rtol=1e-10)


class Blind(gym.Wrapper):
    """Observations are not finite at one step, or from a reset."""

    n_steps = 0

    def reset(self, **kwargs: Any) -> Any:
        obs, info = self.env.reset(**kwargs)
        return obs * (np.nan if self.n_steps == 0 else 1), info

    def step(self, action: Any) -> Any:
        obs, *rest = self.env.step(action)
        self.n_steps += 1
        return obs * (np.nan if self.n_steps == 11 else 1), *rest


@each_shell
def test_what_is_not_finite_is_not_seen(name: str) -> None:
    model = small(name, Blind(Bandit(length=100)), on_nan="skip", learning_starts=10**6).learn(20)
    assert model.n_skipped > 0
    assert model.policy.normalizer.statistics[0, 0] == PRIOR_STEPS + 18  # nor are zeros instead
    assert bool(model.policy.normalizer.statistics.isfinite().all())


@each_class
@pytest.mark.parametrize("share", [False, True])
def test_networks_see_normalised_observations(name: str, share: bool) -> None:
    """The same weights without a normaliser, on observations normalised by hand, do the same."""
    kwargs = {"share_features_extractor": share}
    model = small(name, policy_kwargs={**ON, **kwargs})
    model.policy.normalizer.update(np.random.default_rng(0).normal(0.5, 3, (2000, 3)))
    other = small(name, policy_kwargs={**OFF, **kwargs})
    weights = model.policy.state_dict()
    other.policy.load_state_dict({k: v for k, v in weights.items() if "normalizer" not in k})
    obs = 100 * observations(model, 64)  # some are clipped
    _, mean, variance = model.policy.normalizer.statistics.numpy()
    by_hand = np.clip((obs - mean) / np.sqrt(variance + EPSILON), -CLIP, CLIP).astype(np.float32)
    assert (np.abs(by_hand) == CLIP).any()
    for network in ("policy", "actor"):
        got = getattr(model, network).predict(obs, deterministic=True)[0]
        expected = getattr(other, network).predict(by_hand, deterministic=True)[0]
        np.testing.assert_allclose(got, expected, atol=1e-5)
    acts = th.rand(64, 2)
    for critic in ("critic", "critic_target"):
        got = getattr(model, critic)(th.as_tensor(obs), acts)
        expected = getattr(other, critic)(th.as_tensor(by_hand), acts)
        th.testing.assert_close(th.cat(got), th.cat(expected), rtol=1e-4, atol=1e-5)


class FarReach(Reach):
    def _observation(self) -> dict[str, np.ndarray]:
        return {key: part + 1000 for key, part in super()._observation().items()}


REPLAY: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (lambda: Far(Bandit(observation="dict", length=5)), {}),
    "n-step": (lambda: Far(Bandit(length=5)), {"n_steps": 3}),
    "environments": (
        lambda: make_vec_env(lambda: Far(Bandit(observation="dict", length=5)), 3),
        {"train_freq": 2},
    ),
    "hindsight": (
        lambda: gym.wrappers.TimeLimit(FarReach(), 20),
        {"replay_buffer_class": HerReplayBuffer, "learning_starts": 25},
    ),
}


@each_shell
@pytest.mark.parametrize("case", REPLAY)
def test_batches_are_normalised_by_the_present_statistics(name: str, case: str) -> None:
    make_env, changes = REPLAY[case]
    policy = "MlpPolicy" if case == "n-step" else "MultiInputPolicy"
    model = small(name, make_env(), policy, **changes).learn(60)
    stored = model.replay_buffer.observations
    assert all(part[:10].min() > 900 for part in parts(stored))  # raw
    seen: list[tuple[Any, Any]] = []
    networks = (model.actor, model.critic, model.critic_target)
    for network in networks:
        network.features_extractor.register_forward_pre_hook(lambda *call: seen.append(call))
    normalizer = model.policy.normalizer
    for mean in (1000.0, 900.0):
        normalizer.mean.fill_(mean)
        normalizer.scale.fill_(0.01)
        seen.clear()
        model.train(4, 4)
        assert {extractor for extractor, _ in seen} == {net.features_extractor for net in networks}
        for _, (obs,) in seen:
            assert all(bool((part - (1000 - mean) / 100).abs().max() < 0.1) for part in parts(obs))


def parts(obs: Any) -> list[Any]:
    return list(obs.values()) if isinstance(obs, dict) else [obs]


@each_shell
def test_memory_is_saved(name: str) -> None:
    env = Far(Bandit(length=5))
    kwargs = {"handle_timeout_termination": False}
    model = small(name, env, optimize_memory_usage=True, replay_buffer_kwargs=kwargs).learn(30)
    assert model.replay_buffer.observations[:20].min() > 900
    assert model.policy.normalizer.statistics[0, 0] == PRIOR_STEPS + 30


@each_shell
def test_observations_are_not_normalised_twice(name: str, tmp_path: Path) -> None:
    def twice() -> Any:
        return VecNormalize(make_vec_env(Bandit))

    with pytest.raises(ValueError, match=r"would normalise observations twice; use VecNormalize"):
        small(name, twice())
    env = VecNormalize(make_vec_env(Bandit), norm_obs=False)
    model = small(name, env).learn(20)  # rewards alone
    assert not np.array_equal(model.policy.normalizer.mean, np.zeros(3))
    with pytest.raises(ValueError, match="twice"):
        model.set_env(twice())
    assert model.env is env
    model.set_env(VecNormalize(make_vec_env(Bandit), norm_obs=False))
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="twice"):
        type(model).load(tmp_path / "model", env=twice())
    small(name, twice(), policy_kwargs=OFF).learn(12)


@pytest.mark.parametrize("wrong", ["yes", 1, None])
@each_shell
def test_anything_but_true_and_false_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match="normalize_observations must satisfy: True or False"):
        small(name, policy_kwargs={"normalize_observations": wrong})


def test_observations_that_vecnormalize_normalises_are_left_to_it(tmp_path: Path) -> None:
    """Unless the policy is told to: a pipeline with SAC goes on working with one word changed."""
    env = VecNormalize(DummyVecEnv([Bandit]))
    one = RFMFlow("MlpPolicy", env, buffer_size=20, learning_starts=5, batch_size=4).learn(10)
    assert one.policy.normalizer is None
    one.save(tmp_path / "model")
    assert RFMFlow.load(tmp_path / "model").policy.normalizer is None
    rewards_alone = VecNormalize(DummyVecEnv([Bandit]), norm_obs=False)
    assert RFMFlow("MlpPolicy", rewards_alone, buffer_size=20).policy.normalizer is not None
