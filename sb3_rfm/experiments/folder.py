"""The folder of one training run: what lies in it, and how it is written so that a run killed at
any moment can go on.
"""

import contextlib
import csv
import io
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sb3_rfm.checkpoints.manifest import checkpoints_in
from sb3_rfm.results.evaluations import COLUMNS, Evaluation, read_evaluations
from sb3_rfm.utils.files import write_whole
from sb3_rfm.utils.locks import FileLock
from sb3_rfm.utils.unwritten import Unwritten

if TYPE_CHECKING:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

LOCK = "run.lock"
VIDEO, GIF = ".mp4", ".gif"


class RunFolder:
    """
    The folder of one run.

    ``lock`` is held by whoever works in it; ``unwritten`` is what of it could not be written.

    :param path: an existing folder
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yml"
        self.csv_file = path / "evaluations.csv"
        self.curve_file = path / "learning_curve.png"
        self.model_file = path / "final_model.zip"
        self.video_files = [self.model_file.with_suffix(suffix) for suffix in (VIDEO, GIF)]
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.lock = FileLock(path / LOCK, "another sb3-rfm run is at work here")
        self.unwritten = Unwritten()
        self._made: list[Path] = []

    @classmethod
    def create(cls, parent: Path, name: str) -> "RunFolder":
        """
        A new folder; ``_2``, ``_3``, ... is appended where the name is taken.

        :param parent: made if need be
        :param name: wanted name
        :return: the folder
        """
        missing = [path for path in (parent, *parent.parents) if not path.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / (name if number == 1 else f"{name}_{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                folder = cls(path)
                folder._made = missing
                return folder

    def discard(self) -> None:
        """Remove the folder, and those around it that were made for it and are empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        for path in self._made:
            with contextlib.suppress(OSError):  # another run is in it
                path.rmdir()

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """
        The folder of an earlier run.

        :param path: of the run
        :return: the folder
        :raises FileNotFoundError: when it is not the folder of a run
        """
        folder = cls(path)
        if not path.is_dir():
            raise FileNotFoundError(f"--resume: there is no folder {path}.")
        if not folder.config_file.is_file():
            raise FileNotFoundError(
                f"--resume: {path} is not the folder of a run: it has no config.yml."
            )
        return folder

    def write_config(self, config: dict[str, Any]) -> None:
        """
        Write ``config.yml``, whole or not at all.

        :param config: plain values
        """
        write_whole(self.config_file, yaml.safe_dump(config, sort_keys=False, width=100).encode())

    def read_config(self) -> dict[str, Any]:
        """
        Read ``config.yml``.

        :return: what was written
        :raises ValueError: when it was not written by ``sb3-rfm run``
        """
        try:
            config = yaml.safe_load(self.config_file.read_text("utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{self.config_file} is not YAML: {error}") from error
        if not isinstance(config, dict) or "settings" not in config:
            raise ValueError(f"{self.config_file} was not written by sb3-rfm run: no 'settings'.")
        return config

    def evaluations(self) -> list[Evaluation]:
        """
        What has been measured so far.

        :return: the rows of ``evaluations.csv``
        """
        return read_evaluations(self.csv_file)

    def append_evaluation(self, row: Evaluation) -> None:
        """
        Append a row, in the place of an earlier one of the same step, and have it on the disk
        before returning.

        :param row: the evaluation
        :raises OSError: it cannot be written; the file is as it was
        """
        self._write_rows([*(kept for kept in self.evaluations() if kept.steps != row.steps), row])

    def drop_evaluations_after(self, steps: int) -> None:
        """
        Forget what was measured after a checkpoint: training from there measures it again.

        :param steps: of the checkpoint
        """
        self._write_rows(row for row in self.evaluations() if row.steps <= steps)

    def _write_rows(self, rows: Iterable[Evaluation]) -> None:
        """The whole of ``evaluations.csv``: half a line is never in it."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        write_whole(self.csv_file, text.getvalue().encode())

    def save_final(self, model: "OffPolicyAlgorithm") -> None:
        """
        Save the trained model; the run is finished once it is there.

        :param model: to be saved
        :raises OSError: it cannot be written; nothing is left behind
        """
        file = io.BytesIO()
        model.save(file)
        write_whole(self.model_file, file.getvalue())

    def latest_checkpoint(self) -> Path:
        """
        The checkpoint to go on from.

        :return: its folder, whose name ends in the number of steps
        :raises FileNotFoundError: when the run never got to one
        """
        found = checkpoints_in(self.checkpoints)
        if not found:
            raise FileNotFoundError(
                f"--resume: {self.path} has no checkpoint yet: start the run again instead."
            )
        return found[-1]
