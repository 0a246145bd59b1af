"""
How the regression is weighted over time: which function's error is measured, whatever the network
predicts.

Given ``x_t``, an error e of the action end moves the noise end by ``-alpha / beta e``, and
``f = a x_0 + b x_1`` by ``(b - a alpha / beta) e``: the errors of noise, data, velocity and score
are multiples of one another.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch as th
from torch import Tensor

from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.parametrizations import PARAMETRIZATIONS, Parametrization
from sb3_rfm.sampling.registry import Registry, require, require_float


def error_factor(parametrization: Parametrization, coefficients: Coefficients) -> Tensor:
    """
    ``b - a alpha / beta``: the error of ``f = a x_0 + b x_1`` by that of ``x_1``, given ``x_t``.

    :param parametrization: f
    :param coefficients: the interpolant, where beta is not 0
    :return: of the coefficients' shape
    """
    a, b = parametrization.weights(coefficients)
    return b - a * coefficients.alpha / coefficients.beta


class LossWeighting(ABC):
    """A rule for the weight of a squared error at each time."""

    @abstractmethod
    def scale(self, predicted: Parametrization, coefficients: Coefficients) -> Tensor:
        """
        What the prediction's error is multiplied by before it is squared.

        :param predicted: what the network predicts
        :param coefficients: the interpolant, where alpha and beta are not 0
        :return: of the coefficients' shape
        """


@dataclass(frozen=True)
class OwnError(LossWeighting):
    """The error of the prediction itself: the plain mean squared error."""

    def scale(self, predicted: Parametrization, coefficients: Coefficients) -> Tensor:
        return th.ones_like(coefficients.alpha)


@dataclass(frozen=True)
class ErrorOf(LossWeighting):
    """
    The error of another function of the end points, whatever the network predicts.

    >>> from sb3_rfm.sampling.interpolants import Linear
    >>> from sb3_rfm.sampling.parametrizations import Data, Velocity
    >>> ErrorOf(Velocity()).scale(Data(), Linear()(th.tensor(0.75)))  # 1 / (1 - t)
    tensor(4.)

    :param measured: the function whose error is squared
    """

    measured: Parametrization

    def scale(self, predicted: Parametrization, coefficients: Coefficients) -> Tensor:
        return error_factor(self.measured, coefficients) / error_factor(predicted, coefficients)


@dataclass(frozen=True)
class MinSNR(LossWeighting):
    """
    The squared error of the action end times ``min(alpha² / beta², gamma)`` (Hang et al. 2023).

    The noise's error where the signal is weak, and a multiple of the action's where it is strong.

    :param gamma: largest signal-to-noise ratio, positive
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        require_float("gamma", self.gamma, 0.0)
        require(self.gamma > 0, "gamma", self.gamma, "gamma > 0")

    def scale(self, predicted: Parametrization, coefficients: Coefficients) -> Tensor:
        signal = (coefficients.alpha / coefficients.beta).clamp_max(self.gamma**0.5)
        return signal / error_factor(predicted, coefficients)


LOSS_WEIGHTINGS = Registry[LossWeighting](
    "loss_weighting",
    {
        "uniform": OwnError,
        "min_snr": MinSNR,
        **{name: partial(ErrorOf, make()) for name, make in PARAMETRIZATIONS.factories.items()},
    },
)
LossWeightingLike = str | Parametrization | LossWeighting


def make_loss_weighting(
    loss_weighting: LossWeightingLike, group: str | None = None
) -> LossWeighting:
    """
    A weighting from its name.

    :param loss_weighting: "uniform" (the prediction's own error), "noise", "data", "velocity",
        "score" or a parametrization (the error of that), "min_snr", or a weighting's object
    :param group: what it is a setting of, for error messages
    :return: the weighting
    """
    if isinstance(loss_weighting, Parametrization):
        return ErrorOf(loss_weighting)
    return LOSS_WEIGHTINGS.resolve(loss_weighting, LossWeighting, group)
