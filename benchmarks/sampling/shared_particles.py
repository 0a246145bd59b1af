"""
Several times t of a state on the same evaluations of Q: does it pay?

    .venv/bin/python benchmarks/sampling/shared_particles.py         # about two minutes on one core

Particles drawn for one time of a state are draws from a known law for every other, so that T
posteriors can share K particles: K / T of them are drawn for each, and each posterior weighs all K
(balance heuristic). Beside it stand K / T particles for each posterior alone, which is as many
evaluations of Q, and K for each, which is T times as many.

Prints geometric mean / worst of the error over the posterior's standard deviation, over the shapes
and sets of times, on the targets of ``common_problems.py``.
"""

import torch as th
from common_problems import Problem
from posterior_error import GROUPS, geometric_mean, policy_samples

from sb3_rfm.sampling import Bounded
from sb3_rfm.sampling.interpolants import Coefficients

TIMES = ((0.1, 0.35, 0.6, 0.85), (0.05, 0.3, 0.55, 0.8), (0.2, 0.45, 0.7, 0.95))
K = 16


def alone(problems: list[Problem], guide: str, n_particles: int) -> list[float]:
    """Errors where each posterior has particles of its own."""
    estimator, errors = Bounded(n_particles), []
    for one in problems:
        samples = policy_samples(one.actions, guide)
        posterior = estimator(one.log_density, one.coefficients, one.x_t, policy_samples=samples)
        errors.append(one.error(posterior.mean.x_1))
    return errors


def shared(problems: list[Problem], guide: str, n_particles: int) -> list[float]:
    """Errors where all the posteriors of a state share their particles."""
    first = problems[0]
    coefficients = Coefficients(
        *(th.stack(c).view(-1, 1, 1) for c in zip(*(p.coefficients for p in problems), strict=True))
    )
    posterior = Bounded(n_particles)(
        first.log_density,
        coefficients,
        th.stack([one.x_t for one in problems]),
        policy_samples=policy_samples(first.actions, guide),
    )
    return [one.error(mean) for one, mean in zip(problems, posterior.mean.x_1, strict=True)]


def main() -> None:
    """Measure and print."""
    th.set_num_threads(1)
    ways = {
        f"{K // 4} particles each": lambda problems, guide: alone(problems, guide, K // 4),
        f"{K} particles, 4 times share them": lambda problems, guide: shared(problems, guide, K),
        f"{K} particles each": lambda problems, guide: alone(problems, guide, K),
    }
    print(f"| policy samples | particles | {' | '.join(GROUPS)} |")
    print("|---" * (2 + len(GROUPS)) + "|")
    for guide in ("good", "wrong"):
        for name, way in ways.items():
            cells = []
            for shapes, make in GROUPS.values():
                errors = []
                for shape in shapes:
                    for times in TIMES:
                        problems = []
                        for t in times:
                            th.manual_seed(0)  # the same target and policy samples
                            problems.append(make(shape, t, False))
                        errors += way(problems, guide)
                cells.append(f"{geometric_mean(errors):.2g} / {max(errors):.2g}")
            print(f"| {guide} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
