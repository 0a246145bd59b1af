"""Rows on the straight path: noise expectation, mirror descent, rewards near a reference."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch as th
from scipy import stats
from smooth_critics import DIM, Exact, Table, batch_of, model
from torch import nn
from updates import draw

from sb3_rfm import (
    DPMD,
    FLAME,
    FPMD,
    ORWCFM,
)
from sb3_rfm.common.actor_losses import regression_loss
from sb3_rfm.common.critic_losses import next_value
from sb3_rfm.common.flow import VelocityField
from sb3_rfm.common.targets import Exponential


def test_flame_regresses_on_the_mean_velocity_of_truncated_noise() -> None:
    """
    For Q linear in a box, given ``x_t`` the action is a truncated normal, tilted and shifted, of
    which the mean velocity is known.
    """
    slope, lam = 1.5, 0.7
    one = model(FLAME, temperature=lam, estimator={"n_particles": 20_000})

    class Linear(nn.Module):
        def forward(
            self, features: th.Tensor, actions: th.Tensor | None = None, bfloat16: bool = False
        ) -> th.Tensor:
            assert actions is not None
            return slope * actions.sum(-1, keepdim=True)

    one.critic.use([Linear(), Linear()])
    th.manual_seed(1)
    t = th.tensor([[0.3], [0.6], [0.85]])
    c = one.actor.flow.interpolant(t)
    x_t = th.tensor([[0.2, -0.4], [0.5, 0.1], [-0.7, 0.6]])
    batch = batch_of(one)
    law = batch.log_density
    assert law is not None
    law = replace(law, features=law.features[:3])
    assert one.method.estimator is not None
    mean = one.method.estimator(law, c, x_t).mean
    # x_1 given x_t: N(x_t / alpha, (beta / alpha)²) on the box, tilted by exp(slope a / lambda)
    std = c.beta / c.alpha
    centre = x_t / c.alpha + std**2 * slope / lam
    low, high = (-1 - centre) / std, (1 - centre) / std
    expected = stats.truncnorm.mean(low, high, loc=centre, scale=std.expand_as(centre))
    x_1 = th.as_tensor(expected, dtype=th.float32)
    th.testing.assert_close(mean.x_1, x_1, rtol=0.02, atol=0.02)
    velocity = mean.x_1 - mean.x_0
    th.testing.assert_close(velocity, x_1 - c.noise_end(x_t, x_1), rtol=0.05, atol=0.05)


def test_evaluation_in_one_step_leaves_log_pi_and_exploration_as_they_are() -> None:
    one, few = (model(FLAME, flow={"evaluation_steps": steps}) for steps in (10, 1))
    obs = th.rand(5, 3)
    values = []
    for each in (one, few):
        th.manual_seed(2)
        value, info = next_value(each.policy, each.method, obs)
        values.append(th.cat([value, info["rfm/policy_entropy"][None], draw(each, obs, 2).ravel()]))
    assert th.equal(*values)
    with th.no_grad():
        assert not th.allclose(
            one.actor(obs, deterministic=True), few.actor(obs, deterministic=True), atol=1e-3
        )


@pytest.mark.parametrize("algorithm", [FPMD, FLAME])
def test_one_step_of_the_exact_field_ends_at_the_mean(algorithm: Any) -> None:
    one = model(algorithm, flow={"t_range": (1e-4, 0.99)})
    flow = one.actor.flow.deterministic()
    assert flow.steps == 1
    assert one.actor.flow.steps > 1
    field = VelocityField(flow, Exact(0.3, 0.2), th.zeros(1, 1))  # type: ignore[arg-type]
    ends = field.integrate(th.randn(1000, 1, DIM))
    th.testing.assert_close(ends, th.full_like(ends, 0.3), atol=2e-3, rtol=0)
    many = replace(field, flow=replace(flow, steps=200)).integrate(th.randn(4000, 1, DIM))
    assert many.std() == pytest.approx(0.2, rel=0.05)  # a premise: it is the field of that law


def test_mirror_descent_tilts_a_normal_law_by_its_variance() -> None:
    """
    Draws of N(m, s²) with values k a have the weighted mean m + k s² / lambda; values that are
    normalised, k = 1 / s, m + s / lambda.
    """
    th.manual_seed(3)
    actions = 0.2 + 0.1 * th.randn(1, 200_000, 1)
    blank = batch_of(model(DPMD, candidates={"n": 2}))
    batch = replace(blank, x_1=actions, q=7 * actions[..., 0], temperature=th.tensor(2.0))
    points, weights = Exponential(10.0, best=False)(batch)
    tilted = (weights[..., None] * points).mean()
    assert tilted == pytest.approx(0.2 + 0.1 / 2.0, abs=2e-3)


def test_mirror_descent_moves_to_the_best_candidates() -> None:
    """The mean of the best of M normal draws, where all states weigh alike."""
    th.manual_seed(3)
    actions = 0.2 + 0.1 * th.randn(8, 100_000, 1)
    blank = batch_of(model(DPMD, candidates={"n": 2}))
    batch = replace(blank, x_1=actions, q=actions[..., 0], temperature=th.tensor(1e6))
    points, weights = Exponential()(batch)
    assert th.equal(points[0], actions.amax(0))
    th.testing.assert_close(weights, th.ones_like(weights), atol=1e-4, rtol=0)
    assert points.mean() == pytest.approx(0.2 + 0.1 * 1.4236, abs=2e-3)  # of eight


def test_what_was_saved_before_goes_on_with_one_draw() -> None:
    before = Exponential(5.0, baseline=True)
    del before.__dict__["best"]
    loaded = pickle.loads(pickle.dumps(before))
    assert loaded == Exponential(5.0, baseline=True, best=False)
    for rule in (Exponential(), Exponential(best=False)):
        assert pickle.loads(pickle.dumps(rule)) == rule


def test_a_baseline_takes_the_states_value_out_of_the_weights() -> None:
    th.manual_seed(4)
    blank = batch_of(model(ORWCFM))
    of_state, advantage = 100 * th.randn(500), th.randn(9, 500)
    batch = replace(
        blank, x_1=th.zeros(9, 500, 1), q=of_state + advantage, temperature=th.tensor(1.0)
    )
    weights = {
        b: Exponential(5.0, best=False, baseline=b)(batch)[1][0].log() for b in (False, True)
    }
    own = advantage[0] - advantage[1:].mean(0)
    assert th.corrcoef(th.stack([weights[True], own]))[0, 1] > 0.99
    assert abs(th.corrcoef(th.stack([weights[False], own]))[0, 1]) < 0.2


def test_orw_cfm_is_least_between_weighted_velocity_and_reference() -> None:
    """At a given ``x_t`` the least of the loss is (mean(w u) + c v_ref) / (mean(w) + c)."""
    c = 0.4
    one = model(ORWCFM, actor_update={"reference": c}, candidates={"train": 4})
    network, reference = Table(th.zeros(DIM)), Table(th.tensor([0.7, -0.2]))
    batch = batch_of(one)
    field = replace(batch.velocity, network=network)  # type: ignore[arg-type]
    batch = replace(
        batch,
        velocity=field,
        reference_velocity=replace(field, network=reference),  # type: ignore[arg-type]
    )

    def gradient(method: Any, at: th.Tensor) -> th.Tensor:
        network.values.data.copy_(at)
        th.manual_seed(5)  # the same times and noise
        loss, _ = regression_loss(method, batch)
        (slope,) = th.autograd.grad(loss, network.values)
        return slope

    zero = th.zeros(DIM)
    free = replace(one.method, reference=0.0)
    # the loss is quadratic: gradient(v) = 2 / D (mean(w) + c) v - 2 / D (mean(w u) + c v_ref)
    weighted = -gradient(free, zero) * DIM / 2
    mass = (gradient(free, zero + 1) - gradient(free, zero)) * DIM / 2
    th.testing.assert_close(mass, th.ones(DIM))  # weights are divided by their mean
    least = (weighted + c * reference.values.detach()) / (1 + c)
    th.testing.assert_close(gradient(one.method, least), zero, atol=1e-5, rtol=0)
    assert gradient(free, least).abs().min() > 1e-3
