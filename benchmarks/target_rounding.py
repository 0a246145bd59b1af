"""
What bfloat16 costs the actor's targets: the same draws with critics in three precisions.

    .venv/bin/python benchmarks/target_rounding.py RUN_FOLDER ...   # half a minute for each folder

Each folder is that of a finished ``sb3-rfm run`` of RFMFlow. At states that its policy visits the
run's own estimator estimates posterior means as in training, from equal random numbers, with the
critics in float64, in float32 and with their middle layers in bfloat16. *Difference* is to float64
(root mean square and median), beside them what other draws differ by, in float64: the estimator's
own noise. *Error* is the root mean square distance to the mean of two references of 1024 particles
for each time, in float64. All in half widths of the box.
"""

from copy import deepcopy
from functools import partial
from typing import Any

import torch as th
from torch import Tensor
from trained_runs import command_line, final_model, visited

from sb3_rfm.common.boltzmann import Boltzmann, critic_features, minimum_q
from sb3_rfm.common.regression import stratified_times
from sb3_rfm.common.selection import choose, take
from sb3_rfm.sampling import make_estimator
from sb3_rfm.sampling.estimators.posteriors import Estimator

N_STATES, N_REFERENCE = 64, 1024
CASES = {
    "float64": (th.float64, False),
    "float32": (th.float32, False),
    "bfloat16": (th.float32, True),
}


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def targets(
    model: Any,
    obs: Tensor,
    case: tuple[th.dtype, bool],
    seed: int,
    estimator: Estimator | None = None,
) -> Tensor:
    """
    Estimates of ``E[X_1 | x_t]`` at the states, the same ``x_t`` in every precision, by the model's
    own estimator or another.

    :return: (T, B, D), float64
    """
    dtype, bfloat16 = case
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
    posterior = (estimator or learner.estimator)(
        law, coefficients, x_t, policy_samples=points.to(dtype)
    )
    return posterior.mean.x_1.double()


def main() -> None:
    """Measure every folder and print."""
    folders = command_line(__doc__).parse_args().folders
    heads = "critic of | critics in | difference | its median | error"
    print(f"| {heads} |\n|{'---|' * 5}")
    with th.no_grad():
        for folder in folders:
            model, settings = final_model(folder, env_seed=0)
            th.manual_seed(1)
            obs = visited(model, N_STATES, every=3)
            work, exact = partial(targets, model, obs), CASES["float64"]
            many = make_estimator("bounded", N_REFERENCE * model.learner.n_times)
            reference = (work(exact, 3, many) + work(exact, 4, many)) / 2
            own = work(exact, 1)
            rows = {name: work(case, 1) for name, case in CASES.items()}
            for name, means in {**rows, "float64, other draws": work(exact, 2)}.items():
                gap = means - own
                numbers = (rms(gap), gap.abs().median(), rms(means - reference))
                columns = " | ".join(f"{number:.2g}" for number in numbers)
                run = f"{folder.parent.name}, seed {settings['seed']}"
                print(f"| {run} | {name} | {columns} |", flush=True)


if __name__ == "__main__":
    main()
