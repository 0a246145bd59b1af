"""Sobol points that are shifted by a random number."""

import math

import pytest
import torch as th
from analytic import seeded
from boxed_targets import Z_BOUND

from sb3_rfm.sampling.numerics.sobol import shifted_sobol


def test_sobol_points_are_even_and_each_uniform():
    like = th.zeros(50, 3, dtype=th.float64)
    u = shifted_sobol(64, like, seeded(21))
    assert u.shape == (64, 50, 3)
    assert u.dtype == th.float64
    assert (u >= 0).all()
    assert (u < 1).all()
    # One point over many shifts is uniform: a mean of a half, a variance of a twelfth.
    point = u[5].flatten()
    assert abs(point.mean() - 0.5) < Z_BOUND * math.sqrt(1 / 12 / len(point))
    assert float(point.var()) == pytest.approx(1 / 12, rel=0.25)
    # Within a state the set is even: its mean is far closer to a half than chance allows.
    assert (u.mean(0) - 0.5).square().mean().sqrt() < 0.2 * math.sqrt(1 / 12 / 64)
    assert not th.equal(u[:, 0], u[:, 1])
