"""
How far the actor's targets are from the posterior means of a trained critic.

    .venv/bin/python benchmarks/target_error.py RUN_FOLDER ...   # half a minute for each folder

Each folder is that of a finished ``sb3-rfm run`` of RFMFlow or RFMDiffusion. At states that its
policy visits, ``x_t`` is mixed as in training; the estimators are given that critic, its
temperature and the policy's candidates, and the action of the mean of x_1 that each gives is
compared with a reference's: in the box the bounded estimator with 2048 particles, in the tanh
latent sequential Monte Carlo (Remark 4) with as many. The reference is drawn twice: what it differs
from itself is what it leaves open.

Prints, for each folder, the root mean square error over states and coordinates, in half widths of
the box, by thirds of t, and the effective sample size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch as th
from torch import Tensor
from trained_runs import command_line, final_model, visited

from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.boltzmann import Boltzmann, critic_features, minimum_q
from sb3_rfm.common.regression import stratified_times
from sb3_rfm.common.selection import choose, take
from sb3_rfm.sampling import Box, Linear, TanhLatent, make_estimator
from sb3_rfm.sampling.estimators.posteriors import Estimator
from sb3_rfm.sampling.supports import Support

N_STATES, CHUNK, N_REFERENCE = 192, 32, 2048
BOUNDED, PAPER = "bounded", "diagonal_centred"
CONTENDERS = ((BOUNDED, 16), (PAPER, 16), (PAPER, 100))


@dataclass(frozen=True)
class Setting:
    """Where one estimator works: the law, points ``x_t`` at times t, and the reference there."""

    model: BoltzmannAlgorithm
    support: Support
    reference: Estimator

    def estimates(self, estimator: Estimator, obs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """
        Actions of the posterior means of x_1 at the states, and effective sample sizes.

        The same ``x_t`` whatever the estimator, t rising along the states.

        :return: (B, D) and (B)
        """
        th.manual_seed(0)
        actor, critic = self.model.actor, self.model.critic
        temperature = actor.temperature()
        field = actor.field(obs)
        actions = actor.flow.support.to_action(actor.candidates(field, actor.flow.n_candidates))
        q = minimum_q(critic, critic_features(critic, obs), actions)
        points = self.support.from_action(actions)
        x_1 = take(points, choose(q, temperature))
        t = stratified_times(x_1.unsqueeze(0), (0.01, 0.99))[0]
        coefficients = Linear()(t.unsqueeze(-1))
        x_t = coefficients.alpha * x_1 + coefficients.beta * th.randn_like(x_1)
        th.manual_seed(seed)
        means, sizes = [], []
        for few in th.arange(len(obs)).split(CHUNK):
            law = Boltzmann(critic, critic_features(critic, obs[few]), temperature, self.support)
            guide = points[:, few] if estimator.guided else None
            posterior = estimator(law, coefficients.at(few), x_t[few], None, guide)
            mean = posterior.mean.x_1.clamp(-self.support.bound, self.support.bound)
            means.append(self.support.to_action(mean))
            sizes.append(posterior.ess)
        return th.cat(means), th.cat(sizes)


def rows(folder: Path) -> Iterator[str]:
    """The table's rows of one folder."""
    model, settings = final_model(folder, env_seed=0)
    th.manual_seed(1)
    obs = visited(model, N_STATES, every=5)[th.randperm(N_STATES)]
    latent = TanhLatent()
    spaces = {
        BOUNDED: Setting(model, Box(), make_estimator(BOUNDED, N_REFERENCE)),
        PAPER: Setting(model, latent, make_estimator("noise", N_REFERENCE, refinement="smc")),
    }
    for name, setting in spaces.items():
        exact, _ = setting.estimates(setting.reference, obs, seed=1)
        contenders = {"the reference again": setting.reference} | {
            f"{n}, K = {k}": make_estimator(n, k) for n, k in CONTENDERS if n == name
        }
        for label, estimator in contenders.items():
            mean, ess = setting.estimates(estimator, obs, seed=2)
            squares = (mean - exact).square()
            parts = (*squares.tensor_split(3), squares)
            errors = " | ".join(f"{part.mean().sqrt():.2g}" for part in parts)
            run = f"{folder.parent.name}, seed {settings['seed']}"
            yield f"| {run} | {label} | {errors} | {ess.mean():.2g} |"


def main() -> None:
    """Measure every folder and print."""
    folders = command_line(__doc__).parse_args().folders
    heads = "critic of | estimator | low t | middle t | high t | all | ESS"
    print(f"| {heads} |\n|{'---|' * 7}", flush=True)
    with th.no_grad():
        for folder in folders:
            for row in rows(folder):
                print(row, flush=True)


if __name__ == "__main__":
    main()
