"""
Langevin-Stein control variates: what to add to the particles' average so that its variance falls.

The noise posterior ``p(x_0 | x_t) ∝ p_0(x_0) p_1(x_1)`` has the score (eq. 16)
``s(x_0) = grad log p_0(x_0) - (beta / alpha) grad log p_1(x_1)``, of posterior mean zero on all of
R^d. So ``sum_i w_i (x_0^i + Lambda s_i)`` (eq. 18) estimates the same mean for every constant
diagonal ``Lambda``. On a bounded target the identity fails at the walls.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.numerics.importance import centred, weighted_mean
from sb3_rfm.sampling.registry import require_float


class Coefficient(ABC):
    """A rule for the diagonal ``Lambda`` from weighted particles and their scores."""

    uses_score: bool = True

    @abstractmethod
    def __call__(self, weights: Tensor, x_0: Tensor, score: Tensor) -> Tensor:
        """
        The coefficient.

        :param weights: normalised weights, (K, B)
        :param x_0: noise particles, (K, B, D)
        :param score: s(x_0), (K, B, D)
        :return: the diagonal of Lambda, (B, D)
        """


@dataclass(frozen=True)
class Fixed(Coefficient):
    """
    ``Lambda = eta`` (Theorem 2, eq. 22-25).

    For a standard normal source the estimator becomes
    ``(1 - eta) E[x_0] - eta (beta / alpha) E[grad log p_1(x_1)]``: eta = 0 is noise expectation
    (QNE, RSM), eta = 1 gradient expectation (iDEM, DQS).

    :param eta: the coefficient
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        require_float("eta", self.eta)

    @property
    def uses_score(self) -> bool:  # type: ignore[override]
        """Without a coefficient no gradient of the target is needed."""
        return self.eta != 0

    def __call__(self, weights: Tensor, x_0: Tensor, score: Tensor) -> Tensor:
        return th.full_like(x_0[0], self.eta)


@dataclass(frozen=True)
class Diagonal(Coefficient):
    """
    ``Lambda_j = -E[w² (x_0j - mu_j) s_j] / E[w² s_j²]`` (Proposition 4, eq. 20), ``mu`` the mean.

    The released implementation centres the score by its own weighted mean, adds a ridge and clips;
    version 1 of the paper does none of the three. On a Gaussian target with a diagonal covariance
    the centred form has zero variance.

    :param centred: subtract the weighted mean of the score
    :param ridge: added to the denominator, relative to squared weights that sum to one
    :param clip: largest absolute coefficient
    """

    centred: bool = False
    ridge: float = 0.0
    clip: float = float("inf")

    def __post_init__(self) -> None:
        require_float("ridge", self.ridge, 0.0)
        if self.clip != float("inf"):
            require_float("clip", self.clip, 0.0)

    def __call__(self, weights: Tensor, x_0: Tensor, score: Tensor) -> Tensor:
        squared = weights.square()
        squared = squared / squared.sum(0)
        if self.centred:
            score = centred(weights, score)
        return self.ratio(
            weighted_mean(squared, centred(weights, x_0) * score),
            weighted_mean(squared, score.square()),
        )

    def ratio(self, covariance: Tensor, variance: Tensor) -> Tensor:
        """
        ``-covariance / (variance + ridge)``, clipped, and 0 where the score does not vary.

        :param covariance: numerator of eq. 20, (B, D)
        :param variance: denominator, (B, D)
        :return: (B, D)
        """
        tiny = th.finfo(variance.dtype).tiny
        return (-covariance / (variance + self.ridge).clamp_min(tiny)).clamp(-self.clip, self.clip)


@dataclass(frozen=True)
class Isotropic(Diagonal):
    """
    ``Lambda = -sum_j E[w² (x_0j - mu_j) s_j] / sum_j E[w² s_j²]`` (Proposition 5, eq. 21).

    One number for every coordinate; in one dimension it is :class:`Diagonal`.
    """

    def ratio(self, covariance: Tensor, variance: Tensor) -> Tensor:
        pooled = super().ratio(covariance.sum(-1, keepdim=True), variance.sum(-1, keepdim=True))
        return pooled.expand_as(covariance)
