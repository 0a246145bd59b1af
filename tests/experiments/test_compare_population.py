"""Seeds of a comparison that one worker trains together: each promise holds as without."""

import re
from pathlib import Path

import pytest
import yaml

from sb3_rfm import RFMFlow
from sb3_rfm.cli import main as cli_main
from sb3_rfm.experiments.comparison.progress import RunProgress
from sb3_rfm.experiments.comparison.runner import (
    LARGEST,
    ComparisonRunner,
    population_size,
)
from sb3_rfm.experiments.comparison.runs import LOG, ComparisonRun, EvaluationTable
from sb3_rfm.experiments.comparison.worker import train_runs
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.settings import RunSettings
from sb3_rfm.results.evaluations import read_evaluations

ENV = "Pendulum-v1"
CPU = Resources("cpu", progress=False)
TINY = {
    "learning_starts": 20,
    "batch_size": 8,
    "policy_kwargs": {"net_arch": [8]},
    "candidates": {"evaluate": 1},
}


def _runs(path, n=2, env=ENV, steps=60, algo="rfm_flow", **changes):
    given = {"steps": steps, "eval_episodes": 1, "eval_freq": 30, "hyperparams": TINY, **changes}
    settings = [RunSettings(algo, env, seed=seed, **given).resolved() for seed in range(n)]
    return [
        ComparisonRun(algo, each, path.resolve() / f"{algo}__seed{seed}")
        for seed, each in enumerate(settings)
    ]


def _steps(run):
    return [row.steps for row in read_evaluations(run.folder.csv_file)]


def test_each_run_has_its_own_folder_and_log(tmp_path, capfd):
    runs = _runs(tmp_path)
    assert [outcome.finished for outcome in train_runs(runs, CPU, "a command")] == [True, True]
    for run in runs:
        assert _steps(run) == [0, 30, 60]
        assert RFMFlow.load(run.folder.model_file).num_timesteps == 60
        log = (run.path / LOG).read_text()
        assert f"seed {run.settings.seed}: {run.path}" in log
        assert f"seed {1 - run.settings.seed}" not in log
        assert log.count("step 30 of 60") == 1
    assert capfd.readouterr().out == ""
    first, second = (RFMFlow.load(run.folder.model_file).get_parameters() for run in runs)
    name = "actor.network.point_layer.weight"
    assert not (first["policy"][name] == second["policy"][name]).all()


def test_one_that_fails_leaves_the_others_alone(tmp_path):
    runs = _runs(tmp_path, n=3)
    (runs[1].path / "config.yml" / "in the way").mkdir(parents=True)
    outcomes = train_runs(runs, CPU, "")
    assert [outcome.finished for outcome in outcomes] == [True, False, True]
    assert re.match(r"\w+Error: .*config.yml", outcomes[1].error)
    assert _steps(runs[2]) == [0, 30, 60]


@pytest.mark.parametrize("mortal", ["SIGTERM"], indirect=True)
def test_a_stop_saves_each_and_each_goes_on(mortal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = _runs(tmp_path, env=mortal, steps=400, eval_freq=300)
    outcomes = train_runs(runs, CPU, "")
    assert [(outcome.finished, outcome.error) for outcome in outcomes] == [(False, "")] * 2
    stopped = [run.checkpoint_steps() for run in runs]
    assert all(240 <= step <= 250 for step in stopped)
    assert [outcome.finished for outcome in train_runs(runs, CPU, "")] == [True, True]
    for run, step in zip(runs, stopped, strict=True):
        assert f"Going on from step {step} of 400" in (run.path / LOG).read_text()
        assert _steps(run) == [0, 300, 400]


def test_a_killed_worker_costs_its_runs_nothing_but_time(mortal, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {
        "algos": ["rfm_flow"],
        "envs": [mortal],
        "seeds": [0, 1],
        "steps": 400,
        "eval_freq": 300,
        "eval_episodes": 1,
        "checkpoint_freq": 100,
        "hyperparams": TINY,
    }
    Path("given.yml").write_text(yaml.safe_dump(given))
    options = ["--folder", "c", "--population", "2", "--device", "cpu"]
    code = cli_main.main(["compare", "--config", "given.yml", *options])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.count("killed by SIGKILL, as when memory runs out; again from step") == 2
    for path in sorted(path.parent for path in Path("c").glob(f"*/{LOG}")):
        assert re.search("Going on from step [12]00 of 400", (path / LOG).read_text())
        assert [row.steps for row in read_evaluations(path / "evaluations.csv")] == [0, 300, 400]


def test_what_is_trained_together(tmp_path):
    runs = [*_runs(tmp_path, n=5), *_runs(tmp_path, n=2, algo="sac")]
    table = EvaluationTable(runs, tmp_path / "comparison.csv")
    runner = ComparisonRunner(runs, table, CPU, retries=0, command="", population=2)
    groups = runner._groups([RunProgress(run) for run in runs])
    named = [[(item.run.label, item.run.settings.seed) for item in group] for group in groups]
    flow = [("rfm_flow", seed) for seed in range(5)]
    assert named == [flow[:2], flow[2:4], flow[4:], [("sac", 0)], [("sac", 1)]]  # SAC's by itself


@pytest.mark.parametrize(
    ("given", "device", "size"),
    [("auto", "cpu", 1), ("auto", "meta", 1), ("3", "cpu", 3), ("1", "cpu", 1)],
)
def test_the_size_of_a_population(given, device, size):
    assert population_size(given, device) == size
    assert LARGEST > 1


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5"])
def test_refuses_other_sizes(given):
    with pytest.raises(ValueError, match="population must be an integer of at least 1, or 'auto'"):
        population_size(given, "cpu")
