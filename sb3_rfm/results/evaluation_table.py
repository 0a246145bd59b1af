"""``comparison.csv``: the evaluations of all runs of a comparison in one table."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from sb3_rfm.results.evaluations import COLUMNS, Evaluation
from sb3_rfm.utils.files import write_whole

TABLE = "comparison.csv"
TABLE_COLUMNS = ("label", *COLUMNS)


def write_table(path: Path, runs: Iterable[tuple[str, list[Evaluation]]]) -> None:
    """
    Write the table, whole or not at all.

    :param path: of the CSV
    :param runs: label and evaluations of each run
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, TABLE_COLUMNS)
    writer.writeheader()
    for label, rows in runs:
        writer.writerows({"label": label} | asdict(row) for row in rows)
    write_whole(path, text.getvalue().encode())


def is_table(path: Path) -> bool:
    """
    Whether a CSV file is such a table.

    :param path: of the file
    :return: True when its first column is the label
    """
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [""])[0] == TABLE_COLUMNS[0]


def read_table(path: Path) -> dict[tuple[str, str, int], list[Evaluation]]:
    """
    Read a ``comparison.csv`` back.

    :param path: of the file
    :return: the evaluations of each run, in order, by label, environment and seed
    :raises ValueError: when it has other columns, or a number is none
    """
    table: dict[tuple[str, str, int], list[Evaluation]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in TABLE_COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}.")
        for text in reader:
            try:
                row = Evaluation.from_row(text)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}.") from None
            table.setdefault((text["label"], row.environment, row.seed), []).append(row)
    return table
