"""One evaluation of a policy during training, and the file that holds them."""

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """
    One row of ``evaluations.csv``.

    :param algorithm: name on the command line
    :param environment: Gymnasium id
    :param seed: of the run
    :param steps: environment steps of training before this evaluation
    :param mean_return: over the episodes, with deterministic actions
    :param std_return: standard deviation over the episodes
    :param n_episodes: how many
    :param steps_per_second: of training since the last evaluation; nan at the first
    :param wall_seconds: since the run began, evaluations included, pauses not
    """

    algorithm: str
    environment: str
    seed: int
    steps: int
    mean_return: float
    std_return: float
    n_episodes: int
    steps_per_second: float
    wall_seconds: float

    @classmethod
    def from_row(cls, row: dict[str, str]) -> "Evaluation":
        """
        Read a row back.

        :param row: text by column
        :return: the evaluation
        """
        numbers: dict[Any, Any] = {int: int, float: float, str: str}
        return cls(**{field.name: numbers[field.type](row[field.name]) for field in fields(cls)})


COLUMNS = tuple(field.name for field in fields(Evaluation))


def read_evaluations(path: Path) -> list[Evaluation]:
    """
    The rows of an ``evaluations.csv``; a last row cut short by a crash is left out.

    :param path: of the file; it need not exist
    :return: its evaluations, in order
    :raises ValueError: when it has other columns
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}.")
        rows = [row for row in reader if all(row[column] for column in COLUMNS)]
    return [Evaluation.from_row(row) for row in rows]
