"""Observations normalised inside the policy."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from environments import Bandit, Reach, observations
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_rfm
from sb3_rfm import RFMFlow
from sb3_rfm.common.observations import (
    CLIP,
    EPSILON,
    PRIOR_STEPS,
    ObservationNormalizer,
    make_normalizer,
)
from sb3_rfm.export import weights

ON: dict[str, Any] = {"net_arch": [16], "normalize_observations": True}
OFF: dict[str, Any] = {"net_arch": [16], "normalize_observations": False}
SETTINGS: dict[str, Any] = {
    "policy_kwargs": ON,
    "buffer_size": 200,
    "learning_starts": 8,
    "batch_size": 4,
    "seed": 0,
    "device": "cpu",
}
SAC_SETTINGS: dict[str, Any] = {"n_candidates": 2, "n_eval_candidates": 3}
FLOW_SETTINGS: dict[str, Any] = {
    "candidates": {"n": 2, "train": 2, "evaluate": 3},
    "estimator": {"n_particles": 4},
    "flow": {"steps": 2},
}
each_class = pytest.mark.parametrize("name", ["RFMFlow", "RFMDiffusion", "QNE", "SAC"])
each_shell = pytest.mark.parametrize("name", ["RFMFlow", "SAC"])
"""The two that collect transitions and build policies each in their own way."""


def small(name: str = "RFMFlow", env: Any = None, policy: str = "MlpPolicy", **changes: Any) -> Any:
    own = SAC_SETTINGS if name == "SAC" else FLOW_SETTINGS
    settings = {**SETTINGS, **own, **changes}
    return getattr(sb3_rfm, name)(policy, Bandit() if env is None else env, **settings)


def actions(model: Any) -> np.ndarray:
    return model.predict(observations(model), deterministic=True)[0]


def box(*shape: int, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(-100, 100, shape, dtype)


def statistics(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of observations (n, F) and of 1000 more of mean 0 and variance 1."""
    total = PRIOR_STEPS + len(seen)
    mean = seen.sum(0) / total
    return mean, (PRIOR_STEPS + np.square(seen).sum(0)) / total - np.square(mean)


def fed(normalizer: ObservationNormalizer, obs: np.ndarray, size: int) -> ObservationNormalizer:
    for start in range(0, len(obs), size):
        normalizer.update(obs[start : start + size])
    return normalizer


# The statistics


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_statistics_are_those_of_all_that_was_seen(size: int) -> None:
    seen = np.random.default_rng(0).normal([-1, 0, 5], [0.01, 1, 30], (5000, 3)).astype(np.float32)
    normalizer = fed(ObservationNormalizer(box(3)), seen, size)
    count, mean, variance = normalizer.statistics.numpy()
    expected = statistics(seen.astype(np.float64))
    assert count == pytest.approx(6000)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(variance, expected[1], rtol=1e-10)
    np.testing.assert_allclose(normalizer.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(normalizer.scale, 1 / np.sqrt(variance + EPSILON), rtol=1e-6)


def test_small_changes_about_a_large_value_are_not_lost() -> None:
    """After a million steps a mean of 1e4 in float32 would stay where it is."""
    normalizer = ObservationNormalizer(box(1))
    normalizer.statistics.copy_(th.tensor([[1e6], [1e4], [1.0]], dtype=th.float64))
    for _ in range(100):
        normalizer.update(np.full((1, 1), 10_001.0, np.float32))
    assert normalizer.statistics[1].item() == pytest.approx(1e4 + 1e-4, abs=1e-8)


def test_observations_that_are_not_finite_are_left_out() -> None:
    normalizer, other = ObservationNormalizer(box(2)), ObservationNormalizer(box(2))
    normalizer.update(np.array([[1.0, 2.0], [np.nan, 0.0], [0.0, np.inf], [3.0, -1.0]]))
    normalizer.update(np.full((2, 2), -np.inf))
    other.update(np.array([[1.0, 2.0], [3.0, -1.0]]))
    assert th.equal(normalizer.statistics, other.statistics)
    assert th.equal(normalizer.mean, other.mean)


@pytest.mark.parametrize(
    "space",
    [
        box(3),
        box(2, 2),
        box(2, 3, 2),
        box(3, dtype=np.float64),
        box(3, dtype=np.int32),
        spaces.Box(0, 255, (4,), np.uint8),
    ],
    ids=str,
)
def test_each_number_is_normalised_and_clipped(space: spaces.Box) -> None:
    space.seed(0)
    obs = np.stack([space.sample() for _ in range(50)])
    normalizer = ObservationNormalizer(space)
    for _ in range(100):
        normalizer.update(obs)
    got = normalizer(th.as_tensor(obs))
    assert got.shape == obs.shape
    mean, variance = (row.reshape(space.shape) for row in normalizer.statistics[1:].numpy())
    assert np.allclose(got, (obs - mean) / np.sqrt(variance), atol=1e-4)
    far = np.full((1, *space.shape), np.iinfo(space.dtype).max if space.dtype.kind == "i" else 1e6)
    if space.dtype != np.uint8:
        assert bool((normalizer(th.as_tensor(far.astype(space.dtype))) == CLIP).all())


MIXED = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
        "vector.with.dots": box(2),
        "matrix": box(2, 2),
        "choice": spaces.Discrete(3),
        "choices": spaces.MultiDiscrete([2, 3]),
        "bits": spaces.MultiBinary(4),
    }
)


