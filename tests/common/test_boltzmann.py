"""
The Boltzmann law of a critic, the selection among candidates, the temperature, and that the actor
learns the law.
"""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit, draw_values
from gymnasium import spaces
from scipy.stats import differential_entropy
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn
from updates import draw, update_actor

from sb3_rfm import RFMDiffusion, RFMFlow
from sb3_rfm.common import networks
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.boltzmann import CriticLogDensity, critic_features, minimum_q
from sb3_rfm.common.critic_gradients import FEWEST_SORTED, N_SIZES
from sb3_rfm.common.critic_networks import RectifierNetwork
from sb3_rfm.common.groups import ENTROPY_FLOOR
from sb3_rfm.common.hidden_layers import Trace
from sb3_rfm.common.losses import next_value
from sb3_rfm.common.networks import FlowNetwork, TimeEmbedding
from sb3_rfm.common.noise import fixed_noise
from sb3_rfm.common.optimization import gradient_step
from sb3_rfm.common.selection import gather_selected, select_by_softmax
from sb3_rfm.common.temperature import (
    DUAL_RATE,
    Temperature,
    gaussian_entropy,
    parse_temperature,
)
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.sampling import Box, Data, Heun, Interpolant, TanhLatent, Velocity
from sb3_rfm.sampling.divergences import ExactDivergence
from sb3_rfm.sampling.estimators.posteriors import value_and_gradient, value_and_score
from sb3_rfm.sampling.supports import Clipped


def model(algorithm: type[FlowActorCritic] = RFMFlow, **changes: Any) -> FlowActorCritic:
    arguments: dict[str, Any] = {
        "buffer_size": 10,
        "device": "cpu",
        "seed": 0,
        "policy_kwargs": {"net_arch": [32, 32]},
    }
    one = algorithm("MlpPolicy", Bandit(), **{**arguments, **changes})
    draw_values(one.critic, one.critic_target)
    return one


@pytest.mark.parametrize("n_critics", [1, 2, 3])
@pytest.mark.parametrize("net_arch", [[8], [8, 8]])
def test_minimum_q_is_the_critics_minimum(n_critics: int, net_arch: list[int]) -> None:
    one = model(policy_kwargs={"net_arch": {"pi": [8], "qf": net_arch}, "n_critics": n_critics})
    obs, actions = th.rand(5, 3), th.rand(4, 5, 2) * 2 - 1
    q = minimum_q(one.critic, critic_features(one.critic, obs), actions)
    for k in range(4):
        expected = th.cat(one.critic(obs, actions[k]), dim=1).amin(1)
        assert th.allclose(q[k], expected, atol=1e-6)


def test_bfloat16_keeps_differences_between_actions() -> None:
    one = model(policy_kwargs={"net_arch": [256, 256]})
    for net in one.critic.q_networks:
        net[-1].bias.data.fill_(80.0)
    features, actions = critic_features(one.critic, th.rand(5, 3)), th.rand(64, 5, 2) * 2 - 1
    exact, rounded = (
        minimum_q(one.critic, features, actions, bfloat16) for bfloat16 in (False, True)
    )
    spread = exact.std(0).mean()
    assert not th.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.05 * spread


@pytest.mark.parametrize("support", [Box(), TanhLatent(), Clipped(), Clipped(extrapolate=True)])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(
    ("net_arch", "options"),
    [
        *(([16] * n, {}) for n in range(4)),
        *(([16, 16], {"n_critics": n}) for n in (1, 3)),
        ([16, 16], {"critic_kwargs": {"layer_norm": True}}),
        ([16, 16], {"critic_kwargs": {"network": "simba"}}),
        ([16, 16], {"activation_fn": nn.SiLU}),
    ],
    ids=str,
)
def test_the_laws_own_score_is_autograds(
    support: Any, mean: bool, net_arch: list[int], options: dict[str, Any]
) -> None:
    arguments = {"net_arch": {"pi": [8], "qf": net_arch}, **options}
    one = model(policy_kwargs=arguments)
    features = critic_features(one.critic, th.rand(5, 3))
    law = CriticLogDensity(one.critic, features, th.tensor(0.1), support, mean=mean)
    x = 3 * th.rand(5, 2, 7).permute(2, 0, 1) - 1.5  # not contiguous
    for own, reference in zip(value_and_score(law, x), value_and_gradient(law, x), strict=True):
        assert not own.requires_grad
        assert own == pytest.approx(reference, rel=1e-4, abs=1e-4)


