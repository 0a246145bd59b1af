"""
The law that an actor has learnt is as wide as the critic's, at many states at once.

A network that predicts the action learns the mean of each state first, and the rest much later:
draws are then a function of the state.
"""

from dataclasses import replace

import torch as th
from environments import Bandit
from updates import draw, update_actor

from sb3_rfm import RFMFlow

DEVIATION, LAMBDA = 0.15, 0.05


def means(states: th.Tensor) -> th.Tensor:
    """The law's mean actions."""
    return 0.5 * (3 * states[..., :2]).sin()


class Bowls(th.nn.Module):
    """Values whose law is normal, around an action that depends on the state."""

    def forward(
        self, features: th.Tensor, actions: th.Tensor | None = None, bfloat16: bool = False
    ) -> th.Tensor:
        del bfloat16
        if actions is None:
            features, actions = features[..., :3], features[..., 3:]
        error = (actions - means(features)) / DEVIATION
        return -LAMBDA / 2 * error.square().sum(-1, keepdim=True)


def learnt(parametrization: str) -> tuple[float, float]:
    """How far draws' means are from the law's, and how wide draws are, over the law's deviation."""
    one = RFMFlow(
        "MlpPolicy", Bandit(), seed=0, device="cpu", temperature=LAMBDA, learning_rate=1e-3,
        flow={"parametrization": parametrization}, policy_kwargs={"net_arch": [64, 64]},
        bfloat16=False, buffer_size=10,
    )  # fmt: skip
    for critic in (one.critic, one.critic_target):
        critic.use([Bowls(), Bowls()])
    for _ in range(300):
        update_actor(one, 2 * th.rand(256, 3) - 1, th.zeros(256, 2))
    obs = 2 * th.rand(64, 3) - 1
    one.actor.flow = replace(one.actor.flow, steps=32)  # what it has learnt, not its few steps
    with th.no_grad():
        drawn = draw(one, obs, 64)
    off = (drawn.mean(0) - means(obs)).square().mean().sqrt()
    return float(off) / DEVIATION, float(drawn.std(0).mean()) / DEVIATION


def test_a_prediction_of_the_velocity_learns_the_spread_with_the_means() -> None:
    off, wide = learnt("velocity")
    assert off < 1.7  # after 300 updates
    assert 0.7 < wide < 1.5


def test_a_prediction_of_the_action_learns_the_means_alone() -> None:
    off, wide = learnt("data")
    assert off < 1.7
    assert wide < 0.2
