import pytest
import torch as th
from analytic import ALL_INTERPOLANTS, PROPERTY, doubles, seeded
from hypothesis import given
from hypothesis import strategies as st

from sb3_rfm.sampling import Data, EndPoints, Linear, MeanVelocity, Noise, Score, Velocity, VPCosine
from sb3_rfm.sampling.parametrizations import PARAMETRIZATIONS, Parametrization

every_parametrization = pytest.mark.parametrize(
    "parametrization", [Noise(), Data(), Velocity(), Score()], ids=repr
)
points = st.lists(st.floats(-10, 10), min_size=3, max_size=3).map(lambda xs: doubles(*xs))


@every_parametrization
@PROPERTY
@given(st.sampled_from(ALL_INTERPOLANTS), st.floats(0.05, 0.95), points, points)
def test_end_points_invert_target(parametrization, interpolant, t, x_0, x_1):
    c = interpolant(doubles(t))
    x_t = c.alpha * x_1 + c.beta * x_0
    value = parametrization.target(c, EndPoints(x_0, x_1))
    back = parametrization.end_points(c, x_t, value)
    th.testing.assert_close(back, EndPoints(x_0, x_1), rtol=1e-9, atol=1e-9)


@every_parametrization
def test_each_row_has_its_own_time(parametrization):
    interpolant, t = VPCosine(), doubles(0.2, 0.5, 0.9)
    x_0, x_1 = th.randn(2, 3, 2, dtype=th.float64, generator=seeded(0))
    value = parametrization.target(interpolant(t[:, None]), EndPoints(x_0, x_1))
    for i in range(3):
        row = parametrization.target(interpolant(t[i]), EndPoints(x_0[i], x_1[i]))
        th.testing.assert_close(value[i], row)


@every_parametrization
def test_maps_means_to_means(parametrization):
    c = VPCosine()(doubles(0.3))
    x_0, x_1 = th.randn(2, 50, 2, dtype=th.float64, generator=seeded(0))
    of_means = parametrization.target(c, EndPoints(x_0.mean(0), x_1.mean(0)))
    th.testing.assert_close(parametrization.target(c, EndPoints(x_0, x_1)).mean(0), of_means)


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
def test_velocity_is_the_time_derivative_of_the_path(interpolant):
    t, ends = doubles(0.4), EndPoints(doubles(0.3, -2.0), doubles(1.5, 0.1))

    def path(s):
        c = interpolant(s)
        return c.alpha * ends.x_1 + c.beta * ends.x_0

    derivative = th.autograd.functional.jacobian(path, t).flatten()
    th.testing.assert_close(Velocity().target(interpolant(t), ends), derivative)


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
def test_score_is_the_gradient_of_the_log_density_of_the_mix_given_the_action(interpolant):
    c, ends = interpolant(doubles(0.4)), EndPoints(doubles(0.3, -2.0), doubles(1.5, 0.1))
    x_t = (c.alpha * ends.x_1 + c.beta * ends.x_0).requires_grad_()
    th.distributions.Normal(c.alpha * ends.x_1, c.beta).log_prob(x_t).sum().backward()
    th.testing.assert_close(Score().target(c, ends), x_t.grad)


def test_noise_and_data_are_the_end_points_themselves():
    c, ends = Linear()(doubles(0.4)), EndPoints(doubles(0.3, -2.0), doubles(1.5, 0.1))
    assert th.equal(Noise().target(c, ends), ends.x_0)
    assert th.equal(Data().target(c, ends), ends.x_1)


@pytest.mark.parametrize("interpolant", [Linear(), VPCosine()], ids=repr)
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_velocity_gives_both_end_points_at_both_ends(interpolant, t):
    c, ends = interpolant(doubles(t)), EndPoints(doubles(0.3, -2.0), doubles(1.5, 0.1))
    x_t = c.alpha * ends.x_1 + c.beta * ends.x_0
    back = Velocity().end_points(c, x_t, Velocity().target(c, ends))
    th.testing.assert_close(back, ends)


@pytest.mark.parametrize(("parametrization", "t"), [(Noise(), 0.0), (Data(), 1.0)])
def test_singular_where_the_value_repeats_the_mix(parametrization, t):
    c, x = Linear()(doubles(t)), doubles(0.3)
    unknown = parametrization.end_points(c, x, x)
    assert not all(bool(end.isfinite().all()) for end in unknown)


def test_registry_names():
    expected = {
        "noise": Noise(),
        "data": Data(),
        "velocity": Velocity(),
        "mean_velocity": MeanVelocity(),
        "score": Score(),
    }
    known = PARAMETRIZATIONS.factories
    assert {name: PARAMETRIZATIONS.resolve(name, Parametrization) for name in known} == expected
