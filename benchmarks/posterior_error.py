"""
Error of the posterior mean, relative to the posterior's standard deviation, against quadrature.

    .venv/bin/python benchmarks/posterior_error.py            # about a minute on one core

Every estimator of the library on eight shapes of Q, seven times t and three dimensions. The targets
are sums over coordinates, so that quadrature is exact, but the estimators see one number for all of
them. The bounded estimator works in the action box, with policy samples from the target ("good"),
from the wrong place, narrow ("lost") or broad ("wrong"), or without any; the paper's estimators
work in the authors' tanh latent with 100 particles. Writes ``results/posterior_error.csv`` (a row
for each estimator, dimension, shape and t) and ``docs/images/posterior_error.png``, and prints the
table.
"""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch as th
from torch import Tensor

from sb3_rfm.sampling import Linear, TanhLatent, make_estimator
from sb3_rfm.sampling.posteriors import Estimator

ROOT = Path(__file__).resolve().parents[1]
TIMES = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
DIMENSIONS = (1, 6, 17)
BATCH, N_POLICY_SAMPLES = 32, 8
FLOOR = 1e-4  # errors below it count as it: a logarithm of zero has no mean

SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "quadratic 5": lambda x: -5 * (x - 0.3).square(),
    "quadratic 50": lambda x: -50 * (x - 0.3).square(),
    "quadratic 500": lambda x: -500 * (x + 0.6).square(),
    "corner": lambda x: 60 * x,
    "mild slope": lambda x: 2 * x,
    "ripple": lambda x: -20 * (x - 0.2).square() + th.sin(12 * x),
    "two hills": lambda x: th.logaddexp(-40 * (x + 0.5).square(), -40 * (x - 0.4).square() + 0.5),
    "ridge": lambda x: -60 * (x - 0.2 - 0.5 * x.square()).square(),
}


@dataclass(frozen=True)
class Contender:
    """
    An estimator in its setting.

    :param name: in the table
    :param estimator: name in the library
    :param guide: where the policy samples come from: "good", "lost", "wrong" or "none"
    :param latent: whether it works in the tanh latent instead of the box
    :param n_particles: K, for d = 1 and above
    """

    name: str
    estimator: str
    guide: str = "none"
    latent: bool = False
    n_particles: tuple[int, int] = (16, 32)

    def make(self, dim: int) -> Estimator:
        """The estimator for a dimension."""
        return make_estimator(self.estimator, self.n_particles[dim > 1])


PAPER = (100, 100)
CONTENDERS = (
    Contender("noise expectation (eta = 0)", "noise", latent=True, n_particles=PAPER),
    Contender("gradient expectation (eta = 1)", "gradient", latent=True, n_particles=PAPER),
    Contender("paper, isotropic (eq. 21)", "isotropic", latent=True, n_particles=PAPER),
    Contender("paper, diagonal (eq. 20)", "diagonal", latent=True, n_particles=PAPER),
    Contender("authors' release", "diagonal_centred", latent=True, n_particles=PAPER),
    Contender("bounded, good policy samples", "bounded", "good"),
    Contender("bounded, lost policy samples", "bounded", "lost"),
    Contender("bounded, wrong policy samples", "bounded", "wrong"),
    Contender("bounded, no policy samples", "bounded"),
)


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


