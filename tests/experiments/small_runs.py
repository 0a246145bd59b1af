"""Runs of a few steps, and the rows that they leave."""

from pathlib import Path

from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.settings import RunSettings
from sb3_rfm.results.evaluations import read_evaluations

QUIET = Resources("cpu", threads=1, progress=False)
TINY = {"learning_starts": 20, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
TINY_TEXT = ["learning_starts:20", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]


def settings_with(**changes):
    """Settings of 60 steps of SAC, evaluated at each half."""
    given = {"algo": "sac", "env": "Pendulum-v1", "steps": 60, "eval_freq": 30, "eval_episodes": 2}
    return RunSettings(**given | {"hyperparams": TINY} | changes)


def rows_of(path, column):
    """One column of a run's evaluations."""
    return [getattr(row, column) for row in read_evaluations(Path(path) / "evaluations.csv")]
