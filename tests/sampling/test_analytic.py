"""The references are checked against each other before anything is checked against them."""

import pytest
import torch as th
from analytic import (
    ALL_INTERPOLANTS,
    GAUSSIAN,
    MIXTURE,
    DiagonalGaussian,
    doubles,
    quadrature_ends,
    time_at,
)


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_closed_forms_agree_with_quadrature(interpolant, ratio):
    c = interpolant(doubles(time_at(interpolant, ratio)))
    assert c.beta / c.alpha == pytest.approx(ratio, rel=1e-9)
    gaussian = DiagonalGaussian(GAUSSIAN.mean[:1], GAUSSIAN.scale[:1])
    for target, x_t in [(gaussian, -0.3), (MIXTURE, 0.35)]:
        closed = [float(end) for end in target.ends(c, doubles(x_t))]
        assert closed == pytest.approx(quadrature_ends(target, c, x_t)[:2], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
def test_closed_form_of_the_flow_solves_the_ode(interpolant):
    t, h, x = 0.6, 1e-5, doubles(0.9, -0.4, 2.0)
    before, now, after = (interpolant(doubles(s)) for s in (t - h, t, t + h))
    slope = (GAUSSIAN.flow(now, after, x) - GAUSSIAN.flow(now, before, x)) / (2 * h)
    th.testing.assert_close(slope, GAUSSIAN.velocity(now, x), rtol=1e-6, atol=1e-6)


def test_samples_of_the_mixture_follow_it_and_not_its_mirror_image():
    samples = MIXTURE.sample(4000, seed=0)
    assert MIXTURE.kolmogorov_smirnov(samples)[1] > 1e-3
    assert MIXTURE.kolmogorov_smirnov(samples, sign=-1)[1] < 1e-9
