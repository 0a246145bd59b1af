"""Estimators of other methods that do not tend to the posterior mean as their particles grow."""

from dataclasses import dataclass, field, replace
from functools import partial

import torch as th
from torch import Tensor
from torch.nn import functional as F

from sb3_rfm.sampling.estimators.control_variates import Fixed
from sb3_rfm.sampling.estimators.posteriors import (
    Estimator,
    LangevinStein,
    LogDensity,
    Posterior,
    value_and_score,
)
from sb3_rfm.sampling.estimators.refinements import Refinement
from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.parametrizations import EndPoints
from sb3_rfm.sampling.registry import require, require_float
from sb3_rfm.sampling.sources import Gaussian


@dataclass(frozen=True)
class PlugIn(Estimator):
    """
    The target's score at ``x_t`` itself in place of the marginal's: ``x_0 = -grad log p_1(x_t)``.

    Q-score matching (Psenka et al. 2024), with ``log p_1 = Q / temperature`` and their ``M_q = 1 /
    temperature``: noise and score are told apart by ``-beta``, which they leave out. It is gradient
    expectation with the one particle ``x_1 = x_t``, right as alpha tends to 1.
    """

    def check_support(self, bounded: bool) -> None:
        """The gradient at a clipped point would be zero."""
        walls = "a support without walls (a clipped point has no gradient)"
        require(not bounded, "estimator", self, walls)

    @th.no_grad()
    def __call__(
        self,
        log_density: LogDensity,
        coefficients: Coefficients,
        x_t: Tensor,
        generator: th.Generator | None = None,
        policy_samples: Tensor | None = None,
    ) -> Posterior:
        _, score = value_and_score(log_density, x_t)
        x_0, nothing = self.noise_end(score, coefficients).unsqueeze(0), th.zeros_like(x_t)
        return Posterior(
            x_0,
            coefficients.action_end(x_t, x_0),
            th.zeros_like(x_0[..., 0]),
            EndPoints(nothing, nothing),
            nothing,
        )

    def noise_end(self, score: Tensor, coefficients: Coefficients) -> Tensor:
        """
        The noise that a score stands for.

        :param score: of the target at ``x_t``, (B, D)
        :param coefficients: the interpolant at the time of ``x_t``
        :return: ``x_0``, (B, D)
        """
        return -score


@dataclass(frozen=True)
class UnitScore(PlugIn):
    """
    The direction alone of the target's score s at ``x_t``: the marginal's score is ``w s / |s|``,
    ``w = exp(growth beta - offset)``, so that ``x_0 = -beta w s / |s|``.

    DACERv2 (arXiv 2505.23426) has ``exp(.4 k - 1.8)`` at step k of five; here the share of noise,
    beta, tells how far the action is.

    :param growth: of the logarithm of the length, from no noise to noise alone
    :param offset: minus that logarithm at the action
    """

    growth: float = 2.0
    offset: float = 1.8

    depends_on_scale = False  # not annotated: a constant of the class, not a field of the dataclass

    def __post_init__(self) -> None:
        require_float("growth", self.growth, 0.0)
        require_float("offset", self.offset)

    def noise_end(self, score: Tensor, coefficients: Coefficients) -> Tensor:
        length = (self.growth * coefficients.beta - self.offset).exp()
        return -coefficients.beta * length * F.normalize(score, dim=-1)


@dataclass(frozen=True)
class ClippedScore(Estimator):
    """
    Another estimator with the norm of its marginal score ``-E[X_0 | x_t] / beta`` cut off.

    iDEM (Akhound-Sadegh et al. 2024) clips at 70 on GMM-40 and at 20 on DW-4.

    :param base: the estimator, with a Gaussian source
    :param max_norm: largest norm of the score, positive
    """

    base: LangevinStein = field(default_factory=partial(LangevinStein, Fixed(1.0)))
    max_norm: float = 20.0

    def __post_init__(self) -> None:
        require_float("max_norm", self.max_norm, 0.0)
        require(self.max_norm > 0, "max_norm", self.max_norm, "max_norm > 0")
        gaussian = isinstance(self.base.source, Gaussian)
        require(gaussian, "base", self.base, "an estimator with a Gaussian source")

    @property
    def n_particles(self) -> int:
        """As the estimator within."""
        return self.base.n_particles

    @property
    def refinement(self) -> Refinement | None:
        """As the estimator within."""
        return self.base.refinement

    @property
    def in_box(self) -> bool:  # type: ignore[override]
        """As the estimator within."""
        return self.base.in_box

    @property
    def guided(self) -> bool:  # type: ignore[override]
        """As the estimator within."""
        return self.base.guided

    def check_support(self, bounded: bool) -> None:
        """As the estimator within."""
        self.base.check_support(bounded)

    @th.no_grad()
    def __call__(
        self,
        log_density: LogDensity,
        coefficients: Coefficients,
        x_t: Tensor,
        generator: th.Generator | None = None,
        policy_samples: Tensor | None = None,
    ) -> Posterior:
        posterior = self.base(log_density, coefficients, x_t, generator, policy_samples)
        x_0 = posterior.mean.x_0
        norm = (x_0 / coefficients.beta).norm(dim=-1, keepdim=True)
        change = ((self.max_norm / norm).clamp_max(1) - 1) * x_0
        control = EndPoints(
            posterior.control.x_0 + change,
            posterior.control.x_1 - coefficients.beta / coefficients.alpha * change,
        )
        return replace(posterior, control=control)
