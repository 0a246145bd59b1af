"""
The bounded estimator: proposals that never leave the box, a control variate for its walls.

The data posterior is ``p(x | x_t) ∝ p_1(x) N(x; m, sigma²)`` on the box [-1, 1]^d,
``m = x_t / alpha, sigma = beta / alpha``.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch as th
from torch import Tensor

from sb3_rfm.sampling.importance import normalised_weights, weighted_mean
from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.parametrizations import EndPoints
from sb3_rfm.sampling.posteriors import Estimator, LogDensity, Posterior, value_and_score
from sb3_rfm.sampling.registry import require, require_float, require_int
from sb3_rfm.sampling.truncated_normals import TruncatedNormal

# Scales of the bridge: float32 resolves the box to 6e-8, and a normal wider than the box by a
# factor of 1e3 differs from its tilt alone by 5e-7.
NARROWEST, WIDEST = 1e-5, 1e3


@lru_cache(maxsize=32)
def sobol_points(n_points: int, dim: int, device: th.device) -> Tensor:
    """
    A fixed scrambled Sobol set.

    :param n_points: K
    :param dim: D
    :param device: device of the result
    :return: uniform points in (0, 1), (K, 1, D), float64
    """
    return (
        th.quasirandom.SobolEngine(dim, scramble=True, seed=0)
        .draw(n_points, dtype=th.float64)
        .unsqueeze(1)
        .to(device)
    )


def shifted_sobol(n_points: int, like: Tensor, generator: th.Generator | None = None) -> Tensor:
    """
    The Sobol set, moved modulo one by a random shift per column.

    Each point is uniform, the set is even.

    :param n_points: K
    :param like: (B, D)
    :param generator: random generator
    :return: (K, B, D), float64
    """
    shift = th.rand(like.shape, dtype=th.float64, device=like.device, generator=generator)
    return (sobol_points(n_points, like.shape[-1], like.device) + shift) % 1.0


def bridge(coefficients: Coefficients, x_t: Tensor) -> TruncatedNormal:
    """
    ``TN(x_t / alpha, (beta / alpha)²)``: the posterior of a uniform target.

    Its weights are the target alone. Wider than ``WIDEST``, where alpha may be 0, it keeps its tilt
    ``exp(alpha x_t x / beta²)`` and that scale.

    :param coefficients: the interpolant, () or (B, 1)
    :param x_t: (B, D)
    :return: the law, (B, D)
    """
    alpha, beta = coefficients.alpha, coefficients.beta
    tilted = alpha * x_t * (WIDEST / beta).square()
    loc = th.where(beta > WIDEST * alpha, tilted, x_t / alpha)
    return TruncatedNormal(loc, (beta / alpha).clamp(NARROWEST, WIDEST).expand_as(x_t))


def guided(law: TruncatedNormal, samples: Tensor, widening: float, floor: float) -> TruncatedNormal:
    """
    The bridge times a diagonal Gaussian fitted to samples of the policy, truncated.

    ``1 / s² = 1 / sigma² + 1 / v, m' = s² (m / sigma² + mean / v)``.

    :param law: the bridge, (B, D)
    :param samples: actions, (M, B, D), M of at least 2
    :param widening: factor on the fitted variance
    :param floor: smallest fitted standard deviation
    :return: the law, (B, D)
    """
    variance, mean = th.var_mean(samples, 0)
    variance = (widening * variance).clamp_min(floor**2)
    precision = law.scale.square().reciprocal() + variance.reciprocal()
    loc = (law.loc / law.scale.square() + mean / variance) / precision
    return TruncatedNormal(loc, precision.rsqrt())


@dataclass(frozen=True)
class Bounded(Estimator):
    """
    Importance sampling from a mixture of the bridge and, given policy samples, a guided bridge.

    Its control variate is the Stein kernel of the reference r (guided, else bridge), per coordinate

    ``residual = (mean_r - x) + tau_r(x) (d log p(x) - d log r(x))``,

    of posterior mean zero whatever the target. The estimate is ``sum w x - b sum w residual``, b
    the weighted regression slope of x on the residual. Everything is exact but for Monte Carlo
    error and the bias of normalised weights.

    :param n_particles: K
    :param guided_share: share of the particles drawn from the guided bridge
    :param widening: factor on the variance of the policy's samples
    :param floor: smallest standard deviation of the guide
    :param ridge: relative ridge of the regression
    """

    n_particles: int = 16
    guided_share: float = 0.5
    widening: float = 2.0
    floor: float = 0.05
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        require_int("n_particles", self.n_particles, 2)
        require_float("guided_share", self.guided_share, 0.0, 1.0)
        require_float("widening", self.widening, 0.0)
        require_float("floor", self.floor, 1e-3)
        require_float("ridge", self.ridge, 0.0)

    def check_support(self, bounded: bool) -> None:
        """The particles live in a box."""
        require(bounded, "estimator", self, "an estimator of R^d where the target has no bounds")

    @th.no_grad()
    def __call__(
        self,
        log_density: LogDensity,
        coefficients: Coefficients,
        x_t: Tensor,
        generator: th.Generator | None = None,
        policy_samples: Tensor | None = None,
    ) -> Posterior:
        plain = bridge(coefficients, x_t)
        if policy_samples is None or len(policy_samples) < 2:
            reference, x_1 = plain, plain.icdf(shifted_sobol(self.n_particles, x_t, generator))
            log_ratio = x_1.new_zeros(x_1.shape[:-1])
        else:
            reference = guided(plain, policy_samples, self.widening, self.floor)
            x_1, log_ratio = self._mixture(plain, reference, generator)
        log_p, gradient = value_and_score(log_density, x_1)
        log_w = log_p + log_ratio
        drift = (
            gradient
            - (x_1 - plain.loc) / plain.scale.square()
            + (x_1 - reference.loc) / reference.scale.square()
        )
        residual = (reference.mean - x_1) + reference.stein_kernel(x_1) * drift
        weights = normalised_weights(log_w)
        slope = self._slope(weights, x_1, residual)
        mean = weighted_mean(weights, x_1)
        control = (mean - slope * weighted_mean(weights, residual)).clamp(-1, 1) - mean
        ratio = coefficients.alpha / coefficients.beta
        x_0 = (x_t - coefficients.alpha * x_1) / coefficients.beta
        return Posterior(x_0, x_1, log_w, EndPoints(-ratio * control, control), slope)

    def _mixture(
        self, plain: TruncatedNormal, guide: TruncatedNormal, generator: th.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """
        Particles from both laws in fixed shares, with the log-ratio of the bridge to the mixture.

        The balance heuristic: the density of the whole mixture, whichever part made the particle.

        :return: (K, B, D) and (K, B)
        """
        n_guided = round(self.guided_share * self.n_particles)
        share = n_guided / self.n_particles
        parts = [
            law.icdf(shifted_sobol(n, plain.loc, generator))
            for law, n in ((guide, n_guided), (plain, self.n_particles - n_guided))
            if n
        ]
        x_1 = th.cat(parts)
        difference = (guide.log_prob(x_1) - plain.log_prob(x_1)).sum(-1)
        shares = th.tensor(
            [1 - share, share], dtype=difference.dtype, device=difference.device
        ).log()
        return x_1, -th.logaddexp(shares[0], shares[1] + difference)

    def _slope(self, weights: Tensor, x: Tensor, residual: Tensor) -> Tensor:
        """
        Weighted least-squares slope of x on the residual, per coordinate, with a relative ridge.

        :return: (B, D)
        """
        x = x - weighted_mean(weights, x)
        residual = residual - weighted_mean(weights, residual)
        variance = weighted_mean(weights, residual.square())
        spread = weighted_mean(weights, x.square())
        tiny = th.finfo(variance.dtype).tiny
        return weighted_mean(weights, x * residual) / (
            variance + self.ridge * (variance + spread)
        ).clamp_min(tiny)
