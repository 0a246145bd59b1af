"""
The rows of other families: mirror descent in one step, reward weighting near a reference, the
gradient of Q through the sampler, and the values of the behaviour.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch as th
from environments import Bandit
from scipy import stats
from torch import nn
from updates import draw, transitions, update_actor

from sb3_rfm import (
    DACER,
    DPMD,
    FLAME,
    FLAME_M,
    FPMD,
    FPMD_M,
    ORWCFM,
    QNE,
    DACERv2,
    FlowRL,
    RFMFlow,
)
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.behaviour import EXPECTILE
from sb3_rfm.common.flow import VelocityField
from sb3_rfm.common.losses import (
    actor_batch,
    behaviour_loss,
    mean_velocity,
    next_value,
    regression_loss,
    value_gradient_loss,
)
from sb3_rfm.common.targets import ActorBatch, BetterReplayed, Exponential, later_times
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.sampling import Coefficients, UnitScore
from sb3_rfm.sampling.divergences import ExactDivergence

BATCH, DIM = 64, 2


def model(algorithm: type[FlowActorCritic], **changes: Any) -> FlowActorCritic:
    """With smooth critics that differ from one another and from their targets."""
    th.manual_seed(0)
    settings: dict[str, Any] = {
        "buffer_size": 100,
        "device": "cpu",
        "seed": 0,
        "bfloat16": False,
        "policy_kwargs": {"net_arch": [32, 32], "activation_fn": nn.Tanh},
    }
    one = algorithm("MlpPolicy", Bandit(), **merged(settings, changes))
    critics = [each for pair in one.policy.averages() for each in pair]
    for parameter in [p for critic in critics for p in critic.parameters()]:
        parameter.data.mul_(1.5).add_(0.1 * th.randn_like(parameter))
    return one


class Table(nn.Module):
    """A network whose predictions are given, whatever it is asked."""

    def __init__(self, values: th.Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(
        self, condition: th.Tensor, x: th.Tensor, t: th.Tensor, bfloat16: bool = False
    ) -> th.Tensor:
        return self.values.expand_as(x)


class Exact(nn.Module):
    """The velocity of the straight path to N(m, s²)."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(
        self, condition: th.Tensor, x: th.Tensor, t: th.Tensor, bfloat16: bool = False
    ) -> th.Tensor:
        variance = t**2 * self.std**2 + (1 - t) ** 2
        innovation = (x - t * self.mean) / variance
        return (self.mean + t * self.std**2 * innovation) + (1 - t) * innovation * -1


def batch_of(one: FlowActorCritic, **changes: Any) -> ActorBatch:
    obs, actions = th.rand(BATCH, 3), 1.8 * th.rand(BATCH, DIM) - 0.9
    return replace(actor_batch(one.policy, one.method, transitions(obs, actions)), **changes)


# -------------------------------------------------------------------- on the straight path


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
    points, weights = Exponential(10.0)(batch)
    tilted = (weights[..., None] * points).mean()
    assert tilted == pytest.approx(0.2 + 0.1 / 2.0, abs=2e-3)


def test_a_baseline_takes_the_states_value_out_of_the_weights() -> None:
    th.manual_seed(4)
    blank = batch_of(model(ORWCFM))
    of_state, advantage = 100 * th.randn(500), th.randn(9, 500)
    batch = replace(
        blank, x_1=th.zeros(9, 500, 1), q=of_state + advantage, temperature=th.tensor(1.0)
    )
    weights = {b: Exponential(5.0, baseline=b)(batch)[1][0].log() for b in (False, True)}
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


# -------------------------------------------------------------------- mean velocities


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


def test_a_quarter_of_the_spans_are_long() -> None:
    t = th.rand(200, 100)
    later = later_times(t)
    assert ((later > t).double().mean() - 0.25).abs() < 0.02
    assert (later >= t).all()
    assert (later <= 1).all()
    longest = ((later - t) / (1 - t))[later > t]
    assert longest.mean() == pytest.approx(0.5, abs=0.02)


# -------------------------------------------------------------------- through the sampler


