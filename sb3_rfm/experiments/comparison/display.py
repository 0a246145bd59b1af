"""One display for all runs of a comparison: a table that is drawn anew in a terminal, lines
elsewhere.
"""

import sys
from abc import ABC, abstractmethod
from typing import Any

from sb3_rfm.experiments.comparison.progress import (
    FAILED,
    FINISHED,
    RUNNING,
    RunProgress,
    duration,
    total_eta,
)

ROWS = 20  # of the table; what is running comes first


def total(progress: list[RunProgress]) -> str:
    """
    All runs in one line.

    :param progress: of all runs
    :return: ``3 of 12 runs finished, step 40000 of 240000, 1 failed, ETA 20 min``
    """
    count = {state: sum(item.state == state for item in progress) for state in (FINISHED, FAILED)}
    steps, target = sum(i.steps for i in progress), sum(i.target for i in progress)
    failed = f", {count[FAILED]} failed" if count[FAILED] else ""
    return (
        f"{count[FINISHED]} of {len(progress)} runs finished, step {steps} of {target}{failed}, "
        f"ETA {duration(total_eta(progress))}"
    )


class Display(ABC):
    """Shows the runs. Used as ``with display:``."""

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    @abstractmethod
    def event(self, text: str) -> None:
        """
        Say something once.

        :param text: a line
        """

    @abstractmethod
    def evaluated(self, item: RunProgress, progress: list[RunProgress]) -> None:
        """
        A run has a new evaluation.

        :param item: the run
        :param progress: of all runs
        """

    @abstractmethod
    def update(self, progress: list[RunProgress]) -> None:
        """
        Show how far all are; called a few times a second.

        :param progress: of all runs
        """


class Lines(Display):
    """Plain lines, one for each thing that happens: for files and pipes."""

    def event(self, text: str) -> None:
        print(text, flush=True)

    def evaluated(self, item: RunProgress, progress: list[RunProgress]) -> None:
        assert item.latest is not None
        result = f"step {item.latest.steps} of {item.target}, return {item.latest.mean_return:.1f}"
        eta = duration(item.eta())
        self.event(f"{item.run.name}: {result}, ETA {eta} | all: {total(progress)}")

    def update(self, progress: list[RunProgress]) -> None:
        pass


class Table(Display):
    """
    A table in the terminal.

    :param console: of ``rich``; that of the terminal by default
    """

    def __init__(self, console: Any = None) -> None:
        from rich.live import Live

        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> "Table":
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def event(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def evaluated(self, item: RunProgress, progress: list[RunProgress]) -> None:
        pass  # the table has it

    def update(self, progress: list[RunProgress]) -> None:
        from rich.table import Table as Grid

        grid = Grid(caption=total(progress), caption_justify="left", box=None)
        for title in ("label", "environment", "seed", "state", "step", "of", "return", "ETA"):
            left = title in ("label", "environment", "state")
            grid.add_column(title, justify="left" if left else "right", no_wrap=True)
        shown = sorted(progress, key=_urgency)[:ROWS]
        for item in shown:
            result = "-" if item.latest is None else f"{item.latest.mean_return:.1f}"
            grid.add_row(
                item.run.label,
                item.run.settings.env.removeprefix("dm_control/"),
                str(item.run.settings.seed),
                item.state,
                str(item.steps),
                str(item.target),
                result,
                duration(item.eta()) if item.state == RUNNING else "",
            )
        if len(progress) > len(shown):
            grid.add_row(f"and {len(progress) - len(shown)} more")
        self._live.update(grid)


def _urgency(item: RunProgress) -> int:
    """
    What to show first.

    :param item: a run
    :return: small for what is running, then what failed, then what waits
    """
    return {RUNNING: 0, FAILED: 1, FINISHED: 3}.get(item.state, 2)


def display() -> Display:
    """
    What suits where the output goes.

    :return: a table in a terminal where ``rich`` is installed, else lines
    """
    if sys.stdout.isatty():
        try:
            return Table()
        except ImportError:
            pass
    return Lines()
