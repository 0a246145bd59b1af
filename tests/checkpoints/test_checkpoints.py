"""Checkpoints: training goes on bit for bit."""

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from pendulums import ARGUMENTS, SMALL, N, assert_equal, pendulum, transformed
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from sb3_rfm import LSAC, QVPO, SAC, CheckpointEverything, RFMDiffusion, RFMFlow, load_checkpoint
from sb3_rfm.checkpoints.callback import save_checkpoint
from sb3_rfm.checkpoints.manifest import latest_checkpoint, read_manifest
from sb3_rfm.envs import make_dmc

NORMALISED = {"policy_kwargs": {"net_arch": [16], "normalize_observations": True}}


def normalised(folder: Path) -> VecEnv:
    env = make_vec_env(pendulum, 2, seed=5, monitor_dir=str(folder / "monitor"))
    return VecNormalize(env)


CASES: dict[str, tuple[type[OffPolicyAlgorithm], Callable[[Path], Any], dict[str, Any]]] = {
    "flow": (RFMFlow, lambda folder: pendulum(), SMALL),
    "diffusion, n-step": (RFMDiffusion, lambda folder: pendulum(), {**SMALL, "n_steps": 3}),
    "averaged policy": (
        RFMFlow,
        transformed,
        {**SMALL, "actor_update": {"average": 0.1}, "temperature": "auto"},
    ),
    "VecNormalize": (RFMFlow, normalised, {**SMALL, "train_freq": 3, "actor_update": {"every": 3}}),
    "normalised observations": (RFMFlow, transformed, {**SMALL, **NORMALISED, "train_freq": 3}),
    "SAC, normalised observations": (SAC, lambda folder: pendulum(), NORMALISED),
    "LSAC, noise in the critics": (
        LSAC,
        lambda folder: pendulum(),
        {"policy_kwargs": {"net_arch": [16], "critic_optimizer_kwargs": {"noise": 0.01}}},
    ),
    "memory-efficient": (
        RFMFlow,
        lambda folder: pendulum(),
        {
            **SMALL,
            "optimize_memory_usage": True,
            "replay_buffer_kwargs": {"handle_timeout_termination": False},
        },
    ),
    "QVPO by episodes": (
        QVPO,
        lambda folder: pendulum(),
        {
            "candidates": {"n": 3},
            "flow": {"steps": 2},
            "train_freq": (1, "episode"),
            "gradient_steps": 5,
        },
    ),
    "SAC with noise": (
        SAC,
        lambda folder: pendulum(),
        {"action_noise": NormalActionNoise(np.zeros(1), np.full(1, 0.1))},
    ),
    "DeepMind Control": (RFMFlow, lambda folder: make_dmc("cartpole-swingup"), SMALL),
    "MuJoCo": (RFMFlow, lambda folder: gym.make("InvertedPendulum-v5"), SMALL),
}


