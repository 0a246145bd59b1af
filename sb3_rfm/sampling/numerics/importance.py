"""Self-normalised importance sampling: weights, effective sample size, mean (axis 0: particles)."""

import torch as th
from torch import Tensor

from sb3_rfm.sampling.numerics.devices import on_host

TEMPERATURES = 20  # 2^-19 evens out log-weights that differ by a hundred thousand


def normalised_weights(log_w: Tensor) -> Tensor:
    """
    ``w_i = exp(log w_i) / sum_k exp(log w_k)`` over axis 0 (RFM, eq. 14).

    Where no particle has mass (every log-weight -inf) the weights are uniform: the proposal's own
    average.

    :param log_w: unnormalised log-weights, (K, *S); NaN counts as no mass
    :return: weights of the same shape, summing to one over axis 0
    """
    return th.softmax(_usable(log_w), dim=0)


def _usable(log_w: Tensor) -> Tensor:
    """
    Log-weights that softmax takes: without NaN and infinity, even where no particle has mass.

    :param log_w: unnormalised log-weights, (K, *S)
    :return: the same shape
    """
    log_w = log_w.nan_to_num(nan=-th.inf, posinf=th.finfo(log_w.dtype).max, neginf=-th.inf)
    no_mass = th.isneginf(log_w.amax(0, keepdim=True))
    return th.where(no_mass, 0.0, log_w)


def effective_sample_size(log_w: Tensor) -> Tensor:
    """
    ``1 / sum_i w_i²``, between 1 (one particle carries all) and K (equal weights).

    >>> effective_sample_size(th.zeros(8, 1))
    tensor([8.])

    :param log_w: unnormalised log-weights, (K, *S)
    :return: (*S)
    """
    return 1 / normalised_weights(log_w).square().sum(0)


def tempered(log_w: Tensor, least: float) -> Tensor:
    """
    ``kappa log w``, the largest kappa of 1, 1/2, 1/4, ... that leaves an ESS of ``least``.

    Weights for what needs several particles (a regression, a choice) where one carries all. Where
    the weights are even enough already they are what is returned.

    >>> effective_sample_size(tempered(th.tensor([[0.0], [-900.0], [-900.0]]), 2.0)) >= 2
    tensor([True])

    :param log_w: unnormalised log-weights, (K, *S)
    :param least: effective sample size asked for, at most K
    :return: (K, *S)
    """
    powers = 0.5 ** th.arange(TEMPERATURES, dtype=log_w.dtype, device=log_w.device)
    weights = th.softmax(_usable(log_w).unsqueeze(-1) * powers, dim=0)
    uneven = weights.square().sum(0) * least > 1
    first = uneven.int().cumprod(-1).sum(-1).clamp_max(TEMPERATURES - 1)
    return log_w * powers[first]


def weighted_mean(weights: Tensor, values: Tensor) -> Tensor:
    """
    ``sum_i w_i v_i``.

    A particle of weight zero counts for nothing, whatever its value (inf and NaN too).

    :param weights: (K, *S), summing to one over axis 0
    :param values: (K, *S, D)
    :return: (*S, D)
    """
    spread = weights.unsqueeze(-1)
    mean = (spread * values).sum(0)
    if on_host(mean) and bool(mean.sum().isfinite()):
        return mean
    return (spread * values.masked_fill(spread == 0, 0.0)).sum(0)


def centred(weights: Tensor, values: Tensor) -> Tensor:
    """
    Values less their weighted mean.

    :param weights: (K, *S), summing to one over axis 0
    :param values: (K, *S, D)
    :return: (K, *S, D)
    """
    return values - weighted_mean(weights, values)
