"""
Particles moved towards the posterior: Markov chains and sequential Monte Carlo (RFM, Remark 4).

A refinement knows the law q that the particles come from, and the posterior as ``q(x) exp(l(x))``:
``l`` is importance sampling's log-weight. What it returns are particles and weights of the same
posterior, so averages and control variates carry over. The coordinate is the caller's: the noise
for a target on R^d, the action for a box.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.estimators.mala import Density, Langevin, Particles
from sb3_rfm.sampling.numerics.importance import (
    centred,
    effective_sample_size,
    normalised_weights,
    weighted_mean,
)
from sb3_rfm.sampling.registry import Registry, require, require_float, require_int

FEWEST = 4  # effective particles from which the scale of the moves is taken
LEAST_DELTA = 1e-12  # of the tempering, as a share of what is left of it
HALVINGS = 12  # of the magnitudes that hold it: it is found to one percent


class Refinement(ABC):
    """A rule that moves particles from q towards the posterior ``q exp(l)``."""

    @abstractmethod
    def __call__(
        self, base: Density, ratio: Density, x: Tensor, generator: th.Generator | None = None
    ) -> tuple[Particles, Tensor]:
        """
        Move the particles.

        :param base: ``log q`` and its gradient: (K, B, D) -> (K, B) and (K, B, D)
        :param ratio: the same of ``l``; -inf where the posterior has no mass
        :param x: independent draws of q, (K, B, D)
        :param generator: random generator; torch's global one by default
        :return: the particles, and their unnormalised log-weights (K, B)
        """


def systematic(weights: Tensor, generator: th.Generator | None = None) -> Tensor:
    """
    Systematic resampling: particle i is chosen ``K w_i`` times, rounded up or down.

    One uniform number for each column; a particle without weight is never chosen.

    :param weights: normalised weights, (K, B)
    :param generator: random generator
    :return: indices of the chosen particles, (K, B)
    """
    n_particles, batch = weights.shape
    levels = weights.double().cumsum(0)
    levels = (levels / levels[-1]).T.contiguous()
    start = th.rand(batch, 1, dtype=th.float64, device=weights.device, generator=generator)
    ticks = (th.arange(n_particles, device=weights.device) + start) / n_particles
    return th.searchsorted(levels, ticks, right=True).clamp_max(n_particles - 1).T


def spread_of(weights: Tensor, x: Tensor) -> Tensor:
    """
    Standard deviation of weighted particles: ``sum_i w_i (x_i - mean)² / (1 - sum_i w_i²)``.

    Unbiased where the weights are frequencies of independent draws. As one weight comes to dominate
    it does not vanish: it tends to half the squared distance of the two heaviest particles.

    :param weights: normalised weights, (K, B)
    :param x: (K, B, D)
    :return: (B, D)
    """
    squared = weighted_mean(weights, centred(weights, x).square())
    others = (1 - weights.square().sum(0)).clamp_min(th.finfo(x.dtype).eps)
    return (squared / others.unsqueeze(-1)).sqrt()


def reweighted(log_w: Tensor, delta: Tensor, log_l: Tensor) -> Tensor:
    """
    ``log w + delta l``, also where ``l`` is -inf and the tempering does not rise.

    :param log_w: (K, B)
    :param delta: of the tempering, (B), at least 0
    :param log_l: (K, B)
    :return: (K, B)
    """
    return th.where(delta > 0, log_w + delta * log_l, log_w)


def next_tempering(tempering: Tensor, log_w: Tensor, log_l: Tensor, least: float) -> Tensor:
    """
    The largest tempering up to 1 whose weights keep an effective sample size.

    :param tempering: the present tempering, (B)
    :param log_w: log-weights at that tempering, (K, B)
    :param log_l: (K, B)
    :param least: effective sample size to keep
    :return: (B)
    """
    room = 1 - tempering

    def enough(share: Tensor) -> Tensor:
        return effective_sample_size(reweighted(log_w, share * room, log_l)) >= least

    low, high = th.full_like(tempering, math.log(LEAST_DELTA)), th.zeros_like(tempering)
    straight = enough(high.exp())
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        fits = enough(middle.exp())
        low, high = th.where(fits, middle, low), th.where(fits, high, middle)
    return th.where(straight, 1.0, tempering + high.exp() * room)


@dataclass(frozen=True)
class MCMC(Refinement):
    """
    Particles resampled by their weights, then moved by Langevin steps that leave the posterior.

    The weights are equal then. Where one particle has all the weight, the scale of the moves comes
    from flattened weights (four effective particles). The shares of well separated hills stay those
    of the resampling.

    :param n_moves: moves; each costs one evaluation of the target and its gradient
    :param step_size: first size of the moves, in standard deviations of the weighted particles
    """

    n_moves: int = 10
    step_size: float = 1.0

    def __post_init__(self) -> None:
        require_int("n_moves", self.n_moves)
        _require_step_size(self.step_size)

    def __call__(
        self, base: Density, ratio: Density, x: Tensor, generator: th.Generator | None = None
    ) -> tuple[Particles, Tensor]:
        particles, chain = Particles.at(base, ratio, x), Langevin(base, ratio, generator)
        equal, cold = th.zeros_like(particles.log_l), th.zeros_like(x[0, :, 0])
        flat = reweighted(
            equal, next_tempering(cold, equal, particles.log_l, FEWEST), particles.log_l
        )
        scale, hot = spread_of(normalised_weights(flat), x), th.ones_like(cold)
        particles = particles.take(systematic(normalised_weights(particles.log_l), generator))
        particles, _ = chain.moves(particles, hot, scale, self.step_size * hot, 0, self.n_moves)
        return particles, equal


@dataclass(frozen=True)
class SMC(Refinement):
    """
    Sequential Monte Carlo: from q to the posterior through ``q exp(tempering l)``, tempering from 0
    to 1.

    A column's next tempering is the largest that keeps its effective sample size above a share of
    the particles (Jasra et al. 2011); they are then resampled, unless they have reached the
    posterior with enough of them left, and moved by Langevin steps. The last stage goes all the
    way.

    :param n_stages: stages at most; fewer if every column has reached the posterior
    :param n_moves: moves at each stage; each costs one evaluation of the target and its gradient
    :param step_size: first size of the moves, in standard deviations of the weighted particles
    :param ess_share: effective sample size to keep, as a share of the particles
    """

    n_stages: int = 10
    n_moves: int = 2
    step_size: float = 1.0
    ess_share: float = 0.5

    def __post_init__(self) -> None:
        require_int("n_stages", self.n_stages)
        require_int("n_moves", self.n_moves)
        _require_step_size(self.step_size)
        require_float("ess_share", self.ess_share, 0.0, 1.0)
        require(0 < self.ess_share < 1, "ess_share", self.ess_share, "0 < ess_share < 1")

    def __call__(
        self, base: Density, ratio: Density, x: Tensor, generator: th.Generator | None = None
    ) -> tuple[Particles, Tensor]:
        particles, chain = Particles.at(base, ratio, x), Langevin(base, ratio, generator)
        log_w, tempering = th.zeros_like(particles.log_l), th.zeros_like(x[0, :, 0])
        size = th.full_like(tempering, self.step_size)
        for stage in range(self.n_stages):
            last = stage == self.n_stages - 1
            least = 0.0 if last else self.ess_share * len(x)
            warmer = next_tempering(tempering, log_w, particles.log_l, least)
            log_w, tempering = reweighted(log_w, warmer - tempering, particles.log_l), warmer
            scale = spread_of(normalised_weights(log_w), particles.x)
            particles, log_w = self._resampled(particles, log_w, tempering, generator)
            n_before = stage * self.n_moves
            particles, size = chain.moves(particles, tempering, scale, size, n_before, self.n_moves)
            if bool((tempering == 1).all()):
                break
        return particles, log_w

    def _resampled(
        self, particles: Particles, log_w: Tensor, tempering: Tensor, generator: th.Generator | None
    ) -> tuple[Particles, Tensor]:
        """The particles and log-weights, resampled in the columns that need it."""
        few = effective_sample_size(log_w) < self.ess_share * len(log_w)
        needed = few | (tempering < 1)
        chosen = systematic(normalised_weights(log_w), generator)
        own = th.arange(len(log_w), device=log_w.device).unsqueeze(-1)
        return particles.take(th.where(needed, chosen, own)), log_w.masked_fill(needed, 0.0)


def _require_step_size(got: float) -> None:
    """Raise unless the step size is a finite number above 0."""
    require_float("step_size", got, 0.0)
    require(got > 0, "step_size", got, "step_size > 0")


REFINEMENTS = Registry[Refinement]("refinement", {"mcmc": MCMC, "smc": SMC})
RefinementLike = str | Refinement
