"""Weighted least squares whose ridge is chosen by generalised cross-validation."""

from functools import lru_cache

import torch as th
from torch import Tensor

from sb3_rfm.sampling.numerics.devices import on_host
from sb3_rfm.sampling.numerics.importance import centred, weighted_mean

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
    n made every posterior mean of ``benchmarks/sampling/posterior_error.py`` worse.

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
    total = weighted_mean(weights, responses.square())
    solve = _by_eigenvectors if on_host(gram) else _by_inverses
    slopes: Tensor = solve(gram, cross, total, n_samples)
    return slopes / scale.unsqueeze(-1)


@lru_cache(maxsize=16)
def _ridges(dtype: th.dtype, device: th.device) -> Tensor:
    """:data:`RIDGES` as a tensor, (R)."""
    return th.tensor(RIDGES, dtype=dtype, device=device)


def _by_eigenvectors(gram: Tensor, cross: Tensor, total: Tensor, n_samples: Tensor) -> Tensor:
    """
    Slopes at the best ridge, from one decomposition for all ridges.

    :param gram: mean products of the regressors, (*S, P, P)
    :param cross: of regressors and responses, (*S, P, D)
    :param total: mean squares of the responses, (*S, D)
    :param n_samples: effective number of samples, (*S)
    :return: (*S, P, D)
    """
    values, vectors = th.linalg.eigh(gram)
    values = values.clamp_min(0)
    along = vectors.mT @ cross
    ridges = _ridges(values.dtype, values.device)
    shrunk = values.unsqueeze(-2) + ridges.unsqueeze(-1)  # (*S, R, P)
    freedom = (values.unsqueeze(-2) / shrunk).sum(-1)
    kept = (2 * shrunk - values.unsqueeze(-2)) / shrunk.square()
    best = _least_error(kept @ along.square(), freedom, total, n_samples)
    slopes: Tensor = vectors @ (along / (values.unsqueeze(-1) + ridges[best].unsqueeze(-2)))
    return slopes


def _by_inverses(gram: Tensor, cross: Tensor, total: Tensor, n_samples: Tensor) -> Tensor:
    """
    The same from an inverse for each ridge: slower on a CPU, but on a GPU the decomposition waits.

    :param gram: see :func:`_by_eigenvectors`
    :param cross: likewise
    :param total: likewise
    :param n_samples: likewise
    :return: (*S, P, D)
    """
    ridges = _ridges(gram.dtype, gram.device)
    identity = th.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    ridged = gram.unsqueeze(-3) + ridges.view(-1, 1, 1) * identity  # (*S, R, P, P)
    factor = th.linalg.solve_triangular(th.linalg.cholesky_ex(ridged).L, identity, upper=False)
    inverse = factor.mT @ factor
    freedom = gram.shape[-1] - ridges * inverse.diagonal(dim1=-1, dim2=-2).sum(-1)
    slopes = inverse @ cross.unsqueeze(-3)  # (*S, R, P, D)
    explained = (slopes * (2 * cross.unsqueeze(-3) - gram.unsqueeze(-3) @ slopes)).sum(-2)
    best = _least_error(explained, freedom, total, n_samples)
    index = best[..., None, None, :].expand(*cross.shape[:-2], 1, *cross.shape[-2:])
    chosen: Tensor = slopes.gather(-3, index).squeeze(-3)
    return chosen


def _least_error(explained: Tensor, freedom: Tensor, total: Tensor, n_samples: Tensor) -> Tensor:
    """
    The ridge whose error of generalised cross-validation is the least.

    :param explained: what each ridge's fit explains of ``total``, (*S, R, D)
    :param freedom: degrees of freedom of each fit, (*S, R)
    :param total: see :func:`_by_eigenvectors`
    :param n_samples: likewise
    :return: indices of ridges, (*S, D)
    """
    total = total.unsqueeze(-2)
    left = (total - explained).clamp_min(0) + th.finfo(total.dtype).eps * total
    share = (1 - (freedom + 1) / (n_samples.unsqueeze(-1) + 1)).clamp_min(1e-3)
    return (left / share.square().unsqueeze(-1)).min(-2).indices  # argmin is slower
