"""``sb3-rfm compare``: what it trains, what it leaves behind, and what a stop or a death costs."""

import io
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from stable_baselines3 import SAC
from systems import Disk

from sb3_rfm import RFMFlow
from sb3_rfm.checkpoints.replay import grow
from sb3_rfm.cli import main as cli
from sb3_rfm.common.config import CandidateSettings
from sb3_rfm.experiments.callbacks import StopRequest
from sb3_rfm.experiments.comparison import executors
from sb3_rfm.experiments.comparison.command import _report
from sb3_rfm.experiments.comparison.definition import Comparison, Entry
from sb3_rfm.experiments.comparison.definition_file import (
    FILE,
    read_comparison,
    read_request,
    to_yaml,
    write_comparison,
)
from sb3_rfm.experiments.comparison.display import Lines, Table
from sb3_rfm.experiments.comparison.executors import (
    Executor,
    LocalExecutor,
    RayExecutor,
    WorkerLost,
)
from sb3_rfm.experiments.comparison.progress import (
    FAILED,
    FINISHED,
    RUNNING,
    RunProgress,
    duration,
    total_eta,
)
from sb3_rfm.experiments.comparison.request import combined, define
from sb3_rfm.experiments.comparison.runner import ComparisonRunner
from sb3_rfm.experiments.comparison.runs import (
    LOG,
    ComparisonRun,
    EvaluationTable,
    by_state,
    runs_of,
)
from sb3_rfm.experiments.comparison.worker import Outcome, _output_to, train_run
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.hyperparams import parse_overrides
from sb3_rfm.experiments.run import INTERRUPTED, UNWRITTEN, Resources, resume, start
from sb3_rfm.experiments.settings import RunSettings, buffer_length
from sb3_rfm.results.evaluation_table import TABLE, TABLE_COLUMNS, read_table, write_table
from sb3_rfm.results.evaluations import Evaluation
from sb3_rfm.utils.locks import FileLock
from sb3_rfm.utils.unwritten import Unwritten

