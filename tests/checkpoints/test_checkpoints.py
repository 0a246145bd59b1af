"""Checkpoints: training goes on bit for bit, and neither kill, full disk nor damage loses one."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize
from systems import DISK_ERRORS, Disk, be_windows, left_by_writers

from sb3_rfm import QVPO, SAC, CheckpointEverything, RFMDiffusion, RFMFlow, load_checkpoint
from sb3_rfm.checkpoints.callback import save_checkpoint
from sb3_rfm.checkpoints.manifest import (
    LOCK,
    DamagedCheckpoint,
    checkpoints_in,
    is_whole,
    latest_checkpoint,
    read_manifest,
)
from sb3_rfm.envs import make_dmc
from sb3_rfm.utils.files import SUFFIX
from sb3_rfm.utils.locks import FileLock, Locked

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
NORMALISED = {"policy_kwargs": {"net_arch": [16], "normalize_observations": True}}


def pendulum() -> gym.Env:
    return gym.make("Pendulum-v1", max_episode_steps=50)


def normalised(folder: Path) -> VecEnv:
    env = make_vec_env(pendulum, 2, seed=5, monitor_dir=str(folder / "monitor"))
    return VecNormalize(env)


def transformed(folder: Path) -> gym.Env:
    # the observation wrapper's function holds the environment in its closure
    return gym.wrappers.FlattenObservation(gym.wrappers.NormalizeReward(pendulum()))


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


def child(path: Path, learned: Any) -> None:
    """Train with a checkpoint every other step, until killed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if any(path.glob("step_*")):
        model = load_checkpoint(RFMFlow, path, pendulum(), "cpu")
    else:
        model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})

    class Announce(CheckpointEverything):
        def save(self) -> None:
            super().save()
            learned.value = self._last

    model.learn(10**6, callback=Announce(2, path), reset_num_timesteps=False)


def test_no_kill_loses_a_checkpoint(tmp_path: Path) -> None:
    path, rng = tmp_path / "checkpoints", random.Random(0)
    context = multiprocessing.get_context("fork")
    announced, unfinished = context.Value("i", 0), 0
    for _ in range(30):
        before = announced.value
        process = context.Process(target=child, args=(path, announced))
        process.start()
        while announced.value <= before and process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        # the folder that was being written, which may hold a manifest that was
        left = len([each for each in left_by_writers(path) if each.parent == path])
        assert left <= 1  # the next writer has removed what the one before it left
        unfinished += left
        model = load_checkpoint(RFMFlow, path, pendulum(), "cpu")
        assert model.num_timesteps >= announced.value > before
    assert unfinished > 3  # some kills fell into the writing of a checkpoint
    model.learn(1, CheckpointEverything(1, path), reset_num_timesteps=False)
    assert {*path.iterdir()} == {*checkpoints_in(path)}
    assert all(is_whole(checkpoint) for checkpoint in path.iterdir())


