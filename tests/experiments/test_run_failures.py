"""A run that fails says where, and leaves a folder only if it has learnt."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from environments import Bandit
from small_runs import QUIET, TINY_TEXT, rows_of, settings_with
from stable_baselines3 import SAC

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments.run import start

pytestmark = pytest.mark.usefixtures("here")


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
    settings = settings_with(env="Fails-v0", eval_freq=60, eval_episodes=1)
    with pytest.raises(KeyError, match="a fault of the environment"):
        start(settings, Path("deep/runs"), QUIET)
    assert [str(path) for path in Path().iterdir()] == (["deep"] if kept else [])
    gym.registry.pop("Fails-v0")


def test_a_run_that_fails_leaves_what_was_there_before():
    gym.register("Fails-v0", lambda: Fails(3))
    Path("runs/other").mkdir(parents=True)
    with pytest.raises(KeyError):
        start(settings_with(env="Fails-v0"), resources=QUIET)
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
    returns = rows_of("runs/sac__Endless-v0__seed0", "mean_return")
    assert np.isfinite(returns).all()
    gym.registry.pop("Endless-v0")


def test_a_failing_update_is_reported_with_its_step(monkeypatch):
    def fail(self, *arguments, **options):
        raise ValueError("not a number")

    monkeypatch.setattr(SAC, "train", fail)
    with pytest.raises(RuntimeError, match="training failed at step 21: not a number"):
        start(settings_with(), resources=QUIET)
