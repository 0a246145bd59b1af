"""
The bounded estimator: proposals that never leave the box, a control variate for its walls.

The data posterior is ``p(x | x_t) ∝ p_1(x) N(x; m, sigma²)`` on the box [-1, 1]^d,
``m = x_t / alpha, sigma = beta / alpha``.
"""

import math
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
SECANT = 1e-3  # least distance of the two points whose gradients give a curvature


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


def local(law: TruncatedNormal, log_density: LogDensity, start: Tensor) -> TruncatedNormal:
    """
    The bridge times a Gaussian that has the target's slope and curvature, from two gradients.

    The gradient ``g`` at ``start`` tilts the bridge by ``exp(g x)``; the second gradient is taken
    at that law's mean, and the secant between the two gives a curvature c for each coordinate,
    where it is negative. Exact for a linear log-density, and for a quadratic one whose coordinates
    are independent: then it is the posterior itself.

    :param law: the bridge, (B, D)
    :param log_density: (*S, D) -> (*S)
    :param start: points of the box, (B, D)
    :return: the law, (B, D)
    """
    precision = law.scale.square().reciprocal()
    _, slope = value_and_score(log_density, start.unsqueeze(0))
    mean = TruncatedNormal(law.loc + slope[0] / precision, law.scale).mean
    apart = (mean - start).abs() > SECANT
    point = th.where(apart, mean, start - SECANT * th.where(start > 0, 1.0, -1.0))
    _, next_slope = value_and_score(log_density, point.unsqueeze(0))
    curvature = ((next_slope[0] - slope[0]) / (point - start)).clamp_max(0)
    total = precision - curvature
    loc = (law.loc * precision + next_slope[0] - curvature * point) / total
    return TruncatedNormal(loc, total.rsqrt().clamp_min(NARROWEST))


@dataclass(frozen=True)
class Mixture:
    """
    Truncated normals with a fixed number of particles each.

    :param laws: the laws, (B, D) each
    :param counts: particles of each, at least 1
    """

    laws: tuple[TruncatedNormal, ...]
    counts: tuple[int, ...]

    def sample(self, like: Tensor, generator: th.Generator | None) -> Tensor:
        """
        Particles of each law in turn.

        :param like: (B, D)
        :param generator: random generator
        :return: in the box, (K, B, D)
        """
        pairs = zip(self.laws, self.counts, strict=True)
        return th.cat([law.icdf(shifted_sobol(count, like, generator)) for law, count in pairs])

    def log_prob(self, x: Tensor) -> Tensor:
        """
        Log-density of the whole mixture, whichever law made the point (balance heuristic).

        :param x: in the box, (K, B, D)
        :return: (K, B)
        """
        n_particles = sum(self.counts)
        pairs = zip(self.laws, self.counts, strict=True)
        parts = [law.log_prob(x).sum(-1) + math.log(n / n_particles) for law, n in pairs]
        return th.logsumexp(th.stack(parts), 0)

    def heaviest(self, weights: Tensor) -> TruncatedNormal:
        """
        The law whose particles carry the most weight, for each column.

        :param weights: (K, B)
        :return: the law, (B, D)
        """
        if len(self.laws) == 1:
            return self.laws[0]
        index = th.stack([part.sum(0) for part in weights.split(self.counts)]).argmax(0)
        columns = th.arange(len(index), device=index.device)
        return TruncatedNormal(
            th.stack([law.loc for law in self.laws])[index, columns],
            th.stack([law.scale for law in self.laws])[index, columns],
        )


@dataclass(frozen=True)
class Bounded(Estimator):
    """
    Importance sampling from truncated normals, with a Stein kernel as control variate.

    The particles come from a mixture of the bridge (never far wrong), a local fit (the target's
    slope and curvature, from two more gradients) and, given policy samples, a guided bridge. With
    the law r whose particles carry the most weight as reference, per coordinate

    ``residual = (mean_r - x) + tau_r(x) (d log p(x) - d log r(x))``

    has posterior mean zero whatever the target. The estimate is ``sum w x - b sum w residual``,
    with b the weighted regression slope of x on the residual (-1 where r is the posterior). It is
    exact but for Monte Carlo error and the bias of normalised weights.

    :param n_particles: K, at least 2
    :param guided_share: share of the particles drawn from the guided bridge
    :param local_share: share drawn from the local fit; the bridge has the rest, and the guided
        bridge's share where there are no policy samples
    :param widening: factor on the variance of the policy's samples
    :param floor: smallest standard deviation of the guide
    :param ridge: relative ridge of the regression
    """

    n_particles: int = 16
    guided_share: float = 0.375
    local_share: float = 0.25
    widening: float = 2.0
    floor: float = 0.05
    ridge: float = 1e-3

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
        mixture = self._mixture(plain, log_density, policy_samples)
        x_1 = mixture.sample(x_t, generator)
        log_p, gradient = value_and_score(log_density, x_1)
        log_w = log_p + plain.log_prob(x_1).sum(-1) - mixture.log_prob(x_1)
        weights = normalised_weights(log_w)
        reference = mixture.heaviest(weights)
        drift = (
            gradient
            - (x_1 - plain.loc) / plain.scale.square()
            + (x_1 - reference.loc) / reference.scale.square()
        )
        residual = (reference.mean - x_1) + reference.stein_kernel(x_1) * drift
        slope = self._slope(weights, x_1, residual)
        mean = weighted_mean(weights, x_1)
        control = (mean - slope * weighted_mean(weights, residual)).clamp(-1, 1) - mean
        ratio = coefficients.alpha / coefficients.beta
        x_0 = (x_t - coefficients.alpha * x_1) / coefficients.beta
        return Posterior(x_0, x_1, log_w, EndPoints(-ratio * control, control), slope)

    def _mixture(
        self, plain: TruncatedNormal, log_density: LogDensity, policy_samples: Tensor | None
    ) -> Mixture:
        """
        The laws that there is something to make from, and their shares of the particles.

        :return: the mixture, the bridge last
        """
        n_guided = round(self.guided_share * self.n_particles)
        n_local = round((self.guided_share + self.local_share) * self.n_particles) - n_guided
        laws, counts = [], []
        start = plain.mean
        if policy_samples is not None and len(policy_samples) > 0:
            start = policy_samples.mean(0).clamp(-1, 1)
        if n_guided and policy_samples is not None and len(policy_samples) > 1:
            laws.append(guided(plain, policy_samples, self.widening, self.floor))
            counts.append(n_guided)
        if n_local:
            laws.append(local(plain, log_density, start))
            counts.append(n_local)
        if sum(counts) < self.n_particles:
            laws.append(plain)
            counts.append(self.n_particles - sum(counts))
        return Mixture(tuple(laws), tuple(counts))

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