def test_the_value_gradient_is_autograds_through_all_steps() -> None:
    one = model(DACER, temperature=0.5)
    batch = batch_of(one)
    network = one.actor.network
    th.manual_seed(6)
    loss, info = value_gradient_loss(one.policy, one.method, batch)
    own = th.autograd.grad(loss, list(network.parameters()), retain_graph=True)

    th.manual_seed(6)
    start = one.actor.sample_noise(batch.velocity.condition, 1)
    actions = batch_of_actions(one, batch, start)
    q = th.stack(
        [
            network_of(th.cat([batch.features, actions[0]], -1))[..., 0]
            for network_of in one.critic.q_networks
        ]
    ).amin(0)
    q = one.critic.unit * q
    by_hand = -(q / q.detach().abs().mean()).mean()
    expected = th.autograd.grad(by_hand, list(network.parameters()))
    for mine, theirs in zip(own, expected, strict=True):
        th.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    assert info["rfm/q_policy"] == pytest.approx(q.mean().item(), rel=1e-4)
    assert any(g.abs().max() > 1e-4 for g in own)
    assert all(p.grad is None for p in one.critic.parameters())


def batch_of_actions(one: FlowActorCritic, batch: ActorBatch, start: th.Tensor) -> th.Tensor:
    """The steps of the solver in turn, then the noise of the critics' target."""
    flow, field, x = one.actor.flow, batch.velocity, start
    times = th.linspace(flow.t_range[0], 1.0, flow.steps + 1)
    for now, then in pairwise(times):
        c, after = flow.interpolant(now), flow.interpolant(then)
        noise = field.network(field.condition, x, now)
        x_1 = ((x - c.beta * noise) / c.alpha).clamp(-1, 1)
        x_0 = (x - c.alpha * x_1) / c.beta
        kept = c.alpha * after.beta / (after.alpha * c.beta)
        variance = after.beta**2 * (1 - kept**2)
        fresh = th.randn_like(x)
        x = after.alpha * x_1 + (after.beta**2 - variance).sqrt() * x_0 + variance.sqrt() * fresh
    std = 0.1 * one.actor.temperature().detach()
    return (x.clamp(-1, 1) + std * th.randn_like(x)).clamp(-1, 1)


def test_the_unit_of_values_does_not_matter_to_the_ascent() -> None:
    one = model(DACER, temperature=0.5)
    batch = batch_of(one)
    gradients = []
    for factor in (1.0, 1000.0):
        one.critic.unit.fill_(factor)
        th.manual_seed(7)
        loss, _ = value_gradient_loss(one.policy, one.method, batch)
        slopes = th.autograd.grad(loss, list(one.actor.network.parameters()), retain_graph=True)
        gradients.append(slopes[0])
    th.testing.assert_close(*gradients)


def test_dacerv2_asks_nothing_of_a_score_that_is_as_stated() -> None:
    estimator, t = UnitScore(), th.tensor([[0.2], [0.9]])
    c = Coefficients(t, (1 - t**2).sqrt(), t, t)
    x = th.tensor([[0.5, -0.3], [0.1, 0.8]])
    slope = th.tensor([[3.0, 4.0], [-0.006, 0.008]])
    means = estimator(lambda y: (slope * y).sum(-1), c, x).mean
    direction = th.tensor([[0.6, 0.8], [-0.6, 0.8]])
    expected = (2 * c.beta - 1.8).exp() * direction
    th.testing.assert_close(-means.x_0 / c.beta, expected)
    th.testing.assert_close(c.alpha * means.x_1 + c.beta * means.x_0, x)
    one = model(DACERv2)
    assert isinstance(one.method.estimator, UnitScore)
    info = update_actor(one, th.rand(8, 3), th.rand(8, DIM))
    assert {"train/actor_loss", "rfm/q_policy"} <= set(info)


def test_a_scale_of_noise_does_not_move_with_the_unit_of_values() -> None:
    """Lambda is in units of value in RFMFlow alone of these."""
    for algorithm, moves in ((RFMFlow, True), (QNE, True), (DACER, False), (FPMD, False)):
        one = model(algorithm, temperature="auto_0.5", learning_starts=10, batch_size=8)
        before = one.temperature
        one.settings = replace(
            one.settings, actor_update=replace(one.settings.actor_update, every=100)
        )
        one.replay_buffer.reset()
        data = transitions(th.rand(8, 3), th.rand(8, DIM))
        one._update_critic(data._replace(rewards=th.full((8, 1), 1e6)))
        assert (one.temperature > 1.2 * before) == moves
        assert one.critic.unit > 1.2


# -------------------------------------------------------------------- the behaviour's values


