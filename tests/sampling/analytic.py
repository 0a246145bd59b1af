"""Closed forms and quadrature to compare the library with, in float64 and in other words."""

import math
from dataclasses import dataclass

import numpy as np
import torch as th
from hypothesis import settings
from scipy import stats
from torch import Tensor

from sb3_rfm.sampling import (
    Coefficients,
    Gaussian,
    GaussianMixture,
    Interpolant,
    Laplace,
    Linear,
    StudentT,
    Uniform,
    VEGeometric,
    VPCosine,
    VPLinear,
)
from sb3_rfm.sampling.estimators.mala import Density
from sb3_rfm.sampling.posterior_mean import ESTIMATORS

# Property tests draw the same examples on every run and remember none.
PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=60)

# For a target on all of R^d, and consistent.
NOT_ON_ALL_SPACE = ("bounded", "bounded_uncoupled", "truncated_noise", "clipped_gradient")
ESTIMATOR_NAMES = [name for name in ESTIMATORS if name not in NOT_ON_ALL_SPACE]
ALL_INTERPOLANTS = [Linear(), VPCosine(), VPLinear(), VEGeometric()]


def doubles(*values: float) -> Tensor:
    return th.tensor(values, dtype=th.float64)


def seeded(seed: int) -> th.Generator:
    return th.Generator().manual_seed(seed)


def time_at(interpolant: Interpolant, noise_to_data: float) -> float:
    """The time at which ``beta / alpha`` has that value, by bisection (it falls with t)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        c = interpolant(doubles(middle))
        low, high = (middle, high) if c.beta / c.alpha > noise_to_data else (low, middle)
    return low


@dataclass(frozen=True)
class DiagonalGaussian:
    """A normal target off centre with its own scale in each coordinate; not normalised."""

    mean: Tensor
    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return -0.5 * ((x - self.mean) / self.scale).square().sum(-1) + 3.0

    def variance_at(self, c: Coefficients) -> Tensor:
        return (c.alpha * self.scale).square() + c.beta**2

    def ends(self, c: Coefficients, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """``E[X_0 | x_t], E[X_1 | x_t]``: regression of each on X_t, which is jointly normal."""
        surprise = (x_t - c.alpha * self.mean) / self.variance_at(c)
        return c.beta * surprise, self.mean + c.alpha * self.scale.square() * surprise

    def velocity(self, c: Coefficients, x_t: Tensor) -> Tensor:
        x_0, x_1 = self.ends(c, x_t)
        return c.d_alpha * x_1 + c.d_beta * x_0

    def flow(self, start: Coefficients, end: Coefficients, x: Tensor) -> Tensor:
        """Where the ODE takes x: it keeps each coordinate's quantile."""
        z = (x - start.alpha * self.mean) / self.variance_at(start).sqrt()
        return end.alpha * self.mean + self.variance_at(end).sqrt() * z


GAUSSIAN = DiagonalGaussian(doubles(0.6, -1.1, 0.2), doubles(0.5, 1.5, 0.9))


