"""The runs of a comparison on their way: handed to an executor, watched, and taken up again when
their worker dies.
"""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field

from sb3_rfm.experiments.callbacks import StopRequest
from sb3_rfm.experiments.comparison.display import Display, display
from sb3_rfm.experiments.comparison.executors import Executor, WorkerLost
from sb3_rfm.experiments.comparison.progress import FAILED, FINISHED, STOPPED, WAITING, RunProgress
from sb3_rfm.experiments.comparison.runs import (
    ComparisonRun,
    EvaluationTable,
    forget_progress,
    read_progress,
)
from sb3_rfm.experiments.comparison.worker import Outcome, train_run
from sb3_rfm.experiments.run import Resources

POLL = 0.5  # seconds between two looks at the runs


@dataclass
class ComparisonRunner:
    """
    Carries runs out: what fails is noted and costs the others nothing.

    :param runs: all of them
    :param table: of their evaluations
    :param resources: device and threads of each
    :param retries: how often a run is taken up again when its worker died
    :param command: noted in each ``config.yml``

    ``errors`` says why runs failed, ``unwritten`` what could not be written.
    """

    runs: list[ComparisonRun]
    table: EvaluationTable
    resources: Resources
    retries: int
    command: str
    errors: dict[ComparisonRun, str] = field(default_factory=dict)
    unwritten: list[str] = field(default_factory=list)
    _lost: dict[ComparisonRun, int] = field(default_factory=dict)
    _executor: Executor | None = None
    _futures: "dict[Future[Outcome], RunProgress]" = field(default_factory=dict)

    def run(self, executor: Callable[[int], Executor], stop: StopRequest) -> None:
        """
        Carry out what is not finished.

        :param executor: makes what the runs are carried out by, for their number
        :param stop: a request stops the workers, which save their runs
        """
        progress = {run: RunProgress(run) for run in self.runs}
        for run, item in progress.items():
            if run.is_finished():
                item.state, item.steps = FINISHED, run.settings.steps
            else:
                item.steps = run.checkpoint_steps() or 0
        self._read(progress)
        waiting = [item for item in progress.values() if item.state == WAITING]
        if waiting and not stop.requested:
            with executor(len(waiting)) as self._executor, display() as show:
                for item in waiting:
                    self._submit(item)
                self._follow(list(progress.values()), progress, show, stop)
        if self.table.unwritten:
            self.table.write()  # there may be room by now
        if self.table.unwritten:
            self.unwritten.append(str(self.table.unwritten))

    def _follow(
        self,
        items: list[RunProgress],
        progress: dict[ComparisonRun, RunProgress],
        show: Display,
        stop: StopRequest,
    ) -> None:
        """
        Watch the workers until the last one has ended.

        :param items: all runs
        :param progress: the same by run
        :param show: the display
        :param stop: whether to stop them
        """
        assert self._executor is not None
        while self._futures:
            done, _ = wait(self._futures, POLL, FIRST_COMPLETED)
            for future in done:
                self._settle(future, show, stop)
            if stop.requested and not self._executor.stopping:
                self._executor.stop()
            self._note_steps()
            for item in self._read(progress):
                show.evaluated(item, items)
            show.update(items)

    def _submit(self, item: RunProgress) -> None:
        """
        Hand a run to the executor.

        :param item: the run
        """
        item.state = WAITING
        forget_progress(item.run)
        assert self._executor is not None
        future = self._executor.submit(train_run, item.run, self.resources, self.command)
        self._futures[future] = item

    def _settle(self, future: "Future[Outcome]", show: Display, stop: StopRequest) -> None:
        """
        A run's worker has ended: see how.

        :param future: of the run
        :param show: the display
        :param stop: whether it was asked to
        """
        item = self._futures.pop(future)
        try:
            outcome = future.result()
        except (CancelledError, WorkerLost) as error:
            if stop.requested:
                item.state = STOPPED  # it had not begun, or not got so far as to save
            else:
                self._take_up_again(item, str(error) or "it was cancelled", show)
        except Exception as error:  # the executor's: it could not begin
            self._fail(item, f"{type(error).__name__}: {error}", show)
        else:
            if outcome.unwritten:
                self.unwritten.append(outcome.unwritten)
            if outcome.finished:
                item.state, item.steps = FINISHED, item.target
                show.event(f"{item.run.name}: finished")
            elif outcome.error or outcome.unwritten:
                self._fail(item, outcome.error or outcome.unwritten, show)
            elif stop.requested:
                item.state = STOPPED
            else:
                self._take_up_again(item, "its process was asked to stop", show)

    def _take_up_again(self, item: RunProgress, reason: str, show: Display) -> None:
        """
        Go on with a run whose worker died, unless it died too often.

        :param item: the run
        :param reason: what became of the worker
        :param show: the display
        """
        lost = self._lost[item.run] = self._lost.get(item.run, 0) + 1
        if lost > self.retries:
            self._fail(item, f"lost {lost} times, the last time {reason}", show)
            return
        steps = item.run.checkpoint_steps()
        where = "from the start" if steps is None else f"from step {steps}"
        show.event(f"{item.run.name}: {reason}; again {where} (retry {lost} of {self.retries})")
        self._submit(item)

    def _fail(self, item: RunProgress, error: str, show: Display) -> None:
        """
        A run has failed; the others go on.

        :param item: the run
        :param error: why
        :param show: the display
        """
        item.state = FAILED
        self.errors[item.run] = error
        show.event(f"{item.run.name}: failed: {error}")

    def _note_steps(self) -> None:
        """Look how far the runs under way are."""
        for future, item in self._futures.items():
            steps = read_progress(item.run)
            if steps is None or future.done():
                continue
            if item.state == WAITING:
                item.restart()
            item.advance(steps)

    def _read(self, progress: dict[ComparisonRun, RunProgress]) -> list[RunProgress]:
        """
        Read new evaluations and write the table.

        :param progress: by run
        :return: the runs that have new ones
        """
        news = []
        for run in self.table.refresh():
            if rows := self.table.rows[run]:
                progress[run].latest = rows[-1]
                news.append(progress[run])
        return news
