"""A comparison's runner: whom it retries, and what it says in the end."""

import pytest
from small_comparisons import ENV, a_run

from sb3_rfm.experiments.callbacks import StopRequest
from sb3_rfm.experiments.comparison.command import _report
from sb3_rfm.experiments.comparison.executors import Executor, WorkerLost
from sb3_rfm.experiments.comparison.runner import ComparisonRunner
from sb3_rfm.experiments.comparison.runs import EvaluationTable
from sb3_rfm.experiments.comparison.worker import Outcome
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.run import UNWRITTEN
from sb3_rfm.results.evaluation_table import TABLE

pytestmark = pytest.mark.usefixtures("here")


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
    runs = [a_run(tmp_path, label=label) for label in answers]
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