@dataclass(frozen=True)
class Mixture:
    """A skewed, bimodal mixture of normals on the line (D = 1)."""

    shares: Tensor
    means: Tensor
    scales: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return th.logsumexp(self.shares.log() + self.parts(self.means, self.scales, x), -1)

    @staticmethod
    def parts(means: Tensor, scales: Tensor, x: Tensor) -> Tensor:
        return th.distributions.Normal(means, scales).log_prob(x)

    def ends(self, c: Coefficients, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """``E[X_0 | x_t], E[X_1 | x_t]``: a regression in each part, mixed by Bayes' rule."""
        variances = (c.alpha * self.scales).square() + c.beta**2
        surprise = (x_t - c.alpha * self.means) / variances
        logits = self.shares.log() + self.parts(c.alpha * self.means, variances.sqrt(), x_t)
        r = th.softmax(logits, -1)
        x_1 = (r * (self.means + c.alpha * self.scales**2 * surprise)).sum(-1, keepdim=True)
        return c.beta * (r * surprise).sum(-1, keepdim=True), x_1

    def velocity(self, c: Coefficients, x_t: Tensor) -> Tensor:
        x_0, x_1 = self.ends(c, x_t)
        return c.d_alpha * x_1 + c.d_beta * x_0

    def sample(self, n: int, seed: int) -> Tensor:
        g = seeded(seed)
        part = th.multinomial(self.shares, n, replacement=True, generator=g)
        noise = th.randn(n, dtype=th.float64, generator=g)
        return (self.means[part] + self.scales[part] * noise)[:, None]

    def kolmogorov_smirnov(self, samples: Tensor, sign: float = 1.0) -> tuple[float, float]:
        """Distance and p-value of samples against this law, or against its mirror image."""

        def cdf(x: object) -> object:
            parts = th.stack([self.shares, self.means, self.scales], 1).tolist()
            return sum(w * stats.norm.cdf(x, m, s) for w, m, s in parts)

        result = stats.kstest(sign * samples.flatten().numpy(), cdf)
        return float(result.statistic), float(result.pvalue)


MIXTURE = Mixture(doubles(0.7, 0.3), doubles(-0.8, 1.1), doubles(0.25, 0.5))


def quadrature_ends(
    log_density, c: Coefficients, x_t: float, low: float = -12.0, high: float = 12.0
) -> tuple[float, float, float]:
    """``E[X_0 | x_t], E[X_1 | x_t], sd[X_0 | x_t]`` on [low, high] by the trapezoidal rule."""
    x_1 = th.linspace(low, high, 60_001, dtype=th.float64)
    x_0 = (x_t - c.alpha * x_1) / c.beta
    log_posterior = log_density(x_1[:, None]) - 0.5 * x_0.square()
    mass = (log_posterior - log_posterior.max()).exp()
    mass = mass / th.trapezoid(mass, x_1)
    mean_0, mean_1 = (float(th.trapezoid(mass * x, x_1)) for x in (x_0, x_1))
    return mean_0, mean_1, math.sqrt(th.trapezoid(mass * (x_0 - mean_0) ** 2, x_1))


class TwoNormals:
    """A quarter N(-1.2, .5²), three quarters N(.8, .5²): density and distribution by scipy."""

    parts = ((0.25, stats.norm(-1.2, 0.5)), (0.75, stats.norm(0.8, 0.5)))

    def logpdf(self, x):
        return np.logaddexp(*(math.log(w) + part.logpdf(x) for w, part in self.parts))

    def cdf(self, x):
        return sum(w * part.cdf(x) for w, part in self.parts)


# name -> a source on the line, and the same law by scipy
SOURCE_LAWS = {
    "gaussian": (Gaussian(), stats.norm()),
    "uniform": (Uniform(1.5), stats.uniform(-1.5, 3.0)),
    "laplace": (Laplace(0.8), stats.laplace(scale=0.8)),
    "student_t": (StudentT(3.0, 0.7), stats.t(3.0, scale=0.7)),
    "mixture": (GaussianMixture(((-1.2,), (0.8,)), 0.5, (1.0, 3.0)), TwoNormals()),
}


@dataclass(frozen=True)
class NoisePosterior:
    """``p(x_0 | x_t)`` on the line by the trapezoidal rule, for any source."""

    x_0: Tensor
    x_1: Tensor
    mass: Tensor
    log_p_t: float

    @classmethod
    def of(cls, log_density, name: str, c: Coefficients, x_t: float) -> "NoisePosterior":
        reach = 1.5 if name == "uniform" else 100.0  # the wall, or far beyond the target's reach
        nodes = th.arange(-100_000, 100_001, dtype=th.float64) / 100_000  # one at Laplace's kink
        x_0 = reach * nodes
        x_1 = (x_t - c.beta * x_0) / c.alpha
        log_source = th.from_numpy(SOURCE_LAWS[name][1].logpdf(x_0.numpy().clip(-reach, reach)))
        log_mass = log_source + log_density(x_1[:, None])
        mass = (log_mass - log_mass.max()).exp()
        total = th.trapezoid(mass, x_0)
        return cls(x_0, x_1, mass / total, float(total.log() + log_mass.max()))

    def mean(self, values: Tensor) -> float:
        return float(th.trapezoid(self.mass * values, self.x_0))

    def spread(self, values: Tensor) -> float:
        return math.sqrt(self.mean((values - self.mean(values)).square()))


def quadrature_score(log_density, name: str, c: Coefficients, x_t: float) -> float:
    """Slope of ``log p_t`` at ``x_t`` by a central difference: neither form of Appendix A."""
    h = 1e-3
    right, left = (NoisePosterior.of(log_density, name, c, x_t + d).log_p_t for d in (h, -h))
    return (right - left) / (2 * h)


def standard_error(repeats: Tensor) -> Tensor:
    """Of the mean over axis 0."""
    return repeats.std(0) / math.sqrt(len(repeats))


def walled(density: Density, low: float, high: float) -> Density:
    """
    A density that is nothing outside a box, and is never evaluated there.

    :param density: (*S, D) -> (*S) and (*S, D)
    :param low: lower wall
    :param high: upper wall
    :return: the same inside, -inf outside
    """

    def inside(x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = density(x.clamp(low, high))
        return value.masked_fill(((x < low) | (x > high)).any(-1), -th.inf), gradient

    return inside