def test_the_laws_score_in_bfloat16_is_autograds_but_for_rounding() -> None:
    one = model(policy_kwargs={"net_arch": [64, 64]})
    features = critic_features(one.critic, th.rand(50, 3))
    law = CriticLogDensity(one.critic, features, th.tensor(0.1), Box(), bfloat16=True)
    x = 2 * th.rand(7, 50, 2) - 1
    (value, score), (q, gradient) = value_and_score(law, x), value_and_gradient(law, x)
    assert value == pytest.approx(q, abs=1e-4)
    assert (score - gradient).square().mean() < 1e-3 * gradient.square().mean()


def test_products_have_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps compiled code of every size that it has seen: memory grew by gigabytes."""
    one = model()
    sizes, call = set(), RectifierNetwork.action_gradient

    def action_gradient(self: RectifierNetwork, traces: list[Trace], dim: int) -> th.Tensor:
        sizes.add(len(traces[0].activation))
        return call(self, traces, dim)

    monkeypatch.setattr(RectifierNetwork, "action_gradient", action_gradient)
    for _ in range(50):
        features = critic_features(one.critic, th.rand(40, 3))
        law = CriticLogDensity(one.critic, features, th.tensor(1.0), Box())
        law.value_and_score(2 * th.rand(FEWEST_SORTED // 40 + 1, 40, 2) - 1)
    assert 1 < len(sizes) <= N_SIZES + 1


def test_candidates_in_bfloat16_are_those_in_float32_but_for_rounding() -> None:
    one = model(policy_kwargs={"net_arch": [64, 64]})
    drawn = []
    for bfloat16 in (False, True):
        th.manual_seed(0)
        velocity = one.actor.velocity(one.actor.features(th.rand(20, 3)))
        velocity = dataclasses.replace(velocity, bfloat16=bfloat16)
        drawn.append(one.actor.sample(velocity, 8))
    exact, rounded = drawn
    assert exact.dtype == rounded.dtype == th.float32
    assert not th.equal(exact, rounded)
    assert (exact - rounded).square().mean().sqrt() < 0.01 * exact.std()


def test_bfloat16_is_chosen_by_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: False)
    for times_faster, chosen in ((0.5, False), (2.2, True)):
        monkeypatch.setattr(networks, "_times_faster_in_bfloat16", lambda n=times_faster: n)
        assert model().method.bfloat16 is chosen
        assert not model(bfloat16=False).method.bfloat16
    monkeypatch.setattr(th.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not model().method.bfloat16


@pytest.mark.parametrize("support", [Box(), TanhLatent()])
def test_boltzmann_is_q_over_temperature_with_jacobian(support: Any) -> None:
    one = model()
    law = CriticLogDensity(
        one.critic, critic_features(one.critic, th.rand(5, 3)), th.tensor(0.1), support
    )
    x = (th.rand(4, 5, 2, dtype=th.float32) * 1.8 - 0.9).requires_grad_()
    action = support.to_action(x)
    rows = [
        th.autograd.grad(action[..., j].sum(), x, retain_graph=True)[0][..., j] for j in range(2)
    ]
    q = minimum_q(one.critic, law.features, action)
    assert th.allclose(law(x), q / 0.1 + rows[0].log() + rows[1].log(), atol=1e-4)


def test_estimation_leaves_gradients_alone() -> None:
    one = model(learning_starts=0, batch_size=4).learn(4)
    for parameter in one.critic.parameters():
        parameter.grad = th.full_like(parameter, 7.0)
    batch = one.replay_buffer.sample(4)
    one._update_actor(batch)
    assert all((parameter.grad == 7.0).all() for parameter in one.critic.parameters())


@pytest.mark.parametrize(
    ("changes", "critic", "target"),
    [
        ({}, 1, 0),
        ({"estimator": {"use_target_critic": True, "q_aggregation": "min"}}, 1, 1),
        (
            {
                "estimator": {
                    "use_target_critic": True,
                    "q_aggregation": "min",
                    "name": "noise_expectation",
                },
                "actor_update": {"x_t_from": "replay"},
                "temperature": 0.02,
            },
            0,
            1,
        ),
    ],
    ids=str,
)
def test_an_actors_update_extracts_features_once(
    changes: dict[str, Any], critic: int, target: int
) -> None:
    one = model(**changes)
    owners = {"actor": one.actor, "critic": one.critic, "target": one.critic_target}
    calls = dict.fromkeys(owners, 0)

    def counted(name: str) -> Any:
        def count(*_: Any) -> None:
            calls[name] += 1

        return count

    for name, owner in owners.items():
        owner.features_extractor.register_forward_hook(counted(name))
    update_actor(one, th.rand(8, 3), 2 * th.rand(8, 2) - 1)
    assert calls == {"actor": 1, "critic": critic, "target": target}


def test_selection_has_softmax_probabilities() -> None:
    th.manual_seed(0)
    n_draws, q = 20_000, th.tensor([0.0, 0.1, -0.2, 0.3])
    draws = select_by_softmax(q[:, None].expand(4, n_draws), th.tensor(0.2))
    expected = th.softmax(q / 0.2, 0)
    frequency = th.bincount(draws, minlength=4) / n_draws
    assert expected.max() < 0.7  # a premise: no candidate takes all
    assert ((frequency - expected).abs() < 4 * (expected * (1 - expected) / n_draws).sqrt()).all()


def test_gather_takes_each_states_candidate() -> None:
    candidates = th.arange(12.0).view(3, 2, 2)
    assert gather_selected(candidates, th.tensor([2, 0])).tolist() == [[8.0, 9.0], [2.0, 3.0]]


def test_fixed_noise_is_even_and_begins_at_the_origin() -> None:
    noise = fixed_noise(256, 3, th.device("cpu"))[:, 0]
    assert (noise[0] == 0).all()
    assert (
        noise.mean(0).abs().max() < 0.05
    )  # a pseudo-random set of 256 would have .06 as one standard error
    assert (noise.std(0) - 1).abs().max() < 0.05


def test_temperature_rules() -> None:
    assert parse_temperature(0.3)(0.5) == 0.3
    assert parse_temperature("lin_0.4")(0.25) == pytest.approx(0.1)
    assert parse_temperature("lin_0.4")(0.0) > 0
    assert parse_temperature(lambda progress: 1 + progress)(0.5) == 1.5
    assert parse_temperature("auto").tuned
    assert parse_temperature("auto_0.7").value == 0.7
    for wrong in (
        "auto_x",
        "auto_-1",
        "lin",
        "lin_0",
        "none",
        0,
        -1.0,
        math.inf,
        True,
        None,
    ):
        with pytest.raises((ValueError, TypeError), match="temperature"):
            parse_temperature(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_samples", [2, 5, 50])
def test_gaussian_entropy_is_unbiased_for_normal_samples(n_samples: int) -> None:
    th.manual_seed(0)
    scale, batch = th.tensor([0.05, 0.4]), 20_000
    estimate = gaussian_entropy(scale * th.randn(n_samples, batch, 2))
    exact = (0.5 * math.log(2 * math.pi * math.e) + scale.log()).sum()
    # variance of log chi² with n - 1 degrees of freedom: trigamma((n - 1) / 2); halved;
    # two coordinates
    error = math.sqrt(
        2 * 0.25 * th.special.polygamma(1, th.tensor((n_samples - 1) / 2)).item() / batch
    )
    assert abs(estimate - exact) < 4 * error < 0.1


def test_tuning_moves_the_temperature_in_proportion_and_never_far() -> None:
    temperature = Temperature(0.1)
    for excess, factor in (
        (1.0, 0.98),
        (-1.0, 1.02),
        (0.1, 0.998),
        (1e6, 0.942),
        (-1e6, 1.062),
        (math.nan, 1.0),
        (math.inf, 1.0),
    ):
        temperature.assign(0.1)
        optimizer = th.optim.SGD(temperature.parameters(), DUAL_RATE)
        gradient_step(optimizer, temperature.dual_loss(th.tensor(excess - 2.0), -2.0))
        assert temperature().item() == pytest.approx(0.1 * factor, rel=1e-3)


@pytest.mark.parametrize("unit", [1e-3, pytest.param(1e2, marks=pytest.mark.slow)])
def test_auto_temperature_reaches_its_entropy_in_every_unit_of_return(unit: float) -> None:
    """With a fixed critic it makes the candidates' entropy the target."""
    one = one_dimensional(temperature="auto", target_entropy=-1.0, candidates={"n": 8})
    fit_critic(one)
    with th.no_grad():
        for net in one.critic.q_networks:
            net[-1].weight.mul_(unit)
            net[-1].bias.mul_(unit)
    trained(one, 900)
    entropy = np.mean([trained(one, 1)["rfm/entropy"].item() for _ in range(50)])
    assert entropy == pytest.approx(-1.0, abs=0.15)


