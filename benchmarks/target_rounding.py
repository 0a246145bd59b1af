"""
What bfloat16 costs the actor's targets: the same draws with critics in three precisions.

    .venv/bin/python benchmarks/target_rounding.py RUN_FOLDER ...   # some seconds for each folder

Each folder is that of a finished ``sb3-rfm run`` of RFMFlow. At states that its policy visits the
run's own estimator estimates posterior means as in training, from equal random numbers, with the
critics in float64, in float32 and with their middle layers in bfloat16. Prints the root mean square
difference to float64 in half widths of the box, its median size, and beside them what two other
draws differ by, in float64: the estimator's own noise.
"""

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch as th
from torch import Tensor
from trained_runs import final_model, visited

from sb3_rfm.common.boltzmann import Boltzmann, critic_features, minimum_q
from sb3_rfm.common.choices import choose, take
from sb3_rfm.common.regression import stratified_times
from sb3_rfm.envs import register_dmc

N_STATES = 256
CASES = {
    "float64": (th.float64, False),
    "float32": (th.float32, False),
    "bfloat16": (th.float32, True),
}


def targets(model: Any, obs: Tensor, dtype: th.dtype, bfloat16: bool, seed: int) -> Tensor:
    """
    Estimates of ``E[X_1 | x_t]`` at the states, the same ``x_t`` in every precision.

    :return: (T, B, D), float64
    """
    th.manual_seed(0)
    learner, support = model.learner, model.actor.flow.support
    temperature = model.actor.temperature()
    field = model.actor.field(obs)
    points = model.actor.candidates(field, model.actor.flow.n_training_candidates)
    q = minimum_q(model.critic, critic_features(model.critic, obs), support.to_action(points))
    x_1 = th.stack([take(points, choose(q, temperature)) for _ in range(learner.n_times)])
    t = stratified_times(x_1, model.actor.flow.t_range)
    coefficients = model.actor.flow.interpolant(t.unsqueeze(-1).to(dtype))
    x_t = (coefficients.alpha * x_1 + coefficients.beta * th.randn_like(x_1)).to(dtype)
    critic = deepcopy(model.critic).to(dtype)
    features = critic_features(critic, obs.to(dtype)).to(dtype)
    law = Boltzmann(critic, features, temperature.to(dtype), support, bfloat16)
    th.manual_seed(seed)
    posterior = learner.estimator(law, coefficients, x_t, policy_samples=points.to(dtype))
    return posterior.mean.x_1.double()


def main() -> None:
    """Measure every folder and print."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    th.set_num_threads(1)
    register_dmc()
    print("| critic of | difference to float64 | root mean square | median |\n|---|---|---|---|")
    with th.no_grad():
        for folder in parser.parse_args().folders:
            model, settings = final_model(folder, env_seed=0)
            th.manual_seed(1)
            obs = visited(model, N_STATES, every=3)
            exact = targets(model, obs, *CASES["float64"], seed=1)
            rows = {name: targets(model, obs, *case, seed=1) for name, case in CASES.items()}
            rows["other draws"] = targets(model, obs, *CASES["float64"], seed=2)
            del rows["float64"]
            for name, means in rows.items():
                gap = (means - exact).abs()
                numbers = f"{gap.square().mean().sqrt():.2g} | {gap.median():.2g}"
                run = f"{folder.parent.name}, seed {settings['seed']}"
                print(f"| {run} | {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
