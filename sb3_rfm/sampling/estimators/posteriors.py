"""The posterior of noise and action given their mix ``x_t``: weighted particles and estimators."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch as th
from torch import Tensor

from sb3_rfm.sampling.estimators.control_variates import Coefficient, Fixed
from sb3_rfm.sampling.estimators.proposals import Prior, Proposal
from sb3_rfm.sampling.estimators.refinements import Refinement
from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.numerics.importance import normalised_weights, weighted_mean
from sb3_rfm.sampling.parametrizations import EndPoints
from sb3_rfm.sampling.registry import require, require_int
from sb3_rfm.sampling.sources import Gaussian, Source

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
    :param source_score: estimate of ``E[grad log p_0(X_0) | x_t]``, (B, D); None for a standard
        normal source, where it is ``-E[X_0 | x_t]``
    """

    x_0: Tensor
    x_1: Tensor
    log_w: Tensor
    control: EndPoints
    coefficient: Tensor
    source_score: Tensor | None = None

    @cached_property
    def weights(self) -> Tensor:
        """Normalised weights, (K, B)."""
        return normalised_weights(self.log_w)

    @property
    def ess(self) -> Tensor:
        """Effective sample size, (B), between 1 and K."""
        return 1 / self.weights.square().sum(0)

    @cached_property
    def mean(self) -> EndPoints:
        """
        Estimates of ``E[X_0 | x_t]`` and ``E[X_1 | x_t]``, (B, D) each.

        Each end is averaged itself: dividing one by alpha or beta to get the other would amplify
        its rounding.
        """
        return EndPoints(
            x_0=weighted_mean(self.weights, self.x_0) + self.control.x_0,
            x_1=weighted_mean(self.weights, self.x_1) + self.control.x_1,
        )

    def score(self, coefficients: Coefficients) -> Tensor:
        """
        Score of the marginal, ``grad log p_t(x_t) = E[grad log p_0(X_0) | x_t] / beta``.

        Reverse score matching (Appendix A). Not finite at beta = 0, where p_t is the target itself.

        :param coefficients: the interpolant at the time of ``x_t``, each () or (B, 1)
        :return: (B, D)
        """
        mean = -self.mean.x_0 if self.source_score is None else self.source_score
        return mean / coefficients.beta


class Estimator(ABC):
    """
    Anything that turns a log-density and a mix ``x_t`` into a :class:`Posterior`.

    Nothing it returns requires grad. ``in_box`` says that its particles live in [-1, 1]^d,
    ``guided`` that it makes use of policy samples, and ``depends_on_scale`` that a multiple of the
    log-density has another posterior.
    """

    in_box: bool = False
    guided: bool = False
    depends_on_scale: bool = True

    @property
    def source(self) -> Source:
        """The law of the noise that it averages over: standard normal unless it says otherwise."""
        return Gaussian()

    @property
    def refinement(self) -> Refinement | None:
        """What moves its particles towards the posterior: nothing unless it says otherwise."""
        return None

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

    def check_times(self, n_times: int) -> None:
        """
        Refuse more times of a state than it can estimate at once: there is no limit unless it says
        otherwise.

        :param n_times: times of each state, T
        :raises ValueError: no number of times, or too many of them
        """
        require_int("n_times", n_times)

    @abstractmethod
    def check_support(self, bounded: bool) -> None:
        """
        Refuse a target on which the estimator would be wrong.

        :param bounded: whether the target has walls, else it lives in all of R^d
        :raises ValueError: the estimator does not suit the target
        """


