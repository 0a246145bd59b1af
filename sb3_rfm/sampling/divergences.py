"""
What a step of a solver adds to the log-volume around a point: exactly, or by random probes.

Over a short step it is h times the divergence of the velocity: ``S = x + h u(x)`` has
``log |det S'| = h div u + O(h²)``.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.registry import Registry, require_float, require_int
from sb3_rfm.sampling.sources import Gaussian


class Divergence(ABC):
    """A rule for the log-volume that one step of a solver adds, ``log |det S'(x)|``."""

    def probes(self, like: Tensor, generator: th.Generator | None) -> Tensor:
        """
        Random vectors that one path keeps.

        :param like: points, (*S, D)
        :param generator: random generator
        :return: (P, *S, D); none unless the rule says otherwise
        """
        return like.new_empty(0, *like.shape)

    @abstractmethod
    def log_volume(self, x: Tensor, x_next: Tensor, probes: Tensor) -> Tensor:
        """
        The log-volume that a step adds.

        :param x: points before, (*S, D), requiring grad
        :param x_next: points after, ``S(x)`` with its graph, (*S, D)
        :param probes: what :meth:`probes` returned
        :return: (*S)
        """


@dataclass(frozen=True)
class ExactDivergence(Divergence):
    """
    ``log |det S'|`` itself, from D vector-Jacobian products.

    With a floor, ``½ log det((S'ᵀ S' + floor² I) / (1 + floor²))``: no direction shrinks by more
    than the floor. It is what the entropy of a Gaussian gains when the step adds noise of ``floor``
    times its scale; a step that moves nothing adds nothing. Without a floor a step onto a point,
    such as a prediction clamped at a wall, has log-volume -inf.

    :param floor: the most that a direction can shrink by in a step, at least 0
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        require_float("floor", self.floor, 0.0)

    def log_volume(self, x: Tensor, x_next: Tensor, probes: Tensor) -> Tensor:
        dim, slopes = x.shape[-1], jacobian(x, x_next)
        noise = self.floor * th.eye(dim, dtype=x.dtype, device=x.device)
        # the triangle of a QR decomposition has the determinant's size, and squares nothing
        triangle: Tensor = th.linalg.qr(th.cat([slopes, noise.expand_as(slopes)], -2), mode="r").R
        log_det = triangle.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        return log_det - 0.5 * dim * math.log1p(self.floor**2)


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """
    ``tr M - tr M² / 2 + ...`` with ``M = S' - I`` by random probes: ``E[v · M v] = tr M``.

    Unbiased for the terms it keeps, in ``n_probes * n_terms`` vector-Jacobian products whatever D.
    With Euler's method one term is h times the divergence of the velocity (Grathwohl et al. 2019):
    first order in the step, whatever the solver. Two keep the order of Heun (the series is that of
    Chen et al. 2019).

    :param n_probes: probes a point, P
    :param rademacher: probes of random signs, which have the least variance; else standard normal
    :param n_terms: terms of the series of the logarithm
    """

    n_probes: int = 1
    rademacher: bool = True
    n_terms: int = 2

    def __post_init__(self) -> None:
        require_int("n_probes", self.n_probes)
        require_int("n_terms", self.n_terms)

    def probes(self, like: Tensor, generator: th.Generator | None) -> Tensor:
        normal = Gaussian().sample((self.n_probes, *like.shape), like, generator)
        return th.where(normal < 0, -1.0, 1.0).to(like) if self.rademacher else normal

    def log_volume(self, x: Tensor, x_next: Tensor, probes: Tensor) -> Tensor:
        total = th.zeros_like(x[..., 0])
        for probe in probes:
            power = probe
            for term in range(1, self.n_terms + 1):
                power = _pull(x, x_next, power) - power
                total = total - (-1) ** term / term * (power * probe).sum(-1)
        return total / self.n_probes


DIVERGENCES = Registry[Divergence](
    "divergence", {"exact": ExactDivergence, "hutchinson": Hutchinson}
)
DivergenceLike = str | Divergence


def jacobian(x: Tensor, y: Tensor) -> Tensor:
    """
    The Jacobian of each point, one vector-Jacobian product for each coordinate of ``y``.

    :param x: points that require grad, (*S, D)
    :param y: their image, point by point, with its graph, (*S, D)
    :return: ``d y_i / d x_j``, (*S, D, D)
    """
    units = th.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    return th.stack([_pull(x, y, unit.expand_as(y)) for unit in units], -2)


def _pull(x: Tensor, y: Tensor, vector: Tensor) -> Tensor:
    """The vector-Jacobian product ``vectorᵀ dy/dx``, (*S, D)."""
    (product,) = th.autograd.grad(y, x, vector, retain_graph=True)
    return product