ROOT = Path(__file__).resolve().parents[2]
ENV = "Pendulum-v1"
TINY = {"learning_starts": 20, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
TINY_TEXT = ["learning_starts:20", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
ONE_RUN = ["--envs", ENV, "--seeds", "0", "--steps", "9"]
GIVEN = {"algos": ["sac"], "envs": [ENV], "seeds": [0], "steps": 40, "eval_episodes": 1}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _given(**changes):
    return GIVEN | {"hyperparams": TINY} | changes


def _write(given, path="comparison.yml"):
    Path(path).write_text(yaml.safe_dump(given, sort_keys=False))
    return str(path)


def _run(path="c", seed=0, label="sac"):
    settings = RunSettings("sac", ENV, steps=40, seed=seed, eval_episodes=1, hyperparams=TINY)
    return ComparisonRun(label, settings.resolved(), Path(path) / f"{label}__{ENV}__seed{seed}")


# ---------------------------------------------------------------- the definition


def test_a_definition_is_what_was_given():
    variant = {"algorithm": "rfm_flow", "hyperparams": {"temperature": 0.1, "gamma": 0.5}}
    algos = {"sac": None, "paper": variant}
    given = _given(algos=algos, hyperparams={"gamma": 0.9}, envs=["cartpole-swingup", ENV])
    comparison = define(given | {"seeds": [1, 0, 1]})
    assert comparison.algos == {
        "sac": Entry("sac", {"gamma": 0.9}),
        "paper": Entry("rfm_flow", {"gamma": 0.5, "temperature": 0.1}),  # its own come last
    }
    assert comparison.envs == ("dm_control/cartpole-swingup-v0", ENV)
    assert comparison.seeds == (1, 0)
    assert (comparison.steps, comparison.eval_freq, comparison.eval_episodes) == (40, 4, 1)
    settings = comparison.settings()
    assert len(settings) == 2 * 2 * 2
    assert [label for label, _ in settings[:2]] == ["sac", "paper"]  # what is early compares
    assert {run.seed for _, run in settings[:4]} == {1}
    assert settings[1][1].hyperparams["temperature"] == 0.1
    assert settings[1][1].hyperparams["env_wrapper"] == "sb3_rfm.envs.FlatFloat32"


def test_a_definition_is_remembered(tmp_path):
    comparison = define(_given(hyperparams={"train_freq": (2, "step"), "learning_rate": 3e-4}))
    write_comparison(comparison, tmp_path / "c", ["a command"])
    assert read_comparison(tmp_path / "c") == (comparison, ["a command"])
    assert read_comparison(tmp_path / "nothing") == (None, [])
    # it is a --config, too
    assert define(read_request(tmp_path / "c" / FILE)) == comparison


def test_a_folder_grows():
    stored = define(_given())
    more = define({"algos": "td3", "seeds": [0, 1], "envs": "walker-walk", "steps": 80}, stored)
    assert list(more.algos) == ["sac", "td3"]
    assert more.envs == (ENV, "dm_control/walker-walk-v0")
    assert more.seeds == (0, 1)
    assert (more.steps, more.eval_freq) == (80, stored.eval_freq)
    assert define({}, stored) == define(_given(), stored) == stored
    assert define({"checkpoint_freq": 7}, stored).checkpoint_freq == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algos": "ppo"}, "algo must be one of rfm_flow, .*got 'ppo'"),
        ({"algos": {"a/b": {"algorithm": "sac"}}}, "a label must be letters.*got 'a/b'"),
        ({"algos": {"a": {"algo": "sac"}}}, "a takes the keys 'algorithm' and 'hyperparams'"),
        ({"algos": {"sac": {"hyperparams": [1]}}}, r"hyperparams of sac must be.*got \[1\]"),
        ({"algos": []}, r"algos must be one value or several, got \[\]"),
        ({"hyperparams": {"batchsize": 3}}, "has no hyperparameter 'batchsize': did you mean b"),
        (
            {"algos": "rfm_flow", "hyperparams": {"n_particles": 3}},
            "RFMFlow has no hyperparameter 'n_particles': it is estimator.n_particles now",
        ),
        (
            {"algos": "rfm_flow", "hyperparams": {"flow.stpes": 3}},
            "flow has no setting 'stpes': did you mean steps",
        ),
        (
            {"algos": "rfm_flow", "hyperparams": {"flow": {"steps": "many"}}},
            "flow.steps must be an int of at least 1; got 'many'",
        ),
        (
            {"algos": {"qne": {"hyperparams": {"flow.steps": 3}}}, "hyperparams": {"flow": "fast"}},
            "flow must be a dict of its settings; got 'fast'",
        ),
        ({"hyperparams": {"flow.steps": 3}}, "SAC has no hyperparameter 'flow'"),
        ({"hyperparams": "gamma"}, "hyperparams must be KEY: VALUE pairs, got 'gamma'"),
        ({"hyperparams": {"gamma": object()}}, "hyperparams must be plain values"),
        ({"envs": "Pendulm-v1"}, "Unknown environment 'Pendulm-v1': did you mean Pendulum"),
        ({"seeds": [0, -1]}, "seeds must be an integer of at least 0, got -1"),
        ({"seeds": [0.5]}, "seeds must be an integer of at least 0, got 0.5"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"steps": "many"}, "steps must be an integer of at least 1, got 'many'"),
        ({"eval_episodes": 0}, "eval_episodes must be an integer of at least 1, got 0"),
        ({"checkpoint_freq": -1}, "checkpoint_freq must be an integer of at least 0, got -1"),
        ({"env": ENV}, "a comparison has the keys algos, .*got 'env'"),
    ],
)
def test_a_wrong_definition_names_what_was_got(changes, message):
    with pytest.raises(ValueError, match=message):
        define(_given(**changes))


@pytest.mark.parametrize("name", ["algos", "envs", "seeds", "steps"])
def test_what_is_missing_is_named(name):
    with pytest.raises(ValueError, match=f"--{name} required, for example --{name} "):
        define({key: value for key, value in GIVEN.items() if key != name})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hyperparams": {"gamma": 0.5}},
            r"sac is another one in this folder: got sac with \{'gamma': 0.5\}, there is sac with "
            r"\{'learning_starts': 20",
        ),
        ({"algos": {"sac": {"algorithm": "td3"}}}, "got td3 with .*there is sac with"),
        ({"steps": 20}, "steps must be at least this folder's own 40, got 20"),
        ({"eval_freq": 9}, "eval_freq of this folder's runs is 4, got 9"),
        ({"eval_episodes": 2}, "eval_episodes of this folder's runs is 1, got 2"),
    ],
)
def test_a_contradiction_names_what_is_there(changes, message):
    with pytest.raises(ValueError, match=message):
        define(_given(**changes), define(_given()))
    with pytest.raises(ValueError, match="add --algos"):
        define({"hyperparams": {"gamma": 0.5}}, define(_given()))


