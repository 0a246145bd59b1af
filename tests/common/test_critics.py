"""The critics: what is Stable-Baselines3's stays so to the last bit, and what each option adds."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from environments import Bandit, draw_values
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sb3_rfm import SAC, RFMFlow
from sb3_rfm.common.boltzmann import critic_features, minimum_q, q_values
from sb3_rfm.common.critics import OUTPUT_RMS, PLAIN, Critic, CriticOptions, move_unit
from sb3_rfm.experiments.hyperparams import complete, constructor_arguments, parse_overrides

OBSERVATION, ACTION = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"layer_norm": True},
    {"layer_norm": False},
    {"activation_fn": "GELU"},
    {"layer_norm": True, "activation_fn": nn.Tanh},
    {"network": "simba"},
    {"network": "simba", "activation_fn": "SiLU"},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def critic(width: int = 16, n_critics: int = 2, seed: int = 0, **options: Any) -> Critic:
    th.manual_seed(seed)
    extractor, parsed = FlattenExtractor(OBSERVATION), CriticOptions.parse(options)
    arguments = (OBSERVATION, ACTION, [width, width], extractor, 3)
    one = Critic(*arguments, n_critics=n_critics, options=parsed)
    draw_values(one)
    return one


def algorithm(cls: Any, critic_kwargs: dict[str, Any] | None, **changes: Any) -> Any:
    arguments = {"buffer_size": 100, "learning_starts": 10, "batch_size": 8, "seed": 0}
    policy_kwargs = {"net_arch": [16, 16], "critic_kwargs": critic_kwargs}
    return cls("MlpPolicy", Bandit(), policy_kwargs=policy_kwargs, **{**arguments, **changes})


def test_plain_critic_is_stable_baselines3s() -> None:
    """Parameters, their names, values, and the random numbers that are drawn."""
    states = []
    for cls in (ContinuousCritic, partial(Critic, options=PLAIN)):
        th.manual_seed(0)
        one = cls(OBSERVATION, ACTION, [16, 8], FlattenExtractor(OBSERVATION), 3, n_critics=3)
        states.append((one.state_dict(), th.rand(2)))
        q = (
            one(th.full((4, 3), 0.1), th.full((4, 2), 0.2)),
            one.q1_forward(th.ones(1, 3), th.ones(1, 2)),
        )
        states[-1] += (th.stack([*q[0]]), q[1], one.n_critics)
    for theirs, ours in zip(*(state[1:-1] for state in states), strict=True):
        assert th.equal(theirs, ours)
    (theirs, *_, count), (ours, *_, our_count) = states
    assert count == our_count == 3
    assert list(theirs) == list(ours)
    assert all(th.equal(theirs[name], ours[name]) for name in theirs)


def test_a_seeds_critics_are_what_they_were() -> None:
    """Sums of the parameters' sizes at seed 0, recorded before the critics had options."""
    for kwargs, expected in (
        ({}, 4818.090623563141),
        ({"n_critics": 3, "net_arch": [32, 16]}, 274.80043324302824),
    ):
        kwargs = {**kwargs, "critic_kwargs": {"layer_norm": False}}
        one = RFMFlow("MlpPolicy", Bandit(), seed=0, buffer_size=10, policy_kwargs=kwargs)
        total = sum(parameter.double().abs().sum() for parameter in one.critic.parameters())
        assert total.item() == pytest.approx(expected, rel=1e-9)


