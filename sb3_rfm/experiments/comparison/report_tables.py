"""The tables of a report, in Markdown."""

from dataclasses import replace

from sb3_rfm.results.aggregates import RESAMPLES, Estimate
from sb3_rfm.results.curves import CONFIDENCE, Curve, aggregate
from sb3_rfm.results.scores import ScoreTable


def returns(table: ScoreTable) -> list[str]:
    """
    The mean return of each label on each environment.

    :param table: of the scores
    :return: lines of a Markdown table
    """
    lines = ["| environment | label | seeds | step | mean return |", "|---|---|---|---|---|"]
    for environment, step in table.steps.items():
        for label in table.labels:
            curves = [score.curve for score in table.of(label, environment)]
            result = "-"
            if curves:
                # at the end of each, which may be steps apart where environments run side by side
                ends = [_end(curve) for curve in curves]
                _, mean, low, high = (float(part[-1]) for part in aggregate(ends))
                result = (Estimate(mean, low, high) if len(curves) > 1 else Estimate(mean)).text(1)
            lines.append(f"| {environment} | {label} | {len(curves)} | {step} | {result} |")
    return lines


def _end(curve: Curve) -> Curve:
    """
    The last evaluation of a curve.

    :param curve: of a run
    :return: a curve of one point, whose step is 0
    """
    return replace(curve, steps=(0,), returns=curve.returns[-1:])


def aggregate_table(
    table: ScoreTable, means: dict[str, Estimate], chances: dict[str, Estimate], reference: str
) -> list[str]:
    """
    The aggregates of each label, and how many runs they rest on.

    :param table: of the scores
    :param means: interquartile means by label
    :param chances: probabilities of improvement by label
    :param reference: label that the others are compared with
    :return: lines of a Markdown table
    """
    if not means:
        return ["No environment has a run of every label: there is nothing to aggregate."]
    lines = [
        f"| label | seeds x environments | interquartile mean | P(better than {reference}) |",
        "|---|---|---|---|",
    ]
    for label, mean in means.items():
        chance = chances[label].text() if label in chances else "-"
        runs = " x ".join(str(number) for number in table.matrix(label).shape)
        lines.append(f"| {label} | {runs} | {mean.text()} | {chance} |")
    return lines


def explanation(reference: str) -> str:
    """
    What the aggregates are.

    :param reference: label that the others are compared with
    :return: a paragraph
    """
    return (
        "The interquartile mean is that of the middle half of all runs of a label, over seeds and "
        f"environments. P(better than {reference}) is the probability that a run of the label "
        f"scores higher than a run of {reference} on the same environment, averaged over the "
        "environments; equal scores count half, and 0.5 is no difference. Brackets hold "
        f"{CONFIDENCE:.0%} intervals of rliable's stratified bootstrap, which draws the seeds of "
        f"each environment anew {RESAMPLES} times: they are about other seeds, not about other "
        "environments ([arXiv 2108.13264](https://arxiv.org/abs/2108.13264))."
    )
