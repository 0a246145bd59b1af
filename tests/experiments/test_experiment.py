"""``sb3-rfm run``: what a run leaves behind, and how it goes on after a stop."""

import errno
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from environments import Bandit
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from systems import Disk, be_windows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from sb3_rfm.cli import main as cli
from sb3_rfm.common.config import GROUPS
from sb3_rfm.experiments.callbacks import Clock, EvaluateToCsv, StopRequest
from sb3_rfm.experiments.folder import LOCK, RunFolder
from sb3_rfm.experiments.hyperparams import algorithm_class
from sb3_rfm.experiments.run import INTERRUPTED, UNWRITTEN, Resources, resume, start
from sb3_rfm.experiments.run_log import EventLog
from sb3_rfm.experiments.settings import RunSettings, make_env, make_model
from sb3_rfm.results.evaluations import COLUMNS, Evaluation, read_evaluations
from sb3_rfm.utils.episodes import close_episode
from sb3_rfm.utils.locks import FileLock
from sb3_rfm.utils.unwritten import Unwritten

ROOT = Path(__file__).resolve().parents[2]
QUIET = Resources("cpu", threads=1, progress=False)
TINY = {"learning_starts": 20, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
TINY_TEXT = ["learning_starts:20", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def _settings(**changes):
    given = {"algo": "sac", "env": "Pendulum-v1", "steps": 60, "eval_freq": 30, "eval_episodes": 2}
    return RunSettings(**given | {"hyperparams": TINY} | changes)


def _rows(path, column):
    return [getattr(row, column) for row in read_evaluations(Path(path) / "evaluations.csv")]


@pytest.mark.parametrize(
    ("algo", "env", "env_id"),
    [
        ("rfm_flow", "Pendulum-v1", "Pendulum-v1"),
        ("sac", "walker-walk", "dm_control/walker-walk-v0"),
    ],
)
def test_a_run_leaves_everything_behind(algo, env, env_id, capsys):
    options = ["--steps", "60", "--eval-freq", "30", "--eval-episodes", "1", "--seed", "3"]
    more = ["--checkpoint-freq", "25", "--no-progress", "--device", "cpu"]
    own = ["candidates.evaluate:1"] if algo == "rfm_flow" else []
    command = ["run", "--algo", algo, "--env", env, *options, *more]
    assert cli.main([*command, "--hyperparams", *TINY_TEXT, *own]) == 0
    printed = capsys.readouterr().out
    path = Path("runs") / f"{algo}__{env_id.replace('/', '-')}__seed3"
    assert {item.name for item in path.iterdir()} == {
        "checkpoints",
        "config.yml",
        "evaluations.csv",
        "final_model.zip",
        "learning_curve.png",
        "tensorboard",
    }
    rows = read_evaluations(path / "evaluations.csv")
    assert [row.steps for row in rows] == [0, 30, 60]
    assert {(row.algorithm, row.environment, row.seed) for row in rows} == {(algo, env_id, 3)}
    assert f"Return before training: {rows[0].mean_return:.1f}" in printed
    assert f"Return at step 60: {rows[-1].mean_return:.1f}" in printed
    assert str(path / "final_model.zip") in printed
    model = algorithm_class(algo).load(path / "final_model.zip")
    assert model.num_timesteps == 60
    assert {item.name for item in (path / "checkpoints").iterdir()} == {"step_25", "step_50"}
    assert (path / "learning_curve.png").stat().st_size > 10_000


def test_the_configuration_says_how_to_repeat_the_run():
    command = ["run", "--algo", "sac", "--env", "Pendulum-v1", "--steps", "20", "--no-progress"]
    assert cli.main([*command, "--eval-episodes", "1", "--hyperparams", *TINY_TEXT]) == 0
    config = yaml.safe_load(Path("runs/sac__Pendulum-v1__seed0/config.yml").read_text())
    assert config["command"].startswith("sb3-rfm run --algo sac --env Pendulum-v1 --steps 20")
    assert config["hyperparameters"]["batch_size"] == 8
    assert config["hyperparameters"]["tau"] == 0.005  # a default of the class
    assert config["hyperparameters"]["policy_kwargs"] == {"net_arch": [8]}
    assert config["settings"]["hyperparams"]["env_wrapper"] == "sb3_rfm.envs.FlatFloat32"
    assert config["versions"]["torch"] == importlib.metadata.version("torch")
    assert RunSettings(**config["settings"]).steps == 20


def test_the_configuration_shows_every_setting_of_every_group_and_is_read_back():
    command = ["run", "--env", "Pendulum-v1", "--steps", "30", "--no-progress", "--device", "cpu"]
    own = ["flow.steps:3", "estimator:bounded", "candidates:dict(evaluate=1)", "flow.solver:heun"]
    options = ["--eval-episodes", "1", "--hyperparams", *TINY_TEXT, *own]
    assert cli.main([*command, *options]) == 0
    path = Path("runs/rfm_flow__Pendulum-v1__seed0")
    config = RunFolder(path).read_config()
    model = algorithm_class("rfm_flow").load(path / "final_model.zip")
    shown = config["hyperparameters"]
    for name, group in GROUPS.items():
        assert set(shown[name]) == {field.name for field in fields(group)}
        values = vars(getattr(model.settings, name))
        assert shown[name] == {**values, **({"t_range": [0.01, 0.99]} if name == "flow" else {})}
    assert (shown["flow"]["steps"], shown["flow"]["solver"]) == (3, "heun")
    assert (shown["estimator"]["name"], shown["candidates"]["evaluate"]) == ("bounded", 1)
    # what was asked for, nested, and all of it make the same model again
    asked = RunSettings.stored(config, path)
    assert asked.hyperparams["flow"] == {"steps": 3, "solver": "heun"}
    assert make_model(asked, "cpu")[0].settings == model.settings
    whole = RunSettings("rfm_flow", "Pendulum-v1", hyperparams=shown).resolved()
    again, chosen = make_model(whole, "cpu")
    assert again.settings == model.settings
    assert chosen == shown


def test_a_run_with_a_learning_rate_of_the_critics_that_falls_goes_on():
    command = ["run", "--env", "Pendulum-v1", "--steps", "30", "--no-progress", "--device", "cpu"]
    own = ["critic_update.learning_rate:lin_1e-3", "candidates.evaluate:1"]
    options = ["--checkpoint-freq", "15", "--eval-freq", "30", "--eval-episodes", "1"]
    assert cli.main([*command, *options, "--hyperparams", *TINY_TEXT, *own]) == 0
    path = Path("runs/rfm_flow__Pendulum-v1__seed0")
    assert cli.main(["run", "--resume", str(path), "--steps", "60", "--no-progress"]) == 0
    assert _rows(path, "steps")[-1] == 60
    model = algorithm_class("rfm_flow").load(path / "final_model.zip")
    assert model.critic_lr_schedule(0.5) == pytest.approx(5e-4)


def test_returns_and_speed_are_what_was_measured(monkeypatch):
    times = iter(range(0, 1000, 2))
    monkeypatch.setattr("sb3_rfm.experiments.callbacks.monotonic", lambda: next(times))
    settings = _settings(hyperparams=TINY | {"learning_starts": 100})  # never trained
    folder, _ = start(settings, resources=QUIET)
    rows = folder.evaluations()
    assert [row.n_episodes for row in rows] == [2, 2, 2]
    assert np.isnan(rows[0].steps_per_second)
    assert [row.steps_per_second for row in rows[1:]] == [15, 15]  # 30 steps, 2 s later
    model = SAC.load(folder.model_file)
    env = make_env(settings, training=False)
    for row in rows:
        observations = env.reset()
        for _ in range(200):
            actions, _ = model.predict(observations, deterministic=True)
            observations, _, dones, infos = env.step(actions)
        assert all(dones)
        returns = [info["episode"]["r"] for info in infos]
        assert row.mean_return == pytest.approx(np.mean(returns), abs=1e-3)
        assert row.std_return == pytest.approx(np.std(returns), abs=1e-3)


def test_equal_settings_give_equal_runs_and_another_seed_another():
    first, _ = start(_settings(), resources=QUIET)
    second, _ = start(_settings(), resources=QUIET)
    assert second.path.name == first.path.name + "_2"  # never overwritten
    other, _ = start(_settings(seed=1), resources=QUIET)
    returns = [_rows(folder.path, "mean_return") for folder in (first, second, other)]
    assert returns[0] == returns[1] != returns[2]


def test_a_buffer_no_longer_than_the_run_changes_nothing():
    final = []
    for size in (60, 500):  # full at the last step, and never
        arguments = TINY | {"buffer_size": size, "seed": 0}
        final.append(SAC("MlpPolicy", "Pendulum-v1", **arguments).learn(60).policy.state_dict())
    assert all(th.equal(final[0][name], final[1][name]) for name in final[0])
    model, chosen = make_model(_settings().resolved(), "cpu")
    assert model.replay_buffer.buffer_size == chosen["buffer_size"] == 60


class Fails(Bandit):
    """Fails at one step."""

    def __init__(self, at):
        super().__init__(length=5)
        self.left = at

    def step(self, action):
        self.left -= 1
        if not self.left:
            raise KeyError("a fault of the environment")
        return super().step(action)


@pytest.mark.parametrize(("at", "kept"), [(12, False), (40, True)])
def test_a_run_that_fails_before_it_has_learnt_leaves_no_folder(at, kept):
    gym.register("Fails-v0", lambda: Fails(at))
    settings = _settings(env="Fails-v0", eval_freq=60, eval_episodes=1)
    with pytest.raises(KeyError, match="a fault of the environment"):
        start(settings, Path("deep/runs"), QUIET)
    assert [str(path) for path in Path().iterdir()] == (["deep"] if kept else [])
    gym.registry.pop("Fails-v0")


def test_a_run_that_fails_leaves_what_was_there_before():
    gym.register("Fails-v0", lambda: Fails(3))
    Path("runs/other").mkdir(parents=True)
    with pytest.raises(KeyError):
        start(_settings(env="Fails-v0"), resources=QUIET)
    assert [path.name for path in Path("runs").iterdir()] == ["other"]
    gym.registry.pop("Fails-v0")


def test_an_evaluation_without_an_end_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sb3_rfm.experiments.episodes.MOST_STEPS", 30)
    gym.register("Endless-v0", lambda: Bandit(length=10**9))
    command = ["run", "--algo", "sac", "--env", "Endless-v0", "--steps", "40", "--no-progress"]
    assert cli.main([*command, "--hyperparams", *TINY_TEXT]) == 2
    assert "an episode of Endless-v0 did not end in the 30 steps" in capsys.readouterr().err
    assert not list(Path().iterdir())
    limit = "env_wrapper:{'gymnasium.wrappers.TimeLimit': {'max_episode_steps': 7}}"
    assert cli.main([*command, "--hyperparams", *TINY_TEXT, limit]) == 0
    returns = _rows("runs/sac__Endless-v0__seed0", "mean_return")
    assert np.isfinite(returns).all()
    gym.registry.pop("Endless-v0")


def test_an_environment_by_its_module_is_trained_on_and_goes_on(tmp_path):
    module = f"mine_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(
        "import gymnasium as gym\nfrom environments import Bandit\n"
        "gym.register('Mine-v0', lambda: Bandit(length=5))\n"
    )
    short = ["--algo", "sac", "--env", f"{module}:Mine-v0", "--steps", "30", "--no-progress"]
    more = ["--eval-episodes", "1", "--checkpoint-freq", "25", "--hyperparams", *TINY_TEXT]
    path = f"runs/sac__{module}-Mine-v0__seed0"
    for arguments in ([*short, *more], ["--resume", path, "--steps", "40", "--no-progress"]):
        assert cli.main(["run", *arguments]) == 0
        gym.registry.pop("Mine-v0")  # a new process would not know it
        del sys.modules[module]
    assert read_evaluations(Path(path) / "evaluations.csv")[-1].environment == f"{module}:Mine-v0"


@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("kind", ["normal", "ornstein-uhlenbeck"])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_noise_has_the_shape_of_the_action(shape, kind, n_envs):
    gym.register("Shaped-v0", lambda: Bandit(spaces.Box(-1, 1, shape, np.float32)))
    noise = {"noise_type": kind, "noise_std": 3.0, "n_envs": n_envs, "learning_starts": 0}
    settings = _settings(env="Shaped-v0", steps=8, hyperparams=TINY | noise)
    model, _ = make_model(settings.resolved(), "cpu")
    model.learn(8)
    actions = np.stack([env.unwrapped.actions for env in model.env.envs])
    assert actions.shape == (n_envs, 8 // n_envs, *shape)
    assert len(np.unique(np.abs(actions))) > 1
    assert (np.abs(actions) == 1).any()  # noise of three half widths
    gym.registry.pop("Shaped-v0")


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
    seconds = _rows(path, "wall_seconds")[-1]

    assert cli.main(["run", "--resume", str(path), "--no-progress"]) == 0
    assert f"Going on from step {stopped_at} of 600" in capsys.readouterr().out
    assert (path / "evaluations.csv").read_text().startswith(before)
    assert _rows(path, "steps") == list(range(0, 601, 50))
    assert _rows(path, "wall_seconds")[len(before.splitlines()) - 1] > seconds
    model = SAC.load(path / "final_model.zip")
    assert model.num_timesteps == 600
    assert model._n_updates > 600 - 20 - 5  # those before the stop are counted
    (log,) = (path / "tensorboard").iterdir()
    events = EventAccumulator(str(log)).Reload().Scalars("eval/mean_reward")
    assert [event.step for event in events] == _rows(path, "steps")

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
    settings = _settings(eval_episodes=1, eval_freq=20).resolved()
    model, _ = make_model(settings, "cpu")
    folder = RunFolder(tmp_path)

    def evaluation(looks):
        env = make_env(settings, training=False)
        return EvaluateToCsv(env, settings, folder, Clock(), _StopsIn(looks), lambda row: None)

    model.learn(20, callback=evaluation(250))  # the first takes 200 looks
    assert model.num_timesteps == 20
    assert _rows(tmp_path, "steps") == [0]
    model.learn(5, callback=evaluation(10_000), reset_num_timesteps=False)
    assert _rows(tmp_path, "steps") == [0, 20]


def test_evaluation_episodes_are_not_those_of_training():
    settings = _settings().resolved()
    (training,), evaluation = (make_env(settings, choice).reset() for choice in (True, False))
    assert len(evaluation) == 2  # one environment per episode
    assert not np.isclose(evaluation, training).all(axis=1).any()
    assert not np.array_equal(*evaluation)


def test_what_was_measured_after_the_checkpoint_is_measured_again(monkeypatch):
    settings = _settings(checkpoint_freq=40)
    folder, _ = start(settings, resources=QUIET)
    folder.model_file.unlink()  # as if killed after step 60, with a checkpoint at 40
    folder.append_evaluation(Evaluation("sac", "Pendulum-v1", 0, 90, 0, 0, 1, 1, 1))
    models, save = [], RunFolder.save_final
    monkeypatch.setattr(
        RunFolder, "save_final", lambda *args: models.append(args[1]) or save(*args)
    )
    assert resume(folder.path, QUIET)[1] == 0
    assert _rows(folder.path, "steps") == [0, 30, 60]
    assert models[0].replay_buffer.size() == 60
    assert SAC.load(folder.model_file).num_timesteps == 60


def test_a_run_that_was_killed_ends_as_the_unbroken_one(tmp_path):
    settings = _settings(checkpoint_freq=20)
    whole, _ = start(settings, tmp_path / "whole", QUIET)
    killed, _ = start(settings, tmp_path / "killed", QUIET)
    killed.model_file.unlink()
    shutil.rmtree(killed.checkpoints / "step_60")
    assert resume(killed.path, QUIET)[1] == 0
    policies = [SAC.load(folder.model_file).policy.state_dict() for folder in (whole, killed)]
    assert all(th.equal(policies[0][name], policies[1][name]) for name in policies[0])
    assert _rows(killed.path, "steps") == _rows(whole.path, "steps")
    # what was measured before the checkpoint stays; what comes after it has other episodes
    kept = [_rows(folder.path, "mean_return")[:2] for folder in (whole, killed)]
    assert kept[0] == kept[1]


def test_a_finished_run_goes_on_to_a_later_target(capsys):
    folder, _ = start(_settings(checkpoint_freq=60), resources=QUIET)
    assert resume(folder.path, QUIET, steps=90)[1] == 0
    assert "Going on from step 60 of 90" in capsys.readouterr().out
    assert _rows(folder.path, "steps") == [0, 30, 60, 90]
    assert SAC.load(folder.model_file).num_timesteps == 90
    with pytest.raises(ValueError, match="at least the run's own 90, got 60"):
        resume(folder.path, QUIET, steps=60)
    assert folder.model_file.exists()


def test_a_run_that_was_never_saved_cannot_go_on():
    folder, _ = start(_settings(checkpoint_freq=0), resources=QUIET)
    folder.model_file.unlink()
    (folder.checkpoints / "unfinished").mkdir(parents=True)  # killed while saving
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        resume(folder.path, QUIET)


# ---------------------------------------------------------------- bad disks, and other writers


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
    settings = _settings(steps=60, eval_freq=10, eval_episodes=1, checkpoint_freq=10)
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
    assert _rows(folder.path, "steps") == [0, 10, 20, 30, 40, 50, 60]
    assert folder.latest_checkpoint().name == "step_60"
    assert not capsys.readouterr().err


def test_a_run_that_could_not_be_written_names_the_disk(monkeypatch, capsys):
    settings = _settings(eval_episodes=1, checkpoint_freq=20)
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
    assert _rows(folder.path, "steps") == [0]
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
    assert _rows(folder.path, "steps") == [0, 30, 60]


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
    folder, _ = start(_settings(checkpoint_freq=30), resources=QUIET)
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
    folder, code = start(_settings(eval_episodes=1, checkpoint_freq=30), resources=QUIET)
    assert code == 0
    assert {path.name for path in folder.checkpoints.iterdir()} == {"step_30", "step_60"}
    assert _rows(folder.path, "steps") == [0, 30, 60]


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


def test_a_failing_update_is_reported_with_its_step(monkeypatch):
    def fail(self, *arguments, **options):
        raise ValueError("not a number")

    monkeypatch.setattr(SAC, "train", fail)
    with pytest.raises(RuntimeError, match="training failed at step 21: not a number"):
        start(_settings(), resources=QUIET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "ppo"}, "algo must be one of rfm_flow, .*got 'ppo'"),
        ({"steps": 1.5}, "steps must be an integer of at least 0, got 1.5"),
        ({"eval_freq": -1}, "eval_freq must be an integer of at least 0, got -1"),
        ({"eval_episodes": 0}, "eval_episodes must be"),
        ({"checkpoint_freq": -1}, "checkpoint_freq must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        _settings(**changes)


@pytest.mark.parametrize(("steps", "freq"), [(5, 1), (20_000, 2000), (250_000, 10_000)])
def test_the_curve_has_ten_points_or_the_protocols(steps, freq):
    assert _settings(steps=steps, eval_freq=0).resolved().eval_freq == freq
    assert _settings(steps=steps, eval_freq=7).resolved().eval_freq == 7


def test_a_row_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "evaluations.csv"
    path.write_text(",".join(COLUMNS) + "\nsac,Pendulum-v1,0,0,1,2,3,nan,4\nsac,Pendulum-v1,0,1")
    assert [row.steps for row in read_evaluations(path)] == [0]
    path.write_text("steps,return\n1,2\n")
    with pytest.raises(ValueError, match="has no column algorithm"):
        read_evaluations(path)
