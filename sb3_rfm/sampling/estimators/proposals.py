"""Where the particles come from: draws of (x_0, x_1) tied by ``x_t``, and the log-ratio p_0 / q."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal
from sb3_rfm.sampling.sources import Gaussian, Source

# Scales of the bridge: float32 resolves the box to 6e-8, and a normal wider than the box by a
# factor of 1e3 differs from its tilt alone by 5e-7.
NARROWEST, WIDEST = 1e-5, 1e3


class Particles(NamedTuple):
    """
    K draws for each of B points ``x_t``; ``alpha x_1 + beta x_0 = x_t`` holds for each.

    :param x_0: noise, (K, B, D)
    :param x_1: action, (K, B, D)
    :param log_ratio: ``log p_0(x_0) - log q(x_0)``, (K, B), up to a constant in each column
    """

    x_0: Tensor
    x_1: Tensor
    log_ratio: Tensor


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


class Proposal(ABC):
    """
    A law q of the noise given ``x_t``.

    ``source`` is the law p_0 that the weights are for; ``in_box`` says that every action it draws
    lies in [-1, 1]^d.
    """

    source: Source
    in_box: bool = False

    @abstractmethod
    def __call__(
        self,
        coefficients: Coefficients,
        x_t: Tensor,
        n_particles: int,
        generator: th.Generator | None = None,
    ) -> Particles:
        """
        Draw particles.

        :param coefficients: the interpolant at the time of ``x_t``, each () or (B, 1)
        :param x_t: (B, D)
        :param n_particles: K
        :param generator: random generator; torch's global one by default
        :return: the particles
        """


@dataclass(frozen=True)
class Prior(Proposal):
    """
    ``q = p_0``: the weights are the target's density alone, ``w_i ∝ p_1(x_1)`` (eq. 14).

    The paper's choice, for any source. ``x_1 = (x_t - beta x_0) / alpha`` spreads like
    ``beta / alpha``: at small t few particles have any weight, and at alpha = 0 none is defined.

    :param source: the law p_0
    """

    source: Source = field(default_factory=Gaussian)

    def __call__(
        self,
        coefficients: Coefficients,
        x_t: Tensor,
        n_particles: int,
        generator: th.Generator | None = None,
    ) -> Particles:
        x_0 = self.source.sample((n_particles, *x_t.shape), like=x_t, generator=generator)
        x_1 = coefficients.action_end(x_t, x_0)
        return Particles(x_0, x_1, th.zeros(x_0.shape[:-1], dtype=x_t.dtype, device=x_t.device))


@dataclass(frozen=True)
class Bridge(Proposal):
    """
    ``q ∝ p_0`` where the action stays in the box: the noise truncated.

    The weights are again the target's density alone. Unlike :class:`Prior` no particle is lost
    beyond the walls, at any t (Dong et al. 2025 for the critic's Boltzmann law).
    """

    # not annotated: constants of the class, not fields of the dataclass
    source = Gaussian()
    in_box = True

    def __call__(
        self,
        coefficients: Coefficients,
        x_t: Tensor,
        n_particles: int,
        generator: th.Generator | None = None,
    ) -> Particles:
        uniform = th.rand(
            (n_particles, *x_t.shape), dtype=th.float64, device=x_t.device, generator=generator
        )
        x_1 = bridge(coefficients, x_t).icdf(uniform)
        return Particles(coefficients.noise_end(x_t, x_1), x_1, th.zeros_like(x_1[..., 0]))
