"""
How far the actor's targets are from the posterior means of a trained critic.

    .venv/bin/python benchmarks/learning/target_error.py RUN_FOLDER ...   # half a minute for each
    .venv/bin/python benchmarks/learning/target_error.py --precision RUN_FOLDER ...

Each folder is that of a finished ``sb3-rfm run`` of RFMFlow or RFMDiffusion. At states that its
policy visits, ``x_t`` is mixed as in training; the estimators are given that critic, its
temperature and the policy's candidates, and the action of the mean of x_1 that each gives is
compared with a reference's: in the box the bounded estimator with 2048 particles, in the tanh
latent sequential Monte Carlo (Remark 4) with as many. The reference is drawn twice: what it differs
from itself is what it leaves open. Prints, for each folder, the root mean square error over states
and coordinates, in half widths of the box, by thirds of t, and the effective sample size.

With ``--precision``: what bfloat16 in the critics costs. The run's own estimator works from equal
random numbers with the critics in float64, in float32 and with their middle layers in bfloat16.
*Difference* is to float64 (root mean square and median), beside them what other draws differ by, in
float64: the estimator's own noise. *Error* is the root mean square distance to the mean of two
references of 1024 particles for each time, in float64.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch as th
from common_runs import command_line, final_model, visited
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from sb3_rfm.common.actor_losses import actor_batch, posterior_given
from sb3_rfm.common.boltzmann import CriticLogDensity, critic_features
from sb3_rfm.common.method import Method
from sb3_rfm.common.regression import stratified_times
from sb3_rfm.common.selection import gather_selected, select_by_softmax
from sb3_rfm.sampling import Box, TanhLatent, make_estimator
from sb3_rfm.sampling.supports import Support

N_STATES, N_PRECISION_STATES, CHUNK, N_REFERENCE = 192, 64, 32, 2048
BOUNDED, PAPER = "bounded", "diagonal_centred"
CONTENDERS = ((BOUNDED, 16), (PAPER, 16), (PAPER, 100))
PRECISIONS = {
    "float64": (th.float64, False),
    "float32": (th.float32, False),
    "bfloat16": (th.float32, True),
}


def targets(
    model: Any,
    obs: Tensor,
    method: Method,
    seed: int,
    support: Support,
    precision: tuple[th.dtype, bool] = PRECISIONS["float32"],
) -> tuple[Tensor, Tensor]:
    """
    Actions of the posterior means of x_1 at the states, and effective sample sizes.

    The same ``x_t`` whatever the estimator and the precision, t rising along the states.

    :return: (T, B, D), float64, and (T, B); without T for one time
    """
    dtype, bfloat16 = precision
    th.manual_seed(0)
    none = obs.new_zeros(len(obs), model.actor.action_dim)
    data = ReplayBufferSamples(obs, none, obs, none[:, :1], none[:, :1])
    batch = actor_batch(model.policy, replace(model.method, n_times=1, bfloat16=False), data)
    flow, temperature = batch.velocity.flow, batch.temperature
    points = support.from_action(flow.support.to_action(batch.x_1))
    drawn = [select_by_softmax(batch.q, temperature) for _ in range(method.n_times)]
    x_1 = th.stack([gather_selected(points, index) for index in drawn])
    t = stratified_times(x_1, flow.t_range)
    coefficients = flow.interpolant(t.unsqueeze(-1).to(dtype))
    x_t = (coefficients.alpha * x_1 + coefficients.beta * th.randn_like(x_1)).to(dtype)
    critic = deepcopy(model.critic).to(dtype)
    features = critic_features(critic, obs.to(dtype)).to(dtype)
    law = CriticLogDensity(critic, features, temperature.to(dtype), support, bfloat16)
    th.manual_seed(seed)
    means, sizes = [], []
    for few in th.arange(len(obs)).split(CHUNK):
        log_density = replace(law, features=features[few])
        part = replace(batch, log_density=log_density, x_1=points[:, few].to(dtype))
        there = coefficients.at((slice(None), few))
        posterior = posterior_given(x_t[:, few], there, method, part)
        means.append(posterior.mean.x_1.clamp(-support.bound, support.bound))
        sizes.append(posterior.ess)
    return support.to_action(th.cat(means, -2)).double(), th.cat(sizes, -1)


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def of_estimators(model: Any, obs: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """The estimators' errors at low, middle and high t and at all of them, and the ESS."""
    references = {
        BOUNDED: (Box(), make_estimator(BOUNDED, N_REFERENCE)),
        PAPER: (
            TanhLatent(),
            make_estimator("noise_expectation", N_REFERENCE, refinement="smc"),
        ),
    }
    for name, (support, reference) in references.items():

        def by(estimator: Any, seed: int, support: Support = support) -> tuple[Tensor, Tensor]:
            method = replace(model.method, estimator=estimator, n_times=1)
            return targets(model, obs, method, seed, support)

        exact, _ = by(reference, seed=1)
        contenders = {"the reference again": reference} | {
            f"{n}, K = {k}": make_estimator(n, k) for n, k in CONTENDERS if n == name
        }
        for label, estimator in contenders.items():
            means, ess = by(estimator, seed=2)
            gap = means - exact
            yield label, [*map(rms, (*gap.tensor_split(3), gap)), ess.mean()]


def of_precisions(model: Any, obs: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """What the targets differ by from those in float64, its median, and their errors."""
    method, support = model.method, model.actor.flow.support
    work = partial(targets, model, obs[:N_PRECISION_STATES], support=support)
    exact = PRECISIONS["float64"]
    many = replace(method, estimator=make_estimator(BOUNDED, N_REFERENCE // 2 * method.n_times))
    reference = (work(many, 3, precision=exact)[0] + work(many, 4, precision=exact)[0]) / 2
    rows = {name: work(method, 1, precision=one)[0] for name, one in PRECISIONS.items()}
    own = rows["float64"]
    rows["float64, other draws"] = work(method, 2, precision=exact)[0]
    for name, means in rows.items():
        gap = means - own
        yield name, [rms(gap), gap.abs().median(), rms(means - reference)]


def main() -> None:
    """Measure every folder and print."""
    parser = command_line(__doc__)
    parser.add_argument("--precision", action="store_true", help="what bfloat16 costs, instead")
    options = parser.parse_args()
    heads, rows = ["estimator", "low t", "middle t", "high t", "all", "ESS"], of_estimators
    if options.precision:
        heads, rows = ["critics in", "difference", "its median", "error"], of_precisions
    print(f"| critic of | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}", flush=True)
    with th.no_grad():
        for folder in options.folders:
            model, settings = final_model(folder, env_seed=0)
            th.manual_seed(1)
            obs = visited(model, N_STATES, every=5)[th.randperm(N_STATES)]
            run = f"{folder.parent.name}, seed {settings['seed']}"
            for label, numbers in rows(model, obs):
                figures = " | ".join(f"{number:.2g}" for number in numbers)
                print(f"| {run} | {label} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
