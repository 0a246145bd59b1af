"""
The Boltzmann law ``p(a | s) ∝ exp(Q(s, a) / temperature)`` of a critic, as a log-density over
points of the flow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor
from torch.nn import functional as F

from sb3_rfm.common.choices import take
from sb3_rfm.critic_networks import CriticNetwork
from sb3_rfm.sampling.devices import on_host
from sb3_rfm.sampling.posteriors import value_and_gradient
from sb3_rfm.sampling.registry import Registry
from sb3_rfm.sampling.supports import Support

N_SIZES = 8
"""
Sizes to which the rows of one critic are padded: oneDNN compiles a bfloat16 product for every new
size, and keeps a thousand of them.
"""

N_UNIFORM = 4
"""Uniform actions a state by which the spread of Q over the box is estimated."""


def critic_features(critic: ContinuousCritic, obs: PyTorchObs) -> Tensor:
    """
    The critic's observation features, extracted once for all the actions of a state.

    :param critic: the critic
    :param obs: B observations
    :return: (B, F)
    """
    return critic.extract_features(obs, critic.features_extractor)


def q_values(
    critic: ContinuousCritic, features: Tensor, actions: Tensor, bfloat16: bool = False
) -> Tensor:
    """
    The values of many actions a state, by each of the critics.

    :param critic: the critic, with networks of :class:`sb3_rfm.critic_networks.CriticNetwork`
    :param features: :func:`critic_features`, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param bfloat16: whether the layers between the first and the last run in bfloat16
    :return: (C, *S, B)
    """
    values = [network(features, actions, bfloat16) for network in critic.q_networks]
    return critic.unit * th.stack(values).squeeze(-1)


def minimum_q(
    critic: ContinuousCritic, features: Tensor, actions: Tensor, bfloat16: bool = False
) -> Tensor:
    """
    The smallest of the critics' values for many actions a state.

    :param critic: see :func:`q_values`
    :param features: :func:`critic_features`, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param bfloat16: see :func:`q_values`
    :return: (*S, B)
    """
    return q_values(critic, features, actions, bfloat16).amin(0)


@th.no_grad()
def spread_over_box(
    critic: ContinuousCritic, features: Tensor, action_dim: int, bfloat16: bool = False
) -> Tensor:
    """
    By how much one coordinate of the action moves a state's value: the standard deviation of the
    smallest of the critics' values over uniform actions, over sqrt(D), averaged over states.

    It is what a temperature can be measured against. It has the unit of return, it does not shrink
    with the policy as the spread over the policy's own candidates does, and where Q is a sum over
    the coordinates a law of ``exp(Q / (c spread))`` is as sharp in each whatever their number.

    :param critic: see :func:`q_values`
    :param features: :func:`critic_features`, (B, F)
    :param action_dim: D
    :param bfloat16: see :func:`q_values`
    :return: ()
    """
    shape = (N_UNIFORM, len(features), action_dim)
    uniform = 2 * th.rand(shape, device=features.device) - 1
    deviation = minimum_q(critic, features, uniform, bfloat16).var(0).sqrt().mean()
    return deviation / math.sqrt(action_dim)


@th.no_grad()
def minimum_q_and_gradient(
    networks: Sequence[CriticNetwork], features: Tensor, actions: Tensor, bfloat16: bool = False
) -> tuple[Tensor, Tensor]:
    """
    The smallest of the values of rectifier networks, and its gradient in the action.

    What automatic differentiation gives, with a backward pass through one network for each action:
    the one whose value is the smallest (at a tie the first; autograd takes the mean). On a GPU the
    pass goes through all of them: to sort the actions it would have to wait.

    :param networks: C critics for which ``is_rectifier`` holds
    :param features: :func:`critic_features`, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param bfloat16: see :func:`q_values`
    :return: (*S, B) and (*S, B, D)
    """
    hidden = [network.hidden_layers(features, actions, bfloat16) for network in networks]
    values = [
        network[-1](layers[-1].to(actions.dtype))
        for network, layers in zip(networks, hidden, strict=True)
    ]
    minimum, smallest = th.cat(values, dim=-1).min(-1)
    layers_rows = [[h.flatten(0, -2) for h in layers] for layers in hidden]
    return minimum, _gradients(networks, layers_rows, smallest.flatten(), actions)


def _gradients(
    networks: Sequence[CriticNetwork], hidden: list[list[Tensor]], chosen: Tensor, actions: Tensor
) -> Tensor:
    """
    The gradient in each action of the network that is chosen for it.

    :param networks: C critics
    :param hidden: their hidden layers, (N, width) each
    :param chosen: the network's index, (N)
    :param actions: in [-1, 1], (*S, D), N of them
    :return: (*S, D)
    """
    dim = actions.shape[-1]
    pairs = list(zip(networks, hidden, strict=True))
    if not on_host(actions):
        each = th.stack([network.action_gradient(layers, dim) for network, layers in pairs])
        return take(each, chosen).view(actions.shape)
    gradient = actions.new_empty(actions.shape)
    rows, part = gradient.view(-1, dim), math.ceil(len(chosen) / N_SIZES)
    for index, (network, layers) in enumerate(pairs):
        own = (chosen == index).nonzero().squeeze(-1)
        padded = F.pad(own, (0, -len(own) % part))
        chosen_layers = [layer.index_select(0, padded) for layer in layers]
        rows[own] = network.action_gradient(chosen_layers, dim)[: len(own)]
    return gradient


@dataclass(frozen=True)
class CriticView:
    """
    Which value of an action the actor's law is made of.

    :param target: the target critics' instead of the critics'
    :param mean: the mean of the critics instead of their minimum
    """

    target: bool = False
    mean: bool = False

    def __call__(self, values: Tensor) -> Tensor:
        """
        One value from the critics'.

        :param values: (C, *S, B)
        :return: (*S, B)
        """
        return values.mean(0) if self.mean else values.amin(0)


CRITIC_VIEWS = Registry[CriticView](
    "critic_view",
    {
        "min": CriticView,
        "mean": partial(CriticView, mean=True),
        "target_min": partial(CriticView, target=True),
        "target_mean": partial(CriticView, target=True, mean=True),
    },
)
CriticViewLike = str | CriticView


@dataclass(frozen=True)
class Boltzmann:
    """
    ``log p(x | s) = min_k Q_k(s, action(x)) / temperature + log |d action / d x|`` up to a
    constant, for B states at once.

    :param critic: the critic
    :param features: :func:`critic_features` of the states, (B, F)
    :param temperature: lambda, ()
    :param support: the map from points to actions
    :param bfloat16: see :func:`q_values`
    :param view: which value of the critics
    """

    critic: ContinuousCritic
    features: Tensor
    temperature: Tensor
    support: Support
    bfloat16: bool = False
    view: CriticView = CriticView()

    def __call__(self, x: Tensor) -> Tensor:
        """
        :param x: points, (*S, B, D)
        :return: unnormalised log-density, (*S, B)
        """
        judged = self.support.to_judged(x)
        q = self.view(q_values(self.critic, self.features, judged, self.bfloat16))
        return q / self.temperature + self.support.log_det(x)

    @th.no_grad()
    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        The log-density and its gradient, by :func:`minimum_q_and_gradient` where that holds.

        :param x: points, (*S, B, D)
        :return: (*S, B) and (*S, B, D), without a graph
        """
        every = self.critic.q_networks
        networks = [n for n in every if isinstance(n, CriticNetwork) and n.is_rectifier]
        if self.view.mean or len(networks) < len(every):
            return value_and_gradient(self, x)
        judged = self.support.to_judged(x)
        q, gradient = minimum_q_and_gradient(networks, self.features, judged, self.bfloat16)
        score = self.support.score_of_point(x, judged, gradient / self.temperature)
        return q / self.temperature + self.support.log_det(x), score