def test_the_command_line_has_the_last_word():
    file = _given(algos={"sac": None, "mine": {"algorithm": "td3"}}, hyperparams={"gamma": 0.5})
    options = {"algos": ["mine", "rfm_flow"], "seeds": [7], "hyperparams": {"tau": 0.1}}
    comparison = define(combined(file, options))
    assert comparison.seeds == (7,)
    assert comparison.algos == {
        "mine": Entry("td3", {"gamma": 0.5, "tau": 0.1}),
        "rfm_flow": Entry("rfm_flow", {"gamma": 0.5, "tau": 0.1}),
    }


def test_settings_of_a_group_are_changed_one_by_one():
    variant = {"flow": {"solver": "heun"}, "candidates.evaluate": 1}
    algos = {"rfm_flow": None, "mine": {"algorithm": "rfm_diffusion", "hyperparams": variant}}
    given = {"flow": {"steps": "1e1", "time_shift": 2.0}, "candidates": 8}
    file = _given(algos=algos, hyperparams=given)
    options = {"hyperparams": parse_overrides(["flow.steps:4"])}
    comparison = define(combined(file, options))
    flow = {"steps": 4, "time_shift": 2.0}
    assert comparison.algos == {
        "rfm_flow": Entry("rfm_flow", {"flow": flow, "candidates": 8}),
        "mine": Entry(
            "rfm_diffusion",
            {"flow": {**flow, "solver": "heun"}, "candidates": {"n": 8, "evaluate": 1}},
        ),
    }
    for label, run in comparison.settings():
        for name, value in comparison.algos[label].hyperparams.items():
            assert run.hyperparams[name] == value
    (_, whole), *_ = define(file).settings()
    assert whole.hyperparams["flow"] == {"steps": 10, "time_shift": 2.0}


