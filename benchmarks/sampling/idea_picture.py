"""
Reverse flow matching in one picture: noise, action, their mix, weighted particles, their mean.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/sampling/idea_picture.py  # a few seconds

A target of two hills in the plane, the linear path at t = 1/2, and 40 particles of the estimator
"noise_expectation". Writes ``docs/images/idea.png``.
"""

from pathlib import Path

import torch as th
from matplotlib.figure import Figure
from torch import Tensor

from sb3_rfm.sampling import Linear, make_estimator

ROOT = Path(__file__).resolve().parents[2]
NOISE, ACTION = (-1.3, -0.7), (1.1, 0.6)
N_PARTICLES, SEED = 40, 3


def log_density(x: Tensor) -> Tensor:
    """Two hills, the right one twice as heavy."""
    left = -3 * (x - th.tensor([-0.6, 1.1])).square().sum(-1)
    right = -3 * (x - th.tensor([1.0, 0.5])).square().sum(-1) + 0.7
    return th.logaddexp(left, right)


def main() -> None:
    x_0, x_1 = th.tensor([NOISE]), th.tensor([ACTION])
    coefficients = Linear()(th.tensor(0.5))
    x_t = coefficients.alpha * x_1 + coefficients.beta * x_0
    estimator = make_estimator("noise_expectation", N_PARTICLES)
    posterior = estimator(log_density, coefficients, x_t, th.Generator().manual_seed(SEED))
    particles, weights, mean = posterior.x_1[:, 0], posterior.weights[:, 0], posterior.mean.x_1

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    ax = figure.subplots()
    across, up = th.linspace(-2.2, 2.6, 161), th.linspace(-1.7, 2.1, 121)
    plane = th.stack(th.meshgrid(across, up, indexing="xy"), -1)
    ax.contourf(across, up, log_density(plane).exp(), 8, cmap="Blues", alpha=0.6)
    ax.plot(*th.cat([x_0, x_1]).T, color="black", lw=1, ls="--", zorder=2)
    ax.scatter(*particles.T, s=8 + 900 * weights, color="tab:orange", alpha=0.6, zorder=3)
    arrow = {"arrowstyle": "-|>", "lw": 2.5, "color": "tab:red", "shrinkA": 0, "shrinkB": 4}
    ax.annotate("", mean[0].tolist(), x_t[0].tolist(), arrowprops=arrow, zorder=5)
    for point, marker, label, offset in (
        (x_0, "o", "$x_0$, noise", (-14, -18)),
        (x_1, "s", "$x_1$, action", (10, 2)),
        (x_t, "D", "$x_t$, their mix", (-24, -20)),
        (mean, "*", "mean of the particles", (-95, 12)),
    ):
        ax.scatter(*point.T, s=160 if marker == "*" else 50, marker=marker, color="black", zorder=6)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1}
        where = point[0].tolist()
        ax.annotate(label, where, offset, textcoords="offset points", bbox=box, zorder=7)
    ax.set(xlim=(-2.2, 2.6), ylim=(-1.7, 2.1), xticks=[], yticks=[], aspect="equal")
    figure.savefig(ROOT / "docs" / "images" / "idea.png", dpi=90)


if __name__ == "__main__":
    main()
