"""The runs of a comparison as they lie on the disk: which are finished, how far the others are."""

import contextlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sb3_rfm.experiments.comparison.definition import Comparison
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.settings import RunSettings
from sb3_rfm.results.evaluation_table import write_table
from sb3_rfm.results.evaluations import Evaluation
from sb3_rfm.utils.files import write_whole
from sb3_rfm.utils.unwritten import Unwritten

LOG = "log.txt"
PROGRESS = "progress.txt"


@dataclass(frozen=True, eq=False)  # a run is itself, not its settings
class ComparisonRun:
    """
    One run: an entry on an environment with a seed.

    :param label: of the entry
    :param settings: resolved
    :param path: of its folder
    """

    label: str
    settings: RunSettings
    path: Path

    @property
    def folder(self) -> RunFolder:
        """What lies in its folder."""
        return RunFolder(self.path)

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.label} on {self.settings.env}, seed {self.settings.seed}"

    def stored_settings(self) -> RunSettings | None:
        """
        The settings of the run that lies there.

        :return: resolved settings, or None when there is none
        :raises ValueError: when the folder is not one of ours
        """
        if not self.folder.config_file.is_file():
            return None
        return RunSettings.stored(self.folder.read_config(), self.folder.config_file)

    def is_finished(self) -> bool:
        """
        Whether its target was reached.

        :return: True when nothing is left to do
        """
        stored = self.stored_settings()
        done = stored is not None and stored.steps >= self.settings.steps
        return done and self.folder.model_file.is_file()

    def checkpoint_steps(self) -> int | None:
        """
        Where it would go on.

        :return: environment steps of the latest checkpoint, or None when it has to be started
        """
        with contextlib.suppress(FileNotFoundError):
            if self.folder.config_file.is_file():
                return int(self.folder.latest_checkpoint().name.removeprefix("step_"))
        return None

    def check(self) -> None:
        """
        Refuse to go on with a run that was made with other settings.

        :raises ValueError: naming what differs
        """
        stored = self.stored_settings()
        if stored is None:
            return
        # a later target is no other run, and checkpoints change nothing of it
        wanted = replace(self.settings, steps=stored.steps, checkpoint_freq=stored.checkpoint_freq)
        there, got = asdict(stored), asdict(wanted)
        for key in got:
            if got[key] != there[key]:
                raise ValueError(
                    f"{self.path} was made with other settings: got {key} {got[key]!r}, there is "
                    f"{there[key]!r}. Take another --folder, or remove this one to train it again."
                )


def runs_of(comparison: Comparison, folder: Path) -> list[ComparisonRun]:
    """
    Where each run of a comparison lies.

    :param comparison: what to compare
    :param folder: of the comparison
    :return: the runs, in order
    :raises ValueError: when two would share a folder, or one there has other settings
    """
    # absolute: workers may stand elsewhere
    runs = [
        ComparisonRun(label, settings, folder.resolve() / _folder_name(label, settings))
        for label, settings in comparison.settings()
    ]
    # some systems take names that differ in case for one
    if len({str(run.path).casefold() for run in runs}) < len(runs):
        raise ValueError(
            "algos and envs: two of them would share the folders of their runs: rename one."
        )
    for run in runs:
        run.check()
    return runs


def _folder_name(label: str, settings: RunSettings) -> str:
    """
    The name of a run's folder.

    :param label: in place of the algorithm's name
    :param settings: of the run
    :return: ``<label>__<env with dashes>__seed<k>``
    """
    return label + settings.folder_name().removeprefix(settings.algo)


def write_progress(run: ComparisonRun, steps: int) -> None:
    """
    Note how far a run is, where that can be written.

    :param run: whose folder holds the note
    :param steps: environment steps done
    """
    with contextlib.suppress(OSError):  # it is only shown
        write_whole(run.path / PROGRESS, f"{steps}\n".encode())


def read_progress(run: ComparisonRun) -> int | None:
    """
    How far a run is.

    :param run: whose folder holds the note
    :return: environment steps done; None when there is no note, as it has not begun, or when it
        cannot be read now
    """
    try:
        return int((run.path / PROGRESS).read_bytes())
    except OSError:
        return None


def forget_progress(run: ComparisonRun) -> None:
    """
    Remove the note of an earlier attempt, which would look like progress of the next.

    :param run: whose folder holds the note
    """
    with contextlib.suppress(OSError):
        (run.path / PROGRESS).unlink(missing_ok=True)


class EvaluationTable:
    """
    The evaluations of all runs, read again where they changed.

    ``unwritten`` has the table while it cannot be written: that is tried again with what comes.

    :param runs: in the order of the table
    :param path: of the CSV
    """

    def __init__(self, runs: Iterable[ComparisonRun], path: Path) -> None:
        self.path = path
        self.rows: dict[ComparisonRun, list[Evaluation]] = {}
        self.unwritten = Unwritten()
        self._runs = list(runs)
        self._stamps: dict[Path, tuple[int, int] | None] = {}

    def refresh(self) -> list[ComparisonRun]:
        """
        Read what is new and write the table, whole or not at all.

        :return: the runs of which something changed
        """
        changed = [run for run in self._runs if self._read(run)]
        if changed or not (self.unwritten or self.path.exists()):
            self.write()
        return changed

    def write(self) -> None:
        """Write the table, whole or not at all."""
        with self.unwritten.noting(self.path):
            write_table(self.path, ((run.label, self.rows.get(run, [])) for run in self._runs))

    def _read(self, run: ComparisonRun) -> bool:
        """
        Read a run's evaluations where they changed.

        :param run: whose
        :return: False where they did not, or cannot be read now
        """
        with contextlib.suppress(OSError):
            stamp = _stamp(run.folder.csv_file)
            if stamp != self._stamps.get(run.path):
                self.rows[run] = run.folder.evaluations()
                self._stamps[run.path] = stamp
                return True
        return False


def _stamp(path: Path) -> tuple[int, int] | None:
    """
    What changes when a file does.

    :param path: of the file
    :return: time and size, or None when there is none
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def by_state(runs: Iterable[ComparisonRun]) -> dict[str, list[ComparisonRun]]:
    """
    What is done and what is left.

    :param runs: of the comparison
    :return: the runs by ``finished``, ``interrupted`` and ``new``
    """
    groups: dict[str, list[ComparisonRun]] = {"finished": [], "interrupted": [], "new": []}
    for run in runs:
        if run.is_finished():
            groups["finished"].append(run)
        else:
            groups["interrupted" if run.checkpoint_steps() is not None else "new"].append(run)
    return groups