def test_a_tuned_temperature_needs_two_candidates_of_the_actors_update_alone() -> None:
    one = RFMFlow("MlpPolicy", Bandit(), buffer_size=10, candidates={"n": 1})
    assert (one.actor.candidates.n, one.settings.n_training_candidates) == (1, 2)
    with pytest.raises(ValueError, match=r"candidates\.train must .*at least 2.*; got 1"):
        RFMFlow("MlpPolicy", Bandit(), candidates={"train": 1})
    constant = RFMFlow("MlpPolicy", Bandit(), buffer_size=10, candidates={"n": 1}, temperature=0.1)
    assert constant.method.n_training_candidates == 1


def test_a_tuned_temperature_moves_with_the_unit_of_values() -> None:
    for temperature, moves in (("auto", True), (0.5, False)):
        one = RFMFlow("MlpPolicy", Bandit(), learning_starts=5, temperature=temperature).learn(10)
        before, unit = one.temperature, one.critic.unit.item()
        batch = one.replay_buffer.sample(8)
        one._update_critic(batch._replace(rewards=1e6 + batch.rewards))
        factor = one.critic.unit.item() / unit
        assert factor > 1.1
        assert one.temperature == pytest.approx(before * (factor if moves else 1.0), rel=1e-4)


def one_dimensional(algorithm: type[FlowActorCritic] = RFMFlow, **changes: Any) -> FlowActorCritic:
    """A model of one action in [-1, 1] that learns fast."""
    settings = {"learning_rate": 3e-3, "temperature": 0.1, "bfloat16": False, "seed": 0, **changes}
    env = Bandit(spaces.Box(-1, 1, (1,), np.float32))
    return algorithm(
        "MlpPolicy",
        env,
        buffer_size=10,
        device="cpu",
        policy_kwargs={"net_arch": [32, 32]},
        **settings,
    )


