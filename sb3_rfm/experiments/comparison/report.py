"""What a comparison says, in ``report.md``: curves, tables, aggregates, how far to trust them, and
the commands that make it all.
"""

from pathlib import Path
from typing import Any

import yaml

from sb3_rfm.experiments.comparison.definition_file import FILE, read_request, to_yaml
from sb3_rfm.experiments.comparison.report_notes import notes
from sb3_rfm.experiments.comparison.report_tables import aggregate_table, explanation, returns
from sb3_rfm.results.aggregates import Estimate, interquartile_mean, probability_of_improvement
from sb3_rfm.results.curves import CONFIDENCE, one_per_seed, read_curves
from sb3_rfm.results.evaluation_table import TABLE
from sb3_rfm.results.plots import draw_aggregates, draw_comparison
from sb3_rfm.results.scores import Ranges, ScoreTable, score_table
from sb3_rfm.utils.files import write_whole
from sb3_rfm.utils.shell import command_line
from sb3_rfm.utils.version import __version__

REPORT = "report.md"
CURVES = "learning_curves.png"
AGGREGATES = "aggregates.png"


def write_report(
    source: Path,
    output: Path | None = None,
    reference: str | None = None,
    steps: int | None = None,
    ranges: Ranges | None = None,
    command: str = "",
) -> tuple[Path, str]:
    """
    Write ``report.md`` and its pictures.

    :param source: folder of a comparison, or a CSV file of one
    :param output: folder of the report; the comparison's by default
    :param reference: label that the others are compared with; ``sac`` if there, else the first
    :param steps: environment steps to report; the last by default
    :param ranges: the returns that become 0 and 1, by environment id
    :param command: stands in the report
    :return: its path, and the tables as text
    :raises FileNotFoundError: when there is no evaluation in ``source``
    :raises ValueError: when ``reference``, ``steps`` or an environment of ``ranges`` is not there
    """
    curves, repeated = one_per_seed(read_curves([source]))
    ranges = ranges or {}
    strange = set(ranges) - {curve.environment for curve in curves}
    if strange:
        raise ValueError(f"normalise: the comparison has no environment {', '.join(strange)}.")
    table = score_table(curves, ranges, steps)
    reference = _reference(table.labels, reference)
    folder = source.parent if source.is_file() else source
    output = output or folder
    output.mkdir(parents=True, exist_ok=True)
    # a run that stopped early would cut every curve of its label: it is listed, not drawn
    draw_comparison([score.curve for score in table.scores], output / CURVES)
    means, chances = _aggregates(table, reference)
    if means:
        draw_aggregates(means, chances, reference, output / AGGREGATES)
    per_environment = "\n".join(returns(table))
    overall = "\n".join(aggregate_table(table, means, chances, reference))
    parts = [
        f"# {', '.join(table.labels)} on {', '.join(table.steps)}",
        *_origin(folder, source, command),
        *_results(per_environment, overall, bool(means)),
        explanation(reference),
        "## How far this can be trusted",
        "\n".join(f"* {note}" for note in notes(table, ranges, repeated, chances)),
    ]
    path = output / REPORT
    write_whole(path, ("\n\n".join(parts) + "\n").encode())
    return path, f"{per_environment}\n\n{overall}"


def _results(per_environment: str, overall: str, aggregated: bool) -> list[str]:
    """
    The tables beside their pictures.

    :param per_environment: table of the returns
    :param overall: table of the aggregates
    :param aggregated: whether there is a picture of them
    :return: paragraphs
    """
    return [
        "## Learning curves",
        f"![Learning curves]({CURVES})",
        f"Mean return over seeds; the band is its {CONFIDENCE:.0%} percentile-bootstrap interval.",
        per_environment,
        "## Aggregates",
        *([f"![Aggregates]({AGGREGATES})"] if aggregated else []),
        overall,
    ]


def _reference(labels: list[str], wanted: str | None) -> str:
    """
    The label that the others are compared with.

    :param labels: there are
    :param wanted: or None
    :return: one of them
    :raises ValueError: when the one that is wanted is not there
    """
    if wanted is None:
        return "sac" if "sac" in labels else labels[0]
    if wanted not in labels:
        raise ValueError(f"reference must be one of {', '.join(labels)}, got {wanted!r}.")
    return wanted


def _aggregates(
    table: ScoreTable, reference: str
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """
    The aggregates of each label over the environments that all of them have.

    :param table: of the scores
    :param reference: label that the others are compared with
    :return: interquartile means, and probabilities of improvement, by label; empty when no
        environment has them all
    """
    if not table.environments():
        return {}, {}
    scores = {label: table.matrix(label) for label in table.labels}
    means = {label: interquartile_mean(scores[label]) for label in table.labels}
    others = [label for label in table.labels if label != reference]
    there = scores[reference]
    return means, {label: probability_of_improvement(scores[label], there) for label in others}


def _origin(folder: Path, source: Path, command: str) -> list[str]:
    """
    How the report was made.

    :param folder: of the comparison
    :param source: folder or CSV file of the report
    :param command: of the report
    :return: paragraphs
    """
    report = command or command_line(["sb3-rfm", "report", str(source)])
    lines = [f"Written by sb3-rfm {__version__}.", "## How to make it again"]
    if not (folder / FILE).is_file() or (source.is_file() and source.name != TABLE):
        return [
            *lines,
            f"```bash\n{report}\n```",
            f"There is no {FILE} beside the table: what made it, and with which versions, is not "
            "known.",
        ]
    definition = read_request(folder / FILE)
    commands = definition.pop("commands", [])
    train = command_line(["sb3-rfm", "compare", "--config", FILE, "--folder", str(folder)])
    shown = to_yaml(definition).rstrip()
    return [
        *lines,
        f"```bash\n{train}\n{report}\n```",
        f"with this `{FILE}`:",
        f"```yaml\n{shown}\n```",
        *(["The folder was made by"] if commands else []),
        *(["```bash\n" + "\n".join(commands) + "\n```"] if commands else []),
        _versions(folder),
    ]


def _versions(folder: Path) -> str:
    """
    What the runs depended on.

    :param folder: of the comparison
    :return: a paragraph; several versions of a package are named as such
    """
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*/config.yml")):
        config: Any = yaml.safe_load(path.read_text("utf-8"))
        for package, version in (config.get("versions") or {}).items():
            versions = found.setdefault(package, [])
            if version not in versions:
                versions.append(version)
    if not found:
        return "The folders of the runs are gone: versions are not known."
    listed = ", ".join(f"{package} {' and '.join(v)}" for package, v in found.items())
    mixed = [package for package, versions in found.items() if len(versions) > 1]
    warning = f" **Not all runs had the same {', '.join(mixed)}.**" if mixed else ""
    return f"Versions: {listed}.{warning}"
