"""The models that ``speed.py`` times, and its stopwatch."""

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import sb3_rfm
from sb3_rfm import AUTHORS
from sb3_rfm.experiments.hyperparams import merged

WARM_UP = 300  # steps before anything is timed: a batch has to be full
ALGORITHMS: dict[str, Callable[..., OffPolicyAlgorithm]] = {
    "SAC": SAC,
    "TD3": TD3,
    "TQC": TQC,
    "CrossQ": CrossQ,
    "RFMFlow": sb3_rfm.RFMFlow,
    "SAC, same critic": sb3_rfm.SAC,
    "RFMFlow, delay 3": sb3_rfm.RFMFlow,
    "RFMFlow, one step": sb3_rfm.RFMFlow,
    "RFMFlow, full": sb3_rfm.RFMFlow,
    "RFMDiffusion": sb3_rfm.RFMDiffusion,
    "QSM": sb3_rfm.QSM,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "SAC, same critic": {  # as RFMFlow's, and what it reads
        "policy_kwargs": {"critic_kwargs": {"layer_norm": True}, "normalize_observations": True}
    },
    "RFMFlow, delay 3": {"actor_update": {"every": 3}},
    "RFMFlow, one step": {"flow": {"one_step": True, "steps": 8, "time_shift": 4.0}},
    "RFMFlow, full": {  # the defaults before they were chosen by return a minute
        "estimator": {"name": "bounded", "n_times": 1, "n_particles": 16},
        "flow": {"steps": 4},
        "candidates": {"n": 4},
    },
    "RFMFlow, authors' settings": AUTHORS,
}
SLOW: dict[str, Callable[..., OffPolicyAlgorithm]] = {  # timed over a twentieth of the steps
    "RFMFlow, authors' settings": sb3_rfm.RFMFlow,
    **{n: getattr(sb3_rfm, n) for n in ("QNE", "DQS", "SDAC", "QVPO", "IDEM", "DPMD")},
    **{n: getattr(sb3_rfm, n) for n in ("FLAME", "FLAME_M", "FPMD", "FPMD_M", "ORWCFM")},
    **{n: getattr(sb3_rfm, n) for n in ("DACER", "DACERv2", "FlowRL")},
}


class Blank(gym.Env[np.ndarray, np.ndarray]):
    """Observations and rewards that are always zero, for actions of any dimension."""

    def __init__(self, action_dim: int) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (17,))
        self.action_space = gym.spaces.Box(-1, 1, (action_dim,))

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(17, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(17, np.float32), 0.0, False, False, {}


def make(name: str, **changes: Any) -> OffPolicyAlgorithm:
    """
    A model whose buffer holds a batch; ``width`` is that of both layers of all networks,
    ``action_dim`` that of a blank environment in cheetah's place. The other changes are groups, or
    settings by paths such as ``flow.steps``.
    """
    width, action_dim = changes.pop("width", 256), changes.pop("action_dim", None)
    own = SETTINGS.get(name, {})
    settings = {
        **own,
        "learning_starts": WARM_UP - 20,
        "buffer_size": 10_000,
        "batch_size": 256,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"net_arch": [width, width], **own.get("policy_kwargs", {})},
    }
    env = sb3_rfm.make_dmc("cheetah-run", seed=0) if action_dim is None else Blank(action_dim)
    algorithm = {**ALGORITHMS, **SLOW}[name]
    return algorithm("MlpPolicy", env, **merged(settings, changes)).learn(WARM_UP)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
