"""
What a policy has of the Boltzmann law of its own critic.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/learning/law_of_critic.py RUN_FOLDER ...
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/learning/law_of_critic.py --fresh 2000 RUN_FOLDER

At the newest checkpoint of each run, over states of its last 5,000 steps, in units of return and
half widths of the box: mean value and spread of the policy's draws by its own solver steps, and by
64 of them, which draw the law that the network has learnt; the same of the critic's law itself at
the run's temperature, by Langevin moves with a Metropolis test that start from the policy's draws;
and the value of the best of 32 draws.

With ``--fresh N`` policies from scratch are trained for N updates against that critic as it is, at
that temperature, each with another parametrization.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from common_runs import checkpoint_model, command_line
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from sb3_rfm import RFMFlow
from sb3_rfm.common.boltzmann import critic_features
from sb3_rfm.envs import FlatFloat32

N_STATES, N_CANDIDATES, RECENT = 500, 32, 5_000
MOVES, STEP = 500, 0.02
PARAMETRIZATIONS = ("data", "velocity", "noise")
Row = tuple[str, float, float, float]


def recent(model: Any, n: int) -> Any:
    """A batch of the buffer's last transitions."""
    buffer = model.replay_buffer
    ages = 1 + np.random.default_rng(0).integers(min(RECENT, buffer.size()), size=n)
    return buffer._get_samples((buffer.pos - ages) % buffer.buffer_size)


@th.no_grad()
def langevin(critic: Any, features: Tensor, actions: Tensor, temperature: float) -> Tensor:
    """Actions (M, B, D) after moves that leave the law exp(Q / temperature) on the box as it is."""

    def law(x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = critic.value_and_action_gradient(features, x)
        return value / temperature, x + STEP**2 / 2 * gradient / temperature

    x = actions.clamp(-0.999, 0.999)
    log_p, ahead = law(x)
    for _ in range(MOVES):
        new = ahead + STEP * th.randn_like(x)
        inside = (new.abs() < 1).all(-1)
        log_p_new, ahead_new = law(new.clamp(-1, 1))
        there = (new - ahead).square().sum(-1) / (2 * STEP**2)
        back = (x - ahead_new).square().sum(-1) / (2 * STEP**2)
        moved = inside & (th.rand_like(log_p).log() < log_p_new - log_p + there - back)
        log_p = th.where(moved, log_p_new, log_p)
        x, ahead = (
            th.where(moved.unsqueeze(-1), after, before)
            for after, before in ((new, x), (ahead_new, ahead))
        )
    return x


@th.no_grad()
def measured(model: Any, obs: Tensor, temperature: float | None = None) -> Iterator[Row]:
    """Rows of name, mean value, value of the best draw and spread; with a temperature the law's."""
    actor, critic = model.actor, model.critic
    features = critic_features(critic, obs)
    velocity = actor.velocity(actor.features(obs))

    def row(name: str, actions: Tensor) -> Row:
        q, _ = critic.value_and_action_gradient(features, actions)
        return name, q.mean().item(), q.amax(0).mean().item(), actions.std(0).mean().item()

    for steps in (actor.flow.steps, 64):
        field = replace(velocity, flow=replace(actor.flow, steps=steps))
        actions = actor.flow.support.to_action(actor.sample(field, N_CANDIDATES))
        yield row(f"{steps} steps", actions)
    if temperature is not None:
        yield row("the law", langevin(critic, features, actions, temperature))


def fresh(model: Any, env: Any, parametrization: str, updates: int) -> RFMFlow:
    """A policy from scratch, trained against a model's critic and replay buffer as they are."""
    kwargs = {k: v for k, v in model.policy_kwargs.items() if k != "settings"}
    own = RFMFlow(
        "MlpPolicy", env, seed=0, device="cpu", temperature=model.temperature,
        flow={"parametrization": parametrization}, policy_kwargs=kwargs, buffer_size=1,
    )  # fmt: skip
    for part in ("critic", "critic_target"):
        getattr(own.policy, part).load_state_dict(getattr(model.policy, part).state_dict())
    own.policy.normalizer.load_state_dict(model.policy.normalizer.state_dict())
    own.policy.set_training_mode(True)
    np.random.seed(0)  # noqa: NPY002  (SB3's buffers draw from it)
    for _ in range(updates):
        own._update_actor(model.replay_buffer.sample(own.batch_size))
    return own


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--fresh", type=int, default=0, metavar="N", help="updates from scratch")
    options = parser.parse_args()
    for path in options.folders:
        th.manual_seed(0)
        model, settings = checkpoint_model(path)
        env = make_vec_env(settings["env"], wrapper_class=FlatFloat32)
        obs = recent(model, N_STATES).observations
        print(f"{path.name}, {model.num_timesteps} steps, temperature {model.temperature:.3g}")
        rows = list(measured(model, obs, model.temperature))
        for name in PARAMETRIZATIONS if options.fresh else ():
            own = fresh(model, env, name, options.fresh)
            rows += [(f"{name} from scratch, {row[0]}", *row[1:]) for row in measured(own, obs)]
        for name, mean, best, spread in rows:
            print(f"  {name:32} mean {mean:.3f}  best of 32 {best:.3f}  spread {spread:.3f}")


if __name__ == "__main__":
    main()
