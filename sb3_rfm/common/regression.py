"""The actor's regression: at which points and times the network is to predict what."""

from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_rfm.common.optimization import Info

SHARE_OF_SPANS = 0.25
"""Of the times whose mean velocity is learnt, those that end later than they begin."""


class Regression(NamedTuple):
    """
    What the network is to predict, for B states and N points of each.

    :param x_t: points, (N, B, D)
    :param t: times, increasing along the flattened axes, (N, B)
    :param target: of the prediction, (N, B, D)
    :param scale: what the error is multiplied by before it is squared, (N, B, 1)
    """

    x_t: Tensor
    t: Tensor
    target: Tensor
    scale: Tensor


def stratified_times(like: Tensor, t_range: tuple[float, float]) -> Tensor:
    """
    Uniform times, one in each of N B equal parts of the range, in increasing order: those of one
    state lie in N parts of the range, too.

    :param like: (N, B, D); (N, P, B, D) of P members of a population, for each of which it holds
    :param t_range: first and last time
    :return: (N, B) or (N, P, B)
    """
    low, high = t_range
    n_times, *members, n_states, _ = like.shape
    n_parts = n_times * n_states
    parts = th.arange(n_parts, device=like.device).view(n_times, *[1] * len(members), n_states)
    return low + (high - low) * (parts + th.rand(like.shape[:-1], device=like.device)) / n_parts


def later_times(t: Tensor) -> Tensor:
    """
    Times until which velocities are averaged: three quarters of them t itself, the others uniform
    until the end (MeanFlow, Geng et al. 2025, table 1a).

    :param t: (N, B)
    :return: (N, B)
    """
    span = (1 - t) * th.rand_like(t)
    return t + th.where(th.rand_like(t) < SHARE_OF_SPANS, span, 0.0)


def posterior_info(ess: Tensor, coefficient: Tensor) -> Info:
    """
    Diagnostics of a batch of posteriors whose times increase along the batch.

    :param ess: effective sample sizes, (T, B), or (T, P, B) of the members of a population
    :param coefficient: of the control variate, (T, B, D) or (T, P, B, D)
    :return: effective sample size (mean, and by thirds of t), coefficient
    """
    in_order = ess.movedim(0, -2).flatten(-2)
    low, middle, high = (part.mean(-1) for part in in_order.tensor_split(3, -1))
    return {
        "rfm/ess": in_order.mean(-1),
        "rfm/ess_low_t": low,
        "rfm/ess_middle_t": middle,
        "rfm/ess_high_t": high,
        "rfm/cv_coefficient": coefficient.mean((0, -2, -1)),
    }
