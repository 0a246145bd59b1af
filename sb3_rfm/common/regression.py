"""The regression of an update: points, times, targets and weights; what is logged of it."""

from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_rfm.sampling.estimators.posteriors import Posterior

Info = dict[str, Tensor]


class Regression(NamedTuple):
    """
    What the network is to predict, for B states and N examples of each.

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

    :param like: (N, B, D)
    :param t_range: first and last time
    :return: (N, B)
    """
    low, high = t_range
    shape = like.shape[:-1]
    parts = th.arange(shape.numel(), device=like.device).view(shape)
    return low + (high - low) * (parts + th.rand(shape, device=like.device)) / shape.numel()


def posterior_info(posterior: Posterior) -> Info:
    """
    Diagnostics of a batch of posteriors whose times increase along the batch.

    :param posterior: the posteriors
    :return: effective sample size (mean, and by thirds of t), coefficient
    """
    ess = posterior.ess.flatten()
    low, middle, high = (part.mean() for part in ess.tensor_split(3))
    return {
        "rfm/ess": ess.mean(),
        "rfm/ess_low_t": low,
        "rfm/ess_middle_t": middle,
        "rfm/ess_high_t": high,
        "rfm/cv_coefficient": posterior.coefficient.mean(),
    }
