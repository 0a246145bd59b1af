"""
The Boltzmann law of a critic, the choice among candidates, the temperature, and that the actor
learns the law.
"""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from gymnasium import spaces

from sb3_rfm import RFMDiffusion, RFMFlow
from sb3_rfm.common.actor import choose, fixed_noise, take
from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.boltzmann import Boltzmann, critic_features, minimum_q
from sb3_rfm.common.temperature import (
    Temperature,
    entropy_dual_loss,
    gaussian_entropy,
    parse_temperature,
)
from sb3_rfm.networks import FlowNetwork, TimeEmbedding
from sb3_rfm.sampling import Box, Heun, TanhLatent


def model(algorithm: type[BoltzmannAlgorithm] = RFMFlow, **changes: Any) -> BoltzmannAlgorithm:
    arguments: dict[str, Any] = {
        "buffer_size": 10,
        "device": "cpu",
        "seed": 0,
        "policy_kwargs": {"net_arch": [32, 32]},
    }
    return algorithm("MlpPolicy", Bandit(), **{**arguments, **changes})


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


@pytest.mark.parametrize("support", [Box(), TanhLatent()])
def test_boltzmann_is_q_over_temperature_with_jacobian(support: Any) -> None:
    one = model()
    law = Boltzmann(one.critic, critic_features(one.critic, th.rand(5, 3)), th.tensor(0.1), support)
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
    one.learner.update_actor(one.replay_buffer.sample(4).observations)
    assert all((parameter.grad == 7.0).all() for parameter in one.critic.parameters())


def test_choice_has_softmax_probabilities() -> None:
    th.manual_seed(0)
    n_draws, q = 20_000, th.tensor([0.0, 0.1, -0.2, 0.3])
    draws = choose(q[:, None].expand(4, n_draws), th.tensor(0.2))
    expected = th.softmax(q / 0.2, 0)
    frequency = th.bincount(draws, minlength=4) / n_draws
    assert expected.max() < 0.7  # a premise: no candidate takes all
    assert ((frequency - expected).abs() < 4 * (expected * (1 - expected) / n_draws).sqrt()).all()


def test_take_picks_each_states_candidate() -> None:
    candidates = th.arange(12.0).view(3, 2, 2)
    assert take(candidates, th.tensor([2, 0])).tolist() == [[8.0, 9.0], [2.0, 3.0]]


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
    for wrong in ("auto_x", "auto_-1", "lin", "lin_0", "none", 0, -1.0, math.inf, True, None):
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


def test_dual_step_moves_temperature_towards_the_target() -> None:
    for entropy, direction in ((-1.0, -1), (-3.0, 1)):
        temperature = Temperature(0.1)
        temperature.log_value.requires_grad_()
        entropy_dual_loss(temperature, th.tensor(entropy), -2.0).backward()
        assert math.copysign(1, -temperature.log_value.grad.item()) == direction


def test_auto_temperature_reaches_its_entropy() -> None:
    """With a fixed critic the tuned temperature makes the candidates' entropy the target."""
    one = one_dimensional(temperature="auto_0.1", target_entropy=-1.0, n_candidates=8)
    fit_critic(one)
    trained(one, 100)
    before = np.mean([trained(one, 1)["rfm/entropy"].item() for _ in range(20)])
    assert before > -0.8  # a premise: the first temperature leaves more entropy than the target
    trained(one, 700)
    after = np.mean([trained(one, 1)["rfm/entropy"].item() for _ in range(50)])
    assert after == pytest.approx(-1.0, abs=0.15)


def one_dimensional(
    algorithm: type[BoltzmannAlgorithm] = RFMFlow, **changes: Any
) -> BoltzmannAlgorithm:
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


def trained(one: BoltzmannAlgorithm, updates: int) -> dict[str, th.Tensor]:
    """Actor updates at one state, the critic as it is."""
    obs = th.zeros(64, 3)
    for _ in range(updates):
        info = one.learner.update_actor(obs)
    return info


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        (RFMFlow, {}),
        (RFMFlow, {"parametrization": "velocity"}),
        (
            RFMFlow,
            {
                "support": "tanh",
                "estimator": "noise",
                "parametrization": "velocity",
                "n_particles": 256,
            },
        ),
        (RFMDiffusion, {}),
        (RFMDiffusion, {"parametrization": "noise"}),
    ],
    ids=str,
)
def test_actor_learns_the_boltzmann_law(
    algorithm: type[BoltzmannAlgorithm], changes: dict[str, Any]
) -> None:
    """
    Mean and spread of the flow's samples are those of exp(Q / lambda) by quadrature, for a tilted
    bowl of a critic.
    """
    one = one_dimensional(algorithm, **changes)
    fit_critic(one)
    trained(one, 500)
    one.actor.network = averaged(one, 200)
    grid = th.linspace(-1, 1, 2001)
    q = minimum_q(one.critic, th.zeros(1, 3), grid.view(-1, 1, 1))[:, 0].detach()
    weights = th.softmax(q / 0.1, 0)
    mean = (weights * grid).sum()
    std = (weights * (grid - mean).square()).sum().sqrt()
    assert abs(mean) > 0.15  # premises: off centre,
    assert 0.1 < std < 0.4  # and neither a point nor uniform (.58)
    one.actor.flow = dataclasses.replace(
        one.actor.flow, solver=Heun(), sampling_steps=20
    )  # no error of few steps
    with th.no_grad():
        points = one.actor.candidates(one.actor.condition(th.zeros(1, 3)), 4096)
    actions = one.actor.flow.support.to_action(points).flatten()
    # the rest is the network's own error; twice the temperature would widen the law by 1.4
    assert actions.mean() == pytest.approx(mean.item(), abs=0.25 * std.item())
    assert actions.std() == pytest.approx(std.item(), rel=0.25)


def fit_critic(one: BoltzmannAlgorithm) -> None:
    """Regress the critics on an asymmetric Q at the zero observation."""
    optimizer = th.optim.Adam(one.critic.parameters(), 3e-3)
    actions = th.linspace(-1, 1, 256).view(-1, 1)
    target = -1.2 * (actions - 0.4).square() + 0.3 * actions.pow(3)
    for _ in range(300):
        loss = sum((q - target).square().mean() for q in one.critic(th.zeros(256, 3), actions))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def averaged(one: BoltzmannAlgorithm, updates: int) -> FlowNetwork:
    """
    The network averaged over more updates: single iterates wander with the noise of their targets.
    """
    mean = copy.deepcopy(one.actor.network)
    for count in range(1, updates + 1):
        trained(one, 1)
        for total, parameter in zip(mean.parameters(), one.actor.network.parameters(), strict=True):
            total.data.lerp_(parameter.data, 1 / count)
    return mean


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
def test_network_without_hidden_layer_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match=f"net_arch.*{part}"):
        model(policy_kwargs={"net_arch": {"pi": [8], "qf": [8], part: []}})
