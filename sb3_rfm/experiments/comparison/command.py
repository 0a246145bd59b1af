"""Carries a comparison out in its folder; ``sb3-rfm compare``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sb3_rfm.experiments.callbacks import StopRequest
from sb3_rfm.experiments.comparison.definition import Comparison
from sb3_rfm.experiments.comparison.definition_file import read_comparison, write_comparison
from sb3_rfm.experiments.comparison.executors import Executor
from sb3_rfm.experiments.comparison.request import define
from sb3_rfm.experiments.comparison.runner import ComparisonRunner, population_size
from sb3_rfm.experiments.comparison.runs import (
    LOG,
    ComparisonRun,
    EvaluationTable,
    by_state,
    runs_of,
)
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.run import INTERRUPTED, UNWRITTEN
from sb3_rfm.results.evaluation_table import TABLE
from sb3_rfm.utils.locks import FileLock
from sb3_rfm.utils.shell import command_line

QUIET = Resources(progress=False)


def compare(
    given: dict[str, Any],
    folder: Path,
    executor: Callable[[int], Executor],
    resources: Resources = QUIET,
    retries: int = 2,
    command: str = "",
    population: str = "auto",
) -> int:
    """
    Carry a comparison out in its folder, new or begun before.

    :param given: what to compare, as :func:`sb3_rfm.experiments.comparison.request.define` takes
        it; in a folder that has a comparison, what is added to it
    :param folder: of the comparison
    :param executor: makes what carries the runs out, for their number; closed when this returns
    :param resources: device and threads of each run
    :param retries: how often a run is taken up again when its worker died
    :param command: noted in ``comparison.yml``
    :param population: seeds of an algorithm on an environment that are trained together, at most;
        "auto" for 16 on a GPU and each by itself on the CPU
    :return: exit code: 0; 1 when a run failed, or something could not be written; 130 when it was
        stopped
    :raises ValueError: when the definition is wrong or contradicts the folder's, or another process
        is at work there
    """
    if retries < 0:
        raise ValueError(f"retries must be an integer of at least 0, got {retries!r}.")
    size = population_size(population, resources.device)
    prepare(given, folder)  # what is wrong is said before anything is made
    lock = FileLock(folder / "comparison.lock", "another sb3-rfm compare is at work here")
    with StopRequest() as stop, lock:
        comparison, commands, runs = prepare(given, folder)
        if command and command not in commands:
            commands.append(command)
        write_comparison(comparison, folder, commands)
        groups = by_state(runs)
        print(
            f"{len(runs)} run{'s' * (len(runs) != 1)} in {folder}: "
            + ", ".join(f"{len(group)} {name}" for name, group in groups.items()),
            flush=True,
        )
        table = EvaluationTable(runs, folder / TABLE)
        runner = ComparisonRunner(runs, table, resources, retries, command, size)
        runner.run(executor, stop)
    return _report(runner, folder, stop.requested)


def prepare(
    given: dict[str, Any], folder: Path
) -> tuple[Comparison, list[str], list[ComparisonRun]]:
    """
    What a request comes to in a folder. Nothing is written.

    :param given: as ``compare`` takes it
    :param folder: of the comparison
    :return: the comparison, the commands that made it so far, and its runs
    :raises ValueError: when the definition is wrong, or contradicts the folder's
    """
    stored, commands = read_comparison(folder)
    comparison = define(given, stored)
    return comparison, commands, runs_of(comparison, folder)


def _report(runner: ComparisonRunner, folder: Path, stopped: bool) -> int:
    """
    Say what came out and how to go on.

    :param runner: at its end
    :param folder: of the comparison
    :param stopped: whether that was asked for
    :return: exit code
    """
    groups = by_state(runner.runs)
    print(f"{len(groups['finished'])} of {len(runner.runs)} runs finished.")
    print(f"  evaluations  {runner.table.path}")
    for run, error in runner.errors.items():
        print(f"Failed: {run.name}: {error}")
        print(f"  log          {run.path / LOG}")
    where = str(folder)
    if stopped or runner.errors:
        print("To go on with what is not finished:")
        print(f"  {command_line(['sb3-rfm', 'compare', '--folder', where])}")
    print(f"Report:\n  {command_line(['sb3-rfm', 'report', where])}", flush=True)
    if runner.unwritten:
        print(f"sb3-rfm: {'; '.join(runner.unwritten)}", file=sys.stderr, flush=True)
        return UNWRITTEN
    if stopped:
        return INTERRUPTED
    return 1 if runner.errors else 0
