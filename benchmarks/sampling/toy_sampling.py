"""
Training-free and trained samplers of three unnormalised densities, against reference samples.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/sampling/toy_sampling.py  # six minutes, one core
    ... --targets moons gmm40 dw4 --samplers bounded trained --draws 5

The targets of ``common_toy_targets.py``, each in the box ``[-half, half]^D`` that is [-1, 1]^D to
the samplers (half = 4, 50 and 5). Training-free: ``sample`` with the paper's estimators, with the
library's bounded one (its bounds are that box), with as many evaluations, and with sequential
Monte Carlo, with more. Trained: the network of ``common_toy_network.py``, which sees the density
alone, trained once; "+ finish" leaves the last of the path, noise below .1, to the estimator. The
path is variance exploding; in the plane the samplers from the prior start from the smaller noise,
which suits them better. All in float32.

For 1000 samples against 1000 reference samples, five times, both drawn anew: W2 (the root of the
mean squared distance under the best assignment) and energy W2 (the same in one dimension, for the
values of the log-density); beside it truth against truth. An evaluation is the log-density, with or
without its gradient, at one point.

Writes ``results/toy_sampling.csv`` and ``docs/images/toy_samples.png``, and prints the table.
"""

import argparse
import csv
import math
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch as th
from common_toy_network import Denoiser, Recipe, draw, train
from common_toy_targets import TARGETS, Target
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sb3_rfm.sampling import SMC, PosteriorField, Refinement, VEGeometric, sample
from sb3_rfm.sampling.solvers import SOLVERS, Solver

ROOT = Path(__file__).resolve().parents[2]
N_SAMPLES = 1000
BATCH = 250  # samples carried together: more do not fit the cache
TRUTH, TRAINED, FINISHED = "truth", "trained", "trained + finish"
INTERPOLANTS = {
    "moons": VEGeometric(2e-3, 2.0),
    "gmm40": VEGeometric(2e-3, 2.0),
    "dw4": VEGeometric(2e-3, 1.0),
}


@dataclass(frozen=True)
class TrainingFree:
    """Arguments of :func:`sb3_rfm.sampling.sample`."""

    estimator: str
    n_particles: int
    steps: int = 30
    solver: str = "ddim"
    refinement: Refinement | None = None
    interpolant: VEGeometric | None = None  # the target's, unless given


NEAR = VEGeometric(2e-3, 1.0)
PLANE = {
    "noise": TrainingFree("noise_expectation", 50, solver="ancestral", interpolant=NEAR),
    "diagonal_centred": TrainingFree("diagonal_centred", 50, interpolant=NEAR),
    "bounded": TrainingFree("bounded", 48),  # and two gradients
    "noise + smc": TrainingFree(
        "noise_expectation", 8, solver="ancestral", refinement=SMC(5, 2), interpolant=NEAR
    ),
}
CONTENDERS = {
    "moons": PLANE,
    "gmm40": PLANE,
    "dw4": {
        "noise": TrainingFree("noise_expectation", 100, solver="ancestral"),
        "diagonal_centred": TrainingFree("diagonal_centred", 100, solver="ancestral"),
        "bounded": TrainingFree("bounded", 98, solver="ancestral"),
        "noise + smc": TrainingFree(
            "noise_expectation", 24, solver="ancestral", refinement=SMC(10, 4)
        ),
    },
}
SAMPLERS = (*CONTENDERS["dw4"], TRAINED, FINISHED)
RECIPES = {
    "moons": Recipe(INTERPOLANTS["moons"], n_particles=32, rounds=8, updates=150, frequencies=2),
    "gmm40": Recipe(INTERPOLANTS["gmm40"], n_particles=32, rounds=15, updates=250, frequencies=4),
    "dw4": Recipe(
        INTERPOLANTS["dw4"],
        estimator="diagonal_centred",
        n_particles=16,
        refinement=SMC(10, 3),
        rounds=12,
        points=3072,
        updates=200,
        broad_share=0.1,
        spread=0.43,
    ),
}
TRAINED_STEPS = 60
# The finish: below this noise the estimator takes the network's place.
FINISH_FROM = 0.1
FINISHES = {
    "moons": TrainingFree("bounded", 14, steps=15),
    "gmm40": TrainingFree("bounded", 14, steps=15),
    "dw4": TrainingFree(
        "noise_expectation", 16, steps=20, solver="ancestral", refinement=SMC(10, 4)
    ),
}
PICTURED = {"moons": "bounded", "gmm40": "bounded", "dw4": "noise + smc"}
# iDEM (Akhound-Sadegh et al. 2024), its own floor beside it: W2, energy W2
PUBLISHED = {
    "gmm40": ("7.70 (its floor 4.16 ± 0.60)", ""),
    "dw4": ("2.05 (long MCMC 2.08)", "0.44 (long MCMC 0.16)"),
}


