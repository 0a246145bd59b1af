"""Runs of a comparison, carried out by a worker: each in its folder, with its output in a log file
there, and on from its checkpoint where it has one; one alone, or several as a population.
"""

import contextlib
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from greenlet import getcurrent, greenlet
from stable_baselines3.common.callbacks import BaseCallback

from sb3_rfm.experiments import run as experiment
from sb3_rfm.experiments.callbacks import StopRequest
from sb3_rfm.experiments.comparison.runs import LOG, ComparisonRun, write_progress
from sb3_rfm.experiments.folder import LOCK, RunFolder
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.population.training import Joint, is_taken
from sb3_rfm.utils.streams import Unfailing
from sb3_rfm.utils.unwritten import Unwritten

BEAT = 1.0  # seconds between two notes of the step
PATIENCE = 60.0  # seconds that a worker left over from a killed comparison has to save its run


@dataclass(frozen=True)
class Outcome:
    """
    How a run ended.

    :param finished: False when it was asked to stop, or failed
    :param error: in one line; empty when it did not fail
    :param unwritten: what it could not write, in one line; empty when that is nothing
    """

    finished: bool
    error: str = ""
    unwritten: str = ""


class NoteProgress(BaseCallback):
    """
    Notes the step in a file every now and then.

    :param run: whose folder holds the file
    """

    def __init__(self, run: ComparisonRun) -> None:
        super().__init__()
        self.run, self.noted = run, -BEAT

    def _on_training_start(self) -> None:
        write_progress(self.run, self.num_timesteps)

    def _on_step(self) -> bool:
        if time.monotonic() - self.noted >= BEAT:
            self.noted = time.monotonic()
            write_progress(self.run, self.num_timesteps)
        return True


def train_runs(runs: Sequence[ComparisonRun], resources: Resources, command: str) -> list[Outcome]:
    """
    Train several runs side by side: their updates are a population's
    (:mod:`sb3_rfm.population.training`). One that fails leaves the others alone.

    :param runs: of an algorithm on an environment, different seeds
    :param resources: device, threads
    :param command: noted in each ``config.yml``
    :return: how each of them ended
    """
    if len(runs) == 1:
        return [train_run(runs[0], resources, command)]
    outcomes: dict[int, Outcome] = {}

    def train(index: int) -> None:
        outcomes[index] = train_run(runs[index], resources, command)

    with StopRequest(), OutputByMember().used():
        errors = Joint().run([partial(train, index) for index in range(len(runs))])
    for index, error in errors.items():
        outcomes[index] = Outcome(False, f"{type(error).__name__}: {error}")
    return [outcomes[index] for index in range(len(runs))]


def train_run(run: ComparisonRun, resources: Resources, command: str) -> Outcome:
    """
    Train to the run's target, or until a signal asks to stop. Errors go to the log and into the
    outcome.

    :param run: what to train where
    :param resources: device, threads
    :param command: noted in ``config.yml``
    :return: how it ended
    """
    folder = run.folder
    folder.lock.patience = PATIENCE
    output_to = _output_of_member_to if is_taken() else _output_to
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        with output_to(run.path / LOG, folder.unwritten):
            try:
                with folder.lock:
                    finished = _train(run, folder, resources, command) == 0 or run.is_finished()
            except Exception:
                traceback.print_exc()
                raise
    except Exception as error:
        return Outcome(False, " ".join(f"{type(error).__name__}: {error}".split()))
    return Outcome(finished, unwritten=str(folder.unwritten))


def _train(run: ComparisonRun, folder: RunFolder, resources: Resources, command: str) -> int:
    """
    Go on from the run's checkpoint, or start it in place of what is there.

    :param run: what to train where
    :param folder: of the run, locked
    :param resources: device, threads
    :param command: noted in ``config.yml``
    :return: exit code, as of ``experiment.start``
    :raises ValueError: when the settings cannot be carried out
    :raises RuntimeError: when training fails
    """
    print(time.strftime("-- %Y-%m-%d %H:%M:%S"), f"process {os.getpid()}", flush=True)
    callbacks = [NoteProgress(run)]
    if run.checkpoint_steps() is not None:
        return experiment.resume(folder, resources, run.settings.steps, callbacks)[1]
    _empty(run.path)
    return experiment.start(
        run.settings, resources=resources, command=command, folder=folder, callbacks=callbacks
    )[1]


def _empty(path: Path) -> None:
    """
    Remove what an earlier attempt left, but its log.

    :param path: of the run
    """
    # first what makes the folder one of a run: half removed, it is started again
    (path / "config.yml").unlink(missing_ok=True)
    for item in path.iterdir():
        if item.name in (LOG, LOCK):
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


class OutputByMember:
    """What is printed, sent to the file that the printing member has opened, or else as before."""

    def __init__(self) -> None:
        self.before = sys.stdout
        self.files: dict[greenlet, Any] = {}

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Take what is printed, within a ``with`` block."""
        streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files.get(getcurrent(), self.before), name)


@contextlib.contextmanager
def _output_of_member_to(path: Path, unwritten: Unwritten) -> Iterator[None]:
    """
    Append what this member prints to a file; what libraries in C print goes where it did.

    :param path: of the file
    :param unwritten: notes when words of it are lost
    """
    output: Any = sys.stdout
    file = path.open("a", buffering=1, encoding="utf-8")
    log: Any = Unfailing(file)
    output.files[getcurrent()] = log
    try:
        yield
    finally:
        del output.files[getcurrent()]
        with unwritten.noting(path):
            file.close()
            if log.error is not None:
                raise log.error


@contextlib.contextmanager
def _output_to(path: Path, unwritten: Unwritten) -> Iterator[None]:
    """
    Append what this process prints to a file, what libraries in C print included.

    :param path: of the file
    :param unwritten: notes when words of it are lost
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    streams = sys.stdout, sys.stderr
    file = path.open("a", buffering=1, encoding="utf-8")
    for number, _ in kept:
        os.dup2(file.fileno(), number)
    log: Any = Unfailing(file)
    sys.stdout = sys.stderr = log
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        with unwritten.noting(path):
            try:
                file.close()
            finally:
                for number, copy in kept:
                    os.dup2(copy, number)
                    os.close(copy)
            if log.error is not None:
                raise log.error