def trained(one: FlowActorCritic, updates: int) -> dict[str, th.Tensor]:
    """Actor updates at one state, the critic as it is."""
    obs = th.zeros(64, 3)
    for _ in range(updates):
        info = update_actor(one, obs, th.zeros(64, 1))
    return info


def slow_case(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


# The defaults save both: two steps draw a quarter of this law's spread, and mix x_t from it.
LEARN_THE_LAW = {
    "estimator": {"n_particles": 32},
    "candidates": {"n": 4},
    "flow": {"steps": 8, "time_shift": 4.0},
}


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        (RFMFlow, LEARN_THE_LAW),
        slow_case(RFMFlow, merged(LEARN_THE_LAW, {"flow.parametrization": "velocity"})),
        # long first steps would amplify the errors at small t that this weighting leaves
        slow_case(
            RFMFlow,
            merged(
                LEARN_THE_LAW,
                {"actor_update.loss_weighting": "velocity", "flow.time_shift": 1.0},
            ),
        ),
        slow_case(
            RFMFlow,
            merged(
                LEARN_THE_LAW,
                {"estimator": {"name": "bounded", "n_times": 1, "n_particles": 16}},
            ),
        ),
        slow_case(
            RFMFlow,
            {
                "flow": {"support": "tanh", "parametrization": "velocity", "steps": 4},
                "estimator": {"name": "noise_expectation", "n_particles": 256, "n_times": 1},
            },
        ),
        (RFMDiffusion, {}),
        slow_case(RFMDiffusion, {"flow": {"parametrization": "noise"}}),
    ],
    ids=str,
)
def test_actor_learns_the_boltzmann_law(
    algorithm: type[FlowActorCritic], changes: dict[str, Any]
) -> None:
    """
    Mean and spread of the flow's samples are those of exp(Q / lambda) by quadrature, for a tilted
    bowl of a critic.
    """
    one = one_dimensional(algorithm, **changes)
    fit_critic(one)
    trained(one, 900)
    one.actor.network = averaged(one, 200)
    grid = th.linspace(-1, 1, 2001)
    q = minimum_q(one.critic, th.zeros(1, 3), grid.view(-1, 1, 1))[:, 0].detach()
    weights = th.softmax(q / 0.1, 0)
    mean = (weights * grid).sum()
    std = (weights * (grid - mean).square()).sum().sqrt()
    assert abs(mean) > 0.15  # premises: off centre,
    assert 0.1 < std < 0.4  # and neither a point nor uniform (.58)
    one.actor.flow = dataclasses.replace(
        one.actor.flow, solver=Heun(), steps=20, time_shift=1.0
    )  # no error of few steps
    with th.no_grad():
        points = draw(one, th.zeros(1, 3), 4096)
    actions = one.actor.flow.support.to_action(points).flatten()
    # the rest is the network's own error; twice the temperature would widen the law by 1.4
    assert actions.mean() == pytest.approx(mean.item(), abs=0.25 * std.item())
    assert actions.std() == pytest.approx(std.item(), rel=0.25)
    # the soft value of the Boltzmann law is the largest there is
    one.critic_target.load_state_dict(one.critic.state_dict())
    with th.no_grad():
        soft = dataclasses.replace(one.method, divergence=ExactDivergence(ENTROPY_FLOOR))
        value, info = next_value(one.policy, soft, th.zeros(512, 3))
    largest = 0.1 * (th.logsumexp(q / 0.1, 0) + math.log(2 / 2000))
    assert -0.3 < info["rfm/policy_entropy"] < 0.3
    assert largest - 0.02 < value.mean() < largest + 0.004


