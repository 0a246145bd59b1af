import math

import pytest
import torch as th
from analytic import PROPERTY, doubles
from hypothesis import given
from hypothesis import strategies as st

from sb3_rfm.sampling import Box, Clipped, TanhLatent
from sb3_rfm.sampling.supports import SUPPORTS, Support


@PROPERTY
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4))
def test_log_det_is_the_log_of_the_jacobian(xs):
    x = doubles(*xs).requires_grad_()
    (slope,) = th.autograd.grad(TanhLatent().to_action(x).sum(), x)
    th.testing.assert_close(TanhLatent().log_det(x), slope.log().sum(), rtol=1e-9, atol=1e-9)


def test_uniform_actions_have_a_latent_density_that_integrates_to_one():
    x = th.linspace(-25, 25, 4001, dtype=th.float64)
    density = 0.5 * TanhLatent().log_det(x[:, None]).exp()
    assert float(th.trapezoid(density, x)) == pytest.approx(1.0, abs=1e-9)
    # Not by its height alone: the mean action of the upper half is a half.
    upper = (x > 0) * TanhLatent().to_action(x)
    assert float(2 * th.trapezoid(density * upper, x)) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("sign", [-1, 1])
def test_log_det_and_its_gradient_are_finite_and_right_far_out(dtype, sign):
    x = sign * th.tensor([[20.0], [300.0], [1000.0]], dtype=dtype)
    x.requires_grad_()
    log_det = TanhLatent().log_det(x)
    # log sech²(x) tends to log 4 - 2 |x|, its gradient to -2 sign(x).
    th.testing.assert_close(log_det.detach(), math.log(4) - 2 * x.detach().abs().squeeze(-1))
    (gradient,) = th.autograd.grad(log_det.sum(), x)
    th.testing.assert_close(gradient, th.full_like(gradient, -2.0 * sign))


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_round_trips(dtype):
    support = TanhLatent(bound=3.0)
    x = th.linspace(-2.9, 2.9, 30, dtype=dtype).view(10, 3)
    tolerance = 1e-4 if dtype == th.float32 else 1e-12
    back = support.from_action(support.to_action(x))
    th.testing.assert_close(back, x, rtol=0, atol=tolerance)
    action = th.linspace(-0.99, 0.99, 30, dtype=dtype).view(10, 3)
    again = support.to_action(support.from_action(action))
    th.testing.assert_close(again, action, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("bound", [0.5, 5.0, 30.0])
def test_actions_at_and_beyond_the_walls_land_on_the_bound(dtype, bound):
    # At bound 30 tanh rounds to one in both precisions.
    action = th.tensor([-1.0, 1.0, -1.0000001, 1.0000001, 2.0], dtype=dtype)
    x = TanhLatent(bound).from_action(action)
    assert x.tolist() == [-bound, bound, -bound, bound, bound]


@pytest.mark.parametrize(
    ("bound", "error"),
    [
        (0.0, ValueError),
        (-1.0, ValueError),
        (math.inf, ValueError),
        ("5", TypeError),
        (True, TypeError),
    ],
)
def test_bad_bound(bound, error):
    with pytest.raises(error, match="bound"):
        TanhLatent(bound)


def test_box_is_the_identity_but_for_rounding_at_the_walls():
    x = doubles(-1.0, 0.3, 1.0)
    assert th.equal(Box().to_action(x), x)
    assert th.equal(Box().from_action(x), x)
    assert Box().to_action(doubles(-1.2, 1.0001)).tolist() == [-1.0, 1.0]
    assert float(Box().log_det(x)) == 0.0
    assert Box().bounded
    assert not TanhLatent().bounded


def test_box_has_nothing_to_choose():
    """Its walls are those of the actions: constants of the class, where tanh's bound is a field."""
    assert (Box.bound, Box.bounded) == (1.0, True)
    assert Box() == Box()
    assert repr(Box()) == "Box()"
    with pytest.raises(TypeError):
        Box(2.0)
    with pytest.raises(TypeError):
        Box(bounded=False)
    assert TanhLatent(3.0).bound == 3.0


def test_registry_names():
    names = {
        "tanh": TanhLatent(),
        "box": Box(),
        "clipped": Clipped(),
        "extrapolated": Clipped(extrapolate=True),
    }
    assert {name: SUPPORTS.resolve(name, Support) for name in SUPPORTS.factories} == names


@pytest.mark.parametrize(
    "support", [TanhLatent(), Box(), Clipped(), Clipped(extrapolate=True)], ids=repr
)
def test_score_of_a_point_is_the_chain_rule(support):
    """Against automatic differentiation, for an uneven log-density of what is judged."""

    def log_p(judged):
        return (3 * judged.sin() - judged.square()).sum(-1)

    x = th.linspace(-2.5, 2.5, 40, dtype=th.float64).view(10, 4).requires_grad_()
    judged = support.critic_input(x)
    (exact,) = th.autograd.grad((log_p(judged) + support.log_det(x)).sum(), x)
    score = 3 * judged.cos() - 2 * judged
    got = support.score_of_point(x, judged, score)
    th.testing.assert_close(got, exact)
