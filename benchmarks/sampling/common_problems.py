"""Posteriors whose exact mean is known: what ``posterior_error.py`` measures estimators on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling import Linear, TanhLatent
from sb3_rfm.sampling.interpolants import Coefficients

BATCH, N_POLICY_SAMPLES = 32, 8
LATENT = TanhLatent(bound=20.0)

# Sums over coordinates, in units of the temperature: quadrature is exact in any dimension.
SEPARABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "quadratic 5": lambda x: -5 * (x - 0.3).square(),
    "quadratic 50": lambda x: -50 * (x - 0.3).square(),
    "quadratic 500": lambda x: -500 * (x + 0.6).square(),
    "corner": lambda x: 60 * x,
    "mild slope": lambda x: 2 * x,
    "ripple": lambda x: -20 * (x - 0.2).square() + th.sin(12 * x),
    "two hills": lambda x: th.logaddexp(-40 * (x + 0.5).square(), -40 * (x - 0.4).square() + 0.5),
    "ridge": lambda x: -60 * (x - 0.2 - 0.5 * x.square()).square(),
}

# Functions of two coordinates that depend on each other.
COUPLED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tilted ridge": lambda x, y: -200 * (x - y - 0.1).square() - 3 * (x + y - 0.4).square(),
    "banana": lambda x, y: -60 * (y - 1.2 * x.square() + 0.4).square() - 4 * (x - 0.2).square(),
    "ring": lambda x, y: -80 * ((x.square() + y.square() + 1e-6).sqrt() - 0.6).square() + x,
    "two hills apart": lambda x, y: th.logaddexp(
        -40 * ((x + 0.5).square() + (y + 0.5).square()),
        -40 * ((x - 0.4).square() + (y - 0.4).square()) + 0.5,
    ),
    "corner of two": lambda x, y: 30 * x + 30 * y - 25 * (x - y).square(),
}


@dataclass(frozen=True)
class Problem:
    """
    A batch of posteriors at one time.

    :param log_density: of the target, (*S, D) -> (*S)
    :param coefficients: of the linear path
    :param x_t: (B, D)
    :param mean: exact ``E[X_1 | x_t]``, (B, D)
    :param spread: exact standard deviation, (B, D)
    :param actions: draws of the target, (M, B, D)
    """

    log_density: Callable[[Tensor], Tensor]
    coefficients: Coefficients
    x_t: Tensor
    mean: Tensor
    spread: Tensor
    actions: Tensor

    def error(self, estimate: Tensor) -> float:
        """Root mean square error over the posterior's standard deviation."""
        return float(((estimate - self.mean) / self.spread).square().mean().sqrt())


def midpoints(half_width: float, n_points: int) -> Tensor:
    """
    The middles of equal parts of [-half_width, half_width]: quadrature that is right at a wall too.

    :return: (n_points,), float64
    """
    parts = (th.arange(n_points, dtype=th.float64) + 0.5) / n_points
    return half_width * (2 * parts - 1)


def draw_problem(
    log_density: Callable[[Tensor], Tensor], points: Tensor, log_p: Tensor, t: float, copies: int
) -> Problem:
    """
    Draw actions and ``x_t`` from the target, and integrate its posterior over the points.

    :param log_density: of the whole target
    :param points: quadrature points of one block of coordinates, (N, E)
    :param log_p: the block's log-density there, (N)
    :param t: time
    :param copies: independent blocks, so that D is copies times E
    :return: the problem
    """
    c = Linear()(th.tensor(t, dtype=th.float64))
    n_blocks = (N_POLICY_SAMPLES + 1) * BATCH * copies
    index = th.multinomial(th.softmax(log_p, 0), n_blocks, replacement=True)
    width = copies * points.shape[1]
    draws = points[index].view(N_POLICY_SAMPLES + 1, BATCH, width)
    x_t = c.alpha * draws[0] + c.beta * th.randn(BATCH, width, dtype=th.float64)
    blocks = x_t.view(-1, points.shape[1])
    prior = -0.5 * ((blocks[:, None] - c.alpha * points) / c.beta).square().sum(-1)
    weights = th.softmax(log_p + prior, 1)
    mean = weights @ points
    variance = th.einsum("bn,bne->be", weights, (points - mean[:, None]).square())
    spread = variance.clamp_min(1e-14).sqrt()
    return Problem(log_density, c, x_t, mean.view_as(x_t), spread.view_as(x_t), draws[1:])


def separable(shape: str, t: float, dim: int, latent: bool = False) -> Problem:
    """
    A sum of one shape over the coordinates.

    :param shape: name in :data:`SEPARABLE`
    :param t: time
    :param dim: D
    :param latent: in the tanh latent, with its Jacobian, instead of the box
    :return: the problem
    """
    q = SEPARABLE[shape]
    points = midpoints(9.0, 3000) if latent else midpoints(1.0, 2000)

    def log_density(x: Tensor) -> Tensor:
        return q(x.tanh()).sum(-1) + LATENT.log_det(x) if latent else q(x).sum(-1)

    return draw_problem(log_density, points[:, None], log_density(points[:, None]), t, dim)


def coupled(shape: str, t: float, latent: bool = False) -> Problem:
    """
    A function of two coordinates that depend on each other.

    :param shape: name in :data:`COUPLED`
    :param t: time
    :param latent: in the tanh latent, with its Jacobian, instead of the box
    :return: the problem, D = 2
    """
    q = COUPLED[shape]
    axis = midpoints(5.0, 300) if latent else midpoints(1.0, 250)

    def log_density(x: Tensor) -> Tensor:
        if latent:
            return q(*x.tanh().unbind(-1)) + LATENT.log_det(x)
        return q(*x.unbind(-1))

    points = th.cartesian_prod(axis, axis)
    return draw_problem(log_density, points, log_density(points), t, 1)


def rotated(t: float, dim: int) -> Problem:
    """
    A normal target inside the box with a full covariance: its posterior in closed form.

    Standard deviations from .02 to .15 along random axes; the walls are over five of them away.

    :param t: time
    :param dim: D
    :return: the problem
    """
    axes, _ = th.linalg.qr(th.randn(dim, dim, dtype=th.float64))
    scales = th.logspace(math.log10(0.02), math.log10(0.15), dim, dtype=th.float64)
    precision = axes @ th.diag(scales**-2) @ axes.T
    centre = 0.2 * (2 * th.rand(dim, dtype=th.float64) - 1)
    factor = axes @ th.diag(scales)
    noise = th.randn(N_POLICY_SAMPLES + 1, BATCH, dim, dtype=th.float64)
    draws = centre + noise @ factor.T
    c = Linear()(th.tensor(t, dtype=th.float64))
    x_t = c.alpha * draws[0] + c.beta * th.randn(BATCH, dim, dtype=th.float64)
    total = precision + (c.alpha / c.beta).square() * th.eye(dim, dtype=th.float64)
    covariance = th.linalg.inv(total)
    mean = (x_t * c.alpha / c.beta.square() + centre @ precision) @ covariance
    spread = covariance.diagonal().sqrt().expand_as(mean)

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * ((x - centre) @ precision * (x - centre)).sum(-1)

    return Problem(log_density, c, x_t, mean, spread, draws[1:].clamp(-1, 1))
