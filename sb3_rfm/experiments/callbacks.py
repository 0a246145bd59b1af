"""Stable-Baselines3 callbacks of ``sb3-rfm run``: evaluation into the CSV, checkpoints, and
stopping when a signal asks for it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_rfm.checkpoints.callback import CheckpointEverything
from sb3_rfm.experiments.episodes import BoundedEvaluation
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.settings import RunSettings
from sb3_rfm.results.evaluations import Evaluation

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
]
"""Ctrl-C, ``kill``, and Ctrl-Break on Windows, where a program can send no other."""


class StopRequest:
    """
    Turns the signals that ask a program to end into a request to stop at the end of the rollout, so
    that what is saved is never half of an update. A second signal stops at once.

    Used as ``with StopRequest() as stop:``. One within another says what the outer one does.
    """

    outer: "ClassVar[StopRequest | None]" = None

    def __init__(self) -> None:
        self._requested = False
        self._followed: StopRequest | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._requested or (self._followed is not None and self._followed.requested)

    def __enter__(self) -> "StopRequest":
        self._followed = StopRequest.outer
        if self._followed is None and threading.current_thread() is threading.main_thread():
            StopRequest.outer = self
            for number in SIGNALS:
                self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if StopRequest.outer is self:
            StopRequest.outer = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self._requested = True
        with contextlib.suppress(OSError):  # no such file, or on a full disk
            # print is not safe in a signal handler
            os.write(2, b"\nStopping: saving the run. Once more to stop without saving.\n")


class Clock:
    """
    Wall-clock seconds of a run, and the speed of its training.

    :param spent: seconds spent before a resume
    :param steps: environment steps done before
    """

    def __init__(self, spent: float = 0.0, steps: int = 0) -> None:
        self._start = monotonic() - spent
        self._lap = monotonic()
        self._lap_steps = steps

    def seconds(self) -> float:
        """
        Time spent on the run.

        :return: seconds, of all its parts
        """
        return monotonic() - self._start

    def start_lap(self, steps: int) -> None:
        """
        Measure the speed from here on.

        :param steps: environment steps so far
        """
        self._lap, self._lap_steps = monotonic(), steps

    def steps_per_second(self, steps: int) -> float:
        """
        The speed since the lap began.

        :param steps: environment steps so far
        :return: steps per second; nan when no step was made
        """
        done = steps - self._lap_steps
        return done / (monotonic() - self._lap) if done else float("nan")


class _EvaluationStopped(Exception):
    """Raised in the midst of an evaluation, which changes nothing of the training."""


class EvaluateToCsv(BoundedEvaluation):
    """
    Evaluates with deterministic actions, the untrained policy first, and writes each result to
    ``evaluations.csv`` (and ``eval/mean_reward`` to TensorBoard, as ``EvalCallback`` does). What
    cannot be written, on a full disk, is kept until it can.

    :param eval_env: an environment of its own
    :param settings: of the run: how often, how many episodes
    :param folder: where the CSV is
    :param clock: of the run
    :param stop: a request to stop ends an evaluation, too
    :param report: called with each result
    """

    def __init__(
        self,
        eval_env: VecEnv,
        settings: RunSettings,
        folder: RunFolder,
        clock: Clock,
        stop: StopRequest,
        report: Callable[[Evaluation], None],
    ) -> None:
        super().__init__(eval_env, n_eval_episodes=settings.eval_episodes, eval_freq=1, verbose=0)
        self.every = settings.eval_freq
        self.settings, self.folder, self.clock, self.stop = settings, folder, clock, stop
        self.report = report
        self.rows = folder.evaluations()
        self.last_steps = max((row.steps for row in self.rows), default=-1)
        self.returns: list[float] = []
        self._pending: list[Evaluation] = []

    def _on_training_start(self) -> None:
        super()._on_training_start()
        # the untrained policy, or an evaluation that a stop has cut short
        if self.last_steps < 0 or self.num_timesteps // self.every > self.last_steps // self.every:
            self.evaluate()

    def _on_step(self) -> bool:
        if self.num_timesteps // self.every > self.last_steps // self.every:
            self.evaluate()
        return True

    def evaluate(self) -> bool:
        """
        Evaluate now and write the result.

        :return: False when it was stopped midway, and there is no result
        """
        speed = self.clock.steps_per_second(self.num_timesteps)
        self.returns = []
        try:
            super()._on_step()
        except _EvaluationStopped:
            return False
        self.last_steps = self.num_timesteps
        result = Evaluation(
            algorithm=self.settings.algo,
            environment=self.settings.env,
            seed=self.settings.seed,
            steps=self.num_timesteps,
            mean_return=round(float(np.mean(self.returns)), 4),
            std_return=round(float(np.std(self.returns)), 4),
            n_episodes=len(self.returns),
            steps_per_second=round(speed, 2),
            wall_seconds=round(self.clock.seconds(), 2),
        )
        self.rows.append(result)
        self._pending.append(result)
        self.write()
        self.report(result)
        self.clock.start_lap(self.num_timesteps)
        return True

    def write(self) -> None:
        """Write what is not in the file yet, or keep it."""
        with self.folder.unwritten.noting(self.folder.csv_file):
            while self._pending:
                self.folder.append_evaluation(self._pending[0])
                del self._pending[0]

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        super()._log_success_callback(locals_, globals_)
        if self.stop.requested:
            raise _EvaluationStopped
        if locals_["done"]:
            self.returns.append(float(locals_["info"]["episode"]["r"]))


class RunCheckpoint(CheckpointEverything):
    """
    Checkpoints of a run, and its end when a stop is requested: training goes on to the end of the
    rollout, is saved there, and then ends.

    :param every: environment steps between two checkpoints; 0 for none but on a stop
    :param folder: of the run
    :param clock: of the run
    :param stop: the request
    :param evaluation: what a checkpoint is after is to be on the disk before it, where it can
    """

    def __init__(
        self,
        every: int,
        folder: RunFolder,
        clock: Clock,
        stop: StopRequest,
        evaluation: EvaluateToCsv,
    ) -> None:
        super().__init__(every or sys.maxsize, folder.checkpoints)
        self.folder, self.clock, self.stop = folder, clock, stop
        self.evaluation = evaluation
        self.stopped = False

    def save(self) -> None:
        self.evaluation.write()
        super().save()

    def note(self, error: Exception | None) -> None:
        self.folder.unwritten.note(self.folder.checkpoints, error)

    def save_what_is_left(self) -> None:
        """Save the end of training, unless that was tried."""
        if not self.stopped and self.num_timesteps > self._last:
            self.save()

    def notes(self) -> dict[str, Any]:
        return {"wall_seconds": self.clock.seconds()}

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        if self.stop.requested:
            self.save()
            self.stopped = True

    def _on_step(self) -> bool:
        return super()._on_step() and not self.stopped

    def _is_due_at_the_end(self) -> bool:
        return self._is_due()