@each_option
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 5)])
def test_features_and_actions_apart_are_the_two_side_by_side(
    options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    one = critic(**options)
    obs, actions = th.rand(5, 3), th.rand(*shape, 2) * 2 - 1
    q = q_values(one, critic_features(one, obs), actions)
    assert q.shape == (2, *shape)
    for index in np.ndindex(shape[:-1]):
        expected = th.cat(one(obs, actions[index]), dim=1).T
        assert th.allclose(q[(slice(None), *index)], expected, atol=1e-5)
    assert th.equal(minimum_q(one, critic_features(one, obs), actions), q.amin(0))


def test_a_states_share_is_computed_once_a_state() -> None:
    """Multiplications, counted: 2 x 2 critics x (B F H + K B (D H + H H + H))."""
    one, batch, particles, width = critic(32), 7, 11, 32
    with FlopCounterMode(display=False) as counter:
        q_values(one, th.rand(batch, 3), th.rand(particles, batch, 2))
    per_action = 2 * width + width * width + width
    assert counter.get_total_flops() == 4 * (batch * 3 * width + particles * batch * per_action)


@each_option
def test_bfloat16_keeps_differences_between_actions(options: dict[str, Any]) -> None:
    one = critic(256, **options)
    for network in one.q_networks:
        network[-1].bias.data.fill_(80.0)
    features, actions = th.rand(5, 3), (th.rand(64, 5, 2) * 2 - 1).requires_grad_()
    exact, rounded = (minimum_q(one, features, actions, b) for b in (False, True))
    assert rounded.dtype == th.float32
    assert not th.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.08 * exact.std(0).mean()
    exact_gradient, gradient = (th.autograd.grad(q.sum(), actions)[0] for q in (exact, rounded))
    assert (exact_gradient - gradient).norm() < 0.15 * exact_gradient.norm()


def test_layer_norm_stands_between_each_hidden_layer_and_its_activation() -> None:
    """So the scale of a hidden layer does not matter; and the weights drawn are the plain ones'."""
    one, plain = critic(layer_norm=True), critic(layer_norm=False)
    features, actions = th.rand(5, 3), th.rand(4, 5, 2)
    before = q_values(one, features, actions)
    for network, other in zip(one.q_networks, plain.q_networks, strict=True):
        linear, theirs = ([m for m in n if isinstance(m, nn.Linear)] for n in (network, other))
        assert [type(m) for m in network[:3]] == [nn.Linear, nn.LayerNorm, nn.ReLU]
        for layer, twin in zip(linear[:-1], theirs[:-1], strict=True):
            assert th.equal(layer.weight, twin.weight)
        for layer in linear[:-1]:
            layer.weight.data.mul_(10.0)
            layer.bias.data.mul_(10.0)
    after, changed = q_values(one, features, actions), q_values(plain, features, actions)
    assert th.allclose(before, after, atol=1e-2 * before.std().item())
    assert not th.allclose(before, changed, atol=0.1)


def test_simba_without_its_branches_is_a_normalised_linear_layer() -> None:
    one = critic(network="simba")
    x = th.rand(5, 5)
    full = one.q_networks[0](x)
    for block in one.q_networks[0][1:3]:
        block.branch[-1].weight.data.zero_()
    embedding, last = one.q_networks[0][0], one.q_networks[0][-1]
    hidden = x @ embedding.weight.T
    centred = hidden - hidden.mean(1, keepdim=True)
    normal = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    assert th.allclose(one.q_networks[0](x), normal @ last.weight.T, atol=1e-5)
    assert not th.allclose(full, normal @ last.weight.T, atol=0.1)


def test_simba_is_the_papers_network() -> None:
    """Size (four times as wide inside), initial weights, values that no input makes large."""
    width, blocks = 64, 2
    network = critic(width, network="simba").q_networks[0]
    block = 2 * width + 2 * 4 * width**2 + (4 + 1) * width
    size = (5 * width + width) + blocks * block + 2 * width + (width + 1)
    assert sum(p.numel() for p in network.parameters()) == size
    embedding, last = network[0].weight, network[-1].weight
    assert th.allclose(embedding.T @ embedding, th.eye(5), atol=1e-5)
    for layer in (network[1].branch[1], network[2].branch[3]):
        # relative standard error of a sample's standard deviation: 1 / sqrt(2 n)
        error = 4 / (2 * layer.weight.numel()) ** 0.5
        he = (2 / layer.in_features) ** 0.5
        assert layer.weight.std().item() == pytest.approx(he, rel=error)
    assert not any(p.any() for name, p in network.named_parameters() if "bias" in name)
    assert network(1e6 * th.randn(100, 5)).abs().max() <= width**0.5 * last.norm() + 1e-4


@pytest.mark.parametrize("cls", [RFMFlow, SAC])
@each_option
def test_trains_saves_and_loads(cls: Any, options: dict[str, Any], tmp_path: Path) -> None:
    one = algorithm(cls, options)
    before = {name: p.clone() for name, p in one.critic.named_parameters()}
    one.learn(20)
    still = [n for n, p in one.critic.named_parameters() if th.equal(p, before[n])]
    assert still == []
    assert one.critic.q_networks[0].state_dict().keys() == one.critic_target.qf0.state_dict().keys()
    one.save(tmp_path / "model")
    one.policy.save(tmp_path / "policy")
    model = cls.load(tmp_path / "model", env=Bandit())
    policy = type(one.policy).load(tmp_path / "policy")
    features, actions = th.rand(5, 3), th.rand(4, 5, 2)
    expected = q_values(one.critic, features, actions)
    for loaded in (model.critic, policy.critic):
        assert th.equal(q_values(loaded, features, actions), expected)
    default = PLAIN if cls is SAC else CriticOptions()
    assert policy.critic_options == one.policy.critic_options
    assert one.policy.critic_options == CriticOptions.parse(options, default)
    model.learn(5)


@pytest.mark.parametrize("cls", [RFMFlow, SAC])
def test_one_option_serves_every_algorithm_from_yaml_and_the_command_line(cls: Any) -> None:
    text = "policy_kwargs: {net_arch: [8, 8], critic_kwargs: {network: simba, activation_fn: GELU}}"
    options = "dict(network='simba', activation_fn='GELU')"
    typed = f"policy_kwargs:dict(net_arch=[8, 8], critic_kwargs={options})"
    plain = yaml.safe_load(text)
    assert parse_overrides([typed]) == plain
    assert complete(cls, plain)["policy_kwargs"] == plain["policy_kwargs"]
    one = cls("MlpPolicy", Bandit(), buffer_size=9, **constructor_arguments(cls, plain, 2))
    assert type(one.critic.q_networks[0][1].branch[2]) is nn.GELU
    assert type(one.critic_target.q_networks[0][1].branch[2]) is nn.GELU
    others = [m for name, m in one.actor.named_modules() if not name.startswith("critic.")]
    assert not any(isinstance(m, nn.GELU) for m in others)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"network": "transformer"}, ValueError, "network must satisfy: one of mlp, simba"),
        ({"network": 3}, ValueError, "network"),
        ({"layernorm": True}, ValueError, "network, layer_norm, activation_fn; got 'layernorm'"),
        ({"layer_norm": "yes"}, TypeError, "layer_norm must be True, False or None; got 'yes'"),
        ({"layer_norm": True, "network": "simba"}, ValueError, "layer_norm.*its own"),
        ({"activation_fn": "gelu"}, ValueError, "activation_fn.*'GELU'.*got 'gelu'"),
        ({"activation_fn": "Linear"}, ValueError, "activation_fn"),
        ({"activation_fn": nn.Linear}, TypeError, "activation_fn"),
        ({"activation_fn": nn.ReLU()}, TypeError, "activation_fn"),
        ({"activation_fn": 3}, TypeError, "activation_fn"),
        ("simba", TypeError, "critic_kwargs must be a dict of network, layer_norm"),
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [RFMFlow, SAC])
def test_refuses_options(cls: Any, options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        algorithm(cls, options)


@pytest.mark.parametrize("widths", [[16, 8], []])
def test_simba_refuses_widths_that_differ(widths: list[int]) -> None:
    kwargs = {"net_arch": {"pi": [8], "qf": widths}, "critic_kwargs": {"network": "simba"}}
    with pytest.raises(ValueError, match=r"net_arch \(qf\).*equal widths.*got \["):
        SAC("MlpPolicy", Bandit(), policy_kwargs=kwargs)


def test_a_linear_critic_is_allowed_where_stable_baselines3_allows_it() -> None:
    one = SAC("MlpPolicy", Bandit(), buffer_size=9, policy_kwargs={"net_arch": []}, n_candidates=3)
    obs, actions = th.rand(5, 3), th.rand(5, 2)
    q = q_values(one.critic, critic_features(one.critic, obs), actions)
    assert th.allclose(q, th.cat(one.critic(obs, actions), dim=1).T, atol=1e-6)
    assert one.predict(obs.numpy())[0].shape == (5, 2)


def test_values_start_at_zero_but_the_plain_critics() -> None:
    for cls, options, is_zero in (
        (RFMFlow, None, True),
        (RFMFlow, {"network": "simba"}, True),
        (RFMFlow, {"layer_norm": False}, False),
        (SAC, None, False),
        (SAC, {"layer_norm": True}, True),
    ):
        values = th.cat(algorithm(cls, options).critic(th.rand(5, 3), th.rand(5, 2)))
        assert (not values.any()) == is_zero


def test_a_move_of_the_unit_changes_no_value_and_reaches_the_values_size() -> None:
    one, target = critic(seed=1), critic(seed=2)
    features, actions = th.rand(50, 3), th.rand(4, 50, 2)
    before = q_values(one, features, actions), q_values(target, features, actions)
    size = before[0].square().mean().sqrt()
    for _ in range(1500):
        move_unit((one, target), before[0])
    for critics, values in zip((one, target), before, strict=True):
        assert critics.unit.item() == pytest.approx(size.item() / OUTPUT_RMS, rel=1e-3)
        drift = q_values(critics, features, actions) - values
        assert drift.abs().max() < 1e-3 * size
    assert th.cat(one(th.rand(5, 3), th.rand(5, 2))).abs().max() < 10 * size


@pytest.mark.parametrize("wild", [0.0, float("nan"), float("inf"), 1e30])
def test_values_of_no_size_leave_the_unit(wild: float) -> None:
    one = critic()
    move_unit((one,), th.full((8, 1), wild))
    assert one.unit == 1.0  # the square of 1e30 is not finite in float32
    for _ in range(5000):  # values that vanish, as before the first reward
        move_unit((one,), 1e-3 * one.unit)
    assert one.unit > 0
    assert all(parameter.isfinite().all() for parameter in one.parameters())


@pytest.mark.parametrize("cls", [RFMFlow, SAC])
def test_updates_are_the_same_in_every_unit_of_reward(cls: Any) -> None:
    """A thousandfold reward in a thousandfold unit: values and their updates are a thousandfold."""
    values = []
    for unit in (1.0, 1000.0):
        options = {"temperature": "auto"} if cls is RFMFlow else {"ent_coef": 1e-9}
        one = algorithm(cls, {"layer_norm": True}, learning_starts=100, **options).learn(60)
        one.replay_buffer.rewards *= unit
        for part in (one.critic, one.critic_target):
            part.unit.fill_(0.1 * unit)
        if cls is RFMFlow:
            one.actor.temperature.assign(0.3 * unit)
        one.set_random_seed(0)
        one.train(30, 32)
        values.append(q_values(one.critic, th.full((6, 3), 0.5), th.linspace(-1, 1, 12).view(6, 2)))
        assert one.critic.unit == one.critic_target.unit != 0.1 * unit
    small, large = values
    assert small.abs().min() > 0
    assert th.allclose(1000 * small, large, rtol=2e-2, atol=1e-3 * large.abs().max().item())


def test_a_model_saved_before_layer_norm_was_the_default_keeps_its_critic(tmp_path: Path) -> None:
    for given in ({}, {"critic_kwargs": {"activation_fn": "GELU"}}):
        plain = {"critic_kwargs": {"layer_norm": False, **given.get("critic_kwargs", {})}}
        plain["normalize_observations"] = False
        one = RFMFlow("MlpPolicy", Bandit(), buffer_size=9, policy_kwargs=plain).learn(5)
        one.policy_kwargs = given
        del one.policy_defaults
        one.save(tmp_path / "model")
        loaded = RFMFlow.load(tmp_path / "model", env=Bandit())
        assert loaded.critic.state_dict().keys() == one.critic.state_dict().keys()
        assert loaded.policy_kwargs == given
        obs = np.random.default_rng(0).random((5, 3), np.float32)
        for model in (one, loaded):
            th.manual_seed(0)
            action, _ = model.predict(obs, deterministic=True)
        assert (action == one.predict(obs, deterministic=True)[0]).all()
        loaded.learn(5)
        loaded.save(tmp_path / "again")
        again = RFMFlow.load(tmp_path / "again")
        assert (
            again.predict(obs, deterministic=True)[0] == loaded.predict(obs, deterministic=True)[0]
        ).all()


def test_a_normalised_critic_saved_before_there_was_a_unit_loads_with_one() -> None:
    one, other = critic(seed=0), critic(seed=1)
    state = {name: tensor for name, tensor in one.state_dict().items() if name != "unit"}
    other.unit.fill_(5.0)
    other.load_state_dict(state)
    assert other.unit == 1.0
    assert th.equal(
        q_values(other, th.ones(1, 3), th.ones(1, 2)), q_values(one, th.ones(1, 3), th.ones(1, 2))
    )