def test_a_yaml_file_is_read_as_it_is_meant(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text("hyperparams: {learning_rate: 3e-4, temperature: auto, tau: 5.E-3}\n")
    assert read_request(path)["hyperparams"] == {
        "learning_rate": 3e-4,  # a string to YAML 1.1, and then a schedule to us
        "temperature": "auto",
        "tau": 5e-3,
    }
    path.write_text("a: [\n")
    with pytest.raises(ValueError, match=r"c\.yml is not YAML: .*line 2"):
        read_request(path)
    path.write_text("- sac\n")
    with pytest.raises(ValueError, match="must have the keys algos,"):
        read_request(path)
    assert to_yaml({"b": {"c": [1, 2]}, "a": 1}) == "b:\n  c: [1, 2]\na: 1\n"


# ---------------------------------------------------------------- what lies there


def test_other_settings_are_refused(tmp_path):
    comparison = define(_given())
    (run,) = runs_of(comparison, tmp_path)
    assert run.path == tmp_path / f"sac__{ENV}__seed0"
    start(run.settings, resources=Resources("cpu", progress=False), folder=_made(run))
    assert run.is_finished()
    assert by_state(runs_of(define({"steps": 90}, comparison), tmp_path))["finished"] == []
    config = run.folder.read_config()
    config["settings"]["hyperparams"]["gamma"] = 0.5  # a default changed in the meantime
    run.folder.write_config(config)
    with pytest.raises(ValueError, match=r"other settings: got hyperparams .*there is .*0\.5"):
        runs_of(comparison, tmp_path)


def _made(run):
    run.path.mkdir(parents=True)
    return RunFolder(run.path)


@pytest.mark.parametrize("other", ["a", "A"])  # one name on Windows and macOS
def test_runs_that_would_share_a_folder_are_refused(other, tmp_path, monkeypatch):
    settings = [(label, _run().settings) for label in ("a", other)]
    monkeypatch.setattr(Comparison, "settings", lambda self: settings)
    with pytest.raises(ValueError, match="two of them would share the folders"):
        runs_of(define(_given()), tmp_path)


def test_the_table_follows_the_runs(tmp_path):
    runs = [_run(tmp_path, seed, label) for label in ("sac", "mine") for seed in (0, 1)]
    table = EvaluationTable(runs, tmp_path / TABLE)
    assert table.refresh() == []
    assert (tmp_path / TABLE).read_text().strip() == ",".join(TABLE_COLUMNS)
    rows = [Evaluation("sac", ENV, 1, steps, -steps, 0.5, 2, math.nan, 9.0) for steps in (0, 10)]
    folder = _made(runs[3])
    for row in rows:
        folder.append_evaluation(row)
        assert table.refresh() == [runs[3]]
        assert table.refresh() == []
    ((key, read),) = read_table(tmp_path / TABLE).items()
    assert key == ("mine", ENV, 1)
    assert [(row.steps, row.mean_return) for row in read] == [(0, 0), (10, -10)]
    folder.drop_evaluations_after(0)  # back to a checkpoint
    assert table.refresh() == [runs[3]]
    assert len(read_table(tmp_path / TABLE)[key]) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [TABLE]  # nothing aside


def test_a_table_on_a_full_disk_is_written_with_what_comes(tmp_path, monkeypatch):
    run = _run(tmp_path)
    table, folder = EvaluationTable([run], tmp_path / TABLE), _made(run)
    rows = [Evaluation("sac", ENV, 0, steps, 0.0, 0.5, 2, 1.0, 9.0) for steps in (0, 10)]
    folder.append_evaluation(rows[0])
    disk = Disk(monkeypatch)
    with (
        disk.failing(),
        pytest.warns(UserWarning, match=f"{TABLE} is not written: No space") as seen,
    ):
        assert [table.refresh() for _ in range(3)] == [[run], [], []]
    assert len(seen) == 1  # it is not tried all the time
    assert str(table.unwritten) == f"not written: {table.path}: No space left on device"
    folder.append_evaluation(rows[1])
    assert table.refresh() == [run]
    assert not table.unwritten
    ((_, read),) = read_table(tmp_path / TABLE).items()
    assert read == rows


def test_a_broken_table_is_refused(tmp_path):
    path = tmp_path / TABLE
    write_table(path, [("a", [Evaluation("sac", ENV, 0, 0, 1.0, 0.5, 2, 1.0, 9.0)])])
    path.write_text(path.read_text().replace(",1.0,0.5", ",one,0.5"))
    with pytest.raises(ValueError, match="line 2: could not convert string to float: 'one'"):
        read_table(path)
    path.write_text("label,steps\na,1\n")
    with pytest.raises(ValueError, match="has no column algorithm"):
        read_table(path)


def test_a_buffer_made_longer_is_one_that_always_was():
    observations = np.arange(9, dtype=np.float32)

    def filled(size, number):
        model = SAC("MlpPolicy", ENV, buffer_size=size)
        for value in observations[:number]:
            new = np.full((1, 3), value, np.float32)
            model.replay_buffer.add(new, new + 1, new[:, :1], new[0, :1], np.zeros(1), [{}])
        return model.replay_buffer

    for number in (3, 5, 7):  # partly full, just full, gone round
        buffer = filled(5, number)
        grow(buffer, 9)
        kept = min(number, 5)
        assert (buffer.pos, buffer.full, buffer.size()) == (kept, False, kept)
        assert buffer.rewards.shape == (9, 1)
        np.testing.assert_array_equal(
            buffer.rewards[:kept, 0], observations[number - kept : number]
        )
        assert buffer.next_observations.shape == (9, 1, 3)
    grow(buffer, 4)
    assert buffer.buffer_size == 9  # what it holds is kept


def test_a_run_that_goes_on_has_room_for_all_of_it(tmp_path):
    settings = _run().settings
    resources = Resources("cpu", progress=False)
    folder, _ = start(_with_steps(settings, 40, 20), tmp_path, resources)
    resume(folder.path, resources, steps=60)
    saved = SAC("MlpPolicy", ENV)
    saved.load_replay_buffer(folder.latest_checkpoint() / "replay_buffer.pkl")
    assert saved.replay_buffer.buffer_size == 60
    assert buffer_length(_with_steps(settings, 10**7, 0)) == 1_000_000  # the algorithm's own


def _with_steps(settings, steps, every):
    return replace(settings, steps=steps, checkpoint_freq=every)


# ---------------------------------------------------------------- executors


def test_processes_answer_die_and_fail():
    with LocalExecutor(2) as executor:
        answer = executor.submit(math.sqrt, 4.0)
        killed = executor.submit(signal.raise_signal, signal.SIGKILL)
        left = executor.submit(os._exit, 3)
        assert answer.result(60) == 2.0
        with pytest.raises(WorkerLost, match="killed by SIGKILL, as when memory runs out"):
            killed.result(60)
        with pytest.raises(WorkerLost, match="ended with exit code 3"):
            left.result(60)


def test_a_stop_ends_what_runs_and_what_waits():
    with LocalExecutor(1) as executor:
        running, waiting = (executor.submit(time.sleep, 100) for _ in range(2))
        while not executor._processes:
            time.sleep(0.01)
        executor.stop()
        with pytest.raises(WorkerLost, match="SIGTERM"):
            running.result(60)
        with pytest.raises(CancelledError):
            waiting.result(60)


def _until_asked(ready):
    with StopRequest() as stop:
        ready.touch()
        while not stop.requested:
            time.sleep(0.01)
    return "saved"


def test_a_stop_asks_where_terminate_kills(tmp_path, monkeypatch):
    from multiprocessing.process import BaseProcess

    monkeypatch.setattr(BaseProcess, "terminate", BaseProcess.kill)  # Windows
    with LocalExecutor(1) as executor:
        running = executor.submit(_until_asked, tmp_path / "ready")
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        executor.stop()
        assert running.result(60) == "saved"


def test_ctrl_c_is_the_parents_on_windows_too(monkeypatch):
    import ctypes

    calls = []
    kernel = types.SimpleNamespace(SetConsoleCtrlHandler=lambda *given: calls.append(given))
    windll = types.SimpleNamespace(kernel32=kernel)
    monkeypatch.setattr(ctypes, "windll", windll, raising=False)
    monkeypatch.setattr(executors, "sys", types.SimpleNamespace(platform="win32"))
    executors._leave_ctrl_c_to_the_parent()
    assert calls == [(None, True)]  # ignore it


def test_leaving_kills_what_runs():
    with LocalExecutor(1) as executor:
        running = executor.submit(time.sleep, 100)
        while not executor._processes:
            time.sleep(0.01)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        running.result(0)


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_are_at_least_one(jobs):
    with pytest.raises(ValueError, match=f"jobs must be an integer of at least 1, got {jobs}"):
        LocalExecutor(jobs)


class Scripted(Executor):
    """Answers what it was told to, run by run."""

    def __init__(self, answers):
        super().__init__(1)
        self.answers, self.asked = answers, []

    def _carry_out(self, function, arguments):
        (run,) = arguments[0]
        self.asked.append(run.label)
        answer = self.answers[run.label].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    def _end(self, force):
        pass


def _runner(tmp_path, monkeypatch, answers, retries=2):
    monkeypatch.setattr("sb3_rfm.experiments.comparison.runner.POLL", 0.01)
    runs = [_run(tmp_path, label=label) for label in answers]
    executor = Scripted(answers)
    runner = ComparisonRunner(
        runs, EvaluationTable(runs, tmp_path / TABLE), Resources(), retries, command=""
    )
    with StopRequest() as stop:
        runner.run(lambda number: executor, stop)
    return runner


def _errors(runner):
    return {run.label: error for run, error in runner.errors.items()}


def test_the_lost_are_retried_and_the_failed_are_not(tmp_path, monkeypatch, capsys):
    lost, done = WorkerLost("gone"), Outcome(finished=True)
    answers = {
        "steady": [done],
        "unlucky": [lost, Outcome(False), done],  # a worker that was asked to stop by another
        "hopeless": [lost, lost, lost],
        "broken": [Outcome(False, "ValueError: no")],
        "unpacked": [TypeError("cannot pickle")],
    }
    runner = _runner(tmp_path, monkeypatch, answers)
    asked = {label: runner._executor.asked.count(label) for label in answers}
    assert asked == {"steady": 1, "unlucky": 3, "hopeless": 3, "broken": 1, "unpacked": 1}
    assert _errors(runner) == {
        "hopeless": "lost 3 times, the last time gone",
        "broken": "ValueError: no",
        "unpacked": "TypeError: cannot pickle",
    }
    printed = capsys.readouterr().out
    assert f"unlucky on {ENV}, seed 0: gone; again from the start (retry 1 of 2)" in printed
    assert "its process was asked to stop; again from the start (retry 2 of 2)" in printed
    runner = _runner(tmp_path, monkeypatch, {"a": [WorkerLost("gone")]}, retries=0)
    assert _errors(runner) == {"a": "lost 1 times, the last time gone"}


def test_what_runs_could_not_write_is_the_last_word(tmp_path, monkeypatch, capsys):
    log, model = (f"not written: {name}: No space left on device" for name in ("log", "model"))
    answers = {
        "log": [Outcome(True, unwritten=log)],
        "fine": [Outcome(True)],
        "model": [Outcome(False, unwritten=model)],  # and not tried again from the start
    }
    runner = _runner(tmp_path, monkeypatch, answers)
    assert _errors(runner) == {"model": model}
    assert _report(runner, tmp_path, stopped=False) == UNWRITTEN
    assert capsys.readouterr().err == f"sb3-rfm: {log}; {model}\n"


def test_a_worker_goes_on_without_its_log(tmp_path, monkeypatch):
    run, unwritten = _run(tmp_path), Unwritten()
    run.path.mkdir(parents=True)
    full = os.open("/dev/full", os.O_WRONLY)

    def say():
        with _output_to(run.path / LOG, unwritten):
            print("seen ±", flush=True)
            os.dup2(full, sys.stdout.fileno())
            print("lost")

    with pytest.warns(UserWarning, match="not written"):
        say()
    os.close(full)
    assert str(unwritten) == f"not written: {run.path / LOG}: No space left on device"
    assert (run.path / LOG).read_bytes() == "seen ±\n".encode()


@pytest.mark.parametrize("unwritable", ["config.yml", LOG])
def test_a_worker_that_cannot_begin_says_why(unwritable, tmp_path):
    run = _run(tmp_path)
    (run.path / unwritable / "in the way").mkdir(parents=True)
    outcome = train_run(run, Resources("cpu", progress=False), "")
    assert not outcome.finished
    assert re.match(rf"\w+Error: .*{unwritable}", outcome.error)
    assert "\n" not in outcome.error


# ---------------------------------------------------------------- progress


def test_times_are_read_off_the_speed(monkeypatch):
    now = iter([10.0, 20.0, 20.0, 40.0])
    monkeypatch.setattr("sb3_rfm.experiments.comparison.progress.time.monotonic", lambda: next(now))
    item = RunProgress(_run())
    assert (item.eta(), total_eta([item])) == (None, None)
    item.restart()
    item.advance(10)
    assert item.speed() == 0.0
    item.advance(30)  # 20 steps in 10 s, 10 to go
    assert (item.speed(), item.eta()) == (2.0, 5.0)
    other = RunProgress(_run(), RUNNING)
    other.advance(0)
    other.advance(20)  # a step a second, 20 to go
    waiting = RunProgress(_run())
    # 70 steps at 4/3 (harmonic) of each of two
    assert total_eta([item, other, waiting]) == pytest.approx(70 / (2 * 4 / 3))
    assert total_eta([item, other]) == 20.0  # the slowest
    item.state, other.state = FINISHED, FAILED
    assert total_eta([item, other]) == 0.0


def test_no_time_is_told_before_a_hundredth_is_done():
    """The evaluation before training is in it."""
    item = RunProgress(replace(_run(), settings=replace(_run().settings, steps=1000)), RUNNING)
    for steps, known in ((0, False), (1, False), (9, False), (10, True)):
        time.sleep(0.001)
        item.advance(steps)
        assert (item.eta() is not None) == known


def test_back_to_a_checkpoint_is_no_negative_speed():
    item = RunProgress(_run(), RUNNING)
    for steps in (0, 30, 10, 20):
        time.sleep(0.01)
        item.advance(steps)
    assert item.speed() > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (121, "3 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_times_in_words(seconds, text):
    assert duration(seconds) == text


def _shown():
    items = [RunProgress(_run(seed=seed)) for seed in range(25)]
    items[0].state, items[0].steps = RUNNING, 17
    items[0].latest = Evaluation("sac", ENV, 0, 10, -123.4, 0.5, 2, 1.0, 9.0)
    items[1].state, items[1].steps = FINISHED, 40
    items[2].state = FAILED
    return items


def test_the_table_shows_what_runs_first():
    file = io.StringIO()
    with Table(Console(file=file, force_terminal=True, width=120, height=40)) as table:
        table.update(_shown())
        table.event("[something] happened")
    text = file.getvalue()
    assert "[something] happened" in text
    assert re.search(rf"sac +{ENV} +0 +running +17 +40 +-123\.4", text)
    assert "1 of 25 runs finished, step 57 of 1000, 1 failed" in text
    assert "and 5 more" in text
    assert not re.search(rf"sac +{ENV} +1 ", text)  # finished: the least urgent


def test_lines_say_the_same(capsys):
    items = _shown()
    Lines().evaluated(items[0], items)
    assert capsys.readouterr().out == (
        f"sac on {ENV}, seed 0: step 10 of 40, return -123.4, ETA - | "
        "all: 1 of 25 runs finished, step 57 of 1000, 1 failed, ETA -\n"
    )


# ---------------------------------------------------------------- the whole


def _steps(path):
    return [row.steps for row in RunFolder(Path(path)).evaluations()]


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
    config = _write(_given(algos=algos, eval_freq=20, checkpoint_freq=20, folder="runs/here"))
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
    assert _steps(mine) == [0, 20, 40, 60]
    assert _steps(folder / f"mine__{ENV}__seed1") == [0, 20, 40, 60]
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


def test_a_killed_worker_costs_its_run_nothing_but_time(mortal, capsys):
    given = _given(envs=[mortal], seeds=[0, 1], steps=400, eval_freq=300, checkpoint_freq=100)
    code = cli.main(["compare", "--config", _write(given), "--folder", "c", "--jobs", "2"])
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
        assert _steps(path) == [0, 300, 400]
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
    config = _write(_given(seeds=[0, 1], steps=100_000, eval_freq=50_000))
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
    assert _steps(path) == [0, stopped_at + 30]


def test_a_second_comparison_in_the_folder_is_refused(capsys):
    write_comparison(define(_given()), Path("c"), [])
    with FileLock(Path("c/comparison.lock"), ""):
        assert cli.main(["compare", "--folder", "c"]) == 2
    assert "another sb3-rfm compare is at work here: c" in capsys.readouterr().err


def test_workers_save_when_the_comparison_is_killed():
    config = _write(_given(steps=100_000, eval_freq=50_000))
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
        given = _given(envs=[mortal], steps=400, eval_freq=400, checkpoint_freq=100, seeds=[0, 1])
        assert cli.main(["compare", "--config", _write(given), "--folder", "c", "--ray"]) == 0
        assert "again from step" in capfd.readouterr().out
        assert all(_steps(log.parent) == [0, 400] for log in Path("c").glob(f"*/{LOG}"))

        # and Ctrl-C saves
        config = _write(_given(steps=100_000, eval_freq=50_000))
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
    script += f"sys.exit(main(['compare', '--config', {_write(_given())!r}, '--ray', 'x']))"
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


# ---------------------------------------------------------------- one word


@pytest.mark.parametrize("word", ["SAC", "RFMFlow"])
def test_a_script_trains_another_policy_by_one_word(word, tmp_path, monkeypatch, capsys):
    text = (ROOT / "examples" / "drop_in.py").read_text()
    assert text.count("import SAC as") == 1
    script = tmp_path / "script.py"
    script.write_text(text.replace("import SAC as", f"import {word} as"))
    monkeypatch.setattr(sys, "argv", [str(script), "200"])
    runpy.run_path(str(script), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"{word}: return -\d+\.\d ± \d+\.\d after 200 steps", last)


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
