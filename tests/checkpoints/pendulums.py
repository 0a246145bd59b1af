"""Short runs on a pendulum, and whether two of them are the same bit for bit."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

N = 70
"""Steps of each half of a run: a Pendulum's episode of 50 steps ends within both."""
ARGUMENTS: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 16,
    "buffer_size": 100,  # full in the second half
    "policy_kwargs": {"net_arch": [16]},
    "seed": 3,
    "device": "cpu",
}
SMALL: dict[str, Any] = {
    "estimator": {"n_particles": 4},
    "candidates": {"n": 3},
    "flow": {"steps": 2},
}


def pendulum() -> gym.Env:
    """Whose episodes end after 50 steps."""
    return gym.make("Pendulum-v1", max_episode_steps=50)


def transformed(folder: Path) -> gym.Env:
    """A pendulum in a wrapper whose function holds the environment in its closure."""
    return gym.wrappers.FlattenObservation(gym.wrappers.NormalizeReward(pendulum()))


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    """Bit for bit, through dictionaries and sequences."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{path}/{index}")
    else:
        assert np.array_equal(np.asarray(a), np.asarray(b)), path
