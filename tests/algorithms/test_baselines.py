"""What makes each baseline itself: its regression target, by its paper's formula in other words."""

from dataclasses import replace
from typing import Any

import pytest
import torch as th
from smooth_critics import BATCH, DIM, model
from torch import nn
from updates import draw, transitions

from sb3_rfm import DPMD, DQS, IDEM, QNE, QSM, QVPO, SDAC
from sb3_rfm.common.actor_losses import actor_batch, regression
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.critic_losses import next_value
from sb3_rfm.common.regression import Regression
from sb3_rfm.common.targets import ActorBatch, Advantage
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.sampling import Noise, Posterior, Score
from sb3_rfm.sampling.estimators.posteriors import Estimator


class Recorded(Estimator):
    """Another estimator that keeps its last posterior."""

    def __init__(self, base: Estimator) -> None:
        self.base, self.posterior = base, None

    def check_support(self, bounded: bool) -> None:
        self.base.check_support(bounded)

    def __call__(self, *args: Any, **kwargs: Any) -> Posterior:
        self.posterior = self.base(*args, **kwargs)
        return self.posterior


def regressed(
    one: FlowActorCritic,
) -> tuple[th.Tensor, ActorBatch, Regression, Posterior | None]:
    """The regression at a batch of states, and the particles it was made of."""
    th.manual_seed(1)
    obs, actions = th.rand(BATCH, 3), 1.8 * th.rand(BATCH, DIM) - 0.9
    method, recorded = one.method, None
    if method.estimator is not None:
        recorded = Recorded(method.estimator)
        method = replace(method, estimator=recorded)
    batch = actor_batch(one.policy, method, transitions(obs, actions))
    problem, _ = regression(method, batch)
    assert th.equal(batch.replayed, actions)  # the flow lives where the actions do
    if len(problem.t) == 1:
        problem = problem._replace(t=problem.t[0])
    return obs, batch, problem, recorded and recorded.posterior