def test_images_and_choices_stay_as_they_are() -> None:
    MIXED.seed(0)
    draws = [MIXED.sample() for _ in range(20)]
    obs = {key: np.stack([draw[key] for draw in draws]) for key in MIXED.spaces}
    normalizer = make_normalizer(MIXED, True, True)
    assert normalizer is not None
    normalizer.update(obs)
    tensors = {key: th.as_tensor(part) for key, part in obs.items()}
    got = normalizer(tensors)
    assert list(got) == list(tensors)
    for key in MIXED.spaces:
        changes = key in ("vector.with.dots", "matrix")
        assert changes != th.equal(got[key], tensors[key])
    seen = np.concatenate([obs["matrix"].reshape(20, 4), obs["vector.with.dots"]], 1)
    mean = statistics(seen.astype(np.float64))[0]
    np.testing.assert_allclose(normalizer.statistics[1], mean)  # in the order of the names


@pytest.mark.parametrize(
    "space", [MIXED["image"], spaces.Discrete(3), spaces.Dict({"bits": spaces.MultiBinary(2)})]
)
def test_where_there_is_nothing_to_normalise(space: spaces.Space) -> None:
    assert make_normalizer(space, True, True) is None


def test_images_that_are_not_bytes() -> None:
    image = spaces.Box(0, 1, (3, 36, 36), np.float32)
    assert make_normalizer(image, True, normalize_images=False) is None
    assert make_normalizer(image, True, normalize_images=True) is not None


def test_statistics_stay_with_the_environment() -> None:
    """On the host and in float64, wherever the networks are and in whatever precision."""
    normalizer = ObservationNormalizer(box(3)).to("meta").half()
    assert normalizer.mean.device.type == normalizer.scale.device.type == "meta"
    assert normalizer.mean.dtype == normalizer.scale.dtype == th.float16
    assert normalizer.statistics.device.type == "cpu"
    assert normalizer.statistics.dtype == th.float64
    assert [*normalizer.state_dict()] == ["mean", "scale", "statistics"]


# What training passes on


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
def test_a_loaded_model_is_frozen_until_it_trains(name: str, tmp_path: Path) -> None:
    small(name).learn(20).save(tmp_path / "model")
    loaded = getattr(sb3_rfm, name).load(tmp_path / "model")
    before = copy.deepcopy(loaded.policy.normalizer.state_dict())
    assert before["statistics"][0, 0] == PRIOR_STEPS + 20
    loaded.predict(observations(loaded))
    loaded.policy.set_training_mode(True)
    actions(loaded)
    after = loaded.policy.normalizer.state_dict()
    assert all(th.equal(before[key], after[key]) for key in before)
    loaded.set_env(Bandit())
    loaded.learn(12, reset_num_timesteps=False)
    assert after["statistics"][0, 0] == PRIOR_STEPS + 32


# What the networks see


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


