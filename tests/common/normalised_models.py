"""Small models that normalise observations, and the statistics that they should have."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from environments import Bandit, observations

import sb3_rfm
from sb3_rfm.common.observations import PRIOR_STEPS

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
    """A model of one class, as small as it can be."""
    own = SAC_SETTINGS if name == "SAC" else FLOW_SETTINGS
    settings = {**SETTINGS, **own, **changes}
    return getattr(sb3_rfm, name)(policy, Bandit() if env is None else env, **settings)


def actions(model: Any) -> np.ndarray:
    """What a model does at draws of its observation space."""
    return model.predict(observations(model), deterministic=True)[0]


def statistics(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of observations (n, F) and of 1000 more of mean 0 and variance 1."""
    total = PRIOR_STEPS + len(seen)
    mean = seen.sum(0) / total
    return mean, (PRIOR_STEPS + np.square(seen).sum(0)) / total - np.square(mean)


class Far(gym.ObservationWrapper):
    """Observations a thousand away from zero."""

    def observation(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {key: part + 1000 for key, part in observation.items()}
        return observation + 1000
