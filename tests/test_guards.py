"""Numbers that are not finite are named or left out; critics that diverge are reported."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from environments import Bandit
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_rfm import QSM, SAC, RFMFlow
from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.guards import NonFiniteError


class Broken(gym.Wrapper):
    """At one step something is not finite."""

    def __init__(self, env: gym.Env, at: int, what: str, value: float = np.nan) -> None:
        super().__init__(env)
        self.at, self.what, self.value, self.n_steps = at, what, value, 0
        self.seen: list[np.ndarray] = []

    def step(self, action: Any) -> Any:
        assert np.isfinite(action).all()
        obs, reward, *rest = self.env.step(action)
        self.n_steps += 1
        if self.n_steps == self.at:
            if self.what == "reward":
                reward = self.value
            elif isinstance(obs, dict):
                obs = {**obs, "b": np.full_like(obs["b"], self.value)}
            else:
                obs = obs.copy()
                obs[1] = self.value
        return obs, reward, *rest


def model(
    what: str, at: int = 130, value: float = np.nan, observation: str = "vector", **changes: Any
) -> BoltzmannAlgorithm:
    policy = "MultiInputPolicy" if observation == "dict" else "MlpPolicy"
    settings: dict[str, Any] = {
        "learning_starts": 100,
        "batch_size": 16,
        "buffer_size": 500,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"net_arch": [8]},
        **changes,
    }
    env = Broken(Bandit(observation=observation, length=10), at, what, value)
    return RFMFlow(policy, env, **settings)


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


def test_skip_with_vec_normalize() -> None:
    env = DummyVecEnv([lambda: Broken(Bandit(length=10), 125, "reward")])
    one = RFMFlow(
        "MlpPolicy", VecNormalize(env, norm_obs=True, norm_reward=False), on_nan="skip",
        learning_starts=100, batch_size=16, buffer_size=500, policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    one.learn(200)
    assert one.n_skipped == 1


@pytest.mark.parametrize("algorithm", [RFMFlow, QSM])
def test_update_that_is_not_finite(algorithm: type[BoltzmannAlgorithm]) -> None:
    """A critic's weight overflows: named, or the update is left out and the weights stay."""
    for on_nan in ("raise", "skip"):
        one = algorithm(
            "MlpPolicy", Bandit(), learning_starts=50, batch_size=16, on_nan=on_nan,
            buffer_size=500, policy_kwargs={"net_arch": [8]}, bfloat16=False,
        )  # fmt: skip
        one.learn(60)
        for target in one.critic_target.q_networks:
            target[-1].bias.data.fill_(th.inf)
        before = [p.clone() for p in one.policy.parameters()]
        if on_nan == "raise":
            with pytest.raises(NonFiniteError, match=r"is (nan|inf) at update \d+, step \d+"):
                one.learn(10, reset_num_timesteps=False)
            continue
        one.replay_buffer.dones[:] = 0  # every target bootstraps
        one.learner.update_critic(one.replay_buffer.sample(16), 0.99)
        pairs = zip(before, one.policy.parameters(), strict=True)
        assert all(th.equal(a, b) for a, b in pairs)


def sac(what: str, **changes: Any) -> SAC:
    env = Broken(Bandit(length=10), 130 if what else 10**9, what)
    settings: dict[str, Any] = {"learning_starts": 100, "batch_size": 16, "buffer_size": 500}
    return SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **settings, **changes)


def test_sac_is_guarded_too(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"^reward\[0\] is nan at step 130 "):
        sac("reward").learn(200)
    one = sac("observation", on_nan="skip").learn(200)
    assert one.n_skipped == one.logger.name_to_value["rfm/n_skipped"] == 1  # it ended an episode
    one.save(tmp_path / "model")
    assert SAC.load(tmp_path / "model").on_nan == "skip"


@pytest.mark.parametrize("on_nan", ["raise", "skip"])
def test_sacs_own_update_that_is_not_finite_is_an_error(on_nan: str) -> None:
    one = sac("", on_nan=on_nan)
    one.learn(150)
    for target in one.critic_target.q_networks:
        target[-1].bias.data.fill_(th.inf)
    with pytest.raises(NonFiniteError, match=r"train/critic_loss is (nan|inf) at update 5\d"):
        one.learn(10, reset_num_timesteps=False)


def test_diverging_critics_are_reported_once() -> None:
    one = model("reward", at=10**9, gamma=0.9)
    one.learn(150)
    assert 0 <= one.logger.name_to_value["rfm/q_over_bound"] < 2
    for critic in (*one.critic.q_networks, *one.critic_target.q_networks):
        critic[-1].bias.data.fill_(1e4)
    with pytest.warns(UserWarning, match="critics diverge") as caught:
        one.learn(20, reset_num_timesteps=False)
    assert len([w for w in caught if "diverge" in str(w.message)]) == 1


@pytest.mark.parametrize("wrong", ["ignore", None, True])
def test_on_nan_is_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match="on_nan"):
        model("reward", on_nan=wrong)
    with pytest.raises(ValueError, match="on_nan"):
        sac("reward", on_nan=wrong)
