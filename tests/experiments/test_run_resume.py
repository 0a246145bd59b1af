"""A run that was stopped or killed, or is to be longer, goes on."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from small_runs import QUIET, TINY_TEXT, rows_of, settings_with
from stable_baselines3 import SAC
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments.callbacks import Clock, EvaluateToCsv, StopRequest
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.hyperparams import algorithm_class
from sb3_rfm.experiments.run import INTERRUPTED, resume, start
from sb3_rfm.experiments.settings import make_env, make_model
from sb3_rfm.results.evaluations import Evaluation
from sb3_rfm.utils.episodes import close_episode

pytestmark = pytest.mark.usefixtures("here")

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_with_a_learning_rate_of_the_critics_that_falls_goes_on():
    command = ["run", "--env", "Pendulum-v1", "--steps", "30", "--no-progress", "--device", "cpu"]
    own = ["critic_update.learning_rate:lin_1e-3", "candidates.evaluate:1"]
    options = ["--checkpoint-freq", "15", "--eval-freq", "30", "--eval-episodes", "1"]
    assert cli.main([*command, *options, "--hyperparams", *TINY_TEXT, *own]) == 0
    path = Path("runs/rfm_flow__Pendulum-v1__seed0")
    assert cli.main(["run", "--resume", str(path), "--steps", "60", "--no-progress"]) == 0
    assert rows_of(path, "steps")[-1] == 60
    model = algorithm_class("rfm_flow").load(path / "final_model.zip")
    assert model.critic_lr_schedule(0.5) == pytest.approx(5e-4)


INTERRUPTED_RUN = """
import os, signal, sys
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from sb3_rfm.cli.main import main

step, taken = PendulumEnv.step, 0

def counting(self, action):
    global taken
    taken += 1
    if taken == 725:  # 200 of each of three evaluations, 125 of training
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, action)

PendulumEnv.step = counting
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_saves_the_run_and_resume_completes_it(capsys):
    options = ["--steps", "600", "--eval-freq", "50", "--eval-episodes", "1", "--no-progress"]
    run = ["run", "--algo", "sac", "--env", "Pendulum-v1", *options]
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_RUN, *run, "--hyperparams", "n_steps:3", *TINY_TEXT],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    path = Path("runs/sac__Pendulum-v1__seed0")
    printed, errors = process.stdout, process.stderr
    assert process.returncode == INTERRUPTED, errors
    assert f"sb3-rfm run --resume {path}" in printed
    assert (path / "learning_curve.png").exists()
    assert not (path / "final_model.zip").exists()
    stopped_at = int(RunFolder(path).latest_checkpoint().name.removeprefix("step_"))
    assert 125 <= stopped_at < 150
    before = (path / "evaluations.csv").read_text()
    seconds = rows_of(path, "wall_seconds")[-1]

    assert cli.main(["run", "--resume", str(path), "--no-progress"]) == 0
    assert f"Going on from step {stopped_at} of 600" in capsys.readouterr().out
    assert (path / "evaluations.csv").read_text().startswith(before)
    assert rows_of(path, "steps") == list(range(0, 601, 50))
    assert rows_of(path, "wall_seconds")[len(before.splitlines()) - 1] > seconds
    model = SAC.load(path / "final_model.zip")
    assert model.num_timesteps == 600
    assert model._n_updates > 600 - 20 - 5  # those before the stop are counted
    (log,) = (path / "tensorboard").iterdir()
    events = EventAccumulator(str(log)).Reload().Scalars("eval/mean_reward")
    assert [event.step for event in events] == rows_of(path, "steps")

    assert cli.main(["run", "--resume", str(path)]) == 0
    assert "is finished: 600 of 600" in capsys.readouterr().out


def test_a_second_signal_stops_at_once():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the handlers are put back


def test_a_request_to_stop_is_none_the_less_for_a_full_disk(monkeypatch):
    def write(descriptor, text):
        raise OSError(errno.ENOSPC, "No space left on device")  # it is redirected there

    monkeypatch.setattr(os, "write", write)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested


