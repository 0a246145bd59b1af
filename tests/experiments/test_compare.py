"""``sb3-rfm compare``: what it trains, what it leaves behind and what it says."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from small_comparisons import ENV, ROOT, given_with, steps_of, written
from small_runs import TINY_TEXT

from sb3_rfm import RFMFlow
from sb3_rfm.cli import main as cli
from sb3_rfm.common.config import CandidateSettings
from sb3_rfm.experiments.comparison.definition_file import write_comparison
from sb3_rfm.experiments.comparison.executors import RayExecutor
from sb3_rfm.experiments.comparison.request import define
from sb3_rfm.experiments.comparison.runs import LOG
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.results.evaluation_table import TABLE, read_table
from sb3_rfm.utils.locks import FileLock

pytestmark = pytest.mark.usefixtures("here")

ONE_RUN = ["--envs", ENV, "--seeds", "0", "--steps", "9"]


def test_a_comparison_from_the_first_run_to_the_last(capsys):
    algos = {
        "mine": {
            "algorithm": "rfm_flow",
            "hyperparams": {
                "candidates": {"evaluate": 1},
                "critic_update.learning_rate": "lin_1e-3",
            },
        },
        "broken": {"algorithm": "sac", "hyperparams": {"batch_size": -1}},
    }
    config = written(given_with(algos=algos, eval_freq=20, checkpoint_freq=20, folder="runs/here"))
    assert cli.main(["compare", "--config", config, "--jobs", "2", "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "2 runs in runs/here: 0 finished, 0 interrupted, 2 new" in printed
    assert f"mine on {ENV}, seed 0: step 40 of 40, return" in printed
    # the one that failed stopped no other, and says where to look
    assert "1 of 2 runs finished." in printed
    assert f"Failed: broken on {ENV}, seed 0: RuntimeError: training failed at step 2" in printed
    folder = Path("runs/here")
    log = folder / f"broken__{ENV}__seed0" / LOG
    assert str(log) in printed
    assert "Traceback" in log.read_text()
    assert "sb3-rfm compare --folder runs/here" in printed
    mine = folder / f"mine__{ENV}__seed0"
    assert f"rfm_flow on {ENV}, seed 0: " in (mine / LOG).read_text()
    assert (mine / "final_model.zip").exists()
    assert yaml.safe_load((mine / "config.yml").read_text())["command"].startswith(
        "sb3-rfm compare --config comparison.yml"
    )

    table = read_table(folder / TABLE)
    assert list(table) == [("mine", ENV, 0), ("broken", ENV, 0)]
    assert str(table["mine", ENV, 0]) == str(RunFolder(mine).evaluations())  # nan is not nan
    assert [row.steps for row in table["mine", ENV, 0]] == [0, 20, 40]
    assert {row.algorithm for row in table["mine", ENV, 0]} == {"rfm_flow"}
    assert {row.n_episodes for row in table["mine", ENV, 0]} == {1}
    shown = RunFolder(mine).read_config()["hyperparameters"]
    assert shown["candidates"] == {**vars(CandidateSettings()), "evaluate": 1}
    assert shown["critic_update"]["learning_rate"].startswith("LinearSchedule(start=0.001")

    # with a seed and steps more what is finished goes on, and a broken one is tried again
    before = log.read_text().count("Traceback (most recent call last)")
    more = ["--folder", "runs/here", "--seeds", "1", "--steps", "60"]
    assert cli.main(["compare", *more]) == 1
    assert "4 runs in runs/here: 0 finished, 2 interrupted, 2 new" in capsys.readouterr().out
    assert log.read_text().count("Traceback (most recent call last)") > before
    assert steps_of(mine) == [0, 20, 40, 60]
    assert steps_of(folder / f"mine__{ENV}__seed1") == [0, 20, 40, 60]
    assert "Going on from step 40 of 60" in (mine / LOG).read_text()


def test_the_command_line_reaches_the_settings_of_a_group(capsys):
    what = ["--algos", "rfm_flow", *ONE_RUN, "--steps", "30", "--device", "cpu"]
    own = [*TINY_TEXT, "flow.steps:3", "candidates.evaluate:1"]
    options = ["--folder", "c", "--eval-freq", "30", "--eval-episodes", "1"]
    assert cli.main(["compare", *what, *options, "--hyperparams", *own]) == 0
    model = RFMFlow.load(f"c/rfm_flow__{ENV}__seed0/final_model.zip")
    assert model.flow == replace(RFMFlow.defaults.flow, steps=3)
    assert model.candidates == replace(RFMFlow.defaults.candidates, evaluate=1)
    # what is finished is left as it is
    config = Path(f"c/rfm_flow__{ENV}__seed0/config.yml")
    stamp = config.stat().st_mtime_ns
    capsys.readouterr()
    assert cli.main(["compare", "--folder", "c"]) == 0
    assert "1 run in c: 1 finished, 0 interrupted, 0 new" in capsys.readouterr().out
    assert config.stat().st_mtime_ns == stamp


def test_a_second_comparison_in_the_folder_is_refused(capsys):
    write_comparison(define(given_with()), Path("c"), [])
    with FileLock(Path("c/comparison.lock"), ""):
        assert cli.main(["compare", "--folder", "c"]) == 2
    assert "another sb3-rfm compare is at work here: c" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "report"])
def test_help_imports_nothing_slow(command):
    script = f"""
import sys
from sb3_rfm.cli.main import main
try:
    main([{command!r}, "--help"])
except SystemExit as end:
    print(end.code, sorted({{"torch", "numpy", "yaml", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: sb3-rfm {command}")
    assert done.stdout.endswith("\n0 []\n")


def test_ray_is_asked_for_by_name():
    script = "import sys; sys.modules['ray'] = None\nfrom sb3_rfm.cli.main import main\n"
    script += f"sys.exit(main(['compare', '--config', {written(given_with())!r}, '--ray', 'x']))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "sb3-rfm: compare: needs ray, not installed here: install the extra: pip install '.[ray]' "
        "in a checkout of sb3_rfm\n"
    )
    assert RayExecutor.__doc__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--algos, --envs, --seeds, --steps required, for example --algos rfm_flow sac"),
        (["--config", "nothing.yml"], "--config: there is no file nothing.yml"),
        ([*ONE_RUN, "--algos", "ppo"], "got 'ppo'"),
        (
            [*ONE_RUN, "--algos", "qne", "--hyperparams", "sampling_steps:4"],
            "QNE has no hyperparameter 'sampling_steps': it is flow.steps now",
        ),
        (["--jobs", "0"], "jobs must be an integer of at least 1, got 0"),
        (["--retries", "-1"], "retries must be an integer of at least 0, got -1"),
    ],
)
def test_errors_of_the_user_are_one_line(arguments, message, tmp_path, capsys):
    assert cli.main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sb3-rfm: compare: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
