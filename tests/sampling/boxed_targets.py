"""Targets on a box with their posteriors by quadrature, and what policies might have drawn."""

from functools import lru_cache

import pytest
import torch as th
from analytic import ALL_INTERPOLANTS, Mixture, doubles, quadrature_ends, standard_error

from sb3_rfm.sampling import Interpolant

REPEATS = 32
# |t| > 5 has probability 2e-5 for 31 degrees of freedom; fewer than five hundred are drawn.
Z_BOUND = 5.0
BOX = (-1.0, 1.0)


def corner(x):
    """Steep and rippled: its mode is at the upper wall."""
    return (7 * x + 0.8 * (4 * x).sin()).sum(-1)


def quadratic(x):
    return -0.5 * ((x - 0.45) / 0.12).square().sum(-1)


def flat(x):
    return (0 * x).sum(-1)


bimodal = Mixture(doubles(0.65, 0.35), doubles(-0.55, 0.5), doubles(0.12, 0.2))

# With an action that each could have made: on the wall, off the mode, between the modes.
TARGETS = {"corner": (corner, 0.9995), "quadratic": (quadratic, 0.35), "bimodal": (bimodal, -0.1)}
TIMES = (0.001, 0.2, 0.5, 0.8, 0.999)
NOISE = 0.6

every_target = pytest.mark.parametrize("target", TARGETS)
every_interpolant = pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
every_guide = pytest.mark.parametrize("guide", [None, "right", "wrong"])


@lru_cache
def exact_ends(target: str, interpolant: Interpolant, t: float) -> th.Tensor:
    """``x_t, E[X_0 | x_t], E[X_1 | x_t], sd[X_1 | x_t]`` on the box, by quadrature."""
    (density, x_1), c = TARGETS[target], interpolant(doubles(t))
    x_t = float(c.alpha * x_1 + c.beta * NOISE)
    centre, reach = x_t / float(c.alpha), 12 * float(c.beta / c.alpha)
    low, high = max(-1.0, centre - reach), min(1.0, centre + reach)
    mean_0, mean_1, spread_0 = quadrature_ends(density, c, x_t, low, high)
    return doubles(x_t, mean_0, mean_1, spread_0 * float(c.beta / c.alpha))


@lru_cache
def actions(target: str, guide: str, n: int = 8) -> th.Tensor:
    """
    What a policy might have drawn, (M): quantiles of the target ("right"), or a guess where the
    target is not, broad ("wrong") or, worse, narrow ("lost").
    """
    if guide != "right":
        return doubles(-0.95, -0.4 if guide == "wrong" else -0.98).repeat(n // 2)
    x = th.linspace(-1, 1, 4001, dtype=th.float64)
    mass = TARGETS[target][0](x[:, None]).exp().cumsum(0)
    levels = (th.arange(n, dtype=th.float64) + 0.5) / n
    return x[th.searchsorted(mass / mass[-1], levels)]


def samples_of(targets: list[str], guide: str | None, batch: int) -> th.Tensor | None:
    """Policy samples for :func:`posterior_mean`, (B, M, D)."""
    if guide is None:
        return None
    columns = th.stack([actions(target, guide) for target in targets], dim=-1)
    return columns.expand(batch, *columns.shape)


def assert_agrees(error, spread, ess, precision):
    """
    Errors (REPEATS, *S) vanish on average, within their standard error and the weights' bias.

    Self-normalised weights have a bias of the order ``spread / ESS``; twice that is allowed. The
    premise: all of it together is less than ``precision`` times the posterior's spread.
    """
    tolerance = Z_BOUND * standard_error(error) + 2 * spread / ess
    assert (tolerance < precision * spread).all()
    assert (error.mean(0).abs() < tolerance).all()
