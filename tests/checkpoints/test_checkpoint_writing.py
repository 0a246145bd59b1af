"""Neither a kill nor a full disk loses a checkpoint, and a folder has one writer."""

import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from pendulums import ARGUMENTS, SMALL, pendulum
from stable_baselines3.common.callbacks import BaseCallback
from systems import DISK_ERRORS, Disk, be_windows, left_by_writers

from sb3_rfm import CheckpointEverything, RFMFlow, load_checkpoint
from sb3_rfm.checkpoints.callback import save_checkpoint
from sb3_rfm.checkpoints.manifest import LOCK, checkpoints_in, is_whole
from sb3_rfm.utils.files import SUFFIX
from sb3_rfm.utils.locks import FileLock, Locked


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