def fit_critic(one: FlowActorCritic) -> None:
    """Regress the critics on an asymmetric Q at the zero observation."""
    optimizer = th.optim.Adam(one.critic.parameters(), 3e-3)
    actions = th.linspace(-1, 1, 256).view(-1, 1)
    target = -1.2 * (actions - 0.4).square() + 0.3 * actions.pow(3)
    for _ in range(300):
        loss = sum((q - target).square().mean() for q in one.critic(th.zeros(256, 3), actions))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def averaged(one: FlowActorCritic, updates: int) -> FlowNetwork:
    """
    The network averaged over more updates: single iterates wander with the noise of their targets.
    """
    mean = copy.deepcopy(one.actor.network)
    for count in range(1, updates + 1):
        trained(one, 1)
        for total, parameter in zip(mean.parameters(), one.actor.network.parameters(), strict=True):
            total.data.lerp_(parameter.data, 1 / count)
    return mean


class PosteriorMean(th.nn.Module):
    """
    In the flow network's place: the mean of the action end given ``x_t``, by quadrature of the
    critic's Boltzmann law at the zero observation.

    :param one: the model whose critic it is
    :param temperature: lambda
    """

    def __init__(self, one: FlowActorCritic, temperature: float) -> None:
        super().__init__()
        self.interpolant, support = one.actor.flow.interpolant, one.actor.flow.support
        self.grid = th.linspace(-support.bound, support.bound, 2001)
        points = self.grid.view(-1, 1, 1)
        q = minimum_q(one.critic, th.zeros(1, 3), support.to_action(points)).detach()
        self.log_density = (q / temperature + support.log_det(points)).flatten()
        spacing = (self.grid[1] - self.grid[0]).log()
        self.soft_value = temperature * (th.logsumexp(self.log_density, 0) + spacing).item()

    def condition(self, features: th.Tensor) -> th.Tensor:
        return features

    def forward(
        self, condition: th.Tensor, x: th.Tensor, t: th.Tensor, bfloat16: bool = False
    ) -> th.Tensor:
        c = self.interpolant(t)
        logits = self.log_density - 0.5 * ((x - c.alpha * self.grid) / c.beta).square()
        return (th.softmax(logits, -1) * self.grid).sum(-1, keepdim=True)


