"""
Error of the posterior mean, relative to the posterior's standard deviation, against exact answers.

    .venv/bin/python benchmarks/sampling/posterior_error.py         # about five minutes on one core

Every estimator of the library on the targets of ``common_problems.py`` at seven times t: sums
over 1, 6 and 17 coordinates, coupled pairs, and rotated normal laws. The estimators see one number
for all coordinates. The bounded estimator works in the action box, with policy samples from the
target ("good"), from the wrong place, narrow ("lost") or broad ("wrong"), or without any; the
paper's estimators work in the authors' tanh latent with 100 particles (on rotated normal laws in
R^d itself). Then the number of particles
is varied: error against evaluations of Q (a value with its gradient counts as one) and against
milliseconds. Last, the bias with 4096 particles.

Writes ``results/posterior_error.csv`` and ``docs/images/posterior_error.png`` and
``posterior_cost.png``, and prints the tables.
"""

import csv
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch as th
from common_problems import COUPLED, SEPARABLE, Problem, coupled, rotated, separable
from torch import Tensor

from sb3_rfm.sampling import make_estimator

ROOT = Path(__file__).resolve().parents[2]
TIMES = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
PARTICLES = (8, 16, 32, 64, 128, 256)
FLOOR = 1e-4  # errors below it count as it: a logarithm of zero has no mean


@dataclass(frozen=True)
class Contender:
    """
    An estimator in its setting.

    :param name: in the table
    :param estimator: name in the library
    :param guide: where the policy samples come from: "good", "lost", "wrong" or "none"
    :param latent: whether it works in the tanh latent instead of the box
    :param n_particles: K, in one dimension and in more
    """

    name: str
    estimator: str
    guide: str = "none"
    latent: bool = False
    n_particles: tuple[int, int] = (16, 32)


PAPER = (100, 100)
AUTHORS = Contender("authors' release", "diagonal_centred", latent=True, n_particles=PAPER)
BOUNDED = Contender("bounded, good policy samples", "bounded", "good")
CONTENDERS = (
    Contender("noise expectation (eta = 0)", "noise_expectation", latent=True, n_particles=PAPER),
    Contender(
        "gradient expectation (eta = 1)", "gradient_expectation", latent=True, n_particles=PAPER
    ),
    Contender("paper, isotropic (eq. 21)", "isotropic", latent=True, n_particles=PAPER),
    Contender("paper, diagonal (eq. 20)", "diagonal", latent=True, n_particles=PAPER),
    AUTHORS,
    BOUNDED,
    Contender("bounded, lost policy samples", "bounded", "lost"),
    Contender("bounded, wrong policy samples", "bounded", "wrong"),
    Contender("bounded, no policy samples", "bounded"),
)
# group of targets -> its shapes, and what makes the problem from (shape, t, latent)
Maker = Callable[[str, float, bool], Problem]
GROUPS: dict[str, tuple[Iterable[str], Maker]] = {
    **{
        f"d = {dim}": (
            SEPARABLE,
            lambda shape, t, latent, dim=dim: separable(shape, t, dim, latent),
        )
        for dim in (1, 6, 17)
    },
    "coupled, d = 2": (COUPLED, coupled),
    "rotated, d = 6": (("normal",), lambda shape, t, latent: rotated(t, 6)),
    "rotated, d = 17": (("normal",), lambda shape, t, latent: rotated(t, 17)),
}


@dataclass(frozen=True)
class Result:
    """One estimator on one problem: a row of the CSV."""

    estimator: str
    n_particles: int
    group: str
    shape: str
    t: float
    relative_error: float
    q_evaluations: int
    milliseconds: float


class Counted:
    """A log-density that counts the points of a state that it is asked for."""

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density, self.calls = log_density, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        return self.log_density(x)


def policy_samples(actions: Tensor, guide: str) -> Tensor | None:
    """
    What a policy might have drawn.

    :param actions: draws of the target, (M, B, D)
    :param guide: "good", "lost", "wrong" or "none"
    :return: (M, B, D)
    """
    spread = {"lost": 0.1, "wrong": 0.4}
    if guide == "none":
        return None
    if guide == "good":
        return actions
    return (-0.5 * actions + spread[guide] * th.randn_like(actions)).clamp(-1, 1)


def measure(contender: Contender, n_particles: int, group: str) -> list[Result]:
    """
    A contender on every shape and time of a group, with the same draws for each contender.

    A rotated normal law lives in all of R^d for the paper's estimators: no latent, no walls.

    :return: a result for each shape and time
    """
    shapes, make = GROUPS[group]
    estimator, results = make_estimator(contender.estimator, n_particles), []
    for shape in shapes:
        for t in TIMES:
            th.manual_seed(0)
            problem = make(shape, t, contender.latent)
            guide = policy_samples(problem.actions, contender.guide)
            counted, start = Counted(problem.log_density), time.perf_counter()
            posterior = estimator(counted, problem.coefficients, problem.x_t, policy_samples=guide)
            elapsed = 1e3 * (time.perf_counter() - start)
            error = max(problem.error(posterior.mean.x_1), FLOOR)
            results.append(
                Result(contender.name, n_particles, group, shape, t, error, counted.calls, elapsed)
            )
    return results


def geometric_mean(values: Iterable[float]) -> float:
    """The exponential of the mean logarithm."""
    return math.exp(sum(logs := [math.log(value) for value in values]) / len(logs))