def value_and_score(log_density: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    """
    ``log p(x)`` and its gradient: the log-density's own ``value_and_score``, if it has one.

    :param log_density: (*S, D) -> (*S)
    :param x: (*S, D)
    :return: (*S) and (*S, D), detached
    """
    own = getattr(log_density, "value_and_score", None)
    return value_and_gradient(log_density, x) if own is None else own(x)


def value_and_gradient(log_density: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
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

    ``E[X_0 | x_t]`` is estimated by ``sum_i w_i (x_0^i + Lambda s_i)``. The same residual ``s``
    joins the two forms of the marginal score (Appendix A), ``E[grad log p_0(X_0) | x_t] / beta``
    and ``E[grad log p_1(X_1) | x_t] / alpha``: they differ by ``E[s] / beta``. The estimate is
    ``sum_i w_i (grad log p_0(x_0^i) - Lambda' s_i) / beta``, Lambda' by the same rule for
    ``-grad log p_0``: 0 is the source's form, 1 the target's. For a standard normal source it is
    ``-E[X_0 | x_t] / beta``. A source with walls has the target's form alone.

    :param coefficient: the rule for Lambda; with a source that has walls it may not use the score
    :param n_particles: K, at least 2 where they are refined
    :param proposal: where the particles come from
    :param refinement: what moves them towards the posterior (Remark 4); the noise is its coordinate
    """

    coefficient: Coefficient = field(default_factory=Fixed)
    n_particles: int = 64
    proposal: Proposal = field(default_factory=Prior)
    refinement: Refinement | None = None

    def __post_init__(self) -> None:
        require_int("n_particles", self.n_particles, 1 if self.refinement is None else 2)
        biased = self.source.has_walls and self.coefficient.uses_score
        walls = (
            "a source without walls, or estimator 'noise_expectation' (a control variate is biased "
            "at walls)"
        )
        require(not biased, "source", self.source, walls)
        alone = "without a control variate and a refinement, which know no walls"
        plain = self.refinement is None and not self.coefficient.uses_score
        require(plain or not self.proposal.in_box, "proposal", self.proposal, alone)

    @property
    def in_box(self) -> bool:  # type: ignore[override]
        """Whether the proposal keeps the particles in the box."""
        return self.proposal.in_box

    @property
    def source(self) -> Source:
        return self.proposal.source

    def check_support(self, bounded: bool) -> None:
        """A constant control variate is biased at walls; importance weights alone are not."""
        walls = (
            "'noise_expectation' or 'bounded' for a bounded target (a constant control variate is "
            "biased)"
        )
        require(not bounded or not self.coefficient.uses_score, "estimator", self, walls)
        require(bounded or not self.in_box, "estimator", self, "bounds for a proposal in the box")

    @th.no_grad()
    def __call__(
        self,
        log_density: LogDensity,
        coefficients: Coefficients,
        x_t: Tensor,
        generator: th.Generator | None = None,
        policy_samples: Tensor | None = None,
    ) -> Posterior:
        x_0, x_1, log_w, slope = self._particles(log_density, coefficients, x_t, generator)
        weights, source_score = normalised_weights(log_w), self.source.score(x_0)
        residual = source_score + slope  # eq. 16
        average = weighted_mean(weights, residual)
        coefficient = self.coefficient(weights, x_0, residual)
        control = coefficient * average
        tied_control = control
        if self.coefficient.uses_score:
            tied_control = -coefficients.beta / coefficients.alpha * control
        mean_score = None
        if not isinstance(self.source, Gaussian):
            shares = self._score_rule(weights, -source_score, residual)
            mean_score = weighted_mean(weights, source_score) - shares * average
        return Posterior(
            x_0,
            x_1,
            log_w,
            EndPoints(control, tied_control),
            coefficient,
            mean_score,
        )

    @property
    def _score_rule(self) -> Coefficient:
        """The coefficient of the marginal score: the mean's, or the target's form (walls)."""
        return Fixed(1.0) if self.source.has_walls else self.coefficient

    def _particles(
        self,
        log_density: LogDensity,
        coefficients: Coefficients,
        x_t: Tensor,
        generator: th.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Particles, their log-weights, and the gradient of ``log p_1(x_1)`` in the noise.

        :return: noise and action (K, B, D), (K, B) and (K, B, D); the gradient is 0 where nothing
            uses it
        """
        x_0, x_1, log_ratio = self.proposal(coefficients, x_t, self.n_particles, generator)

        def base(x_0: Tensor) -> tuple[Tensor, Tensor]:
            return self.source.log_prob(x_0), self.source.score(x_0)

        def ratio(x_0: Tensor) -> tuple[Tensor, Tensor]:
            x_1 = coefficients.action_end(x_t, x_0)
            log_p, gradient = value_and_score(log_density, x_1)
            return log_p, -coefficients.beta / coefficients.alpha * gradient

        if self.refinement is not None:
            swarm, log_w = self.refinement(base, ratio, x_0, generator)
            return swarm.x, coefficients.action_end(x_t, swarm.x), log_w, swarm.slope
        if self.coefficient.uses_score or self._score_rule.uses_score:
            log_p, slope = ratio(x_0)
            return x_0, x_1, log_p + log_ratio, slope
        return x_0, x_1, evaluate(log_density, x_1) + log_ratio, th.zeros_like(x_0)