@pytest.mark.parametrize("algorithm", [RFMFlow, RFMDiffusion])
@pytest.mark.parametrize("support", ["box", "tanh"])
@pytest.mark.parametrize(("critic", "temperature"), [("uniform", 0.1), ("tilted", 0.02)])
def test_soft_value_of_the_boltzmann_law(
    algorithm: type[FlowActorCritic], support: str, critic: str, temperature: float
) -> None:
    """
    Where the flow draws ``exp(Q / lambda)``, ``V = lambda log int exp(Q / lambda)``: it reaches the
    critics' target so, and the premise is that the entropy is a large part of it.
    """
    solver = "heun" if algorithm is RFMFlow else "ancestral"
    one = one_dimensional(
        algorithm,
        temperature=temperature,
        flow={"support": support, "solver": solver, "steps": 48},
        estimator="noise_expectation",
        critic_update={"entropy": True},
        candidates={"n": 64},
        gamma=0.9,
    )
    if critic == "uniform":
        for net in one.critic.q_networks:
            net[-1].weight.data.zero_()
    else:
        fit_critic(one)
    one.critic_target.load_state_dict(one.critic.state_dict())
    one.actor.network = exact = PosteriorMean(one, temperature)
    zeros, actions = th.zeros(8, 3), th.zeros(8, 1)
    data = ReplayBufferSamples(zeros, actions, zeros, th.zeros(8, 1), th.full((8, 1), 0.25))
    info = one._update_critic(data)
    entropy_part = abs(temperature * info["rfm/policy_entropy"].item())
    assert entropy_part > 0.4 * temperature
    value = (info["rfm/q_target"].item() - 0.25) / 0.9
    assert value == pytest.approx(exact.soft_value, abs=0.05 * temperature)


def test_value_without_entropy_is_softmaxs() -> None:
    """The default: what drawing one candidate by softmax gives on average, to the last bit."""
    one, obs = model(critic_update={"entropy": False}), th.rand(5, 3)
    assert RFMFlow.defaults.critic_update.entropy is False
    with th.no_grad():
        th.manual_seed(1)
        value, info = next_value(one.policy, one.method, obs)
        th.manual_seed(1)
        velocity = one.actor.velocity(one.actor.features(obs))
        velocity = dataclasses.replace(velocity, bfloat16=one.method.bfloat16)
        points = one.actor.sample(velocity, one.actor.candidates.n)
        target = one.critic_target
        q = minimum_q(target, critic_features(target, obs), points, one.method.bfloat16)
    assert th.equal(value, (th.softmax(q / one.actor.temperature(), 0) * q).sum(0))
    assert "rfm/policy_entropy" not in info


def test_log_prob_is_that_of_the_actions() -> None:
    """Entropy of tanh(x): from the density, and from the spacings of the drawn actions."""
    one = one_dimensional(flow={"support": "tanh", "steps": 4}, estimator="noise_expectation")
    one.actor.network = PosteriorMean(one, 0.1)
    with th.no_grad():
        velocity = one.actor.velocity(one.actor.features(th.zeros(1, 3)))
        points, log_prob = one.actor.sample_with_log_prob(velocity, 5_000, ExactDivergence())
    actions = one.actor.flow.support.to_action(points).flatten()
    assert one.actor.flow.support.log_det(points).mean() < -0.2  # a premise: the Jacobian matters
    assert -log_prob.mean() == pytest.approx(differential_entropy(actions), abs=0.02)


