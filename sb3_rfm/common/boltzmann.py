"""
The Boltzmann law ``p(a | s) ∝ exp(Q(s, a) / temperature)`` of a critic, as a log-density over
points of the flow.
"""

from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor
from torch.nn import functional as F

from sb3_rfm.sampling.supports import Support


def critic_features(critic: ContinuousCritic, obs: PyTorchObs) -> Tensor:
    """
    The critic's observation features, extracted once for all the actions of a state.

    :param critic: the critic
    :param obs: B observations
    :return: (B, F)
    """
    return critic.extract_features(obs, critic.features_extractor)


def minimum_q(
    critic: ContinuousCritic, features: Tensor, actions: Tensor, bfloat16: bool = False
) -> Tensor:
    """
    The smallest of the critics' values for many actions a state.

    The observation's share of the first layer is computed once a state, not once an action. In
    bfloat16 the layers between the first and the last run at that precision; the two that carry the
    action and the sum stay as they are, because rounding a value of 80 to bfloat16 would move it by
    more than ten temperatures of .02.

    :param critic: the critic; each network begins and ends with a linear layer
    :param features: :func:`critic_features`, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param bfloat16: whether the layers between run in bfloat16
    :return: (*S, B)
    """
    values = []
    for network in critic.q_networks:
        layers: list[Any] = list(network.children())
        first, *between, last = layers
        weight_features, weight_actions = first.weight.split(
            [features.shape[-1], actions.shape[-1]], dim=1
        )
        hidden = F.linear(features, weight_features, first.bias) + F.linear(actions, weight_actions)
        with th.autocast(hidden.device.type, th.bfloat16, enabled=bfloat16):
            for layer in between:
                hidden = layer(hidden)
        values.append(last(hidden.to(actions.dtype)).squeeze(-1))
    return values[0] if len(values) == 1 else th.stack(values).amin(0)


@dataclass(frozen=True)
class Boltzmann:
    """
    ``log p(x | s) = min_k Q_k(s, action(x)) / temperature + log |d action / d x|`` up to a
    constant, for B states at once.

    :param critic: the critic
    :param features: :func:`critic_features` of the states, (B, F)
    :param temperature: lambda, ()
    :param support: the map from points to actions
    :param bfloat16: see :func:`minimum_q`
    """

    critic: ContinuousCritic
    features: Tensor
    temperature: Tensor
    support: Support
    bfloat16: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """
        :param x: points, (*S, B, D)
        :return: unnormalised log-density, (*S, B)
        """
        q = minimum_q(self.critic, self.features, self.support.to_action(x), self.bfloat16)
        return q / self.temperature + self.support.log_det(x)