def test_the_value_of_the_behaviour_is_an_expectile() -> None:
    """Of values 0 and 1, equally often, the expectile tau is tau itself."""
    one = model(FlowRL)
    behaviour = one.policy.behaviour
    assert behaviour is not None

    class OneOrZero(nn.Module):
        def forward(self, joined: th.Tensor) -> th.Tensor:
            return (joined[..., -1:] > 0).to(joined.dtype)

    behaviour.critic_target.use([OneOrZero(), OneOrZero()])
    behaviour.critic.unit.fill_(1.0)
    behaviour.critic_target.unit.fill_(1.0)
    actions = th.tensor([[0.5, 0.5], [0.5, -0.5]]).repeat(50, 1)
    data = transitions(th.zeros(100, 3), actions)
    optimizer = th.optim.Adam(behaviour.value_network.parameters(), 0.01)
    for _ in range(500):
        optimizer.zero_grad()
        behaviour_loss(behaviour, one.method, data, 0.9)[0].backward()
        optimizer.step()
    learnt = behaviour.value(data.observations).mean().item()
    assert learnt == pytest.approx(EXPECTILE, abs=0.01)


def test_the_behaviours_critics_learn_the_return_of_what_was_done() -> None:
    one = model(FlowRL)
    behaviour = one.policy.behaviour
    assert behaviour is not None
    data = transitions(th.rand(9, 3), th.rand(9, DIM))
    data = data._replace(rewards=th.rand(9, 1), dones=th.tensor([[0.0]] * 8 + [[1.0]]))
    target = data.rewards + 0.9 * (1 - data.dones) * behaviour.value(data.next_observations)
    values = th.stack(behaviour.critic(data.observations, data.actions))
    errors = behaviour.errors(data, target.detach())
    th.testing.assert_close(errors[:2], 0.5 * (values - target).square())
    loss, _ = behaviour_loss(behaviour, one.method, data, 0.9)
    assert loss.item() == pytest.approx(errors.mean((1, 2)).sum().item())
    gradients = th.autograd.grad(loss, behaviour.parameters_to_learn(), allow_unused=True)
    assert all(g is not None for g in gradients)


def test_flowrl_clones_what_was_better_and_nothing_else() -> None:
    blank = batch_of(model(FlowRL))
    excess = th.tensor([-2.0, -0.1, 0.0, 1.0, 2.0])
    batch = replace(blank, replayed=th.rand(5, 2), excess=excess)
    points, weights = BetterReplayed()(batch)
    assert th.equal(points, batch.replayed[None])
    mean = 3.0 / 5
    expected = th.tensor([0.0, 0.0, -mean, 1 - mean, 2 - mean]).exp() * (excess >= 0)
    th.testing.assert_close(weights[0], expected)
    # each error has its own weight: what is worse is not cloned at all
    one = model(FlowRL)
    worse = replace(batch_of(one), excess=th.full((BATCH,), -1.0))
    loss, _ = regression_loss(one.method, worse)
    assert loss == 0


def test_one_unit_serves_all_of_flowrls_values() -> None:
    one = model(FlowRL, learning_starts=20).learn(60)
    behaviour = one.policy.behaviour
    assert behaviour is not None
    for critic in (one.critic_target, behaviour.critic, behaviour.critic_target):
        assert th.equal(critic.unit, one.critic.unit)
    assert one.critic.unit != 1
    saved = one.policy.state_dict()
    assert {name.split(".")[1] for name in saved if name.startswith("behaviour")} == {
        *("critic", "critic_target", "value_network")
    }


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        (DACER, {"actor_update.value_gradient": 0.0}, "value_gradient must .*above 0 with .*none"),
        (DACER, {"actor_update.reference": 1.0}, "actor_update.reference must"),
        (RFMFlow, {"actor_update.reference": 1.0}, "0 without actor_update.average"),
        (RFMFlow, {"actor_update.value_gradient": -1.0}, "actor_update.value_gradient must"),
        (RFMFlow, {"flow.evaluation_steps": 0}, "flow.evaluation_steps must"),
        (FPMD, {"flow.one_step": True}, "flow.evaluation_steps must .*None with flow.one_step"),
        (
            ORWCFM,
            {"flow.one_step": True, "flow.evaluation_steps": None},
            "actor_update.reference must .*0 with flow.one_step",
        ),
        (DACER, {"estimator": {"n_particles": 4}}, "estimator is not used where .*'none'"),
        (FlowRL, {"temperature": 0.1}, "temperature is not used by these settings"),
        (RFMFlow, {"flow.solver": "mean_step"}, "flow.parametrization must .*'mean_velocity'"),
    ],
)
def test_what_nothing_would_use_is_refused(
    algorithm: Any, changes: dict[str, Any], message: str
) -> None:
    nested: dict[str, Any] = {}
    for path, value in changes.items():
        group, _, name = path.partition(".")
        nested = merged(nested, {group: {name: value}} if name else {group: value})
    with pytest.raises((ValueError, TypeError), match=message):
        model(algorithm, **nested)
