"""Three targets with reference samples: what ``toy_sampling.py`` measures samplers on."""

import itertools
import math
from abc import ABC, abstractmethod

import torch as th
from torch import Tensor


class Target(ABC):
    """
    An unnormalised density that can be drawn from by other means.

    ``name`` is that of the table, ``dim`` is D, ``half`` is half the width of the box ``[-half,
    half]^D`` that holds all but a negligible part of the mass: samplers see the box as [-1, 1]^D.
    """

    name: str
    dim: int
    half: float

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """
        The unnormalised log-density.

        :param x: in the target's own units, (*S, D)
        :return: (*S)
        """

    @abstractmethod
    def reference(self, n_samples: int, generator: th.Generator) -> Tensor:
        """
        Independent draws, for the metrics alone.

        :return: (n_samples, D)
        """


class TwoMoons(Target):
    """
    ``-(|x| - 2)² / (2 .2²) + log(exp(-(x_1 - 2)² / (2 .3²)) + exp(-(x_1 + 2)² / (2 .3²)))``.

    Two arcs of a ring of radius 2 (Rezende & Mohamed 2015, table 1). The reference is drawn from a
    grid of cells of .004, uniformly within the cell.
    """

    name, dim, half = "two moons", 2, 4.0
    N_CELLS = 2000  # a side

    def __init__(self) -> None:
        edge = (th.arange(self.N_CELLS) + 0.5) / self.N_CELLS * 2 - 1
        self.cells = self.half * th.cartesian_prod(edge, edge)
        self.cumulative = th.softmax(self.log_density(self.cells).double(), 0).cumsum(0)

    def log_density(self, x: Tensor) -> Tensor:
        ring = -0.5 * ((th.linalg.vector_norm(x, dim=-1) - 2) / 0.2).square()
        right, left = (-0.5 * ((x[..., 0] - at) / 0.3).square() for at in (2, -2))
        return ring + th.logaddexp(right, left)

    def reference(self, n_samples: int, generator: th.Generator) -> Tensor:
        level = th.rand(n_samples, dtype=th.float64, generator=generator) * self.cumulative[-1]
        centre = self.cells[th.searchsorted(self.cumulative, level)]
        return centre + self.half / self.N_CELLS * (
            2 * th.rand(n_samples, 2, generator=generator) - 1
        )


class GMM40(Target):
    """
    Forty equal normal laws of standard deviation softplus(1), means uniform in [-40, 40]².

    The means are the first numbers after ``torch.manual_seed(0)``, as in FAB (Midgley et al. 2023)
    and iDEM (Akhound-Sadegh et al. 2024).
    """

    name, dim, half = "GMM-40", 2, 50.0
    SCALE = math.log1p(math.e)

    def __init__(self) -> None:
        self.means = 80 * (th.rand(40, 2, generator=th.Generator().manual_seed(0)) - 0.5)

    def log_density(self, x: Tensor) -> Tensor:
        squared = ((x.unsqueeze(-2) - self.means) / self.SCALE).square().sum(-1)
        return th.logsumexp(-0.5 * squared, -1) - math.log(40 * 2 * math.pi * self.SCALE**2)

    def reference(self, n_samples: int, generator: th.Generator) -> Tensor:
        part = th.randint(40, (n_samples,), generator=generator)
        return self.means[part] + self.SCALE * th.randn(n_samples, 2, generator=generator)


class DW4(Target):
    """
    Four particles in the plane: ``-sum_(i<j) (.9 (d_ij - 4)⁴ - 4 (d_ij - 4)²)``, centre of mass 0.

    A point is the configuration in an orthonormal basis of the six dimensions without centre of
    mass, so that distances are those of the eight coordinates. The reference: 20,000 independent
    Metropolis chains from N(0, 2.5² I), a rotation of which is drawn at the end; 3,000 steps, each
    moves one particle by a normal step of scale .2, .7, 2 or 5 (drawn anew).
    """

    name, dim, half = "DW-4", 6, 5.0
    N_CHAINS, N_STEPS = 20_000, 3_000

    def __init__(self) -> None:
        helmert = th.zeros(3, 4)
        for k in range(3):
            helmert[k, : k + 1], helmert[k, k + 1] = 1.0, -(k + 1.0)
        self.basis = helmert / helmert.norm(dim=1, keepdim=True)  # (3, 4), rows sum to 0
        pairs = list(itertools.combinations(range(4), 2))
        self.differences = th.stack([self.basis[:, i] - self.basis[:, j] for i, j in pairs], 1)
        self.pool: Tensor | None = None

    def distances(self, x: Tensor) -> Tensor:
        """
        Distances of the six pairs.

        :param x: (*S, 6)
        :return: (*S, 6)
        """
        first, second = x[..., :3] @ self.differences, x[..., 3:] @ self.differences
        return (first.square() + second.square() + 1e-12).sqrt()

    def log_density(self, x: Tensor) -> Tensor:
        squared = (self.distances(x) - 4).square()
        return (squared * (4 - 0.9 * squared)).sum(-1)

    def reference(self, n_samples: int, generator: th.Generator) -> Tensor:
        if self.pool is None:
            self.pool = self.chains(generator)
        self.pool = self.pool.roll(n_samples, 0)  # a state comes again once all have been used
        return self.pool[:n_samples]

    def chains(self, generator: th.Generator) -> Tensor:
        """
        Run the chains.

        :return: the last state of each, (N_CHAINS, 6)
        """
        n = self.N_CHAINS
        x = 2.5 * th.randn(n, 6, generator=generator)
        log_p, scales = self.log_density(x), th.tensor([0.2, 0.7, 2.0, 5.0])
        for _ in range(self.N_STEPS):
            scale = scales[th.randint(4, (n, 1), generator=generator)]
            column = self.basis.T[th.randint(4, (n,), generator=generator)]
            step = scale * th.randn(n, 2, generator=generator)
            moved = x + th.cat([step[:, :1] * column, step[:, 1:] * column], 1)
            log_moved = self.log_density(moved)
            accepted = th.rand(n, generator=generator).log() < log_moved - log_p
            x = th.where(accepted.unsqueeze(-1), moved, x)
            log_p = th.where(accepted, log_moved, log_p)
        angle = 2 * math.pi * th.rand(n, 1, generator=generator)
        first, second, cos, sin = x[:, :3], x[:, 3:], angle.cos(), angle.sin()
        return th.cat([cos * first - sin * second, sin * first + cos * second], 1)


TARGETS = {"moons": TwoMoons, "gmm40": GMM40, "dw4": DW4}
