"""One value of several critics' networks, and its gradient in the action."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_rfm.common.critic_networks import RectifierNetwork
from sb3_rfm.common.hidden_layers import Trace
from sb3_rfm.sampling.estimators.posteriors import value_and_gradient
from sb3_rfm.sampling.numerics.devices import on_host

FEWEST_SORTED = 1024
"""
Actions of which each is worth its own network's backward pass alone: to sort fewer costs what the
other passes would (benchmarks/speed/critics.py).
"""

N_SIZES = 8
"""
Sizes to which the rows of one critic are padded: oneDNN compiles a bfloat16 product for every new
size, and keeps a thousand of them.
"""

GradientRule = Callable[[Sequence[Any], Tensor, Tensor, bool, bool], tuple[Tensor, Tensor]]
"""
(networks, features (B, F), actions (*S, B, D), the mean instead of the minimum, middle layers in
bfloat16) -> value (*S, B) and gradient (*S, B, D), neither with a graph.
"""


def network_values(
    networks: Sequence[nn.Module], features: Tensor, actions: Tensor, bfloat16: bool
) -> Tensor:
    """
    The values of many actions a state, by each network.

    :param networks: C networks, called like :class:`sb3_rfm.common.critic_networks.CriticNetwork`
    :param features: of the observations, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param bfloat16: whether the layers between the first and the last run in bfloat16
    :return: (C, *S, B)
    """
    return th.stack([network(features, actions, bfloat16) for network in networks]).squeeze(-1)


def one_value(values: Tensor, mean: bool) -> Tensor:
    """
    One value from the networks'.

    :param values: (C, *S, B)
    :param mean: their mean instead of their minimum
    :return: (*S, B)
    """
    return values.mean(0) if mean else values.amin(0)


def gradient_rule(networks: Sequence[nn.Module]) -> GradientRule:
    """
    The fastest rule that networks allow.

    :param networks: C networks
    :return: :func:`by_hand` for rectifier networks alone, else :func:`by_autograd`
    """
    rectifiers = all(isinstance(network, RectifierNetwork) for network in networks)
    return by_hand if rectifiers else by_autograd


def by_autograd(
    networks: Sequence[nn.Module], features: Tensor, actions: Tensor, mean: bool, bfloat16: bool
) -> tuple[Tensor, Tensor]:
    """
    A :data:`GradientRule` for any networks, by automatic differentiation.

    :param networks: C networks
    :param features: of the observations, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param mean: the mean of the networks' values instead of their minimum
    :param bfloat16: whether the layers between the first and the last run in bfloat16
    :return: (*S, B) and (*S, B, D)
    """
    return value_and_gradient(
        lambda x: one_value(network_values(networks, features, x, bfloat16), mean), actions
    )


@th.no_grad()
def by_hand(
    networks: Sequence[RectifierNetwork],
    features: Tensor,
    actions: Tensor,
    mean: bool,
    bfloat16: bool,
) -> tuple[Tensor, Tensor]:
    """
    A :data:`GradientRule` for rectifier networks, without a graph.

    The minimum's gradient is that of the network whose value is the smallest; at a tie the first
    (autograd takes the mean).

    :param networks: C rectifier networks
    :param features: of the observations, (B, F)
    :param actions: in [-1, 1], (*S, B, D)
    :param mean: the mean of the networks' values instead of their minimum
    :param bfloat16: whether the layers between the first and the last run in bfloat16
    :return: (*S, B) and (*S, B, D)
    """
    dim = actions.shape[-1]
    every = [network.traces(features, actions, bfloat16) for network in networks]
    pairs = list(zip(networks, every, strict=True))
    values = th.stack([network.value(traces[-1], actions.dtype) for network, traces in pairs])
    pairs = [(network, [trace.each(_flat) for trace in traces]) for network, traces in pairs]
    if mean or len(networks) == 1:
        each = th.stack([network.action_gradient(traces, dim) for network, traces in pairs])
        return values.mean(0), each.mean(0).view(actions.shape)
    minimum, smallest = values.min(0)
    return minimum, _of_chosen(pairs, smallest.flatten(), dim).view(actions.shape)


def _flat(tensor: Tensor) -> Tensor:
    """Rows."""
    return tensor.flatten(0, -2)


def _of_chosen(
    pairs: Sequence[tuple[RectifierNetwork, list[Trace]]], chosen: Tensor, dim: int
) -> Tensor:
    """
    The gradient in each action of the network that is chosen for it.

    Many actions are sorted by network, for one backward pass each. A few go through every network,
    and so do all on a GPU, where sorting would have to wait.

    :param pairs: C networks and their traces, N rows each
    :param chosen: the network's index, (N)
    :param dim: of an action, D
    :return: (N, D)
    """
    if len(chosen) < FEWEST_SORTED or not on_host(chosen):
        each = th.stack([network.action_gradient(traces, dim) for network, traces in pairs])
        return each.take_along_dim(chosen.view(1, -1, 1), 0)[0]
    weight = pairs[0][0].hidden[0].linear.weight
    gradient, part = weight.new_empty(len(chosen), dim), math.ceil(len(chosen) / N_SIZES)
    for index, (network, traces) in enumerate(pairs):
        own = (chosen == index).nonzero().squeeze(-1)
        select = partial(th.index_select, dim=0, index=F.pad(own, (0, -len(own) % part)))
        rows = [trace.each(select) for trace in traces]
        gradient[own] = network.action_gradient(rows, dim)[: len(own)]
    return gradient