class Far(gym.ObservationWrapper):
    """Observations a thousand away from zero."""

    def observation(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {key: part + 1000 for key, part in observation.items()}
        return observation + 1000


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


# VecNormalize


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


# What is kept


@each_class
def test_the_state_holds_it_once(name: str) -> None:
    model = small(name).learn(20)
    own = [key for key in model.policy.state_dict() if "normalizer" in key]
    assert own == [f"normalizer.{part}" for part in ("mean", "scale", "statistics")]
    assert all(model.policy.state_dict()[key].is_floating_point() for key in own)
    written = weights.tensors(model)
    assert [key for key in written if "normalizer" in key] == [f"policy.{key}" for key in own]
    owners = (model.policy, model.actor, model.critic, model.critic_target)
    assert len({id(owner.normalizer) for owner in owners}) == 1
    owned = {id(t) for t in model.policy.normalizer.buffers()}
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        assert not owned & {id(p) for group in optimizer.param_groups for p in group["params"]}


@each_class
def test_it_comes_back(name: str, tmp_path: Path) -> None:
    model = small(name, Far(Bandit()), seed=1).learn(20)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    model.actor.save(tmp_path / "actor")
    model.save_weights(tmp_path / "weights")
    other = small(name, seed=2)
    addresses = [tensor.data_ptr() for tensor in other.policy.normalizer.buffers()]
    other.set_parameters(tmp_path / "model")
    third = small(name, seed=3)
    third.load_weights(tmp_path / "weights")
    loaded = {
        "model": type(model).load(tmp_path / "model"),
        "policy": type(model.policy).load(tmp_path / "policy"),
        "actor": type(model.actor).load(tmp_path / "actor"),
        "parameters": other,
        "weights": third,
        "copy": copy.deepcopy(model.policy),
    }
    obs = observations(model) + 1000
    expected = model.predict(obs, deterministic=True)[0]
    for how, one in loaded.items():
        assert np.array_equal(one.predict(obs, deterministic=True)[0], expected), how
        normalizer = one.normalizer if how in ("actor", "policy", "copy") else one.actor.normalizer
        assert th.equal(normalizer.statistics, model.policy.normalizer.statistics), how
        assert normalizer is not model.policy.normalizer
    other.learn(12)  # in place: a CUDA graph reads them there
    assert [tensor.data_ptr() for tensor in other.policy.normalizer.buffers()] == addresses


@each_shell
def test_any_state_gives_finite_actions(name: str) -> None:
    model = small(name).learn(12)
    random = {key: th.rand_like(value) for key, value in model.policy.state_dict().items()}
    model.policy.load_state_dict(random)
    assert np.isfinite(actions(model)).all()
    model.policy.normalizer.update(np.ones((1, 3), np.float32))
    assert np.isfinite(actions(model)).all()


@each_shell
def test_weights_with_and_without_do_not_mix(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {True: small(name), False: small(name, policy_kwargs=OFF)}
    for asked, model in models.items():
        model.save_weights(tmp_path / str(asked))
        with pytest.raises(
            ValueError, match=f"normalize_observations: got {asked}, expected {not asked}"
        ):
            models[not asked].load_weights(tmp_path / str(asked))
    monkeypatch.setattr(weights, "describe", without_the_option)
    models[False].save_weights(tmp_path / "earlier")
    monkeypatch.undo()
    models[False].load_weights(tmp_path / "earlier")
    with pytest.raises(ValueError, match="normalize_observations: got False, expected True"):
        models[True].load_weights(tmp_path / "earlier")


def without_the_option(model: Any, describe: Any = weights.describe) -> dict[str, Any]:
    """The header of a file that was written before there was the option."""
    header = describe(model)
    del header["architecture"]["normalize_observations"]
    return header


@pytest.mark.slow
def test_the_graph_for_onnx_normalises(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    model = small()
    model.policy.normalizer.mean.fill_(1000)
    session = runtime.InferenceSession(model.export_onnx(tmp_path / "policy"))
    obs = observations(model) + 1000
    (got,) = session.run(None, {"observation": obs})
    np.testing.assert_allclose(got, model.predict(obs, deterministic=True)[0], atol=1e-4)


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
