"""Solvers, paths and the velocity fields of known targets."""

import math
from itertools import pairwise

import pytest

from sb3_rfm.sampling import (
    DDIM,
    Euler,
    EulerMaruyama,
    Heun,
    Linear,
    Midpoint,
    VEGeometric,
    VPCosine,
    VPLinear,
    ancestral,
)

STOCHASTIC = [ancestral(), DDIM(0.5), EulerMaruyama(), EulerMaruyama(0.5)]
every_solver = pytest.mark.parametrize(
    "solver", [Euler(), Heun(), Midpoint(), DDIM(), *STOCHASTIC], ids=repr
)

# VEGeometric's default leaves noise of 1e-3: too stiff for uniform steps as large as these.
GENTLE = [Linear(), VPCosine(), VPLinear(), VEGeometric(0.1, 2.0)]
every_interpolant = pytest.mark.parametrize("interpolant", GENTLE, ids=repr)


def orders(errors: list[float]) -> list[float]:
    """Of convergence, from errors at a doubling number of steps."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


def field(target, interpolant):
    """The velocity of a target, as solvers take it."""
    return lambda x, t: target.velocity(interpolant(t), x)
