"""
How much of a known Boltzmann law's spread an actor learns and draws, by solver steps and particles.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/learning/learnt_law.py   # two minutes on one core

One state, one action, Q(a) = -1.2 (a - .4)² + .3 a³ in the critics' place, temperature .1: a law of
standard deviation .24. RFMFlow's actor is updated 700 times, its weights averaged over the last
200. *Learnt* is the spread of its flow by 64 steps, *drawn* that of its own steps, both over the
law's own; *mean* is the learnt law's, in the law's standard deviations off.
"""

import copy
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from sb3_rfm import RFMFlow
from sb3_rfm.common.flow import VelocityField
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.sampling import Heun

TEMPERATURE = 0.1
FULL = {
    "estimator": {"name": "bounded", "n_times": 1, "n_particles": 16},
    "flow": {"steps": 4},
    "candidates": {"n": 4},
}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "shift 4": {"flow": {"time_shift": 4.0}},
    "one step, distilled": {"flow": {"one_step": True}},
    "one step, distilled from 8, shift 4": {
        "flow": {"one_step": True, "steps": 8, "time_shift": 4.0}
    },
    "4 steps": {"flow": {"steps": 4}},
    "4 steps, shift 4": {"flow": {"steps": 4, "time_shift": 4.0}},
    "8 steps, shift 4, 32 particles, 4 candidates": {
        "estimator": {"n_particles": 32},
        "flow": {"steps": 8, "time_shift": 4.0},
        "candidates": {"n": 4},
    },
    "full": FULL,
    "full, shift 4": merged(FULL, {"flow.time_shift": 4.0}),
}


def q_values(actions: Tensor) -> Tensor:
    return -1.2 * (actions - 0.4).square() + 0.3 * actions.pow(3)


class KnownQ(nn.Module):
    """Q of the action alone, as a critic."""

    def forward(
        self, features: Tensor, actions: Tensor | None = None, bfloat16: bool = False
    ) -> Tensor:
        del bfloat16
        return q_values(features[..., -1:] if actions is None else actions)


class OneAction(gym.Env[np.ndarray, np.ndarray]):
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))


@th.no_grad()
def spread(model: RFMFlow, velocity: VelocityField) -> tuple[float, float]:
    """Mean and standard deviation of the actions that a velocity field draws."""
    actions = velocity.flow.support.to_action(model.actor.sample(velocity, 20_000))
    return float(actions.mean()), float(actions.std())


def measure(changes: dict[str, Any]) -> tuple[float, float, float]:
    """Mean off, learnt and drawn spread, in standard deviations of the law."""
    settings = {"learning_rate": 3e-3, "temperature": TEMPERATURE, "bfloat16": False, "seed": 0}
    arch = {"net_arch": [32, 32]}
    model = RFMFlow(
        "MlpPolicy", OneAction(), buffer_size=10, device="cpu", policy_kwargs=arch,
        **{**settings, **changes},
    )  # fmt: skip
    for critic in (model.critic, model.critic_target):
        critic.use([KnownQ(), KnownQ()])
    average = copy.deepcopy(model.actor.network)
    zeros = th.zeros(64, 1)
    data = ReplayBufferSamples(zeros, zeros, zeros, zeros, zeros)
    for update in range(700):
        model._update_actor(data)
        if update >= 500:
            pairs = zip(average.parameters(), model.actor.network.parameters(), strict=True)
            for mean, parameter in pairs:
                mean.data.lerp_(parameter.data, 1 / (update - 499))
    model.actor.network = average
    grid = th.linspace(-1, 1, 4001)
    law = th.softmax(q_values(grid) / TEMPERATURE, 0)
    exact = float((law * grid).sum())
    deviation = float((law * (grid - exact).square()).sum().sqrt())
    features = model.actor.features(th.zeros(1, 1))
    velocity = model.actor.velocity(features)
    fine = replace(velocity.flow, solver=Heun(), steps=64, time_shift=1.0)
    mean, learnt = spread(model, replace(velocity, flow=fine))
    _, drawn = spread(model, model.actor.acting_velocity(features))
    return (mean - exact) / deviation, learnt / deviation, drawn / deviation


def main() -> None:
    th.set_num_threads(1)
    print("| updates | mean | learnt | drawn |\n|---|---|---|---|")
    for name, changes in CASES.items():
        mean, learnt, drawn = measure(changes)
        print(f"| {name} | {mean:+.2f} | {learnt:.2f} | {drawn:.2f} |", flush=True)


if __name__ == "__main__":
    main()