def limited(path: Path, size: int) -> None:
    """Train where no file may be longer than so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond fails, as on a full disk
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL, "buffer_size": 10_000})

    class Limit(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 30:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            return True

    class Closed(CheckpointEverything):
        def note(self, error: Exception | None) -> None:
            # Windows removes nothing that is open, and elsewhere it goes on taking up room
            files = [str(file.resolve()) for file in Path("/proc/self/fd").glob("*")]
            assert not [file for file in files if SUFFIX in file]

    with pytest.warns(UserWarning, match="no checkpoint at step 40: .*File too large"):
        model.learn(60, callback=[Closed(20, path), Limit()])
    os._exit(0 if model.num_timesteps == 60 else 1)


@pytest.mark.parametrize("size", [0, 100, 5_000, 200_000])
def test_a_full_disk_leaves_the_earlier_checkpoint(size: int, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=limited, args=(tmp_path, size))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step_20"]
    assert load_checkpoint(RFMFlow, tmp_path, pendulum()).num_timesteps == 20


@pytest.mark.parametrize("error", DISK_ERRORS[:2])
def test_what_cannot_be_saved_is_tried_again_when_the_next_is_due(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    model.learn(10, CheckpointEverything(10, tmp_path))
    with (
        Disk(monkeypatch).failing(error),
        pytest.warns(UserWarning, match="no checkpoint at step") as seen,
    ):
        model.learn(35, CheckpointEverything(10, tmp_path), reset_num_timesteps=False)
    reason = os.strerror(error)
    steps = [str(w.message).split(":")[0] for w in seen if "no checkpoint" in str(w.message)]
    assert steps == [f"no checkpoint at step {step}" for step in (20, 30, 40, 45)]
    assert all(reason in str(w.message) for w in seen if "no checkpoint" in str(w.message))
    model.learn(5, CheckpointEverything(10, tmp_path), reset_num_timesteps=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_50"]


def test_windows_makes_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be_windows(monkeypatch)
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    model.learn(30, CheckpointEverything(10, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_20", "step_30"]
    assert load_checkpoint(RFMFlow, tmp_path, pendulum()).num_timesteps == 30


def test_one_process_writes_in_a_folder(tmp_path: Path) -> None:
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    busy = f"another process writes checkpoints here: {tmp_path} .process {os.getpid()} on "
    with FileLock(tmp_path / LOCK, ""):
        for write in (
            lambda: model.learn(10, CheckpointEverything(5, tmp_path)),
            lambda: save_checkpoint(model, tmp_path),
        ):
            with pytest.raises(Locked, match=busy):
                write()
    assert not checkpoints_in(tmp_path)

    class Intruder(BaseCallback):
        def _on_step(self) -> bool:
            with pytest.raises(Locked), FileLock(tmp_path / LOCK, ""):
                pass
            if self.num_timesteps == 15:
                raise RuntimeError("broken off")
            return True

    with pytest.raises(RuntimeError, match="broken off"):
        model.learn(20, [CheckpointEverything(10, tmp_path), Intruder()])
    # a thread trains one model at a time: the lock that the exception left is its own
    again = load_checkpoint(RFMFlow, tmp_path, pendulum())
    again.learn(10, CheckpointEverything(10, tmp_path), reset_num_timesteps=False)
    with FileLock(tmp_path / LOCK, ""):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_20"]


def test_a_damaged_checkpoint_is_replaced_on_the_way(two: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints"
    shutil.copytree(two, path)
    (path / "step_40" / "model.zip").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step_40.*going on from .*step_20"):
        model = load_checkpoint(RFMFlow, path, pendulum())
    model.learn(10, CheckpointEverything(10, path, keep=1), reset_num_timesteps=False)
    assert sorted(path.name for path in path.iterdir()) == ["step_30", "step_40"]
    model.learn(10, CheckpointEverything(10, path, keep=1), reset_num_timesteps=False)
    assert [path.name for path in path.iterdir()] == ["step_40"]
    assert load_checkpoint(RFMFlow, path, pendulum()).num_timesteps == 40


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints at 20 and 40."""
    path = tmp_path_factory.mktemp("two")
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    model.learn(40, callback=CheckpointEverything(20, path))
    return path


@pytest.mark.parametrize("name", ["manifest.json", "model.zip", "replay_buffer.pkl", "state.pkl"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "changed"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_taken(
    name: str, damage: str, two: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints"
    shutil.copytree(two, path)
    file = path / "step_40" / name
    content = file.read_bytes()
    changed = bytes([content[0] ^ 1]) + content[1:]
    file.write_bytes({"empty": b"", "truncated": content[:-7], "changed": changed}.get(damage, b""))
    if damage == "missing":
        file.unlink()
    with pytest.warns(UserWarning, match=f"step_40/{name}.*going on from .*step_20"):
        model = load_checkpoint(RFMFlow, path, pendulum())
    assert model.num_timesteps == 20
    shutil.rmtree(path / "step_20")
    with pytest.raises(DamagedCheckpoint, match=f"step_40/{name}"):
        load_checkpoint(RFMFlow, path, pendulum())


def test_what_is_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="path must be a checkpoint or a folder of them"):
        load_checkpoint(RFMFlow, tmp_path / "nowhere", pendulum())
    with pytest.raises(ValueError, match=r"algorithm must be RFMFlow, .*got SAC"):
        load_checkpoint(SAC, two, pendulum())
    for argument in ("save_freq", "keep"):
        for value in (0, -1, 1.5, "2", True):
            with pytest.raises((ValueError, TypeError), match=f"{argument} must .*an int"):
                CheckpointEverything(**{"save_freq": 1, "path": tmp_path, argument: value})
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    with pytest.raises(ValueError, match=r"further on than step 0; got .* with step_20, step_40"):
        model.learn(10, callback=CheckpointEverything(5, two))
    newer = tmp_path / "step_9"
    newer.mkdir()
    (newer / "manifest.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(DamagedCheckpoint, match="has format 2; this version reads 1"):
        load_checkpoint(RFMFlow, newer, pendulum())


def test_one_checkpoint_can_be_named(two: Path) -> None:
    assert load_checkpoint(RFMFlow, two / "step_20", pendulum()).num_timesteps == 20
    assert load_checkpoint(RFMFlow, two, pendulum()).num_timesteps == 40


def test_as_many_are_kept_as_asked_for(tmp_path: Path, capsys: Any) -> None:
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    model.learn(40, callback=CheckpointEverything(10, tmp_path, keep=3, verbose=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_20", "step_30", "step_40"]
    assert f"Saved {tmp_path / 'step_10'}" in capsys.readouterr().out
