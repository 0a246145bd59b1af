"""
Laws in the box [-1, 1]^d that particles are drawn from, and what is fitted to them.

The data posterior is ``p(x | x_t) ∝ p_1(x) N(x; m, sigma²)`` on the box, ``m = x_t / alpha,
sigma = beta / alpha``; the bridge is its second factor, the others are guesses at the whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_rfm.sampling.estimators.posteriors import LogDensity, value_and_score
from sb3_rfm.sampling.estimators.proposals import NARROWEST
from sb3_rfm.sampling.numerics.importance import weighted_mean
from sb3_rfm.sampling.numerics.sobol import shifted_sobol
from sb3_rfm.sampling.numerics.truncated_mixtures import TruncatedMixture
from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal

Law = TruncatedNormal | TruncatedMixture

SECANT = 1e-3  # least distance of the two points whose gradients give a curvature
SPLITTABLE = 6  # samples; of fewer, two groups are found by chance too often
SPLIT = 0.2  # a normal law cut in two at its mean has 1 - 2 / pi = .36 of its variance within
PSEUDO_COUNT = 4  # added to the size of each group: what few samples say of their shares is little


def guided_proposal(law: TruncatedNormal, samples: Tensor, widening: float, floor: float) -> Law:
    """
    The bridge times a law fitted to samples of the policy, truncated.

    The fit is a diagonal Gaussian: ``1 / s² = 1 / sigma² + 1 / v``,
    ``m' = s² (m / sigma² + mean / v)``. Of ``SPLITTABLE`` samples or more, a coordinate whose
    samples fall into two groups (within them the variance is less than ``SPLIT`` of all) has a
    Gaussian for each group.

    :param law: the bridge, (B, D) or (T, B, D)
    :param samples: actions, (M, B, D), M of at least 2
    :param widening: factor on the fitted variance
    :param floor: smallest fitted standard deviation
    :return: the law, (B, D) or (T, B, D)
    """
    if len(samples) < SPLITTABLE:
        mean = samples.mean(0)
        variance = (samples - mean).square().sum(0) / (len(samples) - 1)  # th.var is slower
        return product(law, mean, (widening * variance).clamp_min(floor**2))
    if law.loc.dim() > samples.dim() - 1:
        samples = samples.unsqueeze(1)  # the same for each of the times
    groups = two_groups(samples, floor)
    variance = (widening * groups.variance).clamp_min(floor**2)
    first = product(law, groups.means[0], variance)
    second = product(law, groups.means[1], variance)
    # the mass of a product of two normals: N(m; mean, sigma² + v), the part of it in the box
    spread = law.scale.square() + variance
    masses = th.stack([first.log_mass, second.log_mass])
    fits = groups.shares.log() - 0.5 * (law.loc - groups.means).square() / spread
    return TruncatedMixture((first, second), th.log_softmax(fits + masses, 0))


def product(law: TruncatedNormal, mean: Tensor, variance: Tensor) -> TruncatedNormal:
    """
    The bridge times a normal.

    :param law: the bridge, (B, D)
    :param mean: of the normal, (B, D)
    :param variance: of the normal, (B, D)
    :return: (B, D)
    """
    return gaussian_tilt(law, mean, th.zeros_like(mean), -variance.reciprocal())


class Groups(NamedTuple):
    """
    Samples in two groups, by coordinate; the same group twice where they are one.

    :param shares: of the samples, drawn towards a half, (2, B, D)
    :param means: (2, B, D)
    :param variance: within the groups, (B, D)
    """

    shares: Tensor
    means: Tensor
    variance: Tensor


def two_groups(samples: Tensor, floor: float) -> Groups:
    """
    The split of the sorted samples with the least variance within, where that is small enough.

    The group on the side of the samples' mean comes first.

    :param samples: (M, B, D)
    :param floor: samples of a smaller standard deviation are one group
    :return: the groups
    """
    n = len(samples)
    ordered = samples.sort(0).values
    sums, squares = ordered.cumsum(0), ordered.square().cumsum(0)
    low = th.arange(1, n, device=samples.device, dtype=samples.dtype)
    low = low.view(-1, *[1] * (samples.dim() - 1))
    lower, upper = sums[:-1] / low, (sums[-1] - sums[:-1]) / (n - low)
    within = (squares[-1] - low * lower.square() - (n - low) * upper.square()).clamp_min(0)
    variance, mean = th.var_mean(samples, 0)
    least, index = within.min(0, keepdim=True)
    total = (n - 1) * variance
    split = (least[0] < SPLIT * total) & (variance > floor**2)
    lower, upper = lower.gather(0, index)[0], upper.gather(0, index)[0]
    share = (index[0] + 1 + PSEUDO_COUNT).to(samples.dtype) / (n + 2 * PSEUDO_COUNT)
    swapped = mean > 0
    ends = th.stack([th.where(swapped, upper, lower), th.where(swapped, lower, upper)])
    shares = th.stack([th.where(swapped, 1 - share, share), th.where(swapped, share, 1 - share)])
    return Groups(
        shares=th.where(split, shares, 0.5),
        means=th.where(split, ends, mean),
        variance=th.where(split, least[0] / (n - 2), variance),
    )


def laplace_proposal(
    law: TruncatedNormal, log_density: LogDensity, start: Tensor
) -> TruncatedNormal:
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
    return gaussian_tilt(law, point, next_slope[0], curvature)


def weighted_fit(
    law: TruncatedNormal, x: Tensor, gradient: Tensor, weights: Tensor
) -> TruncatedNormal:
    """
    The bridge times a Gaussian with the target's mean slope and curvature over the particles.

    The curvature is the slope of the regression of the gradient on x, where it is negative: by
    Stein's lemma that of a Gaussian variational fit (Khan & Lin 2017), from gradients alone.

    :param law: the bridge, (B, D)
    :param x: particles, (K, B, D)
    :param gradient: of the target's log-density there, (K, B, D)
    :param weights: (K, B), summing to one over axis 0
    :return: the law, (B, D)
    """
    centre, slope = weighted_mean(weights, x), weighted_mean(weights, gradient)
    deviation = x - centre
    spread = weighted_mean(weights, deviation.square()).clamp_min(NARROWEST**2)
    covariance = weighted_mean(weights, deviation * (gradient - slope))
    return gaussian_tilt(law, centre, slope, (covariance / spread).clamp_max(0))


def gaussian_tilt(
    law: TruncatedNormal, point: Tensor, slope: Tensor, curvature: Tensor
) -> TruncatedNormal:
    """
    The bridge times ``exp(slope (x - point) + curvature (x - point)² / 2)``.

    :param law: the bridge, (B, D)
    :param point: (B, D)
    :param slope: (B, D)
    :param curvature: at most 0, (B, D)
    :return: the law, (B, D)
    """
    precision = law.scale.square().reciprocal()
    total = precision - curvature
    loc = (law.loc * precision + slope - curvature * point) / total
    return TruncatedNormal(loc, total.rsqrt().clamp_min(NARROWEST))


def best_reference(
    laws: Sequence[TruncatedNormal], x: Tensor, score: Tensor, weights: Tensor
) -> TruncatedNormal:
    """
    For each coordinate the law whose score, times its variance, is closest to the target's.

    ``sum_i w_i (v(x_i) (d log p - d log r))²`` is what the law r leaves of the estimator's variance
    (its Stein kernel replaced by a bound on it, ``v(x) = min(scale², 1 - x²)``).

    :param laws: (B, D) each
    :param x: particles, (K, B, D)
    :param score: of the target there, (K, B, D)
    :param weights: (K, B), summing to one over axis 0
    :return: the law, (B, D)
    """
    room = 1 - x.square()
    distances = [
        weighted_mean(
            weights, (th.minimum(law.scale.square(), room) * (score - law.score(x))).square()
        )
        for law in laws
    ]
    index = th.stack(distances).min(0, keepdim=True).indices  # argmin is slower
    return TruncatedNormal(
        th.stack([law.loc for law in laws]).gather(0, index)[0],
        th.stack([law.scale for law in laws]).gather(0, index)[0],
    )


@dataclass(frozen=True)
class Mixture:
    """
    Laws with a fixed number of particles each.

    Laws of shape (T, B, D) are for T times of each of B states, which share their particles.

    :param laws: the laws, (B, D) or (T, B, D) each
    :param counts: particles of each for each time, at least 1
    """

    laws: tuple[Law, ...]
    counts: tuple[int, ...]

    def sample(self, like: Tensor, generator: th.Generator | None) -> Tensor:
        """
        Particles of each law in turn.

        :param like: (B, D) or (T, B, D)
        :param generator: random generator
        :return: in the box, (K, B, D); those of all the times together
        """
        pairs = zip(self.laws, self.counts, strict=True)
        drawn = [law.icdf(shifted_sobol(count, like, generator)) for law, count in pairs]
        return th.cat(drawn).flatten(0, -3)

    def log_prob(self, x: Tensor) -> Tensor:
        """
        Log-density of the whole mixture, whichever law made the point, for whichever time (balance
        heuristic).

        :param x: in the box, (K, B, D) or (K, T, B, D)
        :return: (K, B) or (K, 1, B)
        """
        n_particles = sum(self.counts)
        pairs = zip(self.laws, self.counts, strict=True)
        parts = [law.log_prob(x).sum(-1) + math.log(n / n_particles) for law, n in pairs]
        mixed = th.logsumexp(th.stack(parts), 0)
        if mixed.dim() > 2:
            mixed = th.logsumexp(mixed, 1, keepdim=True) - math.log(mixed.shape[1])
        return mixed
