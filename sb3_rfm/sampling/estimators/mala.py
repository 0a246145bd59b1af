"""
Markov chains of particles: Langevin moves that leave a tempered posterior as it is.

The posterior is given as ``q(x) exp(l(x))`` with a known law q; at tempering h it is ``q
exp(h l)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch as th
from torch import Tensor

# (*S, D) -> a log-density (*S) and its gradient (*S, D)
Density = Callable[[Tensor], tuple[Tensor, Tensor]]

BEST_ACCEPTANCE = 0.574  # of Langevin proposals in many dimensions (Roberts & Rosenthal 1998)
STEEPEST = 10.0  # slopes are cut at that many scales: a truncated drift (Roberts & Tweedie 1996)


class Particles(NamedTuple):
    """
    Particles of one posterior for each column, with ``log q``, ``l`` and their gradients.

    :param x: particles, (K, B, D)
    :param log_q: (K, B)
    :param score: gradient of ``log q``, (K, B, D)
    :param log_l: (K, B)
    :param slope: gradient of ``l``, (K, B, D)
    """

    x: Tensor
    log_q: Tensor
    score: Tensor
    log_l: Tensor
    slope: Tensor

    @classmethod
    def at(cls, base: Density, ratio: Density, x: Tensor) -> "Particles":
        """
        The particles at given points; where a density is not a number there is no mass.

        :param base: ``log q`` and its gradient
        :param ratio: ``l`` and its gradient
        :param x: (K, B, D)
        :return: the particles
        """
        (log_q, score), (log_l, slope) = base(x), ratio(x)
        return cls(
            x,
            log_q.masked_fill(log_q.isnan(), -th.inf),
            score.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0),
            log_l.masked_fill(log_l.isnan(), -th.inf),
            slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0),
        )

    def tempered(self, tempering: Tensor) -> tuple[Tensor, Tensor]:
        """
        ``log q + tempering l`` and its gradient.

        :param tempering: (B), above 0
        :return: (K, B) and (K, B, D)
        """
        return self.log_q + tempering * self.log_l, self.score + tempering[:, None] * self.slope

    def take(self, indices: Tensor) -> "Particles":
        """
        The particles at these places.

        :param indices: for each column, (K, B)
        :return: the particles
        """
        columns = th.arange(indices.shape[1], device=indices.device)
        return Particles(*(part[indices, columns] for part in self))

    def replaced(self, by: "Particles", where: Tensor) -> "Particles":
        """
        The particles, some of them replaced.

        :param by: what they are replaced by
        :param where: (K, B)
        :return: the particles
        """
        whole = where.unsqueeze(-1)
        pairs = zip(by, self, strict=True)
        return Particles(*(th.where(where if a.ndim == 2 else whole, a, b) for a, b in pairs))


@dataclass(frozen=True)
class Langevin:
    """
    Metropolis-adjusted Langevin moves; each leaves ``q exp(tempering l)`` as it is.

    ``x' = x + h scale (h scale grad / 2 + xi)``, accepted with the probability of Metropolis and
    Hastings: points without mass never are. The size h of a column follows the acceptance of its
    particles, by ever smaller changes (Robbins & Monro 1951).

    :param base: ``log q`` and its gradient
    :param ratio: ``l`` and its gradient
    :param generator: random generator
    """

    base: Density
    ratio: Density
    generator: th.Generator | None = None

    def moves(
        self,
        particles: Particles,
        tempering: Tensor,
        scale: Tensor,
        size: Tensor,
        n_before: int,
        n_moves: int,
    ) -> tuple[Particles, Tensor]:
        """
        Several moves.

        :param particles: the particles
        :param tempering: (B)
        :param scale: scale of each coordinate, (B, D)
        :param size: h, (B)
        :param n_before: moves made before these
        :param n_moves: moves to make
        :return: the particles, and the next h
        """
        for i in range(n_moves):
            particles, rate = self.move(particles, tempering, scale, size)
            size = size * th.exp((rate - BEST_ACCEPTANCE) / math.sqrt(n_before + i + 1))
        return particles, size

    def move(
        self, particles: Particles, tempering: Tensor, scale: Tensor, size: Tensor
    ) -> tuple[Particles, Tensor]:
        """
        One move.

        :param particles: the particles
        :param tempering: (B)
        :param scale: (B, D)
        :param size: h, (B)
        :return: the particles, and the share of each column that moved (B)
        """
        x, h = particles.x, size.unsqueeze(-1)
        noise = th.randn(x.shape, dtype=x.dtype, device=x.device, generator=self.generator)
        log_p, gradient = particles.tempered(tempering)
        drift = (scale * gradient).clamp(-STEEPEST, STEEPEST)
        proposed = Particles.at(self.base, self.ratio, x + h * scale * (0.5 * h * drift + noise))
        log_p_new, gradient_new = proposed.tempered(tempering)
        drift_new = (scale * gradient_new).clamp(-STEEPEST, STEEPEST)
        back = noise + 0.5 * h * (drift + drift_new)  # the noise that would lead back, sign turned
        log_ratio = log_p_new - log_p + 0.5 * (noise.square() - back.square()).sum(-1)
        uniform = th.rand(log_p.shape, dtype=x.dtype, device=x.device, generator=self.generator)
        accepted = uniform.log() < log_ratio
        return particles.replaced(proposed, accepted), accepted.to(x.dtype).mean(0)
