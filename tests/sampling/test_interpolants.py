import math

import pytest
import torch as th
from analytic import ALL_INTERPOLANTS, PROPERTY, doubles
from hypothesis import given
from hypothesis import strategies as st

from sb3_rfm.sampling import Linear, VEGeometric, VPCosine, VPLinear
from sb3_rfm.sampling.interpolants import INTERPOLANTS, Interpolant

variance_preserving = st.one_of(
    st.just(VPCosine()),
    st.builds(VPLinear, beta_min=st.floats(0.01, 1.0), beta_max=st.floats(1.5, 30.0)),
)
interpolants = st.one_of(
    st.just(Linear()),
    variance_preserving,
    st.builds(VEGeometric, sigma_min=st.floats(1e-3, 0.5), sigma_max=st.floats(0.6, 80.0)),
)
times = st.floats(0.01, 0.99)


@PROPERTY
@given(interpolants, times)
def test_derivatives_equal_autograd(interpolant, t):
    def schedules(s):
        c = interpolant(s)
        return th.cat([c.alpha, c.beta])

    c = interpolant(doubles(t))
    slopes = th.autograd.functional.jacobian(schedules, doubles(t))
    th.testing.assert_close(th.stack([c.d_alpha, c.d_beta]), slopes, rtol=1e-9, atol=1e-12)


@PROPERTY
@given(variance_preserving, st.floats(0.0, 1.0))
def test_variance_preserving(interpolant, t):
    c = interpolant(doubles(t))
    assert float(c.alpha**2 + c.beta**2) == pytest.approx(1.0, abs=1e-14)


@PROPERTY
@given(interpolants)
def test_goes_from_noise_to_action_without_turning_back(interpolant):
    c = interpolant(th.linspace(0, 0.999, 200, dtype=th.float64))
    assert (c.alpha.diff() >= 0).all()
    assert (c.beta.diff() <= 0).all()
    assert ((c.alpha / c.beta).diff() > 0).all()


@pytest.mark.parametrize(
    ("interpolant", "at_0", "at_1"),
    [
        (Linear(), (0, 1), (1, 0)),
        (VPCosine(), (0, 1), (1, 0)),
        # The integral of a linear beta over [0, 1] is its mean; alpha is exp(-integral / 2).
        (VPLinear(0.2, 16.0), (math.exp(-4.05), math.sqrt(1 - math.exp(-8.1))), (1, 0)),
        (VEGeometric(0.02, 5.0), (1, 5), (1, 0.02)),
    ],
)
def test_boundary_values(interpolant, at_0, at_1):
    c = interpolant(doubles(0.0, 1.0))
    expected = doubles(*at_0, *at_1).view(2, 2)
    th.testing.assert_close(th.stack([c.alpha, c.beta], -1), expected, rtol=1e-12, atol=1e-15)


def test_vp_linear_has_a_noise_rate_linear_in_time():
    c = VPLinear(0.2, 16.0)(doubles(0.0, 0.25, 1.0))
    rate = 2 * c.d_alpha / c.alpha
    th.testing.assert_close(rate, doubles(16.0, 12.05, 0.2))
    assert c.d_beta[-1] == -math.inf


def test_ve_is_geometric():
    half = VEGeometric(0.02, 4.5)(doubles(0.5)).beta
    assert float(half) == pytest.approx(math.sqrt(0.02 * 4.5))


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_keeps_shape_and_dtype_and_indexes_a_time(interpolant, dtype):
    t = th.linspace(0.1, 0.9, 6, dtype=dtype).view(3, 2)
    c = interpolant(t)
    assert all(part.shape == (3, 2) and part.dtype == dtype for part in c)
    th.testing.assert_close(c.at(2), interpolant(t[2]), rtol=0, atol=0)


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
def test_single_precision_is_accurate_up_to_both_ends(interpolant):
    t = th.linspace(0, 1, 1001)[:-1]
    single, double = interpolant(t), interpolant(t.double())
    for coarse, fine in zip(single, double, strict=True):
        th.testing.assert_close(coarse.double(), fine, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [VPLinear, VEGeometric])
@pytest.mark.parametrize(
    ("low", "high", "error"),
    [
        (0.0, 1.0, ValueError),
        (-0.1, 1.0, ValueError),
        (2.0, 2.0, ValueError),
        (2.0, 1.0, ValueError),
        (math.nan, 1.0, ValueError),
        (0.1, math.inf, ValueError),
        ("0.1", 1.0, TypeError),
        (0.1, True, TypeError),
    ],
)
def test_bad_arguments(make, low, high, error):
    with pytest.raises(error, match=r"(beta|sigma)_(min|max)"):
        make(low, high)


def test_registry_builds_the_defaults():
    assert INTERPOLANTS.resolve("ve", Interpolant) == VEGeometric()
    assert {type(make()) for make in INTERPOLANTS.factories.values()} == {
        Linear,
        VPCosine,
        VPLinear,
        VEGeometric,
    }