def relative_error(contender: Contender, shape: str, t: float, dim: int) -> tuple[float, float]:
    """
    Root mean square error of ``E[X_1 | x_t]`` over its standard deviation, and the time it took.

    :return: the error, and milliseconds for the batch
    """
    q, latent = SHAPES[shape], TanhLatent(bound=20.0)
    if contender.latent:
        grid = th.linspace(-9, 9, 3001, dtype=th.float64)
        log_p = q(grid.tanh()) + latent.log_det(grid[:, None])
    else:
        grid = th.linspace(-1, 1, 2001, dtype=th.float64)
        log_p = q(grid)
    c = Linear()(th.tensor(t, dtype=th.float64))
    shape_of_draws = (N_POLICY_SAMPLES + 1, BATCH, dim)
    index = th.multinomial(th.softmax(log_p, 0), math.prod(shape_of_draws), replacement=True)
    draws = grid[index].view(shape_of_draws)
    x_t = c.alpha * draws[0] + c.beta * th.randn(BATCH, dim, dtype=th.float64)
    points = grid.view(-1, 1, 1)
    prior = -0.5 * ((x_t - c.alpha * points) / c.beta).square()
    weights = th.softmax(log_p.view(-1, 1, 1) + prior, 0)
    mean = (weights * points).sum(0)
    variance = (weights * (points - mean).square()).sum(0)

    def log_density(x: Tensor) -> Tensor:
        if not contender.latent:
            return q(x).sum(-1)
        return q(x.tanh()).sum(-1) + latent.log_det(x)

    guide = policy_samples(draws[1:], contender.guide)
    start = time.perf_counter()
    estimate = contender.make(dim)(log_density, c, x_t, policy_samples=guide).mean.x_1
    elapsed = 1e3 * (time.perf_counter() - start)
    error = ((estimate - mean).square() / variance.clamp_min(1e-14)).mean().sqrt()
    return max(float(error), FLOOR), elapsed


def measure() -> list[dict[str, object]]:
    """
    Every contender on everything, with the same draws for each.

    :return: a row for each contender, dimension, shape and time
    """
    rows: list[dict[str, object]] = []
    for contender in CONTENDERS:
        for dim in DIMENSIONS:
            for shape in SHAPES:
                for t in TIMES:
                    th.manual_seed(0)
                    error, elapsed = relative_error(contender, shape, t, dim)
                    rows.append(
                        {
                            "estimator": contender.name,
                            "n_particles": contender.n_particles[dim > 1],
                            "dim": dim,
                            "shape": shape,
                            "t": t,
                            "relative_error": error,
                            "milliseconds": elapsed,
                        }
                    )
    return rows


def geometric_mean(values: list[float]) -> float:
    """The exponential of the mean logarithm."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def table(rows: list[dict[str, object]]) -> str:
    """
    Geometric mean / worst over shapes and times, in Markdown.

    :param rows: of :func:`measure`
    :return: the table
    """
    lines = ["| estimator | K | d = 1 | d = 6 | d = 17 |", "|---|---|---|---|---|"]
    for contender in CONTENDERS:
        cells = []
        for dim in DIMENSIONS:
            mine = [r for r in rows if r["estimator"] == contender.name and r["dim"] == dim]
            errors = [float(str(r["relative_error"])) for r in mine]
            cells.append(f"{geometric_mean(errors):.2g} / {max(errors):.2g}")
        sizes = ", ".join(str(k) for k in dict.fromkeys(contender.n_particles))
        lines.append(f"| {contender.name} | {sizes} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """
    Error against t, a panel a dimension.

    :param rows: of :func:`measure`
    :param path: of the picture
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, dim in zip(figure.subplots(1, len(DIMENSIONS), sharey=True), DIMENSIONS, strict=True):
        for contender in CONTENDERS:
            curve = [
                geometric_mean(
                    [
                        float(str(r["relative_error"]))
                        for r in rows
                        if (r["estimator"], r["dim"], r["t"]) == (contender.name, dim, t)
                    ]
                )
                for t in TIMES
            ]
            style = "--" if contender.latent else "-"
            axes.plot(TIMES, curve, style, marker="o", markersize=3, label=contender.name)
        axes.set_yscale("log")
        axes.set_title(f"d = {dim}")
        axes.set_xlabel("t")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("error / posterior standard deviation")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside right", fontsize="small"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, write, draw and print."""
    th.set_num_threads(1)
    rows = measure()
    path = ROOT / "benchmarks" / "results" / "posterior_error.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, ROOT / "docs" / "images" / "posterior_error.png")
    print(table(rows))


if __name__ == "__main__":
    main()