@pytest.mark.parametrize("estimator", ["bounded", "diagonal_centred", "noise_expectation"])
def test_times_of_a_state_share_evaluations(
    estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = "box" if estimator == "bounded" else "tanh"
    one = model(
        estimator={"name": estimator, "n_times": 4, "n_particles": 8}, flow={"support": support}
    )
    problems, points = [], []
    network, call = one.actor.network, CriticLogDensity.value_and_score

    def value_and_score(self: CriticLogDensity, x: th.Tensor) -> Any:
        points.append(x.shape[:-1])
        return call(self, x)

    monkeypatch.setattr(CriticLogDensity, "value_and_score", value_and_score)
    monkeypatch.setattr(CriticLogDensity, "__call__", lambda self, x: value_and_score(self, x)[0])
    network.register_forward_hook(lambda m, given, out: problems.append(given[1].shape))
    obs, actions = th.rand(32, 3), th.rand(32, 2)
    info = update_actor(one, obs, actions)
    assert problems[-1] == (4, 8, 2)  # as many points as transitions, of a quarter of the states
    assert all(value.isfinite().all() for value in info.values())
    # bounded: a gradient at the policy's mean, one for each time, and the particles of all times
    shared = [(1, 8), (1, 4, 8), (8, 8)]
    assert points == (shared if estimator == "bounded" else [(8, 4, 8)])


def test_loss_weighting_changes_the_error_that_is_squared() -> None:
    """
    A network that predicts data and is judged by velocity has the loss and the gradient of one that
    regresses velocity itself.
    """
    losses, gradients = [], []
    for parametrization, weighting in (("data", "velocity"), ("velocity", "uniform")):
        one = model(
            flow={"parametrization": parametrization},
            actor_update={"loss_weighting": weighting, "max_grad_norm": math.inf},
            learning_rate=0.0,
            bfloat16=False,
        )
        network = one.actor.network
        if parametrization == "velocity":
            one.actor.network = DataAsVelocity(network, one.actor.flow.interpolant)
        th.manual_seed(1)
        info = update_actor(one, th.rand(64, 3), th.zeros(64, 2))
        losses.append(info["train/actor_loss"])
        gradients.append(th.cat([p.grad.flatten() for p in network.parameters()]))
    plain = model(learning_rate=0.0, actor_update={"max_grad_norm": math.inf}, bfloat16=False)
    th.manual_seed(1)
    info = update_actor(plain, th.rand(64, 3), th.zeros(64, 2))
    assert info["train/actor_loss"] < 0.3 * losses[0]
    th.testing.assert_close(*losses, rtol=1e-3, atol=0)
    th.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3 * gradients[0].abs().max().item())


class DataAsVelocity(th.nn.Module):
    """A network that predicts data, its prediction carried to the velocity."""

    def __init__(self, network: FlowNetwork, interpolant: Interpolant) -> None:
        super().__init__()
        self.network, self.interpolant = network, interpolant
        self.condition = network.condition

    def forward(
        self, condition: th.Tensor, x: th.Tensor, t: th.Tensor, bfloat16: bool = False
    ) -> th.Tensor:
        c = self.interpolant(t.unsqueeze(-1))
        ends = Data().end_points(c, x, self.network(condition, x, t))
        return Velocity().target(c, ends)


def test_network_splits_its_first_layer_exactly() -> None:
    th.manual_seed(0)
    network = FlowNetwork(features_dim=3, point_dim=2, net_arch=[8, 8])
    features, x, t = th.rand(5, 3), th.rand(4, 5, 2), th.rand(5)
    together = network(network.condition(features), x, t)
    for k in range(4):
        for b in range(5):
            alone = network(network.condition(features[b : b + 1]), x[k, b : b + 1], t[b])
            assert th.allclose(together[k, b], alone[0], atol=1e-6)


def test_every_parameter_of_the_network_gets_a_gradient() -> None:
    network = FlowNetwork(features_dim=3, point_dim=2, net_arch=[8, 8])
    network(network.condition(th.rand(5, 3)), th.rand(5, 2), th.rand(5)).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in network.parameters()
    )


def test_time_embedding_tells_times_apart() -> None:
    embedding = TimeEmbedding(16)(th.linspace(0, 1, 101))
    assert embedding.shape == (101, 16)
    assert th.pdist(embedding).min() > 0.05


@pytest.mark.parametrize("part", ["pi", "qf"])
def test_network_without_hidden_layer_is_affine(part: str) -> None:
    """``net_arch=[]``, as Stable-Baselines3 has it: in the point, or in the action."""
    one = model(policy_kwargs={"net_arch": {"pi": [8], "qf": [8], part: []}}, bfloat16=False)
    obs, ends = th.rand(5, 3), 2 * th.rand(2, 5, 2) - 1
    x = th.stack([ends[0], ends.mean(0), ends[1]])
    features = critic_features(one.critic, obs)
    with th.no_grad():
        if part == "pi":
            network = one.actor.network
            y = network(network.condition(features), x, th.tensor(0.3))
        else:
            y = one.critic.q_networks[0](features, x)
            th.testing.assert_close(y[0], one.critic(obs, ends[0])[0])
    th.testing.assert_close(y[1], (y[0] + y[2]) / 2)
    assert (y[0] - y[2]).abs().max() > 0.01
    one.learn(110)
