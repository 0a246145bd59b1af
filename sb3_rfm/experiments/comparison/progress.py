"""How far the runs of a comparison are, and when they will be done."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sb3_rfm.experiments.comparison.runs import ComparisonRun
from sb3_rfm.results.evaluations import Evaluation

WAITING, RUNNING = "waiting", "running"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"


@dataclass
class RunProgress:
    """
    One run under way.

    :param run: which
    :param state: one of the five above
    :param steps: environment steps done
    :param first: those done when it began to move here, None before
    :param since: when that was, in seconds of ``time.monotonic``
    :param now: when ``steps`` was noted
    :param latest: its latest evaluation, None before the first
    """

    run: ComparisonRun
    state: str = WAITING
    steps: int = 0
    first: int | None = None
    since: float = 0.0
    now: float = 0.0
    latest: Evaluation | None = None

    @property
    def target(self) -> int:
        """Environment steps to reach."""
        return self.run.settings.steps

    @property
    def left(self) -> int:
        """Environment steps to go; none for a run that will not go on."""
        ended = self.state in (FINISHED, FAILED)
        return 0 if ended else max(self.target - self.steps, 0)

    def advance(self, steps: int) -> None:
        """
        Note how far it is.

        :param steps: environment steps done; fewer than before when it went back to a checkpoint
        """
        self.now = time.monotonic()
        if self.first is None or steps < self.steps:
            self.first, self.since = steps, self.now
        self.steps = steps

    def restart(self) -> None:
        """A new worker has it: measure its speed anew."""
        self.state, self.first = RUNNING, None

    def speed(self) -> float:
        """
        Environment steps per second since it began here.

        :return: 0 when that is not known yet: in the first hundredth of the run
        """
        done = 0 if self.first is None else self.steps - self.first
        if done < self.target / 100 or self.now <= self.since:
            return 0.0
        return done / (self.now - self.since)

    def eta(self) -> float | None:
        """
        Time to go.

        :return: seconds, or None when it is not known
        """
        speed = self.speed()
        return self.left / speed if self.state == RUNNING and speed > 0 else None


def total_eta(progress: Iterable[RunProgress]) -> float | None:
    """
    Time until the last run is done: what is left at the mean speed of a run times the number of
    those under way, and no less than the slowest of those under way.

    :param progress: of all runs
    :return: seconds, or None when it is not known
    """
    progress = list(progress)
    # the speeds of those that are done count, too: they are what the waiting ones will have
    speeds = [item.speed() for item in progress if item.speed() > 0]
    left = sum(item.left for item in progress)
    if not left:
        return 0.0
    if not speeds:
        return None
    at_once = max(sum(item.state == RUNNING for item in progress), 1)
    mean = len(speeds) / sum(1 / speed for speed in speeds)  # harmonic: each has as many steps
    return max([left / (mean * at_once), *(item.eta() or 0.0 for item in progress)])


def duration(seconds: float | None) -> str:
    """
    A time in words.

    :param seconds: or None
    :return: ``1 h 05 min``, ``3 min``, ``12 s``, or ``-`` when it is not known
    """
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = -(-whole // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
