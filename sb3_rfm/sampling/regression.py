"""Weighted least squares whose ridge is chosen by generalised cross-validation."""

import torch as th
from torch import Tensor

from sb3_rfm.sampling.importance import centred, weighted_mean

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 100.0)  # relative to the regressors' mean square


def own_slope(weights: Tensor, regressor: Tensor, response: Tensor, ridge: float) -> Tensor:
    """
    Least-squares slope of each coordinate of the response on the same one of the regressor.

    :param weights: (K, *S), summing to one over axis 0
    :param regressor: (K, *S, D)
    :param response: (K, *S, D)
    :param ridge: relative to the variance of both
    :return: (*S, D)
    """
    regressor, response = centred(weights, regressor), centred(weights, response)
    variance = weighted_mean(weights, regressor.square())
    spread = weighted_mean(weights, response.square())
    total = variance + ridge * (variance + spread)
    covariance = weighted_mean(weights, regressor * response)
    return covariance / total.clamp_min(th.finfo(total.dtype).tiny)


def cross_slopes(
    weights: Tensor, regressors: Tensor, responses: Tensor, n_samples: Tensor
) -> Tensor:
    """
    Slopes of every response on all regressors together.

    The ridge is the one of :data:`RIDGES` whose error of generalised cross-validation,
    ``rss / (1 - (df + 1) / (n + 1))²``, is the least (Golub, Heath & Wahba 1979): for each response
    its own. With fewer samples than regressors it may fit their noise; capping ``df`` at a share of
    n made every posterior mean of ``benchmarks/posterior_error.py`` worse.

    :param weights: (K, *S), summing to one over axis 0
    :param regressors: (K, *S, P)
    :param responses: (K, *S, D)
    :param n_samples: effective number of samples n, (*S)
    :return: (*S, P, D)
    """
    regressors, responses = centred(weights, regressors), centred(weights, responses)
    tiny = th.finfo(regressors.dtype).tiny
    scale = weighted_mean(weights, regressors.square()).sqrt().clamp_min(tiny)
    regressors = regressors / scale
    weighted = weights.unsqueeze(-1) * regressors
    both = th.cat([regressors, responses], -1)
    products = th.einsum("k...i,k...j->...ij", weighted, both).nan_to_num(0.0, 0.0, 0.0)
    gram, cross = products.split([regressors.shape[-1], responses.shape[-1]], -1)
    values, vectors = th.linalg.eigh(gram)
    values = values.clamp_min(0)
    along = vectors.mT @ cross
    ridges = th.tensor(RIDGES, dtype=values.dtype, device=values.device)
    shrunk = values.unsqueeze(-2) + ridges.unsqueeze(-1)  # (*S, R, P)
    freedom = (values.unsqueeze(-2) / shrunk).sum(-1)
    kept = (2 * shrunk - values.unsqueeze(-2)) / shrunk.square()
    explained = kept @ along.square()  # (*S, R, D)
    total = weighted_mean(weights, responses.square()).unsqueeze(-2)
    left = (total - explained).clamp_min(0) + th.finfo(total.dtype).eps * total
    share = (1 - (freedom + 1) / (n_samples.unsqueeze(-1) + 1)).clamp_min(1e-3)
    best = (left / share.square().unsqueeze(-1)).min(-2).indices  # (*S, D); argmin is slower
    chosen = ridges[best].unsqueeze(-2)
    slopes: Tensor = vectors @ (along / (values.unsqueeze(-1) + chosen))
    return slopes / scale.unsqueeze(-1)
