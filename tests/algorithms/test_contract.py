"""
Promises of Stable-Baselines3 that its own tests (``make conformance``) do not ask for, for every
class.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from environments import Bandit, observations
from rows import ROWS, WITHOUT_PARTICLES, WITHOUT_TEMPERATURE
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import sb3_rfm
from sb3_rfm.common import critic_losses
from sb3_rfm.experiments.hyperparams import merged

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16]},
    "buffer_size": 200,
    "learning_starts": 8,
    "batch_size": 4,
    "seed": 0,
    "device": "cpu",
}
SAC: dict[str, Any] = {**SMALL, "n_candidates": 2, "n_eval_candidates": 3}
GROUPED: dict[str, Any] = {
    **SMALL,
    "candidates": {"n": 2, "evaluate": 3, "train": 2},
    "estimator": {"n_particles": 4},
    "flow": {"steps": 2},
    "temperature": "auto_0.5",
}
LIKE_SAC = ("SAC", "LSAC")
each_class = pytest.mark.parametrize("name", [*ROWS, *LIKE_SAC])
each_with_groups = pytest.mark.parametrize("name", ROWS)


def small(name: str, env: Any = None, policy: str = "MlpPolicy", **changes: Any) -> Any:
    algorithm, env = getattr(sb3_rfm, name), Bandit() if env is None else env
    settings = dict(SAC if name in LIKE_SAC else GROUPED)
    if name in WITHOUT_PARTICLES:
        del settings["estimator"]  # refused: an object with its own particles, or no estimator
    if name in WITHOUT_TEMPERATURE:
        del settings["temperature"]  # likewise: nothing uses it
    return algorithm(policy, env, **merged(settings, changes))


def actions(model: Any) -> np.ndarray:
    return model.predict(observations(model, 5), deterministic=True)[0]


def optimizers(model: Any) -> dict[str, th.optim.Optimizer]:
    """Found in the model, not by the list of what is saved."""
    found = {"actor": model.actor.optimizer, "critic": model.critic.optimizer}
    if hasattr(model, "ent_coef_optimizer"):
        return {**found, "temperature": model.ent_coef_optimizer}
    return found


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return th.equal(one, two) if isinstance(one, th.Tensor) else one == two


@each_class
def test_every_optimizer_and_every_counter_survives_saving(name: str, tmp_path: Path) -> None:
    model = small(name).learn(20)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=Bandit())
    for part, optimizer in optimizers(model).items():
        state = optimizer.state_dict()
        moments = [v["exp_avg"] for v in state["state"].values()]
        assert any(bool((m != 0).any()) for m in moments), part
        assert equal(state, optimizers(loaded)[part].state_dict()), part
        owned = [id(p) for group in optimizers(loaded)[part].param_groups for p in group["params"]]
        assert {id(p) for p in loaded.policy.parameters()} >= set(owned) or part == "temperature"
    counters = ("num_timesteps", "_n_updates", "_episode_num")
    before = [getattr(model, counter) for counter in counters]
    assert min(before) > 0
    assert [getattr(loaded, counter) for counter in counters] == before
    loaded.learn(12, reset_num_timesteps=False)
    assert loaded.num_timesteps == before[0] + 12
    assert loaded._n_updates > before[1]
    assert loaded._episode_num > before[2]


class Altered:
    """A replay buffer whose samples have some fields replaced."""

    def __init__(self, buffer: Any, **fields: float) -> None:
        self.buffer, self.fields, self.envs = buffer, fields, []

    def sample(self, batch_size: int, env: Any = None) -> Any:
        self.envs.append(env)
        data = self.buffer.sample(batch_size, env=env)
        new = {key: th.full_like(data.rewards, value) for key, value in self.fields.items()}
        self.last = data._replace(**new)
        return self.last


@each_with_groups
@pytest.mark.parametrize(
    "fields",
    [{"dones": 0.0}, {"discounts": 0.9, "dones": 0.0}, {"dones": 1.0}],
    ids=["n-step returns", "other discounts", "terminated"],
)
def test_the_target_takes_the_samples_discounts(
    name: str, fields: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every state is worth 1, the target is reward + discount, or the reward alone."""
    model = small(name, Bandit(length=50), n_steps=3, gamma=0.5).learn(16)
    value = th.ones(SMALL["batch_size"])
    monkeypatch.setattr(critic_losses, "next_value", lambda *_: (value, {}))
    model.replay_buffer = Altered(model.replay_buffer, **fields)
    model.gamma = 123.0  # the buffer's discounts hold the gamma of the construction
    np.random.seed(0)  # noqa: NPY002  (SB3's buffers draw from it)
    model.train(1, SMALL["batch_size"])
    data = model.replay_buffer.last
    assert bool((data.discounts < 1).all())
    values = (1 - data.dones) * data.discounts
    expected = (model.critic_update.reward_scale * data.rewards + values).mean().item()
    assert model.logger.name_to_value["rfm/q_target"] == pytest.approx(expected, abs=1e-5)