def error_table(results: list[Result]) -> str:
    """
    Geometric mean / worst over shapes and times, in Markdown.

    :param results: of every contender in every group
    :return: the table
    """
    lines = [f"| estimator | K | {' | '.join(GROUPS)} |", "|---" * (2 + len(GROUPS)) + "|"]
    for contender in CONTENDERS:
        cells = []
        for group in GROUPS:
            errors = [
                r.relative_error
                for r in results
                if (r.estimator, r.group) == (contender.name, group)
            ]
            cells.append(f"{geometric_mean(errors):.2g} / {max(errors):.2g}")
        sizes = ", ".join(str(k) for k in dict.fromkeys(contender.n_particles))
        lines.append(f"| {contender.name} | {sizes} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(results: list[Result]) -> str:
    """
    Error, evaluations of Q a state and milliseconds a batch against K at d = 6, in Markdown.

    :param results: of the sweep over K
    :return: the table
    """
    lines = [
        "| estimator | K | evaluations of Q | ms a batch | error | error² x evaluations |",
        "|---" * 6 + "|",
    ]
    for name in (AUTHORS.name, BOUNDED.name):
        for k in dict.fromkeys(r.n_particles for r in results if r.estimator == name):
            mine = [r for r in results if (r.estimator, r.n_particles) == (name, k)]
            error = geometric_mean(r.relative_error for r in mine)
            calls = mine[0].q_evaluations
            elapsed = geometric_mean(r.milliseconds for r in mine)
            figures = f"{calls} | {elapsed:.2g} | {error:.2g} | {error**2 * calls:.2g}"
            lines.append(f"| {name} | {k} | {figures} |")
    return "\n".join(lines)


def bias(n_particles: int = 4096, repeats: int = 16) -> str:
    """
    Mean error of the bounded estimator with many particles, beside the error of one estimate.

    :return: a sentence, in posterior standard deviations, over shapes and times at d = 6
    """
    estimator, means, noises = make_estimator("bounded", n_particles), [], []
    for shape in SEPARABLE:
        for t in TIMES:
            th.manual_seed(1)
            problem = separable(shape, t, 6)
            few = slice(0, 2)
            errors = th.stack(
                [
                    estimator(
                        problem.log_density,
                        problem.coefficients,
                        problem.x_t[few],
                        policy_samples=problem.actions[:, few],
                    ).mean.x_1
                    - problem.mean[few]
                    for _ in range(repeats)
                ]
            )
            relative = errors / problem.spread[few]
            means.append(relative.mean(0).flatten())
            noises.append(relative.std(0).flatten())
    mean, noise = th.cat(means), th.cat(noises)
    return (
        f"K = {n_particles}: mean error {mean.square().mean().sqrt():.2g} (root mean square; "
        f"largest {mean.abs().max():.2g}, plain Monte Carlo has {n_particles**-0.5:.2g}), standard "
        f"deviation of one estimate {noise.square().mean().sqrt():.2g} (largest {noise.max():.2g})"
    )


def draw_error(results: list[Result], path: Path) -> None:
    """
    Error against t, a panel a group.

    :param results: of every contender in every group
    :param path: of the picture
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).flatten()
    for axes, group in zip(panels, GROUPS, strict=True):
        for i, contender in enumerate(CONTENDERS):
            mine = [r for r in results if (r.estimator, r.group) == (contender.name, group)]
            curve = [geometric_mean(r.relative_error for r in mine if r.t == t) for t in TIMES]
            style = "--" if contender.latent else "-"
            axes.plot(
                TIMES, curve, style, marker="o", markersize=3, color=f"C{i}", label=contender.name
            )
        axes.set(yscale="log", title=group, xlabel="t")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("error / posterior standard deviation")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", fontsize="small")
    figure.savefig(path, dpi=110)


def draw_cost(results: list[Result], path: Path) -> None:
    """
    Error against evaluations of Q and against milliseconds, d = 6.

    :param results: of the sweep over K
    :param path: of the picture
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for name in (AUTHORS.name, BOUNDED.name):
        mine = [r for r in results if r.estimator == name]
        by_k = [[r for r in mine if r.n_particles == k] for k in PARTICLES]
        errors = [geometric_mean(r.relative_error for r in rows) for rows in by_k]
        panels[0].plot([rows[0].q_evaluations for rows in by_k], errors, marker="o", label=name)
        elapsed = [geometric_mean(r.milliseconds for r in rows) for rows in by_k]
        panels[1].plot(elapsed, errors, marker="o", label=name)
    for axes, label in zip(panels, ("evaluations of Q a state", "ms a batch"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("error / posterior standard deviation")
    panels[1].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, write, draw and print."""
    th.set_num_threads(1)
    on = partial(measure, BOUNDED, 8)
    on("d = 1")  # warm up: the first calls are slow
    errors = [
        result
        for contender in CONTENDERS
        for group in GROUPS
        for result in measure(contender, contender.n_particles[group != "d = 1"], group)
    ]
    costs = [r for c in (AUTHORS, BOUNDED) for k in PARTICLES for r in measure(c, k, "d = 6")]
    path = ROOT / "benchmarks" / "results" / "posterior_error.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Result.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(result) for result in dict.fromkeys([*errors, *costs]))
    images = ROOT / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    draw_error(errors, images / "posterior_error.png")
    draw_cost(costs, images / "posterior_cost.png")
    print(error_table(errors), cost_table(costs), bias(), sep="\n\n")


if __name__ == "__main__":
    main()
