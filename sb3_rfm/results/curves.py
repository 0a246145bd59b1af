"""Learning curves, from the ``evaluations.csv`` of ``sb3-rfm run`` and the ``evaluations.npz`` of
the RL Zoo, and their means over seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sb3_rfm.results.evaluation_table import TABLE, is_table, read_table
from sb3_rfm.results.evaluations import Evaluation, read_evaluations

CONFIDENCE = 0.95
RESAMPLES = 2000  # of the bootstrap: its own error is then well below the width of a line
NPZ = "evaluations.npz"
CSV = "evaluations.csv"


@dataclass(frozen=True)
class Curve:
    """
    The evaluations of one run.

    :param label: of its line: the algorithm, and the folder where several are compared
    :param algorithm: name on the command line
    :param environment: Gymnasium id
    :param seed: of the run
    :param steps: environment steps, increasing
    :param returns: mean return at each
    :param source: the file it was read from
    """

    label: str
    algorithm: str
    environment: str
    seed: int
    steps: tuple[int, ...]
    returns: tuple[float, ...]
    source: Path


class _ArgsLoader(yaml.SafeLoader):
    """Reads the RL Zoo's ``args.yml``, an ordered dictionary, without running what is in it."""


def _ordered_dict(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> dict[str, Any]:
    """
    An ordered dictionary from its list of pairs.

    :param loader: that reads the file
    :param node: arguments of ``OrderedDict``
    :return: a plain dictionary
    """
    return dict(loader.construct_sequence(node, deep=True)[0])


_ArgsLoader.add_constructor(
    "tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered_dict
)


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """
    Read a run of ``sb3-rfm run``, or all runs of ``sb3-rfm compare``.

    :param path: of ``evaluations.csv`` or ``comparison.csv``
    :return: fields of a ``Curve`` for each run that has a row
    """
    if is_table(path):
        table = read_table(path)
        return [_fields(rows) | {"label": label} for (label, _, _), rows in table.items()]
    rows = read_evaluations(path)
    return [_fields(rows)] if rows else []


def _fields(rows: list[Evaluation]) -> dict[str, Any]:
    """
    What the evaluations of a run say about its curve.

    :param rows: at least one
    :return: fields of a ``Curve``, labelled by the algorithm
    """
    return {
        "label": rows[0].algorithm,
        "algorithm": rows[0].algorithm,
        "environment": rows[0].environment,
        "seed": rows[0].seed,
        "steps": tuple(row.steps for row in rows),
        "returns": tuple(row.mean_return for row in rows),
    }


def _read_npz(path: Path) -> list[dict[str, Any]]:
    """
    Read a run of the RL Zoo, whose ``args.yml`` lies in ``<environment with dashes>/`` beside it.

    :param path: of ``evaluations.npz``
    :return: fields of a ``Curve``; none when it is not the RL Zoo's
    """
    found = list(path.parent.glob("*/args.yml"))
    if len(found) != 1:
        return []
    arguments = yaml.load(found[0].read_text("utf-8"), _ArgsLoader)
    with np.load(path) as data:
        steps, returns = data["timesteps"], data["results"].mean(axis=1)
    curve = {
        "label": arguments["algo"],
        "algorithm": arguments["algo"],
        "environment": arguments["env"],
        "seed": arguments["seed"],
        "steps": tuple(int(step) for step in steps),
        "returns": tuple(float(value) for value in returns),
    }
    return [curve]


def read_curves(folders: Iterable[Path]) -> list[Curve]:
    """
    Every run below some folders. Where there are several, the label names the folder, too.

    :param folders: of ``sb3-rfm compare``, ``sb3-rfm run --folder`` or ``sb3-rfm train -f``, or of
        one run; or the CSV file of a run or a comparison, whatever it is called
    :return: the curves; runs without an evaluation are left out
    :raises FileNotFoundError: when a folder does not exist or has no evaluation in it
    :raises ValueError: when a file has other columns
    """
    folders = list(folders)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    curves: list[Curve] = []
    for folder, name in zip(folders, names, strict=True):
        if not folder.exists():
            raise FileNotFoundError(f"There is no folder {folder}.")
        alone = len(folders) == 1 or folder.is_file()
        before = len(curves)
        for path in _files(folder):
            for read in _read_npz(path) if path.name == NPZ else _read_csv(path):
                label = read.pop("label") + ("" if alone else f" ({name})")
                curves.append(Curve(label, source=path, **read))
        if len(curves) == before:
            raise FileNotFoundError(f"There is no evaluation in {folder} ({CSV} or {NPZ}).")
    return curves


def _files(folder: Path) -> list[Path]:
    """
    The files with evaluations in a folder.

    :param folder: or one such file
    :return: their paths; of a comparison its table alone, which has the labels of its runs
    """
    if folder.is_file():
        return [folder]
    if (folder / TABLE).is_file():
        return [folder / TABLE]
    return sorted([*folder.rglob(CSV), *folder.rglob(NPZ)])


def one_per_seed(curves: list[Curve]) -> tuple[list[Curve], list[Curve]]:
    """
    Two runs with one seed are not two seeds: keep the one that went further.

    :param curves: of any runs
    :return: those kept, and those left out
    """
    best: dict[tuple[str, str, int], Curve] = {}
    for curve in curves:
        key = (curve.label, curve.environment, curve.seed)
        if key not in best or curve.steps[-1] > best[key].steps[-1]:
            best[key] = curve
    kept = list(best.values())
    return kept, [curve for curve in curves if curve not in kept]


def aggregate(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    Mean over seeds, with its percentile-bootstrap confidence interval.

    Only the steps at which every seed was evaluated count: a mean over changing seeds would jump.

    :param curves: one per seed, of one algorithm on one environment
    :return: steps, mean, lower and upper end (the mean itself for one seed), each of shape (T,)
    :raises ValueError: when the runs have no evaluation step in common
    """
    steps = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
    if not steps:
        sources = ", ".join(str(curve.source) for curve in curves)
        raise ValueError(f"These runs were never evaluated at the same step: {sources}")
    table = np.array(
        [[dict(zip(c.steps, c.returns, strict=True))[s] for s in steps] for c in curves]
    )
    mean = table.mean(axis=0)
    if len(curves) == 1:
        return np.array(steps), mean, mean, mean
    generator = np.random.default_rng(0)
    picks = generator.integers(len(curves), size=(RESAMPLES, len(curves)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(table[picks].mean(axis=1), [tail, 1 - tail], axis=0)
    return np.array(steps), mean, low, high


def select(
    curves: list[Curve], algorithms: list[str] | None, environments: list[str] | None
) -> list[Curve]:
    """
    The curves of some algorithms and environments.

    :param curves: of any runs
    :param algorithms: names, or None for all
    :param environments: ids, with dashes or slashes, short names too; or None for all
    :return: the curves of both
    :raises ValueError: when none is left
    """

    def key(env_id: str) -> str:
        return env_id.replace("/", "-").removeprefix("dm_control-").removesuffix("-v0")

    wanted = {key(env_id) for env_id in environments or []}
    kept = [
        curve
        for curve in curves
        if (not algorithms or curve.algorithm in algorithms)
        and (not wanted or key(curve.environment) in wanted)
    ]
    if not kept:
        there = sorted({f"{curve.algorithm} on {curve.environment}" for curve in curves})
        raise ValueError(f"--algos and --envs leave no run; there are {', '.join(there)}.")
    return kept


def table(curves: list[Curve]) -> str:
    """
    The last common evaluation of each line, as text.

    :param curves: one per label, environment and seed
    :return: a row per environment and label
    """
    lines = []
    for environment, label in sorted({(curve.environment, curve.label) for curve in curves}):
        mine = [c for c in curves if (c.environment, c.label) == (environment, label)]
        steps, mean, low, high = aggregate(mine)
        interval = f" [{low[-1]:.1f}, {high[-1]:.1f}]" if len(mine) > 1 else ""
        seeds = f"{len(mine)} seed{'s' if len(mine) > 1 else ''}"
        lines.append(f"{environment}  {label}  {seeds}, step {steps[-1]}: {mean[-1]:.1f}{interval}")
        if steps[-1] < max(curve.steps[-1] for curve in mine):
            lines.append("    cut there: a seed has no later evaluation in common with the others")
    return "\n".join(lines)
