"""The bounded estimator: particles that never leave the box, a control variate for its walls."""

from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.estimators.box_fits import (
    Mixture,
    best_reference,
    guided_proposal,
    laplace_proposal,
    weighted_fit,
)
from sb3_rfm.sampling.estimators.posteriors import Estimator, LogDensity, Posterior, value_and_score
from sb3_rfm.sampling.estimators.proposals import bridge
from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.numerics.importance import (
    effective_sample_size,
    normalised_weights,
    tempered,
    weighted_mean,
)
from sb3_rfm.sampling.numerics.least_squares import cross_slopes, own_slope
from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal
from sb3_rfm.sampling.parametrizations import EndPoints
from sb3_rfm.sampling.registry import require, require_float, require_int

# with 8 particles an ESS of 4 beats one of 2 (benchmarks/sampling/posterior_error.py)
FEWEST_EVEN = 4


@dataclass(frozen=True)
class InDouble:
    """
    A log-density of float64 points that is evaluated in another precision.

    :param log_density: (*S, D) -> (*S)
    :param dtype: what it takes and gives
    """

    log_density: LogDensity
    dtype: th.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return self.log_density(x.to(self.dtype)).double()

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param x: points, (*S, D)
        :return: (*S) and (*S, D)
        """
        value, score = value_and_score(self.log_density, x.to(self.dtype))
        return value.double(), score.double()


@dataclass(frozen=True)
class Bounded(Estimator):
    """
    Importance sampling from truncated normals, with a Stein kernel as control variate.

    The particles come from a mixture of the bridge (never far wrong), a local fit (the target's
    slope and curvature, from two more gradients) and, given policy samples, a guided bridge. With a
    truncated normal r as reference, per coordinate

    ``residual = (mean_r - x) + tau_r(x) (d log p(x) - d log r(x))``

    has posterior mean zero whatever the target. The estimate is ``sum w (x - b residual)``, with b
    the regression slope of x on the residual (-1 where r is the posterior), and what that leaves of
    each coordinate is regressed on the residuals of all (a test function for each, Remark 3):
    exact for a normal posterior of any covariance, given particles enough. No choice of r or b
    biases it beyond the weights' own normalisation. For each coordinate r is the closest to the
    posterior of the laws drawn from and of a fit to the particles' gradients; that fit, the choice
    and the slopes are taken with weights tempered to an ESS of ``evened`` K, but of 4 at least,
    because a regression on one particle is noise.

    Given T points ``x_t`` of each state, (T, B, D), it draws K / T particles for each and weighs
    all K for each: T posteriors for the evaluations of one.

    Its own arithmetic is float64, the log-density is evaluated in the precision of ``x_t``.

    :param n_particles: K of a state, at least 2
    :param guided_share: share of the particles drawn from the guided bridge
    :param local_share: share drawn from the local fit; the bridge has the rest, and the guided
        bridge's share where there are no policy samples
    :param widening: factor on the variance of the policy's samples
    :param floor: smallest standard deviation of the guide
    :param ridge: relative ridge of the regression
    :param evened: effective sample size of the tempered weights, as a share of K
    :param coupling: regress each coordinate on the residuals of all of them; else on its own alone
    """

    n_particles: int = 16
    guided_share: float = 0.5
    local_share: float = 0.25
    widening: float = 1.5
    floor: float = 0.05
    ridge: float = 1e-3
    evened: float = 0.25
    coupling: bool = True

    def __post_init__(self) -> None:
        require_int("n_particles", self.n_particles, 2)
        require_float("guided_share", self.guided_share, 0.0, 1.0)
        require_float("local_share", self.local_share, 0.0, 1.0)
        rest = 1 - self.local_share
        together = "at most 1 together with local_share"
        require(self.guided_share <= rest, "guided_share", self.guided_share, together)
        require_float("widening", self.widening, 0.0)
        require_float("floor", self.floor, 1e-3)
        require_float("ridge", self.ridge, 0.0)
        require_float("evened", self.evened, 0.0, 1.0)

    # not annotated: constants of the class, not fields of the dataclass
    in_box = True
    guided = True

    def check_support(self, bounded: bool) -> None:
        """The particles live in a box."""
        require(bounded, "estimator", self, "an estimator of R^d where the target has no bounds")

    def check_times(self, n_times: int) -> None:
        """The times share the particles."""
        enough = f"at least {n_times}, one for each time that shares them"
        require(self.n_particles >= n_times, "n_particles", self.n_particles, enough)

    @th.no_grad()
    def __call__(
        self,
        log_density: LogDensity,
        coefficients: Coefficients,
        x_t: Tensor,
        generator: th.Generator | None = None,
        policy_samples: Tensor | None = None,
    ) -> Posterior:
        dtype = x_t.dtype
        target = InDouble(log_density, dtype)
        coefficients, x_t = coefficients.double(), x_t.double()
        plain = bridge(coefficients, x_t)
        mixture = self._mixture(plain, target, policy_samples)
        x_1 = mixture.sample(x_t, generator)
        log_p, gradient = target.value_and_score(x_1)
        if x_t.dim() > 2:  # each of the times weighs all the particles of its state
            x_1, gradient = (v.unsqueeze(1).expand(-1, len(x_t), -1, -1) for v in (x_1, gradient))
            log_p = log_p.unsqueeze(1)
        log_w = log_p + plain.log_relative(x_1).sum(-1) - mixture.log_prob(x_1)
        weights = normalised_weights(log_w)
        log_even = tempered(log_w, self._even_sample_size)
        even = normalised_weights(log_even)
        score = gradient + plain.score(x_1)
        normals = [law for law in mixture.laws if isinstance(law, TruncatedNormal)]
        fit = weighted_fit(plain, x_1, gradient, even)
        reference = best_reference([*normals, fit], x_1, score, even)
        drift = score - reference.score(x_1)
        residual = (reference.mean - x_1) + reference.stein_kernel(x_1) * drift
        slope = own_slope(even, residual, x_1, self.ridge)
        left = x_1 - slope * residual
        estimate = weighted_mean(weights, left)
        if self.coupling and x_t.shape[-1] > 1:
            slopes = cross_slopes(even, residual, left, effective_sample_size(log_even))
            estimate = estimate - th.einsum(
                "...p,...pd->...d", weighted_mean(weights, residual), slopes
            )
        x_0 = coefficients.noise_end(x_t, x_1)
        ratio = (coefficients.alpha / coefficients.beta).to(dtype)
        x_0, x_1, log_w, slope = (part.to(dtype) for part in (x_0, x_1, log_w, slope))
        # in the precision of the mean that it is added to: their sum is then within the box
        own_mean = weighted_mean(normalised_weights(log_w), x_1)
        control = estimate.clamp(-1, 1).to(dtype) - own_mean
        return Posterior(x_0, x_1, log_w, EndPoints(-ratio * control, control), slope)

    @property
    def _even_sample_size(self) -> float:
        """The effective sample size of the tempered weights."""
        return min(self.n_particles, max(FEWEST_EVEN, self.evened * self.n_particles))

    def _mixture(
        self, plain: TruncatedNormal, log_density: LogDensity, policy_samples: Tensor | None
    ) -> Mixture:
        """
        The laws that there is something to make from, and their shares of the particles.

        :return: the mixture, the bridge last
        """
        times = plain.loc.shape[:-2]
        self.check_times(times.numel())
        n_particles = self.n_particles // times.numel()
        laws, counts = [], []
        n_guided = round(self.guided_share * n_particles)
        n_local = round((self.guided_share + self.local_share) * n_particles) - n_guided
        if policy_samples is None or len(policy_samples) == 0:
            start = plain.mean
        else:
            policy_samples = policy_samples.double()
            start = policy_samples.mean(0).clamp(-1, 1)
        if n_guided and policy_samples is not None and len(policy_samples) > 1:
            laws.append(guided_proposal(plain, policy_samples, self.widening, self.floor))
            counts.append(n_guided)
        if n_local:
            laws.append(laplace_proposal(plain, log_density, start))
            counts.append(n_local)
        if sum(counts) < n_particles:
            laws.append(plain)
            counts.append(n_particles - sum(counts))
        return Mixture(tuple(laws), tuple(counts))
