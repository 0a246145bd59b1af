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
from sb3_rfm.experiments.comparison.worker import Outcome, train_runs
from sb3_rfm.experiments.hyperparams import algorithm_class
from sb3_rfm.experiments.resources import Resources

POLL = 0.5  # seconds between two looks at the runs
LARGEST = 16  # seeds that "auto" trains together: an update of so many takes a quarter longer


@dataclass
class ComparisonRunner:
    """
    Carries runs out: what fails is noted and costs the others nothing.

    :param runs: all of them
    :param table: of their evaluations
    :param resources: device and threads of each
    :param retries: how often a run is taken up again when its worker died
    :param command: noted in each ``config.yml``
    :param population: how many seeds of an algorithm on an environment are trained as a population,
        at most; 1 for each by itself

    ``errors`` says why runs failed, ``unwritten`` what could not be written.
    """

    runs: list[ComparisonRun]
    table: EvaluationTable
    resources: Resources
    retries: int
    command: str
    population: int = 1
    errors: dict[ComparisonRun, str] = field(default_factory=dict)
    unwritten: list[str] = field(default_factory=list)
    _lost: dict[ComparisonRun, int] = field(default_factory=dict)
    _executor: Executor | None = None
    _futures: "dict[Future[list[Outcome]], list[RunProgress]]" = field(default_factory=dict)

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
            groups = self._groups(waiting)
            with executor(len(groups)) as self._executor, display() as show:
                for group in groups:
                    self._submit(group)
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

    def _groups(self, items: list[RunProgress]) -> list[list[RunProgress]]:
        """
        Runs that are trained by one worker: the seeds of an algorithm on an environment, where
        populations are asked for and it can be in one.

        :param items: the runs, in order
        :return: groups of them, in the order of their first
        """
        groups: dict[tuple[str, str, int], list[RunProgress]] = {}
        counts: dict[tuple[str, str], int] = {}
        for item in items:
            kind = item.run.label, item.run.settings.env
            size = self.population if may_be_member(item.run.settings.algo) else 1
            number = counts[kind] = counts.get(kind, -1) + 1
            groups.setdefault((*kind, number // size), []).append(item)
        return list(groups.values())

    def _submit(self, group: list[RunProgress]) -> None:
        """
        Hand runs to the executor.

        :param group: runs of one worker
        """
        for item in group:
            item.state = WAITING
            forget_progress(item.run)
        assert self._executor is not None
        runs = [item.run for item in group]
        future = self._executor.submit(train_runs, runs, self.resources, self.command)
        self._futures[future] = group

    def _settle(self, future: "Future[list[Outcome]]", show: Display, stop: StopRequest) -> None:
        """
        A worker has ended: see how.

        :param future: of its runs
        :param show: the display
        :param stop: whether it was asked to
        """
        group, again = self._futures.pop(future), list[RunProgress]()
        try:
            outcomes = future.result()
        except (CancelledError, WorkerLost) as error:
            reason = str(error) or "it was cancelled"
            for item in group:
                if stop.requested:
                    item.state = STOPPED  # it had not begun, or not got so far as to save
                elif self._may_try_again(item, reason, show):
                    again.append(item)
        except Exception as error:  # the executor's: it could not begin
            for item in group:
                self._fail(item, f"{type(error).__name__}: {error}", show)
        else:
            for item, outcome in zip(group, outcomes, strict=True):
                if self._is_to_go_on(item, outcome, show, stop):
                    again.append(item)
        if again:
            self._submit(again)

    def _is_to_go_on(
        self, item: RunProgress, outcome: Outcome, show: Display, stop: StopRequest
    ) -> bool:
        """
        See how a run ended.

        :param item: the run
        :param outcome: of its worker
        :param show: the display
        :param stop: whether it was asked to stop
        :return: whether it is taken up again
        """
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
            return self._may_try_again(item, "its process was asked to stop", show)
        return False

    def _may_try_again(self, item: RunProgress, reason: str, show: Display) -> bool:
        """
        Count a run whose worker died; it fails where that was too often.

        :param item: the run
        :param reason: what became of the worker
        :param show: the display
        :return: whether it is taken up again
        """
        lost = self._lost[item.run] = self._lost.get(item.run, 0) + 1
        if lost > self.retries:
            self._fail(item, f"lost {lost} times, the last time {reason}", show)
            return False
        steps = item.run.checkpoint_steps()
        where = "from the start" if steps is None else f"from step {steps}"
        show.event(f"{item.run.name}: {reason}; again {where} (retry {lost} of {self.retries})")
        return True

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
        for future, group in self._futures.items():
            for item in group:
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


def may_be_member(algorithm: str) -> bool:
    """
    Whether seeds of an algorithm can be trained as a population.

    :param algorithm: its name
    :return: whether its updates are this package's
    """
    from sb3_rfm.common.algorithm import FlowActorCritic

    return issubclass(algorithm_class(algorithm), FlowActorCritic)


def population_size(population: str, device: str) -> int:
    """
    How many seeds are trained together.

    :param population: a number; "auto" for 16 on a GPU and 1 on the CPU
    :param device: of PyTorch
    :return: at least 1
    :raises ValueError: anything else
    """
    if population == "auto":
        from stable_baselines3.common.utils import get_device

        return LARGEST if get_device(device).type == "cuda" else 1
    if not population.isdecimal() or int(population) < 1:
        raise ValueError(
            f"population must be an integer of at least 1, or 'auto', got {population!r}."
        )
    return int(population)
