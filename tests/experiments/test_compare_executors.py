"""Executors of a comparison: processes answer, die, fail and stop."""

import math
import os
import signal
import time
import types
from concurrent.futures import CancelledError

import pytest

from sb3_rfm.experiments.callbacks import StopRequest
from sb3_rfm.experiments.comparison import executors
from sb3_rfm.experiments.comparison.executors import LocalExecutor, WorkerLost

pytestmark = pytest.mark.usefixtures("here")

PATIENCE = 300  # seconds: the first process waits for a server that imports torch


def test_processes_answer_die_and_fail():
    with LocalExecutor(2) as executor:
        answer = executor.submit(math.sqrt, 4.0)
        killed = executor.submit(signal.raise_signal, signal.SIGKILL)
        left = executor.submit(os._exit, 3)
        assert answer.result(PATIENCE) == 2.0
        with pytest.raises(WorkerLost, match="killed by SIGKILL, as when memory runs out"):
            killed.result(PATIENCE)
        with pytest.raises(WorkerLost, match="ended with exit code 3"):
            left.result(PATIENCE)


def test_a_stop_ends_what_runs_and_what_waits():
    with LocalExecutor(1) as executor:
        running, waiting = (executor.submit(time.sleep, 100) for _ in range(2))
        while not executor._processes:
            time.sleep(0.01)
        executor.stop()
        with pytest.raises(WorkerLost, match="SIGTERM"):
            running.result(PATIENCE)
        with pytest.raises(CancelledError):
            waiting.result(PATIENCE)


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
        assert running.result(PATIENCE) == "saved"


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
