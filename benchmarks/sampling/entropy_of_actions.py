"""
Entropy of the actions that a few solver steps draw, by each rule for the log-volume of a step.

    .venv/bin/python benchmarks/sampling/entropy_of_actions.py         # about a minute on one core

One action in [-1, 1], the linear path, Euler steps, exact data prediction by quadrature; in the
last target the prediction is .05 off and clamped at the wall, as an actor's is. Prints a table in
nats: the target's own entropy, the entropy of the drawn actions from their spacings alone (Vasicek,
no density used), and what each rule says of the same actions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
from scipy.stats import differential_entropy
from torch import Tensor

from sb3_rfm.sampling.divergences import Divergence, ExactDivergence, Hutchinson
from sb3_rfm.sampling.flow_density import FlowDensity

GRID = th.linspace(-1, 1, 501, dtype=th.float64)
N_ACTIONS = 1000
STEPS = (4, 16, 64)
RULES: dict[str, Divergence] = {
    "log det": ExactDivergence(),
    "floor .05": ExactDivergence(0.05),
    "one term": Hutchinson(n_terms=1),  # exact in one dimension: the divergence itself
    "two terms": Hutchinson(n_terms=2),
}


@dataclass(frozen=True)
class Target:
    """
    A law on [-1, 1] and the velocity that its exact posterior mean gives.

    :param log_density: unnormalised
    :param error: what is added to the mean
    """

    log_density: Callable[[Tensor], Tensor]
    error: float = 0.0

    def entropy(self) -> float:
        density = th.softmax(self.log_density(GRID), 0)
        return -float((density * (density / (GRID[1] - GRID[0])).log()).sum())

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        logits = self.log_density(GRID) - 0.5 * ((x - t * GRID) / (1 - t)).square()
        mean = (th.softmax(logits, -1) * GRID).sum(-1, keepdim=True)
        return ((mean + self.error).clamp(-1, 1) - x) / (1 - t)


TARGETS = {
    "normal, sd .2": Target(lambda a: -0.5 * (a / 0.2).square()),
    "two hills, sd .1": Target(
        lambda a: th.logaddexp(-50 * (a - 0.6).square(), -50 * (a + 0.6).square())
    ),
    "uniform": Target(lambda a: 0 * a),
    "exp(20 a)": Target(lambda a: 20 * a),
    "exp(100 a)": Target(lambda a: 100 * a),
    "exp(20 a), clamped": Target(lambda a: 20 * a, error=0.05),
}


def main() -> None:
    print("| target | steps | its entropy | drawn (spacings) |", " | ".join(RULES), "|")
    print("|---|---" + "|---" * (len(RULES) + 2) + "|")
    for name, target in TARGETS.items():
        for steps in STEPS:
            noise = th.randn(
                N_ACTIONS, 1, dtype=th.float64, generator=th.Generator().manual_seed(0)
            )
            values = [target.entropy()]
            for rule in RULES.values():
                law = FlowDensity(steps=steps, t_range=(0.01, 1.0), solver="euler", divergence=rule)
                actions, log_density = law.sample_and_log_prob(target.velocity, noise)
                values.append(-float(log_density.mean()))
            with np.errstate(divide="ignore"):  # points on top of each other have -inf
                values.insert(1, float(differential_entropy(actions.flatten())))
            print(f"| {name} | {steps} |", " | ".join(f"{v:.2f}" for v in values), "|", flush=True)


if __name__ == "__main__":
    main()
