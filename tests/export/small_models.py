"""Small models of each algorithm, what they do and what they hold."""

from typing import Any

import numpy as np
import torch as th
from environments import Bandit, observations
from gymnasium import spaces
from rows import ROWS, WITHOUT_PARTICLES

import sb3_rfm
from sb3_rfm.experiments.hyperparams import merged

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16]},
    "buffer_size": 50,
    "seed": 0,
    "device": "cpu",
}
SAMPLING: dict[str, Any] = {
    "flow": {"steps": 2},
    "estimator": {"n_particles": 4},
    "candidates": {"n": 2, "evaluate": 6},
}
LIKE_SAC = ("SAC", "LSAC")
NAMES = (*ROWS, *LIKE_SAC)


def small(name: str = "RFMFlow", env: Any = None, policy: str = "MlpPolicy", **changes: Any) -> Any:
    """A model of one algorithm, as small as it can be."""
    few = {"n_candidates": 2, "n_eval_candidates": 6}
    sampling = few if name in LIKE_SAC else dict(SAMPLING)
    if name in WITHOUT_PARTICLES:
        del sampling["estimator"]
    settings = merged({**SMALL, **sampling}, changes)
    return getattr(sb3_rfm, name)(policy, Bandit() if env is None else env, **settings)


def actions(model: Any) -> np.ndarray:
    """What a model does at draws of its observation space."""
    return model.predict(observations(model), deterministic=True)[0]


def state(model: Any) -> dict[str, th.Tensor]:
    """All parameters and buffers, as copies."""
    return {key: value.clone() for key, value in model.policy.state_dict().items()}


def same(one: dict[str, th.Tensor], two: dict[str, th.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(th.equal(one[key], two[key]) for key in one)


BOXES = {
    "no axis": spaces.Box(-1, 1, (), np.float32),
    "matrix": spaces.Box(-1, 3, (2, 3), np.float32),
    "float16": spaces.Box(-1, 1, (2,), np.float16),
    "float16, no axis": spaces.Box(-1, 1, (), np.float16),
    "float64, no axis": spaces.Box(0, 5, (), np.float64),
    "far away": spaces.Box(1e6, 1e6 + 1e-3, (2,), np.float64),
    "tiny": spaces.Box(-1e-30, 1e-30, (2,), np.float32),
    "huge": spaces.Box(-1e30, 1e30, (2,), np.float32),
    "of two sizes": spaces.Box(np.float32([-1e-3, 10]), np.float32([1e-3, 1e4])),
}


class AnyBox(Bandit):
    """Takes actions as Stable-Baselines3 sends them: float32 for a Box of float16."""

    def step(self, action: np.ndarray) -> Any:
        space = self.action_space
        assert action.shape == space.shape
        assert (space.low <= action).all()
        assert (action <= space.high).all()
        return self._observation(), 0.0, True, False, {}
