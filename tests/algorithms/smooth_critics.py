"""Models with smooth critics that differ, and velocities that are known."""

from dataclasses import replace
from typing import Any

import torch as th
from environments import Bandit
from torch import nn
from updates import transitions

from sb3_rfm.common.actor_losses import actor_batch
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.targets import ActorBatch
from sb3_rfm.experiments.hyperparams import merged

BATCH, DIM = 64, 2


def model(algorithm: type[FlowActorCritic], **changes: Any) -> FlowActorCritic:
    """With smooth critics that differ from one another and from their targets."""
    th.manual_seed(0)
    settings: dict[str, Any] = {
        "buffer_size": 100,
        "device": "cpu",
        "seed": 0,
        "bfloat16": False,
        "policy_kwargs": {"net_arch": [32, 32], "activation_fn": nn.Tanh},
    }
    one = algorithm("MlpPolicy", Bandit(), **merged(settings, changes))
    critics = [each for pair in one.policy.averages() for each in pair]
    for parameter in [p for critic in critics for p in critic.parameters()]:
        parameter.data.mul_(1.5).add_(0.1 * th.randn_like(parameter))
    return one


class Table(nn.Module):
    """A network whose predictions are given, whatever it is asked."""

    def __init__(self, values: th.Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(
        self, condition: th.Tensor, x: th.Tensor, t: th.Tensor, bfloat16: bool = False
    ) -> th.Tensor:
        return self.values.expand_as(x)


class Exact(nn.Module):
    """The velocity of the straight path to N(m, s²)."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(
        self, condition: th.Tensor, x: th.Tensor, t: th.Tensor, bfloat16: bool = False
    ) -> th.Tensor:
        variance = t**2 * self.std**2 + (1 - t) ** 2
        innovation = (x - t * self.mean) / variance
        return (self.mean + t * self.std**2 * innovation) + (1 - t) * innovation * -1


def batch_of(one: FlowActorCritic, **changes: Any) -> ActorBatch:
    obs, actions = th.rand(BATCH, 3), 1.8 * th.rand(BATCH, DIM) - 0.9
    return replace(actor_batch(one.policy, one.method, transitions(obs, actions)), **changes)
