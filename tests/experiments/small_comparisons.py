"""Comparisons of a few steps, and what lies in their folders."""

from pathlib import Path

import yaml
from small_runs import TINY

from sb3_rfm.experiments.comparison.runs import ComparisonRun
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]
ENV = "Pendulum-v1"
GIVEN = {"algos": ["sac"], "envs": [ENV], "seeds": [0], "steps": 40, "eval_episodes": 1}


def given_with(**changes):
    """What a comparison of one run is given."""
    return GIVEN | {"hyperparams": TINY} | changes


def written(given, path="comparison.yml"):
    """The name of a file with what is given."""
    Path(path).write_text(yaml.safe_dump(given, sort_keys=False))
    return str(path)


def a_run(path="c", seed=0, label="sac"):
    """A run of 40 steps, which is not begun."""
    settings = RunSettings("sac", ENV, steps=40, seed=seed, eval_episodes=1, hyperparams=TINY)
    return ComparisonRun(label, settings.resolved(), Path(path) / f"{label}__{ENV}__seed{seed}")


def made(run):
    """The folder of a run, which is new."""
    run.path.mkdir(parents=True)
    return RunFolder(run.path)


def steps_of(path):
    """At which a run was evaluated."""
    return [row.steps for row in RunFolder(Path(path)).evaluations()]