@dataclass(frozen=True)
class Result:
    """One draw of one sampler: a row of the CSV."""

    target: str
    sampler: str
    draw: int
    w2: float
    energy_w2: float
    evaluations: float
    training_evaluations: int
    seconds: float


class Scaled:
    """A target's log-density on the box [-1, 1]^D, which counts the points it is asked for."""

    def __init__(self, target: Target) -> None:
        self.target, self.points = target, 0

    def __call__(self, y: Tensor) -> Tensor:
        self.points += y[..., 0].numel()
        return self.target.log_density(self.target.half * y)


def w2(x: Tensor, y: Tensor) -> float:
    """
    ``sqrt(min over permutations s of mean_i |x_i - y_s(i)|²)``, exact.

    :param x: (N, D)
    :param y: (N, D)
    """
    cost = (x.double().unsqueeze(1) - y.double()).square().sum(-1)
    return float(cost[linear_sum_assignment(cost.numpy())].mean().sqrt())


def energy_w2(target: Target, x: Tensor, y: Tensor) -> float:
    """W2 in one dimension of the values of the log-density: both sorted."""
    one, other = (target.log_density(points).sort().values for points in (x, y))
    return float((one - other).square().mean().sqrt())


def field_of(key: str, choice: TrainingFree, density: Scaled, g: th.Generator) -> PosteriorField:
    """The estimated velocity of a training-free sampler."""
    return PosteriorField(
        density,
        interpolant=INTERPOLANTS[key],
        estimator=choice.estimator,
        n_particles=choice.n_particles,
        bounds=(-1.0, 1.0) if choice.estimator == "bounded" else None,
        refinement=choice.refinement,
        generator=g,
    )


def training_free(key: str, choice: TrainingFree, density: Scaled, g: th.Generator) -> Tensor:
    """Samples in units of the box, (N, D)."""
    return sample(
        density,
        N_SAMPLES,
        density.target.dim,
        interpolant=choice.interpolant or INTERPOLANTS[key],
        estimator=choice.estimator,
        n_particles=choice.n_particles,
        solver=choice.solver,
        steps=choice.steps,
        bounds=(-1.0, 1.0) if choice.estimator == "bounded" else None,
        refinement=choice.refinement,
        batch_size=BATCH,
        generator=g,
    )


