"""``sb3-rfm enjoy`` with the folder of a run, and what of it is played."""

import sys
from pathlib import Path

import pytest
from drawn_bandit import DrawnBandit
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments.comparison.runs import ComparisonRun
from sb3_rfm.experiments.comparison.worker import train_run
from sb3_rfm.experiments.play import enjoy, find_agent
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.settings import RunSettings, make_vector

TINY = ["learning_starts:10", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
SHORT = ["run", "--algo", "sac", "--env", "DrawnBandit-v0", "--steps", "30", "--no-progress"]
RUN = Path("runs/sac__DrawnBandit-v0__seed0")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def _run(*arguments, env="DrawnBandit-v0"):
    command = [env if word == "DrawnBandit-v0" else word for word in SHORT]
    assert cli.main([*command, "--eval-episodes", "1", *arguments, "--hyperparams", *TINY]) == 0


def test_what_run_leaves_is_played(capsys):
    DrawnBandit.made.clear()
    _run()
    assert set(DrawnBandit.made) == {None}  # training asks for no frames
    capsys.readouterr()
    assert cli.main(["enjoy", str(RUN), "-n", "12"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"sac on DrawnBandit-v0, step 30: {RUN / 'final_model.zip'}\n")
    assert "episode 2: return" in printed
    assert "2 episodes: return" in printed
    assert set(DrawnBandit.made) == {None}  # nor playing without a display


def test_the_returns_are_those_of_evaluations():
    _run()
    settings, file = find_agent(RUN)
    expected, _ = evaluate_policy(SAC.load(file), make_vector(settings, 1, 7), n_eval_episodes=1)
    assert enjoy(RUN, 5, seed=7) == [pytest.approx(expected, abs=1e-5)]


def test_a_run_without_a_final_model_plays_its_newest_checkpoint():
    _run("--checkpoint-freq", "20")
    (RUN / "final_model.zip").unlink()
    assert find_agent(RUN)[1] == RUN / "checkpoints" / "step_20" / "model.zip"
    assert len(enjoy(RUN, 5)) == 1


def test_what_compare_leaves_is_played(capsys):
    hyperparams = {"learning_starts": 10, "batch_size": 8}
    settings = RunSettings("sac", "DrawnBandit-v0", 20, eval_episodes=1, hyperparams=hyperparams)
    path = Path("grid/cool__DrawnBandit-v0__seed0")
    run = ComparisonRun("cool", settings.resolved(), path)
    assert train_run(run, Resources("cpu", progress=False), "").finished
    capsys.readouterr()
    assert cli.main(["enjoy", str(path), "-n", "5"]) == 0
    assert "1 episodes: return" in capsys.readouterr().out
    assert cli.main(["enjoy", "grid"]) == 2
    assert f"name one of its runs, {path}" in capsys.readouterr().err


def test_an_environment_that_draws_nothing_is_played_but_not_recorded(capsys, monkeypatch):
    _run(env="UndrawnBandit-v0")
    monkeypatch.setenv("DISPLAY", ":7")
    assert cli.main(["enjoy", "runs/sac__UndrawnBandit-v0__seed0", "-n", "5"]) == 0
    assert cli.main(["record", "runs/sac__UndrawnBandit-v0__seed0", "-n", "5"]) == 2
    assert "UndrawnBandit-v0 draws no frames" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["no config", "no agent", "not a zip", "no folder"])
def test_what_cannot_be_played_is_one_sentence(damage, capsys):
    if damage != "no folder":
        _run()
    if damage == "no config":
        (RUN / "config.yml").unlink()
    if damage == "no agent":
        (RUN / "final_model.zip").unlink()
    if damage == "not a zip":
        (RUN / "final_model.zip").write_text("no")
    capsys.readouterr()
    assert cli.main(["enjoy", str(RUN)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    words = {"no config": "has no config.yml", "no agent": "has no agent yet"}
    words |= {"not a zip": "wasn't a zip-file", "no folder": "there is no such folder"}
    assert words[damage] in error
