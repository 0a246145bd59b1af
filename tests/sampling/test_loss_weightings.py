"""Which error is squared: the errors of all parametrizations are multiples of one another."""

import pytest
import torch as th
from analytic import ALL_INTERPOLANTS, doubles, seeded

from sb3_rfm.sampling import Data, Linear, Noise, Score, Velocity
from sb3_rfm.sampling.loss_weightings import (
    LOSS_WEIGHTINGS,
    ErrorOf,
    LossWeighting,
    MinSNR,
    OwnError,
    make_loss_weighting,
)

EACH = [Noise(), Data(), Velocity(), Score()]


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
@pytest.mark.parametrize("predicted", EACH, ids=repr)
@pytest.mark.parametrize("measured", EACH, ids=repr)
def test_weighted_loss_is_the_loss_of_the_other_function(measured, predicted, interpolant):
    """
    Two values of f at one ``x_t``, carried to their end points and from there to the other
    function: their difference is the scaled one, and so is the gradient.
    """
    c = interpolant(th.linspace(0.05, 0.95, 7, dtype=th.float64)[:, None])
    x_t, target = th.randn(2, 7, 3, dtype=th.float64, generator=seeded(0))
    prediction = th.randn(7, 3, dtype=th.float64, generator=seeded(1)).requires_grad_()

    def other(value):
        return measured.target(c, predicted.end_points(c, x_t, value))

    scale = ErrorOf(measured).scale(predicted, c)
    losses = [
        (scale * (prediction - target)).square().mean(),
        (other(prediction) - other(target)).square().mean(),
    ]
    th.testing.assert_close(*losses)
    th.testing.assert_close(*(th.autograd.grad(loss, prediction)[0] for loss in losses))


def test_data_loss_is_the_velocity_loss_weighted_on_a_linear_path():
    t = doubles(0.1, 0.5, 0.9)
    scale = ErrorOf(Data()).scale(Velocity(), Linear()(t))
    th.testing.assert_close(scale, 1 - t)


@pytest.mark.parametrize("predicted", EACH, ids=repr)
def test_uniform_is_the_error_of_the_prediction(predicted):
    c = Linear()(doubles(0.1, 0.5, 0.9))
    assert (OwnError().scale(predicted, c) == 1).all()
    assert (ErrorOf(predicted).scale(predicted, c) == 1).all()


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
def test_min_snr_is_noise_then_data(interpolant):
    c = interpolant(th.linspace(0.05, 0.95, 19, dtype=th.float64))
    weak = c.alpha**2 < 5 * c.beta**2
    assert weak.any()
    assert not weak.all()
    scale = MinSNR().scale(Data(), c).abs()
    th.testing.assert_close(scale[weak], ErrorOf(Noise()).scale(Data(), c)[weak].abs())
    th.testing.assert_close(scale[~weak].square(), th.full_like(scale[~weak], 5.0))
    in_noise = MinSNR().scale(Noise(), c) * ErrorOf(Noise()).scale(Data(), c)
    th.testing.assert_close(in_noise.abs(), scale)


def test_names_and_objects():
    assert make_loss_weighting("uniform") == OwnError()
    assert make_loss_weighting("velocity") == make_loss_weighting(Velocity()) == ErrorOf(Velocity())
    assert make_loss_weighting(MinSNR(3.0)) == MinSNR(3.0)
    for name in LOSS_WEIGHTINGS.factories:
        assert isinstance(make_loss_weighting(name), LossWeighting)


@pytest.mark.parametrize(
    ("wrong", "error"), [("snr", ValueError), (2.0, TypeError), (MinSNR, TypeError)]
)
def test_unknown_weightings(wrong, error):
    with pytest.raises(error, match=r"loss_weighting .*uniform"):
        make_loss_weighting(wrong)


@pytest.mark.parametrize("gamma", [0.0, -1.0, "5"])
def test_bad_gamma(gamma):
    with pytest.raises((ValueError, TypeError), match="gamma"):
        MinSNR(gamma)
