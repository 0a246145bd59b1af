"""Environments of which some number is not finite, and models that train there."""

from typing import Any

import gymnasium as gym
import numpy as np
from environments import Bandit
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_rfm import SAC, RFMFlow
from sb3_rfm.common.algorithm import FlowActorCritic


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
) -> FlowActorCritic:
    """A model of an environment that breaks at one step."""
    policy = "MultiInputPolicy" if observation == "dict" else "MlpPolicy"
    settings: dict[str, Any] = {
        "learning_starts": 100,
        "batch_size": 16,
        "buffer_size": 500,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"net_arch": [8]},
        "actor_update": {"every": 10},
        **changes,
    }
    env = Broken(Bandit(observation=observation, length=10), at, what, value)
    return RFMFlow(policy, env, **settings)


class Source(gym.Env):
    """
    Observations around a thousand; at some steps one number is wrong.

    :param wrong: step, of all episodes together (0 is the first reset) -> (what, value)
    :param observation: "vector" or "dict"
    """

    def __init__(self, wrong: dict[int, tuple[str, float]], observation: str = "vector") -> None:
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        is_dict = observation == "dict"
        self.observation_space = spaces.Dict({"a": box, "b": box}) if is_dict else box
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.wrong, self.total = wrong, 0

    def observe(self) -> Any:
        what, value = self.wrong.get(self.total, ("", 0.0))
        obs = self.np_random.normal(1000.0, 3.0, 2).astype(np.float32)
        if what == "observation":
            obs[1] = value
        if isinstance(self.observation_space, spaces.Dict):
            return {"a": np.float32([self.total, 0.0]), "b": obs}
        return obs

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.t, self.total = self.t + 1, self.total + 1
        what, value = self.wrong.get(self.total, ("", 0.0))
        reward = value if what == "reward" else float(self.np_random.normal(5.0))
        return self.observe(), reward, False, self.t >= 10, {}


def sources(*wrong: Any, observation: str = "vector") -> DummyVecEnv:
    """Environments side by side, each with what is wrong in it."""
    return DummyVecEnv([lambda w=w: Source(w, observation) for w in wrong])


def watched_by(env: VecEnv, algorithm: Any = RFMFlow, **changes: Any) -> Any:
    """A model that only collects, and does not learn."""
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    settings = {"learning_starts": 10**6, "buffer_size": 500, "seed": 0, "device": "cpu"}
    return algorithm(policy, env, **settings, policy_kwargs={"net_arch": [8]}, **changes)


def sac(what: str, **changes: Any) -> SAC:
    """SAC where something breaks at step 130, or nothing ever."""
    env = Broken(Bandit(length=10), 130 if what else 10**9, what)
    settings: dict[str, Any] = {"learning_starts": 100, "batch_size": 16, "buffer_size": 500}
    return SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **settings, **changes)
