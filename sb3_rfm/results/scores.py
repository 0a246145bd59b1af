"""Scores of a comparison: the return of each run at one step, on a scale environments share."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from sb3_rfm.results.curves import Curve

NAMESPACE = "dm_control/"
DMC_RANGE = (0.0, 1000.0)  # 1000 steps of a reward between 0 and 1
TOLERANCE = 0.01  # of the step: with several environments a run steps past its target

Ranges = dict[str, tuple[float, float]]


def parse_ranges(texts: Iterable[str]) -> Ranges:
    """
    The values of ``--normalise``.

    :param texts: ``ENV:LOW:HIGH`` each
    :return: low and high by full environment id
    :raises ValueError: when one is of another form, or its environment is unknown
    """
    from sb3_rfm.envs import any_env_id

    ranges = {}
    for text in texts:
        try:
            name, low, high = text.rsplit(":", 2)
            ends = float(low), float(high)
        except ValueError:
            raise ValueError(
                f"normalise must be ENV:LOW:HIGH, for example Pendulum-v1:-1500:0, got {text!r}."
            ) from None
        if not ends[0] < ends[1] < float("inf"):
            raise ValueError(f"normalise must have LOW < HIGH, both finite, got {text!r}.")
        ranges[any_env_id(name)] = ends
    return ranges


def range_of(environment: str, ranges: Ranges) -> tuple[float, float] | None:
    """
    The returns that become 0 and 1.

    :param environment: its id
    :param ranges: what was asked for
    :return: low and high, or None when the return itself is the score
    """
    known = DMC_RANGE if environment.startswith(NAMESPACE) else None
    return ranges.get(environment, known)


@dataclass(frozen=True)
class Score:
    """
    A run at the step of the report.

    :param curve: of the run, up to that step
    :param value: its return there, normalised
    """

    curve: Curve
    value: float


@dataclass(frozen=True)
class ScoreTable:
    """
    The scores of a comparison.

    :param scores: one for each run that was evaluated at its environment's step
    :param steps: that step, by environment
    :param left_out: the runs that were not
    """

    scores: list[Score]
    steps: dict[str, int]
    left_out: list[Curve]

    @property
    def labels(self) -> list[str]:
        """Of the lines, in order of appearance."""
        everything = [score.curve for score in self.scores] + self.left_out
        return list(dict.fromkeys(curve.label for curve in everything))

    def environments(self) -> list[str]:
        """
        Where every label has a run: aggregates compare nothing else.

        :return: their ids
        """
        have = {(score.curve.label, score.curve.environment) for score in self.scores}
        return [env for env in self.steps if all((label, env) in have for label in self.labels)]

    def of(self, label: str, environment: str) -> list[Score]:
        """
        The runs of a label on an environment.

        :param label: of the line
        :param environment: its id
        :return: by seed
        """
        mine = [
            score
            for score in self.scores
            if (score.curve.label, score.curve.environment) == (label, environment)
        ]
        return sorted(mine, key=lambda score: score.curve.seed)

    def matrix(self, label: str) -> np.ndarray:
        """
        What the aggregates take. Environments with more runs than the others give the lowest seeds.

        :param label: of the line
        :return: scores of shape (runs, environments)
        """
        columns = [self.of(label, environment) for environment in self.environments()]
        runs = min(len(column) for column in columns)
        return np.array([[score.value for score in column[:runs]] for column in columns]).T


def score_table(curves: list[Curve], ranges: Ranges, steps: int | None = None) -> ScoreTable:
    """
    The score of every run that was evaluated at its environment's step, to within a hundredth of
    it: the last one of any run there, or the one asked for.

    :param curves: one per label, environment and seed
    :param ranges: the returns that become 0 and 1, by environment
    :param steps: environment steps, or None for the last
    :return: the table
    :raises ValueError: when no run was evaluated at ``steps``
    """
    table = ScoreTable([], {}, [])
    for environment in dict.fromkeys(curve.environment for curve in curves):
        mine = [curve for curve in curves if curve.environment == environment]
        target = max(curve.steps[-1] for curve in mine) if steps is None else steps
        table.steps[environment] = target
        ends = range_of(environment, ranges)
        for curve in mine:
            cut = _cut(curve, target)
            if cut is None:
                table.left_out.append(curve)
                continue
            value = cut.returns[-1]
            table.scores.append(
                Score(cut, value if ends is None else (value - ends[0]) / (ends[1] - ends[0]))
            )
    if not table.scores:
        there = ", ".join(str(step) for step in sorted({s for c in curves for s in c.steps}))
        raise ValueError(f"steps must be one at which runs were evaluated ({there}), got {steps}.")
    return table


def _cut(curve: Curve, target: int) -> Curve | None:
    """
    A curve up to a step.

    :param curve: of a run
    :param target: environment steps
    :return: the curve until its evaluation there, or None when it has none
    """
    nearest = min(curve.steps, key=lambda step: abs(step - target))
    if abs(nearest - target) > TOLERANCE * target:
        return None
    end = curve.steps.index(nearest) + 1
    return replace(curve, steps=curve.steps[:end], returns=curve.returns[:end])
