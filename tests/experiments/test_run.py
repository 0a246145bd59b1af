"""``sb3-rfm run``: what a run leaves behind and what it measures."""

import importlib.metadata
import sys
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from environments import Bandit
from gymnasium import spaces
from small_runs import QUIET, TINY, TINY_TEXT, rows_of, settings_with
from stable_baselines3 import SAC

from sb3_rfm.cli import main as cli
from sb3_rfm.common.config import GROUPS
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.hyperparams import algorithm_class
from sb3_rfm.experiments.run import start
from sb3_rfm.experiments.settings import RunSettings, make_env, make_model
from sb3_rfm.results.evaluations import COLUMNS, read_evaluations

pytestmark = pytest.mark.usefixtures("here")


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


def test_returns_and_speed_are_what_was_measured(monkeypatch):
    times = iter(range(0, 1000, 2))
    monkeypatch.setattr("sb3_rfm.experiments.callbacks.monotonic", lambda: next(times))
    settings = settings_with(hyperparams=TINY | {"learning_starts": 100})  # never trained
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
    first, _ = start(settings_with(), resources=QUIET)
    second, _ = start(settings_with(), resources=QUIET)
    assert second.path.name == first.path.name + "_2"  # never overwritten
    other, _ = start(settings_with(seed=1), resources=QUIET)
    returns = [rows_of(folder.path, "mean_return") for folder in (first, second, other)]
    assert returns[0] == returns[1] != returns[2]


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
    settings = settings_with(env="Shaped-v0", steps=8, hyperparams=TINY | noise)
    model, _ = make_model(settings.resolved(), "cpu")
    model.learn(8)
    actions = np.stack([env.unwrapped.actions for env in model.env.envs])
    assert actions.shape == (n_envs, 8 // n_envs, *shape)
    assert len(np.unique(np.abs(actions))) > 1
    assert (np.abs(actions) == 1).any()  # noise of three half widths
    gym.registry.pop("Shaped-v0")


def test_evaluation_episodes_are_not_those_of_training():
    settings = settings_with().resolved()
    (training,), evaluation = (make_env(settings, choice).reset() for choice in (True, False))
    assert len(evaluation) == 2  # one environment per episode
    assert not np.isclose(evaluation, training).all(axis=1).any()
    assert not np.array_equal(*evaluation)


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
        settings_with(**changes)


@pytest.mark.parametrize(("steps", "freq"), [(5, 1), (20_000, 2000), (250_000, 10_000)])
def test_the_curve_has_ten_points_or_the_protocols(steps, freq):
    assert settings_with(steps=steps, eval_freq=0).resolved().eval_freq == freq
    assert settings_with(steps=steps, eval_freq=7).resolved().eval_freq == 7


def test_a_row_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "evaluations.csv"
    path.write_text(",".join(COLUMNS) + "\nsac,Pendulum-v1,0,0,1,2,3,nan,4\nsac,Pendulum-v1,0,1")
    assert [row.steps for row in read_evaluations(path)] == [0]
    path.write_text("steps,return\n1,2\n")
    with pytest.raises(ValueError, match="has no column algorithm"):
        read_evaluations(path)
