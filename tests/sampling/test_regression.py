"""Slopes of weighted regressions against numpy's least squares and against known truths."""

import numpy as np
import pytest
import torch as th
from analytic import doubles, seeded

from sb3_rfm.sampling.numerics.importance import weighted_mean
from sb3_rfm.sampling.numerics.least_squares import cross_slopes, own_slope

K, B, P, D = 24, 3, 4, 2


def normal(*shape, seed=0):
    return th.randn(shape, dtype=th.float64, generator=seeded(seed))


WEIGHTS = th.softmax(normal(K, B, seed=1), 0)
REGRESSORS = normal(K, B, P, seed=2) * doubles(1.0, 0.01, 30.0, 1.0)
TRUTH = normal(B, P, D, seed=3)
N_SAMPLES = doubles(K).expand(B)


def responses(noise):
    exact = th.einsum("kbp,bpd->kbd", REGRESSORS, TRUTH)
    return 5.0 + exact + noise * normal(K, B, D, seed=4)


def test_own_slope_is_numpy_s():
    y = REGRESSORS * doubles(1.0, -2.0, 0.3, 0.0) + normal(K, B, P, seed=5) + 3
    slopes = own_slope(WEIGHTS, REGRESSORS, y, ridge=0.0)
    for b in range(B):
        for p in range(P):
            root = WEIGHTS[:, b].sqrt().numpy()  # polyfit weighs the residuals, not their squares
            fit = np.polyfit(REGRESSORS[:, b, p].numpy(), y[:, b, p].numpy(), 1, w=root)
            assert float(slopes[b, p]) == pytest.approx(fit[0], rel=1e-9)


def test_own_slope_of_a_constant_regressor_is_zero():
    assert th.equal(own_slope(WEIGHTS, 0 * REGRESSORS, REGRESSORS, 1e-3), th.zeros(B, P).double())


def test_cross_slopes_find_the_truth_without_noise():
    slopes = cross_slopes(WEIGHTS, REGRESSORS, responses(0.0), N_SAMPLES)
    left = responses(0.0) - th.einsum("kbp,bpd->kbd", REGRESSORS, slopes)
    spread = (left - weighted_mean(WEIGHTS, left)).square().mean().sqrt()
    assert spread < 1e-3 * responses(0.0).std()


def test_cross_slopes_are_weighted_least_squares_where_there_are_many_samples():
    n = 4000
    x, weights = normal(n, 1, P, seed=6), th.softmax(normal(n, 1, seed=7), 0)
    y = x @ TRUTH[0] + 0.5 * normal(n, 1, D, seed=8)
    slopes = cross_slopes(weights, x, y, doubles(n)[None])[0]
    root = weights.sqrt()
    centre_x, centre_y = weighted_mean(weights, x), weighted_mean(weights, y)
    exact = np.linalg.lstsq(
        (root[..., None] * (x - centre_x))[:, 0].numpy(),
        (root[..., None] * (y - centre_y))[:, 0].numpy(),
        rcond=None,
    )[0]
    assert np.abs(slopes.numpy() - exact).max() < 5e-3


def test_noise_is_not_fitted():
    """Responses that have nothing to do with the regressors: a ridge fits less of them."""
    n, states = 16, 400
    x, y = normal(n, states, 6, seed=9), normal(n, states, 1, seed=10)
    weights = th.full((n, states), 1 / n, dtype=th.float64)
    slopes = cross_slopes(weights, x, y, doubles(n).expand(states))
    harm = slopes.square().sum((1, 2))  # the error of a prediction at new regressors
    design = (x - x.mean(0)).permute(1, 0, 2)
    plain = th.linalg.lstsq(design, (y - y.mean(0)).permute(1, 0, 2)).solution
    assert harm.mean() < 0.5 * plain.square().sum((1, 2)).mean()


def test_scale_of_the_regressors_and_of_the_responses():
    one = cross_slopes(WEIGHTS, REGRESSORS, responses(0.3), N_SAMPLES)
    two = cross_slopes(WEIGHTS, 7 * REGRESSORS, 3 * responses(0.3) - 11, N_SAMPLES)
    th.testing.assert_close(two, 3 / 7 * one)


def test_an_infinite_or_constant_regressor_does_no_harm():
    bad = REGRESSORS.clone()
    bad[..., 0] = 2.0
    bad[3, 0, 1] = th.inf
    assert cross_slopes(WEIGHTS, bad, responses(0.3), N_SAMPLES)[1:].isfinite().all()
    slopes = cross_slopes(WEIGHTS, bad, responses(0.3), N_SAMPLES)
    assert not slopes[0].isinf().any()