@each_class
@pytest.mark.parametrize("handled", [True, False])
def test_truncated_episodes_are_bootstrapped(name: str, handled: bool) -> None:
    env = gym.wrappers.TimeLimit(Bandit(length=50), 2)
    kwargs = {"replay_buffer_kwargs": {"handle_timeout_termination": handled}}
    model = small(name, env, **kwargs, learning_starts=10**6).learn(40)
    dones = model.replay_buffer.sample(64).dones
    assert bool(dones.any()) == (not handled)


@each_class
def test_vecnormalize_is_applied_to_what_is_sampled(name: str) -> None:
    env = VecNormalize(make_vec_env(Bandit, n_envs=1))
    model = small(name, env).learn(12)
    assert model._vec_normalize_env is env
    spy = Altered(model.replay_buffer)
    model.replay_buffer = spy
    seen: list[th.Tensor] = []
    model.critic.features_extractor.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    env.obs_rms.mean += 100.0
    model.train(1, 4)
    assert spy.envs == [env]
    assert seen
    assert all(bool((obs <= -env.clip_obs + 1e-3).all()) for obs in seen)


@each_class
def test_set_parameters_exact_and_in_part(name: str) -> None:
    model, other = small(name, seed=1), small(name, seed=2)
    source = other.get_parameters()
    assert not np.array_equal(actions(model), actions(other))
    partial = {"policy": source["policy"]}
    before = model.get_parameters()["policy"]
    before = {key: value.clone() for key, value in before.items()}
    with pytest.raises(ValueError, match="do not match"):
        model.set_parameters(partial, exact_match=True)
    # not the critic's, which the state dict holds twice: as the policy's and as the actor's
    own = (k for k in before if k.startswith("actor.") and "critic" not in k)
    key = next(k for k in own if k.endswith("weight"))
    short = {name: value for name, value in source["policy"].items() if name != key}
    with pytest.raises(RuntimeError, match="Missing key"):
        model.set_parameters({**source, "policy": short}, exact_match=True)
    with pytest.raises(ValueError, match="nonsense"):
        model.set_parameters({**source, "nonsense": {}}, exact_match=False)
    model = small(name, seed=1)
    model.set_parameters({"policy": short}, exact_match=False)
    after = model.get_parameters()["policy"]
    assert th.equal(after[key], before[key])
    assert all(th.equal(after[other_key], source["policy"][other_key]) for other_key in short)
    model.set_parameters(source, exact_match=True)
    assert np.array_equal(actions(model), actions(other))


@each_class
def test_a_policy_saved_alone_predicts_the_same(name: str, tmp_path: Path) -> None:
    model = small(name).learn(12)
    model.policy.save(tmp_path / "policy")
    loaded = type(model.policy).load(tmp_path / "policy")
    assert np.array_equal(
        loaded.predict(observations(model, 5), deterministic=True)[0], actions(model)
    )


@pytest.mark.parametrize("name", ["RFMFlow", "RFMDiffusion", "FlowRL", "SAC"])
@pytest.mark.parametrize(
    ("policy", "observation"),
    [("MultiInputPolicy", "dict"), ("CnnPolicy", "image"), ("MlpPolicy", "float64")],
)
@pytest.mark.parametrize("share", [False, True])
def test_saving_with_other_observations(
    name: str, policy: str, observation: str, share: bool, tmp_path: Path
) -> None:
    kwargs: dict[str, Any] = {"net_arch": [16], "share_features_extractor": share}
    if policy == "CnnPolicy":
        kwargs["features_extractor_kwargs"] = {"features_dim": 8}
    env = Bandit(observation=observation)
    model = small(name, env, policy, policy_kwargs=kwargs, buffer_size=20).learn(12)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=Bandit(observation=observation))
    assert np.array_equal(actions(model), actions(loaded))
    extractors = (loaded.actor.features_extractor, loaded.critic.features_extractor)
    assert (extractors[0] is extractors[1]) == share
    assert loaded.learn(12).num_timesteps == 12
