"""What the network regresses on: ``f = a x_0 + b x_1`` of noise and action (RFM, Remark 1)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.registry import Registry


class EndPoints(NamedTuple):
    """
    A pair of noise and action that one ``x_t`` ties together.

    :param x_0: noise, (*S, D)
    :param x_1: action, (*S, D)
    """

    x_0: Tensor
    x_1: Tensor


class Parametrization(ABC):
    """
    An affine function of the end points, given by its weights (a, b); ``two_times`` says that the
    network also takes a later time.
    """

    two_times: bool = False

    @abstractmethod
    def weights(self, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
        """
        The weights (a, b) of ``f = a x_0 + b x_1``.

        :param coefficients: the interpolant at the time of ``f``
        :return: a and b, each of the coefficients' shape
        """

    def target(self, coefficients: Coefficients, ends: EndPoints) -> Tensor:
        """
        ``f = a x_0 + b x_1``; affine, so it maps posterior means to posterior means (eq. 9).

        :param coefficients: the interpolant at the time of ``f``
        :param ends: noise and action, or their posterior means
        :return: (*S, D)
        """
        a, b = self.weights(coefficients)
        return a * ends.x_0 + b * ends.x_1

    def end_points(self, coefficients: Coefficients, x_t: Tensor, value: Tensor) -> EndPoints:
        """
        Solve ``x_t = alpha x_1 + beta x_0, f = a x_0 + b x_1`` for the end points.

        Singular where ``f`` and ``x_t`` say the same: noise at alpha = 0, data at beta = 0.

        :param coefficients: the interpolant at the time of ``x_t``
        :param x_t: (*S, D)
        :param value: f, (*S, D)
        :return: noise and action
        """
        a, b = self.weights(coefficients)
        determinant = coefficients.alpha * a - coefficients.beta * b
        return EndPoints(
            x_0=(coefficients.alpha * value - b * x_t) / determinant,
            x_1=(a * x_t - coefficients.beta * value) / determinant,
        )


@dataclass(frozen=True)
class Noise(Parametrization):
    """``f = x_0``: noise prediction (DDPM)."""

    def weights(self, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
        return th.ones_like(coefficients.alpha), th.zeros_like(coefficients.alpha)


@dataclass(frozen=True)
class Data(Parametrization):
    """``f = x_1``: data prediction; on a linear path the velocity loss weighted by (1 - t)²."""

    def weights(self, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
        return th.zeros_like(coefficients.alpha), th.ones_like(coefficients.alpha)

    def end_points(self, coefficients: Coefficients, x_t: Tensor, value: Tensor) -> EndPoints:
        return EndPoints(coefficients.noise_end(x_t, value), value)


@dataclass(frozen=True)
class Velocity(Parametrization):
    """``f = d_alpha x_1 + d_beta x_0``: the marginal velocity of flow matching (eq. 9, 10)."""

    def weights(self, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
        return coefficients.d_beta, coefficients.d_alpha


@dataclass(frozen=True)
class MeanVelocity(Velocity):
    """
    The mean of the velocity along the path from t to a later time r, ``u = (x_r - x_t) / (r - t)``
    (MeanFlow, Geng et al. 2025, arXiv 2505.13447): the velocity itself for r = t.
    """

    two_times = True  # not annotated: a constant of the class, not a field of the dataclass


@dataclass(frozen=True)
class Score(Parametrization):
    """``f = -x_0 / beta``: the score of ``x_t`` when the source is N(0, I) (Tweedie)."""

    def weights(self, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
        return -1 / coefficients.beta, th.zeros_like(coefficients.beta)


PARAMETRIZATIONS = Registry[Parametrization](
    "parametrization",
    {
        "noise": Noise,
        "data": Data,
        "velocity": Velocity,
        "mean_velocity": MeanVelocity,
        "score": Score,
    },
)
ParametrizationLike = str | Parametrization