class _StopsIn(StopRequest):
    """Requested after it was looked at so many times."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0


def test_an_evaluation_stopped_midway_is_made_up_for(tmp_path):
    settings = settings_with(eval_episodes=1, eval_freq=20).resolved()
    model, _ = make_model(settings, "cpu")
    folder = RunFolder(tmp_path)

    def evaluation(looks):
        env = make_env(settings, training=False)
        return EvaluateToCsv(env, settings, folder, Clock(), _StopsIn(looks), lambda row: None)

    model.learn(20, callback=evaluation(250))  # the first takes 200 looks
    assert model.num_timesteps == 20
    assert rows_of(tmp_path, "steps") == [0]
    model.learn(5, callback=evaluation(10_000), reset_num_timesteps=False)
    assert rows_of(tmp_path, "steps") == [0, 20]


def test_what_was_measured_after_the_checkpoint_is_measured_again(monkeypatch):
    settings = settings_with(checkpoint_freq=40)
    folder, _ = start(settings, resources=QUIET)
    folder.model_file.unlink()  # as if killed after step 60, with a checkpoint at 40
    folder.append_evaluation(Evaluation("sac", "Pendulum-v1", 0, 90, 0, 0, 1, 1, 1))
    models, save = [], RunFolder.save_final
    monkeypatch.setattr(
        RunFolder, "save_final", lambda *args: models.append(args[1]) or save(*args)
    )
    assert resume(folder.path, QUIET)[1] == 0
    assert rows_of(folder.path, "steps") == [0, 30, 60]
    assert models[0].replay_buffer.size() == 60
    assert SAC.load(folder.model_file).num_timesteps == 60


def test_a_run_that_was_killed_ends_as_the_unbroken_one(tmp_path):
    settings = settings_with(checkpoint_freq=20)
    whole, _ = start(settings, tmp_path / "whole", QUIET)
    killed, _ = start(settings, tmp_path / "killed", QUIET)
    killed.model_file.unlink()
    shutil.rmtree(killed.checkpoints / "step_60")
    assert resume(killed.path, QUIET)[1] == 0
    policies = [SAC.load(folder.model_file).policy.state_dict() for folder in (whole, killed)]
    assert all(th.equal(policies[0][name], policies[1][name]) for name in policies[0])
    assert rows_of(killed.path, "steps") == rows_of(whole.path, "steps")
    # what was measured before the checkpoint stays; what comes after it has other episodes
    kept = [rows_of(folder.path, "mean_return")[:2] for folder in (whole, killed)]
    assert kept[0] == kept[1]


def test_a_finished_run_goes_on_to_a_later_target(capsys):
    folder, _ = start(settings_with(checkpoint_freq=60), resources=QUIET)
    assert resume(folder.path, QUIET, steps=90)[1] == 0
    assert "Going on from step 60 of 90" in capsys.readouterr().out
    assert rows_of(folder.path, "steps") == [0, 30, 60, 90]
    assert SAC.load(folder.model_file).num_timesteps == 90
    with pytest.raises(ValueError, match="at least the run's own 90, got 60"):
        resume(folder.path, QUIET, steps=60)
    assert folder.model_file.exists()


def test_a_run_that_was_never_saved_cannot_go_on():
    folder, _ = start(settings_with(checkpoint_freq=0), resources=QUIET)
    folder.model_file.unlink()
    (folder.checkpoints / "unfinished").mkdir(parents=True)  # killed while saving
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        resume(folder.path, QUIET)


def test_resume_refuses_a_foreign_configuration(tmp_path):
    (tmp_path / "config.yml").write_text("algo: sac\n")
    with pytest.raises(ValueError, match="was not written by sb3-rfm run"):
        resume(tmp_path, QUIET)


def test_n_step_returns_do_not_run_across_a_resume():
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=50, n_steps=3, learning_starts=99).learn(10)
    buffer = model.replay_buffer
    last = buffer.pos - 1
    close_episode(buffer)
    new = np.zeros((1, 3), np.float32)
    for _ in range(5):
        buffer.add(new, new, new[:, :1], np.array([1e6]), np.array([False]), [{}])
    sample = buffer._get_samples(np.array([last - 1, last]))
    assert sample.rewards.abs().max() < 100
    assert sample.dones.sum() == 0  # cut short, not over: the critic bootstraps
