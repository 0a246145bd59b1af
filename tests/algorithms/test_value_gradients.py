"""The gradient of Q through the sampler, and the values of the behaviour."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch as th
from smooth_critics import BATCH, DIM, batch_of, model
from torch import nn
from updates import transitions, update_actor

from sb3_rfm import (
    DACER,
    FPMD,
    ORWCFM,
    QNE,
    DACERv2,
    FlowRL,
    RFMFlow,
)
from sb3_rfm.common.actor_losses import regression_loss, value_gradient_loss
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.behaviour import EXPECTILE
from sb3_rfm.common.critic_losses import behaviour_loss
from sb3_rfm.common.flow import clamp_inward
from sb3_rfm.common.targets import ActorBatch, BetterReplayed
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.sampling import Coefficients, UnitScore


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
        x_1 = clamp_inward((x - c.beta * noise) / c.alpha, 1.0)
        x_0 = (x - c.alpha * x_1) / c.beta
        kept = c.alpha * after.beta / (after.alpha * c.beta)
        variance = after.beta**2 * (1 - kept**2)
        fresh = th.randn_like(x)
        x = after.alpha * x_1 + (after.beta**2 - variance).sqrt() * x_0 + variance.sqrt() * fresh
    std = 0.1 * one.actor.temperature().detach()
    actions = clamp_inward(x, 1.0)
    noisy = (actions + std * th.randn_like(x)).clamp(-1, 1)
    return actions + (noisy - actions).detach()


def test_what_is_clamped_can_be_drawn_back_inside() -> None:
    x = th.tensor([-3.0, -3.0, 0.5, 3.0, 3.0], requires_grad=True)
    slope = th.tensor([1.0, -1.0, 2.0, 1.0, -1.0])  # a descent moves x by minus this
    clamped = clamp_inward(x, 1.0)
    assert th.equal(clamped, x.clamp(-1, 1))
    (gradient,) = th.autograd.grad((slope * clamped).sum(), x)
    assert th.equal(gradient, th.tensor([0.0, -1.0, 2.0, 1.0, 0.0]))


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
        data = transitions(th.rand(8, 3), th.rand(8, DIM))
        one._update_critic(data._replace(rewards=th.full((8, 1), 1e6)))
        assert (one.temperature > 1.2 * before) == moves
        assert one.critic.unit > 1.2


def test_the_value_of_the_behaviour_is_an_expectile() -> None:
    """Of values 0 and 1, equally often, the expectile tau is tau itself."""
    one = model(FlowRL)
    behaviour = one.policy.behaviour
    assert behaviour is not None

    class OneOrZero(nn.Module):
        def forward(
            self, joined: th.Tensor, actions: th.Tensor | None = None, bfloat16: bool = False
        ) -> th.Tensor:
            seen = joined if actions is None else actions
            return (seen[..., -1:] > 0).to(joined.dtype)

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