class BreakOff(BaseCallback):
    """Ends training in the midst of a rollout."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def _on_step(self) -> bool:
        return self.num_timesteps < self.steps


def everything(model: OffPolicyAlgorithm) -> dict[str, Any]:
    """What two runs have to have in common."""
    buffer = model.replay_buffer
    assert buffer is not None
    optimizers = [model.actor.optimizer, model.critic.optimizer]
    return {
        "parameters": model.policy.state_dict(),
        "optimizers": [optimizer.state_dict()["state"] for optimizer in optimizers],
        "buffer": {k: v for k, v in vars(buffer).items() if isinstance(v, np.ndarray | int)},
        "observation": model._last_obs,
        "counters": (model.num_timesteps, model._n_updates, model._episode_num),
        "returns": [info["r"] for info in model.ep_info_buffer],
        "draws": (th.rand(3), random.random(), model.action_space.sample()),
        "numpy": np.random.rand(3),  # noqa: NPY002
        "env": model.env.step(np.zeros((model.n_envs, *model.action_space.shape)))[:3],
    }


def scramble() -> None:
    """Leave nothing to chance: other random numbers than those of the run."""
    th.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)


@pytest.mark.filterwarnings("ignore:The critics diverge")  # 140 steps are few
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_goes_on_is_the_unbroken_run(case: str, tmp_path: Path) -> None:
    algorithm, make_env, changes = CASES[case]
    arguments = {**ARGUMENTS, **changes}
    whole = algorithm("MlpPolicy", make_env(tmp_path / "a"), **arguments).learn(2 * N)
    expected = everything(whole)

    scramble()
    broken = algorithm("MlpPolicy", make_env(tmp_path / "b"), **arguments)
    checkpoints = CheckpointEverything(N // 2, tmp_path / "checkpoints")
    broken.learn(2 * N, callback=[checkpoints, BreakOff(N + 13)])
    scramble()
    model = load_checkpoint(algorithm, checkpoints.path, make_env(tmp_path / "c"))
    assert read_manifest(latest_checkpoint(checkpoints.path))["environment"] == "saved"
    assert N // 2 <= model.num_timesteps < N + 13
    model.learn(2 * N - model.num_timesteps, reset_num_timesteps=False)
    assert_equal(everything(model), expected)


def test_it_goes_on_in_a_new_process(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
import torch as th
from test_checkpoints import *
model = load_checkpoint(RFMFlow, {str(tmp_path)!r}, pendulum(), "cpu")
model.learn(N, reset_num_timesteps=False)
th.save(model.policy.state_dict(), {str(tmp_path / "policy.pt")!r})
"""
    arguments = {**ARGUMENTS, **SMALL}
    whole = RFMFlow("MlpPolicy", pendulum(), **arguments).learn(2 * N)
    half = RFMFlow("MlpPolicy", pendulum(), **arguments)
    half.learn(N, callback=CheckpointEverything(1000, tmp_path))  # the end of training is saved
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert_equal(dict(th.load(tmp_path / "policy.pt")), dict(whole.policy.state_dict()))


def test_the_environment_that_was_given_is_the_one_that_goes_on(tmp_path: Path) -> None:
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL}).learn(30)
    save_checkpoint(model, tmp_path)
    given = Monitor(transformed(tmp_path))
    with pytest.raises(ValueError, match=r"env must be built as the saved one: .*got"):
        load_checkpoint(RFMFlow, tmp_path, given)
    given = pendulum()
    load_checkpoint(RFMFlow, tmp_path, given)
    state = model.env.envs[0].unwrapped.state  # type: ignore[union-attr]
    assert np.array_equal(given.unwrapped.state, state)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["processes", "lock"])
def test_an_environment_that_cannot_be_saved_begins_a_new_episode(
    kind: str, tmp_path: Path
) -> None:
    def make_env() -> VecEnv:
        if kind == "processes":
            return VecNormalize(make_vec_env(pendulum, 2, vec_env_cls=SubprocVecEnv))
        env = make_vec_env(pendulum, 2)
        env.envs[0].unwrapped.lock = threading.Lock()
        return VecNormalize(env)

    first = RFMFlow("MlpPolicy", make_env(), **{**ARGUMENTS, **SMALL}, n_steps=3).learn(60)
    save_checkpoint(first, tmp_path)
    reason = read_manifest(latest_checkpoint(tmp_path))["environment"]
    assert reason.startswith("not saved: ")
    assert ("other processes" if kind == "processes" else "lock") in reason
    model = load_checkpoint(RFMFlow, tmp_path, make_env())
    saved, restored = (m.get_vec_normalize_env().obs_rms for m in (first, model))
    assert_equal(vars(restored), vars(saved))
    buffer = model.replay_buffer
    assert buffer.timeouts[buffer.pos - 1].all()
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == 70
    for one in (first, model):
        one.env.close()


def test_as_many_are_kept_as_asked_for(tmp_path: Path, capsys: Any) -> None:
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    model.learn(40, callback=CheckpointEverything(10, tmp_path, keep=3, verbose=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_20", "step_30", "step_40"]
    assert f"Saved {tmp_path / 'step_10'}" in capsys.readouterr().out