def finished(key: str, network: Denoiser, density: Scaled, g: th.Generator) -> Tensor:
    """The network until the noise is small, then the estimator: samples in units of the box."""
    path, choice = INTERPOLANTS[key], FINISHES[key]
    switch = math.log(path.sigma_max / FINISH_FROM) / math.log(path.sigma_max / path.sigma_min)
    half_way = draw(network, N_SAMPLES, density.target.dim, TRAINED_STEPS // 2, g, switch)
    field, solver = field_of(key, choice, density, g), SOLVERS.resolve(choice.solver, Solver)
    ends = (switch, 1.0)
    parts = half_way.split(BATCH)
    return th.cat([solver.solve(field, x, path, choice.steps, ends, g) for x in parts])


def measure(key: str, names: list[str], target: Target, draws: int) -> tuple[list[Result], dict]:
    """
    Draw from samplers of a target and compare, several times.

    :return: a result for each sampler and draw, and the last samples of each sampler (N, D)
    """
    density, results, samples, network, spent = Scaled(target), [], {}, None, 0
    target.reference(N_SAMPLES, th.Generator().manual_seed(0))  # a long run, before the clock
    if {TRAINED, FINISHED} & set(names):
        differences = getattr(target, "differences", None)
        network = train(density, target.dim, RECIPES[key], differences)
        spent = density.points
    for name in (TRUTH, *names):
        generator = th.Generator().manual_seed(1)
        for i in range(draws):
            density.points, start = 0, time.perf_counter()
            if name == TRUTH:
                x = target.reference(N_SAMPLES, generator) / target.half
            elif name == TRAINED:
                x = draw(network, N_SAMPLES, target.dim, TRAINED_STEPS, generator)
            elif name == FINISHED:
                x = finished(key, network, density, generator)
            else:
                x = training_free(key, CONTENDERS[key][name], density, generator)
            x, elapsed = target.half * x, time.perf_counter() - start
            reference = target.reference(N_SAMPLES, generator)
            errors = w2(x, reference), energy_w2(target, x, reference)
            trained = spent if name in (TRAINED, FINISHED) else 0
            cost = density.points / N_SAMPLES
            results.append(Result(target.name, name, i, *errors, cost, trained, elapsed))
            print(f"{target.name}, {name}, {i}: {errors}, {elapsed:.0f} s", flush=True)
        samples[name] = x
    return results, samples


def interval(values: list[float]) -> str:
    """Mean ± standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    mean = statistics.fmean(values)
    return f"{mean:.3f} ± {error:.3f}" if mean < 1e3 else f"{mean:.1e}"


def table(results: list[Result]) -> str:
    """
    Mean ± standard error over the draws, in Markdown.

    :param results: of all samplers
    :return: the table
    """
    lines = ["| target | sampler | W2 | energy W2 | evaluations a sample |", "|---" * 5 + "|"]
    for key, target in TARGETS.items():
        mine = [r for r in results if r.target == target.name]
        for name in dict.fromkeys(r.sampler for r in mine):
            rows = [r for r in mine if r.sampler == name]
            figures = " | ".join(
                interval([getattr(r, f) for r in rows]) for f in ("w2", "energy_w2")
            )
            cost = f"{statistics.fmean(r.evaluations for r in rows):,.0f}"
            if rows[0].training_evaluations:
                cost += f" (training: {rows[0].training_evaluations / 1e6:.1f} million)"
            label = "truth against truth" if name == TRUTH else name
            lines.append(
                f"| {target.name} | {label} | {figures} | {cost if name != TRUTH else ''} |"
            )
        if mine and key in PUBLISHED:
            lines.append(f"| {target.name} | iDEM, published | {' | '.join(PUBLISHED[key])} | |")
    return "\n".join(lines)


def draw_picture(samples: dict[tuple[str, str], Tensor], targets: dict[str, Target]) -> None:
    """
    Scatter plots over contours; for DW-4 the pair distances.

    :param samples: of each (target, sampler)
    :param targets: by key
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3 * len(targets)), layout="constrained")
    panels = figure.subplots(len(targets), 3, squeeze=False)
    for row, (key, target) in zip(panels, targets.items(), strict=True):
        names = {TRUTH: "truth", PICTURED[key]: f"training-free: {PICTURED[key]}", TRAINED: TRAINED}
        for axes, (name, label) in zip(row, names.items(), strict=True):
            axes.set_title(f"{target.name}, {label}", fontsize="small")
            x = samples.get((key, name))
            if target.dim == 2:
                axis = th.linspace(-0.9 * target.half, 0.9 * target.half, 200)
                log_p = target.log_density(th.cartesian_prod(axis, axis)).view(200, 200)
                levels = th.linspace(-8, 0, 9) + float(log_p.max())
                axes.contour(axis, axis, log_p.T, levels, cmap="Greys", linewidths=0.5)
                axes.set(xlim=(axis[0], axis[-1]), ylim=(axis[0], axis[-1]))
                if x is not None:
                    axes.scatter(*x.T, s=2, color="C0")
            else:
                for y, style in ((samples[key, TRUTH], "stepfilled"), (x, "step")):
                    if y is not None:
                        colour = {"stepfilled": "lightgrey", "step": "C0"}[style]
                        distances = target.distances(y).flatten()
                        axes.hist(
                            distances, 60, range=(1, 8), density=True, histtype=style, color=colour
                        )
                axes.set_xlabel("distance of a pair", fontsize="small")
    path = ROOT / "docs" / "images" / "toy_samples.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, write, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    th.set_num_threads(1)
    targets = {key: TARGETS[key]() for key in options.targets}
    results, samples = [], {}
    for key, target in targets.items():
        names = [n for n in options.samplers if n in (*CONTENDERS[key], TRAINED, FINISHED)]
        rows, drawn = measure(key, names, target, options.draws)
        results += rows
        samples |= {(key, name): x for name, x in drawn.items()}
        write(results)
    draw_picture(samples, targets)
    print(table(results))


def write(results: list[Result]) -> None:
    """Write the CSV."""
    path = ROOT / "benchmarks" / "results" / "toy_sampling.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Result.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)


if __name__ == "__main__":
    main()