def values(critic: nn.Module, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Each critic's value of (*S, B, D) actions, by Stable-Baselines3's own way: (C, *S, B)."""
    flat = actions.reshape(-1, DIM)
    states = obs.expand(*actions.shape[:-1], 3).reshape(-1, 3)
    return th.stack([q.view(actions.shape[:-1]) for q in critic(states, flat)])


def weighted_noise(
    one: FlowActorCritic, obs: th.Tensor, problem: Regression, x_1: th.Tensor, q: th.Tensor
) -> th.Tensor:
    """``sum_i softmax(q / lambda)_i (x_t - alpha x_1^i) / beta``."""
    c = one.actor.flow.interpolant(problem.t.unsqueeze(-1))
    weights = th.softmax(q / one.actor.temperature(), 0).unsqueeze(-1)
    assert weights.amax(0).mean() > 3 / len(x_1)  # a premise: they are uneven
    return (weights * (problem.x_t - c.alpha * x_1) / c.beta).sum(0)


def test_qne_averages_truncated_noise_by_the_target_critics() -> None:
    one = model(QNE, estimator={"n_particles": 64}, flow={"t_range": (0.05, 0.95)})
    obs, _, problem, posterior = regressed(one)
    assert posterior is not None
    assert posterior.x_1.abs().max() <= 1
    q = values(one.critic_target, obs, posterior.x_1).amin(0)
    target = weighted_noise(one, obs, problem, posterior.x_1, q)
    th.testing.assert_close(problem.target[0], target, rtol=1e-3, atol=1e-3)
    q = values(one.critic, obs, posterior.x_1).amin(0)
    wrong = weighted_noise(one, obs, problem, posterior.x_1, q)
    assert (wrong - target).abs().max() > 0.1  # a premise: the critics differ from their targets
    assert isinstance(one.actor.flow.parametrization, Noise)


def test_sdac_averages_noise_by_the_clipped_actions_value() -> None:
    one = model(SDAC, critic_update={"reward_scale": 1.0}, candidates={"n": 4})
    obs, batch, problem, posterior = regressed(one)
    assert posterior is not None
    assert (posterior.x_1.abs() > 1).any()  # a premise: particles leave the box
    q = values(one.critic, obs, posterior.x_1.clamp(-1, 1)).amin(0)
    target = weighted_noise(one, obs, problem, posterior.x_1, q)
    th.testing.assert_close(problem.target[0], target, rtol=1e-3, atol=1e-3)
    # x_t is mixed from the best candidate: what is left of it is standard normal noise
    best = batch.x_1[batch.q.argmax(0), th.arange(BATCH)]
    c = one.actor.flow.interpolant(problem.t.unsqueeze(-1))
    noise = (problem.x_t[0] - c.alpha * best) / c.beta
    assert noise.mean().abs() < 4 / (BATCH * DIM) ** 0.5
    assert noise.std() == pytest.approx(1.0, abs=0.25)


def test_rsm_loss_has_the_gradient_of_the_regression_on_the_mean() -> None:
    """``sum_i w_i |x_0^i - f|²`` of reverse sampled score matching, in f."""
    one = model(SDAC, candidates={"n": 4})
    _, _, problem, posterior = regressed(one)
    assert posterior is not None
    prediction = th.randn(BATCH, DIM, requires_grad=True)
    apart = (posterior.weights * (posterior.x_0 - prediction).square().sum(-1)).sum(0).sum()
    (gradient,) = th.autograd.grad(apart, prediction)
    mean = (problem.target[0] - prediction).square().sum()
    th.testing.assert_close(th.autograd.grad(mean, prediction)[0], gradient, rtol=1e-3, atol=1e-3)


def score_of_log_mean_exp(
    one: FlowActorCritic, obs: th.Tensor, problem: Regression, posterior: Posterior
) -> th.Tensor:
    """``grad_x log mean_i exp(min Q(s, x + beta eps_i) / lambda)`` by autograd, at ``x_t``."""
    c = one.actor.flow.interpolant(problem.t.unsqueeze(-1))
    x = problem.x_t[0].clone().requires_grad_()
    q = values(one.critic, obs, x - c.beta * posterior.x_0).amin(0)
    (score,) = th.autograd.grad(th.logsumexp(q / one.actor.temperature(), 0).sum(), x)
    return score


def test_dqs_regresses_on_the_gradient_of_log_mean_exp() -> None:
    one = model(DQS, estimator={"n_particles": 64})
    obs, _, problem, posterior = regressed(one)
    assert posterior is not None
    assert (posterior.x_1.abs() > 1).any()  # a premise: the critic is asked beyond the walls
    score = score_of_log_mean_exp(one, obs, problem, posterior)
    c = one.actor.flow.interpolant(problem.t.unsqueeze(-1))
    # what is compared is what the loss sees: the score's error times the standard deviation
    th.testing.assert_close(problem.scale[0].abs(), c.beta)
    th.testing.assert_close(c.beta * problem.target[0], c.beta * score, rtol=1e-3, atol=1e-4)
    assert (c.beta * score).abs().mean() > 0.05
    assert isinstance(one.actor.flow.parametrization, Score)


def test_idem_clips_the_norm_of_that_score() -> None:
    one = model(IDEM, temperature=0.02)
    obs, _, problem, posterior = regressed(one)
    assert posterior is not None
    score = score_of_log_mean_exp(one, obs, problem, posterior)
    norm = score.norm(dim=-1, keepdim=True)
    assert 0.1 < (norm > 20).double().mean() < 0.9  # a premise: some are clipped, some are not
    c = one.actor.flow.interpolant(problem.t.unsqueeze(-1))
    clipped = score * (20 / norm).clamp_max(1)
    th.testing.assert_close(c.beta * problem.target[0], c.beta * clipped, rtol=1e-3, atol=1e-3)


def test_qsm_regresses_on_the_gradient_at_the_point_itself() -> None:
    one = model(QSM, flow={"t_range": (0.05, 0.95)})
    obs, _, problem, _ = regressed(one)
    x = problem.x_t[0].clone().requires_grad_()
    assert (x.abs() > 1).any()  # a premise: the gradient beyond the walls counts, too
    (gradient,) = th.autograd.grad(values(one.critic, obs, x).mean(0).sum(), x)
    th.testing.assert_close(problem.target[0], -50 * gradient, rtol=1e-3, atol=1e-3)
    assert gradient.abs().min() > 0


def own_noise(one: FlowActorCritic, problem: Regression, x_1: th.Tensor) -> th.Tensor:
    c = one.actor.flow.interpolant(problem.t.unsqueeze(-1))
    return (problem.x_t - c.alpha * x_1) / c.beta


def test_qvpo_weights_the_best_action_by_its_advantage() -> None:
    one = model(QVPO, flow={"t_range": (0.05, 0.95)})
    obs, batch, problem, posterior = regressed(one)
    assert posterior is None  # no estimator is asked
    assert batch.x_1.shape[0] == 64
    q = values(one.critic, obs, batch.x_1.clamp(-1, 1)).amin(0)
    advantage = q.amax(0) - q.mean(0)
    weights = problem.scale[..., 0].square()
    th.testing.assert_close(weights[0], advantage, rtol=1e-3, atol=1e-5)
    th.testing.assert_close(weights[1:], 0.02 * advantage.expand(10, -1), rtol=1e-3, atol=1e-6)
    best = batch.x_1[q.argmax(0), th.arange(BATCH)]
    noise = own_noise(one, problem, best)[0]
    assert (problem.t.diff(dim=0) > 0).all()  # each example has a time of its own
    th.testing.assert_close(problem.target[0], noise, rtol=1e-3, atol=1e-3)
    c = one.actor.flow.interpolant(problem.t.unsqueeze(-1))
    uniform = ((problem.x_t - c.beta * problem.target) / c.alpha)[1:]
    assert uniform.abs().max() <= 1 + 1e-3
    assert uniform.std() == pytest.approx(3**-0.5, abs=0.03)


def test_dpmd_weights_the_policys_best_actions() -> None:
    one = model(DPMD, candidates={"n": 4}, temperature=0.5)
    obs, batch, problem, posterior = regressed(one)
    assert posterior is None
    every = th.stack([values(one.critic, obs, x.clamp(-1, 1)).amin(0) for x in batch.x_1])
    q, best = every.max(0)
    z = ((q - q.mean()) / q.std(correction=0)).clamp(-3, 3)
    expected = (z / 0.5).exp()
    weights = problem.scale[0, :, 0].square()
    th.testing.assert_close(weights, expected / expected.mean(), rtol=1e-3, atol=1e-3)
    target = own_noise(one, problem, batch.x_1.take_along_dim(best.view(1, -1, 1), 0))
    th.testing.assert_close(problem.target, target, rtol=1e-2, atol=1e-2)


def test_averaged_policy_follows_and_draws_the_critics_target() -> None:
    one = model(QVPO, actor_update={"average": 0.25}, candidates={"n": 1}, learning_rate=0.0)
    averaged = one.actor.averaged_network
    assert averaged is not None
    with th.no_grad():
        for parameter in averaged.parameters():
            parameter.add_(1.0)
    obs = th.rand(5, 3)
    with th.no_grad():
        features = one.actor.features(obs)
        now, then = (
            one.actor.acting_velocity(features, target).condition for target in (False, True)
        )
    assert not th.allclose(now, then)
    one._average_policy()
    for mine, slow in zip(one.actor.network.parameters(), averaged.parameters(), strict=True):
        th.testing.assert_close(slow, mine + 0.75)
    saved = dict(one.policy.state_dict())
    assert any(name.startswith("actor.averaged_network") for name in saved)
    plain = model(QNE)
    assert plain.actor.averaged_network is None
    with th.no_grad():
        features = plain.actor.features(obs)
        same = [plain.actor.acting_velocity(features, target).condition for target in (False, True)]
    assert th.equal(*same)


def test_exploration_and_target_noise() -> None:
    """QSM acts and judges its target with noise of .1, SDAC with .1 x temperature."""
    obs = th.zeros(4000, 3)
    one = model(
        QSM, flow={"steps": 2}, candidates={"noise": 0.0}, critic_update={"target_noise": 0.0}
    )
    with th.no_grad():
        th.manual_seed(3)
        plain = one.actor(obs)
        noisy = model(QSM, flow={"steps": 2})
        th.manual_seed(3)
        moved = noisy.actor(obs)
        inside = (plain.abs() < 0.6) & (moved.abs() < 1)
        assert inside.sum() > 200
        assert (moved - plain)[inside].std() == pytest.approx(0.1, rel=0.1)
        assert th.equal(noisy.actor(obs, deterministic=True), one.actor(obs, deterministic=True))
        th.manual_seed(4)
        value = next_value(one.policy, one.method, obs)[0]
        th.manual_seed(4)
        again = next_value(noisy.policy, noisy.method, obs)[0]
        assert (again - value).std() > 0.003
        per_temperature = model(SDAC, candidates={"n": 1, "train": 2}, temperature=0.3)
        noise = per_temperature.actor.exploration_noise
        added = noise(th.zeros(20_000, 1), per_temperature.actor.temperature())
    assert added.std() == pytest.approx(0.03, rel=0.05)


def test_reward_scale_and_best_selection_enter_the_critics_target() -> None:
    one = model(SDAC, candidates={"n": 6})
    obs = th.rand(7, 3)
    with th.no_grad():
        th.manual_seed(5)
        value, _ = next_value(one.policy, one.method, obs)
        th.manual_seed(5)
        points = draw(one, obs, 6, target=True)
    q = values(one.critic_target, obs, points.clamp(-1, 1)).amin(0)
    th.testing.assert_close(value, q.amax(0), rtol=1e-4, atol=1e-5)
    one.learn(101)
    batch = one.replay_buffer.sample(5)
    info = one._update_critic(batch._replace(dones=th.ones(5, 1)))
    assert info["rfm/q_target"] == pytest.approx(0.2 * batch.rewards.mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("candidates.select", "worst"),
        ("actor_update.x_t_from", "dreams"),
        ("estimator.q_aggregation", "maximum"),
        ("candidates.noise", -0.1),
        ("candidates.noise", "temperature_x"),
        ("critic_update.target_noise", "loud_0.1"),
        ("critic_update.target_noise", "temperature_-1"),
        ("candidates.train", 0),
        ("actor_update.average", 1.5),
        ("critic_update.reward_scale", float("nan")),
        ("target_entropy", "auto_x"),
    ],
)
def test_bad_settings_are_refused(argument: str, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=argument.replace(".", r"\.")):
        model(SDAC, **merged({}, {argument: wrong}))


def test_equal_values_weigh_nothing() -> None:
    """Rounding must not make an advantage negative: its root would be NaN."""
    q = th.full((9, 1000), 0.1) + 1e-9 * th.rand(1000)
    points = th.zeros(9, 1000, 1)
    batch = replace(regressed(model(QVPO))[1], x_1=points, q=q, temperature=th.tensor(0.1))
    assert (q.amax(0) - q.mean(0)).min() < 0  # a premise
    _, weights = Advantage()(batch)
    assert weights.min() >= 0
