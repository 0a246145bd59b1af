"""A run's files on bad disks, on Windows, and where another process writes."""

import errno
import os
import platform

import pytest
from small_runs import QUIET, rows_of, settings_with
from stable_baselines3.common.callbacks import BaseCallback
from systems import Disk, be_windows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments.folder import LOCK
from sb3_rfm.experiments.run import UNWRITTEN, resume, start
from sb3_rfm.experiments.run_log import EventLog
from sb3_rfm.utils.locks import FileLock
from sb3_rfm.utils.unwritten import Unwritten

pytestmark = pytest.mark.usefixtures("here")


class _Fill(BaseCallback):
    """The disk is full from one step on, and has room again from another."""

    def __init__(self, disk, full, room):
        super().__init__()
        self.disk, self.full, self.room = disk, full, room

    def _on_step(self):
        if self.num_timesteps in (self.full, self.room):
            self.disk.error = errno.ENOSPC if self.num_timesteps == self.full else None
        return True


def test_a_run_outlives_a_full_disk(monkeypatch, capsys):
    settings = settings_with(steps=60, eval_freq=10, eval_episodes=1, checkpoint_freq=10)
    filling = _Fill(Disk(monkeypatch), 15, 45)
    with pytest.warns(UserWarning, match=r"not written|no checkpoint") as seen:
        folder, code = start(settings, resources=QUIET, callbacks=[filling])
    assert code == 0  # everything is there in the end
    steps = [20, 30, 40]
    said = [str(w.message) for w in seen]
    assert [s.split(":")[0] for s in said if "no checkpoint" in s] == [
        f"no checkpoint at step {step}" for step in steps
    ]
    lost = f"{folder.csv_file} is not written: No space left on device"
    assert said.count(lost) == 2 * len(steps)  # with each evaluation, and before each checkpoint
    assert rows_of(folder.path, "steps") == [0, 10, 20, 30, 40, 50, 60]
    assert folder.latest_checkpoint().name == "step_60"
    assert not capsys.readouterr().err


def test_a_run_that_could_not_be_written_names_the_disk(monkeypatch, capsys):
    settings = settings_with(eval_episodes=1, checkpoint_freq=20)
    disk = Disk(monkeypatch)
    with pytest.warns(UserWarning, match="not written"):
        folder, code = start(settings, resources=QUIET, callbacks=[_Fill(disk, 25, None)])
    assert code == UNWRITTEN
    out, err = capsys.readouterr()
    assert err == (
        "sb3-rfm: not written: "
        + ", ".join(
            str(path)
            for path in (
                folder.csv_file, folder.checkpoints, folder.model_file, folder.curve_file
            )
        )
        + ": No space left on device\n"
    )  # fmt: skip
    assert "Return at step 60" in out  # it was measured all the same
    assert rows_of(folder.path, "steps") == [0]
    assert folder.latest_checkpoint().name == "step_20"
    assert {path.name for path in folder.path.iterdir()} == {
        "checkpoints",
        "config.yml",
        "evaluations.csv",
        "tensorboard",
    }
    # where it cannot begin it says so at once, too
    assert cli.main(["run", "--resume", str(folder.path), "--no-progress"]) == UNWRITTEN
    assert capsys.readouterr().err == (
        f"sb3-rfm: run: [Errno 28] No space left on device: '{folder.csv_file}'\n"
    )
    disk.error = None
    assert resume(folder.path, QUIET)[1] == 0
    assert rows_of(folder.path, "steps") == [0, 30, 60]


def _accumulated(folder):
    return [
        (event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars("a/b")
    ]


def test_the_log_is_kept_until_it_can_be_written(tmp_path, monkeypatch):
    """Where TensorBoard's own thread fails; that it is not left to print is asked of pytest."""
    full, unwritten, append = [], Unwritten(), LocalFileSystem.append

    def on_a_full_disk(self, filename, content, binary_mode=False):
        if full:
            append(self, filename, content[:5], binary_mode)  # a record that is torn
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, filename, content, binary_mode)

    monkeypatch.setattr(LocalFileSystem, "append", on_a_full_disk)
    with EventLog(tmp_path, unwritten) as log:
        logger = log.logger(verbose=0)
        for step in range(6):
            full[:] = [True] * (step in (2, 3))
            logger.record("a/b", float(step))
            if full:
                with pytest.warns(UserWarning, match="not written: No space left on device"):
                    logger.dump(step)
            else:
                logger.dump(step)
            assert bool(unwritten) == bool(full)
    assert _accumulated(tmp_path) == [(step, step) for step in range(6)]


def test_a_run_has_one_process(capsys):
    folder, _ = start(settings_with(checkpoint_freq=30), resources=QUIET)
    folder.model_file.unlink()
    with FileLock(folder.path / LOCK, ""):
        assert cli.main(["run", "--resume", str(folder.path)]) == 2
    assert capsys.readouterr().err == (
        f"sb3-rfm: run: another sb3-rfm run is at work here: {folder.path} "
        f"(process {os.getpid()} on {platform.node()})\n"
    )
    assert not folder.model_file.exists()

    class Resume(BaseCallback):
        def _on_step(self):
            with pytest.raises(ValueError, match="another sb3-rfm run is at work here"):
                resume(folder.path, QUIET)
            return True

    assert resume(folder.path, QUIET, callbacks=[Resume()])[1] == 0
    assert not (folder.path / LOCK).exists()


def test_a_run_on_windows_leaves_the_same(monkeypatch):
    be_windows(monkeypatch)
    folder, code = start(settings_with(eval_episodes=1, checkpoint_freq=30), resources=QUIET)
    assert code == 0
    assert {path.name for path in folder.checkpoints.iterdir()} == {"step_30", "step_60"}
    assert rows_of(folder.path, "steps") == [0, 30, 60]
