"""What a stop or a death costs a comparison, in processes and with Ray."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from small_comparisons import ENV, ROOT, given_with, steps_of, written
from stable_baselines3 import SAC

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments.comparison.definition_file import FILE
from sb3_rfm.experiments.comparison.runs import LOG
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.run import INTERRUPTED
from sb3_rfm.utils.locks import FileLock

pytestmark = pytest.mark.usefixtures("here")


def test_a_killed_worker_costs_its_run_nothing_but_time(mortal, capsys):
    given = given_with(envs=[mortal], seeds=[0, 1], steps=400, eval_freq=300, checkpoint_freq=100)
    code = cli.main(["compare", "--config", written(given), "--folder", "c", "--jobs", "2"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "killed by SIGKILL, as when memory runs out; again from step" in printed
    assert printed.count("retry 1 of 2") == 1
    paths = sorted(path.parent for path in Path("c").glob(f"*/{LOG}"))
    logs = [(path / LOG).read_text() for path in paths]
    assert sorted(log.count("-- ") for log in logs) == [1, 2]  # one was begun twice
    (again,) = (log for log in logs if log.count("-- ") == 2)
    assert re.search("Going on from step [12]00 of 400", again)
    for path in paths:
        assert steps_of(path) == [0, 300, 400]
        assert SAC.load(path / "final_model.zip").num_timesteps == 400


def _wait_for_step(path, steps=200):
    """Of a run that is far longer; however slow the machine, up to five minutes."""
    note = path / "progress.txt"
    end = time.monotonic() + 300
    while not note.exists() or int(note.read_text()) < steps:
        assert time.monotonic() < end, "the run is too slow"
        time.sleep(0.05)


def _process_of(path):
    return int((path / LOG).read_text().split("process ")[1].split()[0])


def _end_soon(path, target):
    """A shorter target would be another comparison: make this one of runs that end soon."""
    for file in (path / "config.yml", Path("c") / FILE):
        content = yaml.safe_load(file.read_text())
        content.get("settings", content)["steps"] = target
        file.write_text(yaml.safe_dump(content, sort_keys=False))


def _checkpoint(path):
    return int(RunFolder(path).latest_checkpoint().name.removeprefix("step_"))


def test_ctrl_c_saves_the_runs_and_the_comparison_goes_on(capsys):
    config = written(given_with(seeds=[0, 1], steps=100_000, eval_freq=50_000))
    path = Path("c") / f"sac__{ENV}__seed0"
    groups = []

    def interrupt():
        _wait_for_step(path)
        # the terminal sends it to the whole group: the worker must get it from us alone
        groups.append(os.getpgid(_process_of(path)))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    arguments = ["compare", "--config", config, "--folder", "c", "--jobs", "1"]
    assert cli.main(arguments) == INTERRUPTED
    printed = capsys.readouterr().out
    assert "0 of 2 runs finished." in printed
    assert "  sb3-rfm compare --folder c\n" in printed
    assert groups != [os.getpgid(0)]
    stopped_at = _checkpoint(path)
    assert stopped_at >= 200
    assert not (Path("c") / f"sac__{ENV}__seed1" / "config.yml").exists()

    _end_soon(path, stopped_at + 30)
    assert cli.main(["compare", "--folder", "c"]) == 0
    assert "2 runs in c: 0 finished, 1 interrupted, 1 new" in capsys.readouterr().out
    assert f"Going on from step {stopped_at} of {stopped_at + 30}" in (path / LOG).read_text()
    assert steps_of(path) == [0, stopped_at + 30]


def test_workers_save_when_the_comparison_is_killed():
    config = written(given_with(steps=100_000, eval_freq=50_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "sb3_rfm.cli", "compare", "--config", config, "--folder", "c"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    path = Path("c") / f"sac__{ENV}__seed0"
    _wait_for_step(path)
    process.kill()
    process.wait(60)
    with FileLock(path / "run.lock", "still there", patience=300):  # until the worker has ended
        assert _checkpoint(path) >= 200


@pytest.mark.slow
def test_ray_carries_out_the_same(mortal, capfd):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        # a worker that is killed is taken up again
        given = given_with(
            envs=[mortal], steps=400, eval_freq=400, checkpoint_freq=100, seeds=[0, 1]
        )
        assert cli.main(["compare", "--config", written(given), "--folder", "c", "--ray"]) == 0
        assert "again from step" in capfd.readouterr().out
        assert all(steps_of(log.parent) == [0, 400] for log in Path("c").glob(f"*/{LOG}"))

        # and Ctrl-C saves
        config = written(given_with(steps=100_000, eval_freq=50_000))
        path = Path("d") / f"sac__{ENV}__seed0"

        def interrupt():
            _wait_for_step(path)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        arguments = ["compare", "--config", config, "--folder", "d", "--ray"]
        assert cli.main(arguments) == INTERRUPTED
        assert _checkpoint(path) >= 200
    finally:
        ray.shutdown()
