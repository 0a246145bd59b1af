"""Networks of mean velocities (MeanFlow): their target, their steps, their density."""

import pytest
import torch as th
from smooth_critics import DIM, Exact, model
from torch import nn

from sb3_rfm import (
    FLAME_M,
    FPMD_M,
)
from sb3_rfm.common.actor_losses import mean_velocity
from sb3_rfm.common.flow import VelocityField
from sb3_rfm.common.regression import later_times
from sb3_rfm.sampling.divergences import ExactDivergence


class ExactMean(nn.Module):
    """The mean velocity of the straight path to N(m, s²), from t to a later r, in closed form."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(
        self,
        condition: th.Tensor,
        x: th.Tensor,
        t: th.Tensor,
        bfloat16: bool = False,
        later: th.Tensor | None = None,
    ) -> th.Tensor:
        t = t.unsqueeze(-1)
        r = t if later is None else later.unsqueeze(-1)
        now, then = ((1 - s) ** 2 + (s * self.std) ** 2 for s in (t, r))
        end = r * self.mean + (then / now).sqrt() * (x - t * self.mean)
        return (end - x) / (r - t)


def test_the_exact_mean_velocity_is_a_fixed_point_of_its_target() -> None:
    mean, std = 0.3, 0.4
    flow = model(FPMD_M).actor.flow
    network = ExactMean(mean, std).double()
    field = VelocityField(flow, network, th.zeros(1, 1))  # type: ignore[arg-type]
    t = th.tensor([[0.1, 0.4, 0.7]], dtype=th.float64)
    later = th.tensor([[0.3, 0.9, 1.0]], dtype=th.float64)
    x_t = th.randn(1, 3, DIM, dtype=th.float64)
    marginal = Exact(mean, std)(None, x_t, t.unsqueeze(-1))  # type: ignore[arg-type]
    target = mean_velocity(field, x_t, t, later, marginal)
    th.testing.assert_close(target, field.predict(x_t, t, later), rtol=1e-9, atol=1e-9)
    assert (target - marginal).abs().min() > 1e-3  # a premise: the mean is another velocity


def test_one_mean_step_draws_the_law_itself() -> None:
    flow = model(FPMD_M, flow={"t_range": (1e-4, 0.99)}).actor.flow
    assert flow.steps == 1
    field = VelocityField(flow, ExactMean(0.3, 0.2), th.zeros(1, 1))  # type: ignore[arg-type]
    ends = field.integrate(th.randn(20_000, 1, DIM))
    assert ends.mean() == pytest.approx(0.3, abs=0.01)
    assert ends.std() == pytest.approx(0.2, rel=0.02)


def test_the_network_of_two_times_is_the_velocitys_where_they_are_one() -> None:
    one = model(FPMD_M)
    network, condition = one.actor.network, th.randn(5, 32)
    x, t = th.randn(7, 5, DIM), th.rand(7, 5)
    same = network(condition, x, t)
    assert th.equal(network(condition, x, t, later=t), same)
    assert not th.allclose(network(condition, x, t, later=th.ones_like(t)), same)


def test_log_pi_of_mean_steps_is_that_of_what_they_draw() -> None:
    """The map is linear where the law is normal: its density is known at any number of steps."""
    one = model(FLAME_M, flow={"t_range": (1e-4, 0.99)})
    field = VelocityField(one.actor.flow, ExactMean(0.1, 0.2), th.zeros(400, 1))  # type: ignore[arg-type]
    assert one.method.divergence is not None
    points, log_pi = one.actor.sample_with_log_prob(field, 3, ExactDivergence(0.0))
    expected = th.distributions.Normal(0.1, 0.2).log_prob(points).sum(-1)
    th.testing.assert_close(log_pi, expected, rtol=0.01, atol=0.02)


def test_a_step_ends_within_the_box() -> None:
    """Else a policy that regresses on its own draws moves away from it, round by round."""
    one = model(FPMD_M)
    field = VelocityField(one.actor.flow, ExactMean(0.9, 0.5), th.zeros(1, 1))  # type: ignore[arg-type]
    ends = field.integrate(th.randn(1000, 1, DIM))
    assert ends.max() <= 1 + 1e-6
    assert (ends > 1 - 1e-6).double().mean() == pytest.approx(0.42, abs=0.05)


def test_a_quarter_of_the_spans_are_long() -> None:
    t = th.rand(200, 100)
    later = later_times(t)
    assert ((later > t).double().mean() - 0.25).abs() < 0.02
    assert (later >= t).all()
    assert (later <= 1).all()
    longest = ((later - t) / (1 - t))[later > t]
    assert longest.mean() == pytest.approx(0.5, abs=0.02)
