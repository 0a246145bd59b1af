"""
The Boltzmann law ``p(a | s) ∝ exp(Q(s, a) / temperature)`` of a critic, as a log-density over
points of the flow.
"""

from dataclasses import dataclass

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_rfm.common.critic_gradients import network_values, one_value
from sb3_rfm.common.critics import Critic
from sb3_rfm.sampling.supports import Support


def critic_features(critic: Critic, obs: PyTorchObs) -> Tensor:
    """
    The critic's observation features, extracted once for all the actions of a state.

    :param critic: the critic
    :param obs: B observations
    :return: (B, F)
    """
    return critic.features(obs)


def q_values(critic: Critic, features: Tensor, actions: Tensor, bfloat16: bool = False) -> Tensor:
    """
    The values of many actions a state, by each of the critics.

    :param critic: the critic, with networks of
        :class:`sb3_rfm.common.critic_networks.CriticNetwork`
    :param features: :func:`critic_features`, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param bfloat16: whether the layers between the first and the last run in bfloat16
    :return: (C, *S, B)
    """
    return critic.unit * network_values(critic.q_networks, features, actions, bfloat16)


def minimum_q(critic: Critic, features: Tensor, actions: Tensor, bfloat16: bool = False) -> Tensor:
    """
    The smallest of the critics' values for many actions a state.

    :param critic: see :func:`q_values`
    :param features: :func:`critic_features`, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param bfloat16: see :func:`q_values`
    :return: (*S, B)
    """
    return q_values(critic, features, actions, bfloat16).amin(0)


@dataclass(frozen=True)
class CriticLogDensity:
    """
    ``log p(x | s) = min_k Q_k(s, action(x)) / temperature + log |d action / d x|`` up to a
    constant, for B states at once.

    :param critic: the critic
    :param features: :func:`critic_features` of the states, (B, F)
    :param temperature: lambda, ()
    :param support: the map from points to actions
    :param bfloat16: see :func:`q_values`
    :param mean: the mean of the critics instead of their minimum
    """

    critic: Critic
    features: Tensor
    temperature: Tensor
    support: Support
    bfloat16: bool = False
    mean: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """
        :param x: points, (*S, B, D)
        :return: unnormalised log-density, (*S, B)
        """
        seen = self.support.critic_input(x)
        values = q_values(self.critic, self.features, seen, self.bfloat16)
        q = one_value(values, self.mean)
        return q / self.temperature + self.support.log_det(x)

    @th.no_grad()
    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        The log-density and its gradient, by the critic's own rule
        (:meth:`sb3_rfm.common.critics.Critic.value_and_action_gradient`).

        :param x: points, (*S, B, D)
        :return: (*S, B) and (*S, B, D), without a graph
        """
        seen = self.support.critic_input(x)
        q, gradient = self.critic.value_and_action_gradient(
            self.features, seen, self.mean, self.bfloat16
        )
        slope = gradient / self.temperature.unsqueeze(-1)
        score = self.support.score_of_point(x, seen, slope)
        return q / self.temperature + self.support.log_det(x), score


@dataclass(frozen=True)
class InOneRow:
    """
    The laws of a population's states, given as the states of one: what estimates posteriors knows
    of no members.

    :param log_density: of the population, (*S, P, B, D) -> (*S, P, B)
    :param states: P and B
    """

    log_density: CriticLogDensity
    states: th.Size

    def __call__(self, x: Tensor) -> Tensor:
        """
        :param x: points, (*S, P B, D)
        :return: unnormalised log-density, (*S, P B)
        """
        return self.log_density(x.unflatten(-2, self.states)).flatten(-2)

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param x: points, (*S, P B, D)
        :return: (*S, P B) and (*S, P B, D), without a graph
        """
        value, score = self.log_density.value_and_score(x.unflatten(-2, self.states))
        return value.flatten(-2), score.flatten(-3, -2)
