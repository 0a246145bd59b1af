"""What a reader of a report has to know: the scales, what is missing, how few seeds there are."""

from sb3_rfm.results.aggregates import FEW, Estimate
from sb3_rfm.results.curves import Curve
from sb3_rfm.results.scores import DMC_RANGE, Ranges, ScoreTable, range_of


def notes(
    table: ScoreTable, ranges: Ranges, repeated: list[Curve], chances: dict[str, Estimate]
) -> list[str]:
    """
    What a reader has to know.

    :param table: of the scores
    :param ranges: the returns that become 0 and 1, by environment
    :param repeated: runs of a seed that is there twice
    :param chances: probabilities of improvement by label
    :return: sentences
    """
    raw, notes = [], []
    for environment in table.steps:
        ends = range_of(environment, ranges)
        if ends is None:
            raw.append(environment)
        else:
            rule = f"return / {DMC_RANGE[1]:g}"
            if ends != DMC_RANGE:
                rule = f"(return - {ends[0]:g}) / ({ends[1]:g} - {ends[0]:g})"
            notes.append(f"Score on {environment}: {rule}.")
    if raw:
        notes.append(f"Score on {', '.join(raw)}: the return as it is (see `--normalise`).")
        if len(table.steps) > 1:
            notes.append(
                "**Environments of different scales are mixed: the interquartile mean follows the "
                "largest of them.** The probability of improvement does not depend on the scale."
            )
    if any(chance.value in (0.0, 1.0) for chance in chances.values()):
        notes.append(
            "A probability of 0 or 1 has an interval without width, however few the runs: the "
            "bootstrap cannot draw an outcome that was never seen. It is no certainty."
        )
    return [*notes, *_missing(table, repeated), *_seeds(table)]


def _missing(table: ScoreTable, repeated: list[Curve]) -> list[str]:
    """
    What is not in the numbers.

    :param table: of the scores
    :param repeated: runs of a seed that is there twice
    :return: sentences
    """
    notes = []
    if table.left_out:
        runs = [
            f"{c.label} on {c.environment}, seed {c.seed} (step {c.steps[-1]})"
            for c in table.left_out
        ]
        notes.append(
            f"**{len(runs)} runs have no evaluation at the step reported, and are in no number and "
            f"no curve: {'; '.join(runs)}.** Where runs fail because they learn badly, what is "
            "left looks better than the label is."
        )
    shared = table.environments()
    absent = [environment for environment in table.steps if environment not in shared]
    if absent:
        notes.append(f"Not aggregated, as some label has no run there: {', '.join(absent)}.")
    for label in table.labels if shared else []:
        runs_used = len(table.matrix(label))
        extra = sum(len(table.of(label, environment)) - runs_used for environment in shared)
        if extra:
            notes.append(
                f"{label} has not as many seeds on each environment: the aggregates take the "
                f"lowest {runs_used} of each, and leave {extra} runs out."
            )
    if repeated:
        notes.append(f"{len(repeated)} shorter runs of a seed that is there twice are left out.")
    return notes


def _seeds(table: ScoreTable) -> list[str]:
    """
    How many seeds there are.

    :param table: of the scores
    :return: sentences
    """
    counts = {
        (label, environment): len(table.of(label, environment))
        for label in table.labels
        for environment in table.steps
    }
    few = {pair: count for pair, count in counts.items() if 0 < count < FEW}
    if not few:
        return [f"Every label has at least {FEW} seeds on every environment it was run on."]
    listed = "; ".join(f"{label} on {env}: {count}" for (label, env), count in few.items())
    notes = [
        f"**Fewer than {FEW} seeds ({listed}). An interval from so few is a rough guess: the "
        "bootstrap of a handful of runs is shorter than it should be, and misses the truth more "
        "often than it says.**"
    ]
    if 1 in few.values():
        notes.append("**One seed is an anecdote: it has no interval.**")
    return notes
