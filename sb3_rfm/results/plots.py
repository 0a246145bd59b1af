"""Pictures of learning curves: one panel per environment, one line per algorithm."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sb3_rfm.results.curves import CONFIDENCE, Curve, aggregate
from sb3_rfm.results.evaluations import Evaluation
from sb3_rfm.utils.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sb3_rfm.results.aggregates import Estimate


def _panel(axes: "Axes", environment: str, curves: list[Curve], colours: dict[str, str]) -> None:
    """
    Draw one environment.

    :param axes: where
    :param environment: its id, the title
    :param curves: one per label and seed
    :param colours: by label
    """
    for label in sorted({curve.label for curve in curves}):
        mine = [curve for curve in curves if curve.label == label]
        steps, mean, low, high = aggregate(mine)
        seeds = f"{len(mine)} seed{'s' if len(mine) > 1 else ''}"
        axes.plot(steps, mean, color=colours[label], label=f"{label}, {seeds}")
        axes.fill_between(steps, low, high, color=colours[label], alpha=0.2, linewidth=0)
    axes.set_title(environment)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return")
    axes.grid(alpha=0.3)
    axes.legend()


def _save(figure: "Figure", path: Path) -> None:
    """
    Write a figure, whole or not at all; the file's ending picks the format.

    :param figure: to be saved
    :param path: its parent is made if need be
    """
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=path.suffix.removeprefix(".") or None)
    write_whole(path, picture.getvalue())


def draw_comparison(curves: list[Curve], path: Path) -> None:
    """
    One panel per environment: mean over seeds, and its confidence interval as a band.

    :param curves: one per label, environment and seed
    :param path: of the picture
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no display needed

    environments = sorted({curve.environment for curve in curves})
    labels = sorted({curve.label for curve in curves})
    colours = {label: f"C{index}" for index, label in enumerate(labels)}
    columns = min(len(environments), 4)
    rows = -(-len(environments) // columns)
    figure = Figure(figsize=(5 * columns, 3.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, environment in zip(panels, environments, strict=False):
        _panel(axes, environment, [c for c in curves if c.environment == environment], colours)
    for axes in panels[len(environments) :]:
        axes.set_visible(False)
    figure.suptitle(f"mean over seeds, {CONFIDENCE:.0%} bootstrap confidence interval", fontsize=9)
    _save(figure, path)


def draw_run(rows: list[Evaluation], path: Path) -> None:
    """
    The curve of a single run, with the standard deviation over its episodes as a band.

    :param rows: its evaluations, at least one
    :param path: of the picture
    """
    from matplotlib.figure import Figure

    steps = [row.steps for row in rows]
    mean = np.array([row.mean_return for row in rows])
    std = np.array([row.std_return for row in rows])
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, mean, marker="o", markersize=3)
    axes.fill_between(steps, mean - std, mean + std, alpha=0.2, linewidth=0)
    axes.set_title(f"{rows[0].algorithm} on {rows[0].environment}, seed {rows[0].seed}")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"return (mean ± std of {rows[0].n_episodes} episodes)")
    axes.grid(alpha=0.3)
    _save(figure, path)


def draw_aggregates(
    means: "dict[str, Estimate]",
    chances: "dict[str, Estimate]",
    reference: str,
    path: Path,
) -> None:
    """
    Interquartile means, and probabilities of improvement, each with its interval.

    :param means: by label
    :param chances: by label, the reference's left out; a panel of its own when there are any
    :param reference: label that the others are compared with
    :param path: of the picture
    """
    from matplotlib.figure import Figure

    panels = [(means, "interquartile mean of the scores")]
    if chances:
        panels.append((chances, f"probability of improvement over {reference}"))
    height = 1.2 + 0.45 * len(means)
    figure = Figure(figsize=(5 * len(panels), height), layout="constrained")
    for axes, (estimates, title) in zip(
        figure.subplots(1, len(panels), squeeze=False).flatten(), panels, strict=True
    ):
        for row, (label, estimate) in enumerate(estimates.items()):
            colour = f"C{sorted(means).index(label)}"  # as in the learning curves
            if estimate.low is not None and estimate.high is not None:
                axes.barh(
                    row, estimate.high - estimate.low, 0.6, estimate.low, color=colour, alpha=0.3
                )
            axes.plot(estimate.value, row, "o", color=colour)
        axes.set_yticks(range(len(estimates)), list(estimates))
        axes.set_ylim(len(estimates) - 0.5, -0.5)
        axes.set_xlabel(title)
        axes.grid(axis="x", alpha=0.3)
        axes.use_sticky_edges = False  # bars would end at the frame
        if estimates is chances:
            axes.axvline(0.5, color="grey", linewidth=1)
            axes.set_xlim(-0.02, 1.02)
    figure.suptitle(f"{CONFIDENCE:.0%} stratified bootstrap confidence interval", fontsize=9)
    _save(figure, path)
