"""How noise (t = 0) and action (t = 1) mix: ``x_t = alpha(t) x_1 + beta(t) x_0``."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_rfm.sampling.registry import Registry, require, require_float


class Coefficients(NamedTuple):
    """
    An interpolant at one time: ``x_t = alpha x_1 + beta x_0``, ``u_t = d_alpha x_1 + d_beta x_0``.

    :param alpha: weight of the action, shape () or (B, 1)
    :param beta: weight of the noise, same shape
    :param d_alpha: time derivative of alpha, same shape
    :param d_beta: time derivative of beta, same shape
    """

    alpha: Tensor
    beta: Tensor
    d_alpha: Tensor
    d_beta: Tensor

    def at(self, index: int | Tensor) -> "Coefficients":
        """The coefficients of one time, or of some, out of a vector of times."""
        return Coefficients(*(c[index] for c in self))

    def double(self) -> "Coefficients":
        """The coefficients in float64."""
        return Coefficients(*(c.double() for c in self))

    def action_end(self, x_t: Tensor, x_0: Tensor) -> Tensor:
        """
        The action that ``x_t`` ties to a noise, ``x_1 = (x_t - beta x_0) / alpha``.

        :param x_t: points at this time, (*S, D)
        :param x_0: noise, (*S, D)
        :return: (*S, D)
        """
        return (x_t - self.beta * x_0) / self.alpha

    def noise_end(self, x_t: Tensor, x_1: Tensor) -> Tensor:
        """
        The noise that ``x_t`` ties to an action, ``x_0 = (x_t - alpha x_1) / beta``.

        :param x_t: points at this time, (*S, D)
        :param x_1: action, (*S, D)
        :return: (*S, D)
        """
        return (x_t - self.alpha * x_1) / self.beta


class Interpolant(ABC):
    """
    A pair of schedules alpha, beta in forward time, with exact derivatives.

    In every subclass ``alpha / beta`` increases with t: from noise to action.
    """

    @abstractmethod
    def __call__(self, t: Tensor) -> Coefficients:
        """
        Evaluate the schedules and their derivatives.

        :param t: time in [0, 1], any shape
        :return: four tensors of the shape of ``t``
        """


@dataclass(frozen=True)
class Linear(Interpolant):
    """
    ``alpha = t, beta = 1 - t``: the straight path of flow matching (RFM, section 2).

    >>> Linear()(th.tensor(0.25))
    Coefficients(alpha=tensor(0.2500), beta=tensor(0.7500), d_alpha=tensor(1.), d_beta=tensor(-1.))
    """

    def __call__(self, t: Tensor) -> Coefficients:
        one = th.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)


@dataclass(frozen=True)
class VPCosine(Interpolant):
    """
    ``alpha = sin(pi t / 2), beta = cos(pi t / 2)``: variance preserving with a cosine schedule.

    The limit of Nichol & Dhariwal (2021) for a vanishing offset, so that both ends are exact.
    """

    def __call__(self, t: Tensor) -> Coefficients:
        rate = math.pi / 2
        sin, cos = th.sin(rate * t), th.cos(rate * t)
        return Coefficients(sin, cos, rate * cos, -rate * sin)


@dataclass(frozen=True)
class VPLinear(Interpolant):
    """
    ``log alpha = -s² (beta_max - beta_min) / 4 - s beta_min / 2``, ``s = 1 - t``: DDPM's schedule.

    Variance preserving: ``alpha² + beta² = 1`` (Song et al. 2021, eq. 32). At t = 0 alpha is small
    but positive (.0066 for the defaults); at t = 1 ``d_beta`` is infinite, because the noise grows
    like a square root there.

    :param beta_min: noise rate at the action end
    :param beta_max: noise rate at the noise end
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _require_increasing("beta_min", self.beta_min, "beta_max", self.beta_max)

    def __call__(self, t: Tensor) -> Coefficients:
        s, slope = 1 - t, self.beta_max - self.beta_min
        log_alpha = -0.25 * s**2 * slope - 0.5 * s * self.beta_min
        alpha, beta = log_alpha.exp(), (-th.expm1(2 * log_alpha)).sqrt()
        d_alpha = 0.5 * (self.beta_min + s * slope) * alpha
        return Coefficients(alpha, beta, d_alpha, -alpha * d_alpha / beta)


@dataclass(frozen=True)
class VEGeometric(Interpolant):
    """
    ``alpha = 1, beta = sigma_max (sigma_min / sigma_max)^t``: variance exploding, geometric.

    The noise left at t = 1 is ``sigma_min``; a path starts at ``beta(0) x_0`` (Song et al. 2021).

    :param sigma_min: noise scale at t = 1, in units of the action
    :param sigma_max: noise scale at t = 0
    """

    sigma_min: float = 1e-3
    sigma_max: float = 3.0

    def __post_init__(self) -> None:
        _require_increasing("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def __call__(self, t: Tensor) -> Coefficients:
        log_ratio = math.log(self.sigma_min / self.sigma_max)
        beta = self.sigma_max * th.exp(log_ratio * t)
        return Coefficients(th.ones_like(t), beta, th.zeros_like(t), log_ratio * beta)


def _require_increasing(low_name: str, low: float, high_name: str, high: float) -> None:
    """Raise unless both are finite numbers and ``0 < low < high``."""
    require_float(low_name, low, 0.0)
    require_float(high_name, high, 0.0)
    names = f"{low_name}, {high_name}"
    require(0 < low < high, names, (low, high), f"0 < {low_name} < {high_name}")


INTERPOLANTS = Registry[Interpolant](
    "interpolant",
    {"linear": Linear, "vp_cosine": VPCosine, "vp_linear": VPLinear, "ve": VEGeometric},
)
InterpolantLike = str | Interpolant
