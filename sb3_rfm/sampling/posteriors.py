"""The posterior of noise and action given their mix ``x_t``: weighted particles and estimators."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch as th
from torch import Tensor

from sb3_rfm.sampling.control_variates import Coefficient, Fixed
from sb3_rfm.sampling.importance import effective_sample_size, normalised_weights, weighted_mean
from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.parametrizations import EndPoints
from sb3_rfm.sampling.proposals import Prior
from sb3_rfm.sampling.registry import require, require_int

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Posterior:
    """
    The law of (x_0, x_1) given ``x_t``: weighted particles and a control variate for each end.

    :param x_0: noise particles, (K, B, D)
    :param x_1: action particles, (K, B, D)
    :param log_w: unnormalised log-weights, (K, B)
    :param control: what is added to the weighted means of x_0 and of x_1, (B, D) each; on the line
        ``alpha c_1 + beta c_0 = 0``, so that the means still mix to ``x_t``
    :param coefficient: the control variate's coefficient, (B, D)
    """

    x_0: Tensor
    x_1: Tensor
    log_w: Tensor
    control: EndPoints
    coefficient: Tensor

    @property
    def ess(self) -> Tensor:
        """Effective sample size, (B), between 1 and K."""
        return effective_sample_size(self.log_w)

    @property
    def mean(self) -> EndPoints:
        """
        Estimates of ``E[X_0 | x_t]`` and ``E[X_1 | x_t]``, (B, D) each.

        Each end is averaged itself: dividing one by alpha or beta to get the other would amplify
        its rounding.
        """
        weights = normalised_weights(self.log_w)
        return EndPoints(
            x_0=weighted_mean(weights, self.x_0) + self.control.x_0,
            x_1=weighted_mean(weights, self.x_1) + self.control.x_1,
        )


class Estimator(ABC):
    """
    Anything that turns a log-density and a mix ``x_t`` into a :class:`Posterior`.

    Nothing it returns requires grad.
    """

    @abstractmethod
    def __call__(
        self,
        log_density: LogDensity,
        coefficients: Coefficients,
        x_t: Tensor,
        generator: th.Generator | None = None,
        policy_samples: Tensor | None = None,
    ) -> Posterior:
        """
        Estimate the posterior.

        :param log_density: unnormalised ``log p_1``, (*S, D) -> (*S)
        :param coefficients: the interpolant at the time of ``x_t``, each () or (B, 1)
        :param x_t: (B, D)
        :param generator: random generator; torch's global one by default
        :param policy_samples: guesses at the target, (M, B, D), for estimators that can use them
        :return: the posterior
        """

    @abstractmethod
    def check_support(self, bounded: bool) -> None:
        """
        Refuse a target on which the estimator would be wrong.

        :param bounded: whether the target has walls, else it lives in all of R^d
        :raises ValueError: the estimator does not suit the target
        """


def value_and_score(log_density: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    """
    ``log p(x)`` and its gradient by automatic differentiation.

    The ``.grad`` of the parameters that ``log_density`` goes through stays as it was. Works under
    ``th.inference_mode()`` too, if ``log_density`` holds no tensor that was made under it.

    :param log_density: (*S, D) -> (*S)
    :param x: (*S, D)
    :return: (*S) and (*S, D), detached
    """
    with th.inference_mode(False), th.enable_grad():
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_(True)
        value, score = evaluate(log_density, leaf), None
        if value.requires_grad:
            (score,) = th.autograd.grad(value.sum(), leaf, allow_unused=True)
    if score is None:
        raise ValueError(
            "log_density must be differentiable in its argument for this estimator; "
            "got a result that does not depend on it, or one without a graph"
        )
    return value.detach(), score


def evaluate(log_density: LogDensity, x: Tensor) -> Tensor:
    """
    ``log_density(x)``, refused unless it is one number for each point, of the dtype of the points.

    A result of shape (K, B, 1) would broadcast without a word.

    :param log_density: (*S, D) -> (*S)
    :param x: (*S, D)
    :return: (*S)
    """
    value = log_density(x)
    shape = tuple(x.shape[:-1])
    require(value.shape == shape, "log_density", tuple(value.shape), f"a result of shape {shape}")
    same = f"a result of dtype {x.dtype}, that of x_t"
    require(value.dtype == x.dtype, "log_density", value.dtype, same)
    return value


@dataclass(frozen=True)
class LangevinStein(Estimator):
    """
    Self-normalised importance sampling with a Langevin-Stein control variate (eq. 18).

    ``E[X_0 | x_t]`` is estimated by ``sum_i w_i (x_0^i + Lambda s_i)``.

    :param coefficient: the rule for Lambda
    :param n_particles: K
    :param proposal: where the particles come from
    """

    coefficient: Coefficient = field(default_factory=Fixed)
    n_particles: int = 64
    proposal: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        require_int("n_particles", self.n_particles)

    def check_support(self, bounded: bool) -> None:
        """A constant control variate is biased at walls; importance weights alone are not."""
        walls = "'noise' or 'bounded' for a bounded target (a constant control variate is biased)"
        require(not bounded or not self.coefficient.uses_score, "estimator", self, walls)

    @th.no_grad()
    def __call__(
        self,
        log_density: LogDensity,
        coefficients: Coefficients,
        x_t: Tensor,
        generator: th.Generator | None = None,
        policy_samples: Tensor | None = None,
    ) -> Posterior:
        x_0, x_1, log_ratio = self.proposal(coefficients, x_t, self.n_particles, generator)
        if not self.coefficient.uses_score:
            zero = th.zeros_like(x_t)
            log_w = evaluate(log_density, x_1) + log_ratio
            return Posterior(x_0, x_1, log_w, EndPoints(zero, zero), zero)
        log_p, gradient = value_and_score(log_density, x_1)
        log_w = log_p + log_ratio
        weights, ratio = normalised_weights(log_w), coefficients.beta / coefficients.alpha
        score = self.proposal.source.score(x_0) - ratio * gradient
        coefficient = self.coefficient(weights, x_0, score)
        control = coefficient * weighted_mean(weights, score)
        return Posterior(x_0, x_1, log_w, EndPoints(control, -ratio * control), coefficient)
