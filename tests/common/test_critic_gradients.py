"""Value and action gradient of the critics: by hand what automatic differentiation gives."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from sb3_rfm import SAC, RFMFlow
from sb3_rfm.common import critic_gradients
from sb3_rfm.common.critic_gradients import by_autograd, by_hand
from sb3_rfm.common.critic_networks import CriticNetwork, RectifierNetwork
from sb3_rfm.common.critics import Critic, CriticOptions

OBSERVATION, ACTION = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
NORMALISED = {"layer_norm": True}


def critic(net_arch: tuple[int, ...] = (16, 16), n_critics: int = 2, **options: Any) -> Critic:
    """In float64, every parameter drawn anew: a LayerNorm's gains have both signs."""
    th.manual_seed(0)
    parsed = CriticOptions.parse(options)
    arguments = (OBSERVATION, ACTION, list(net_arch), FlattenExtractor(OBSERVATION), 3)
    one = Critic(*arguments, n_critics=n_critics, options=parsed).double()
    for parameter in one.parameters():
        nn.init.normal_(parameter, std=0.5)
    return one


def points(*shape: int, dtype: th.dtype = th.float64) -> tuple[Tensor, Tensor]:
    """Features of the last axis's states, and actions there."""
    return th.rand(shape[-1], 3, dtype=dtype), 2 * th.rand(*shape, 2, dtype=dtype) - 1


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("fewest_sorted", [1, 1000])
@pytest.mark.parametrize("options", [{}, NORMALISED], ids=str)
@pytest.mark.parametrize("net_arch", [(16,), (16, 8), (8, 16, 8)])
@pytest.mark.parametrize("n_critics", [1, 2, 3])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_by_hand_is_autograd(
    mean: bool,
    fewest_sorted: int,
    options: dict[str, Any],
    net_arch: tuple[int, ...],
    n_critics: int,
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(critic_gradients, "FEWEST_SORTED", fewest_sorted)
    one, (features, actions) = critic(net_arch, n_critics, **options), points(*shape)
    value, gradient = one.value_and_action_gradient(features, actions, mean)
    reference = by_autograd(one.q_networks, features, actions, mean, False)
    assert value.shape == shape
    assert not value.requires_grad
    assert gradient.abs().mean() > 1e-3  # a premise: not all units are off
    th.testing.assert_close((value, gradient), reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("options", [{}, NORMALISED], ids=str)
def test_values_without_a_graph_are_those_with_one(options: dict[str, Any], bfloat16: bool) -> None:
    network = critic(**options).float().q_networks[0]
    arguments = (*points(4, 5, dtype=th.float32), bfloat16)
    with th.no_grad():
        value = network(*arguments)
    th.testing.assert_close(value, network(*arguments).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, NORMALISED], ids=str)
def test_at_a_tie_it_is_one_of_the_equal_networks(options: dict[str, Any]) -> None:
    one, (features, actions) = critic(n_critics=3, **options), points(4, 5)
    one.use([one.q_networks[0]] * 3)
    reference = by_autograd(one.q_networks[:1], features, actions, False, False)
    own = one.value_and_action_gradient(features, actions)
    th.testing.assert_close(own, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mean", [False, True])
def test_in_bfloat16_it_is_autograds_but_for_rounding(mean: bool) -> None:
    one, (features, actions) = critic((64, 64), **NORMALISED), points(7, 50)
    one, features, actions = one.float(), features.float(), actions.float()
    value, gradient = one.value_and_action_gradient(features, actions, mean, bfloat16=True)
    exact, own = by_autograd(one.q_networks, features, actions, mean, False)
    same, rounded = by_autograd(one.q_networks, features, actions, mean, True)
    assert value.dtype == gradient.dtype == th.float32
    assert not th.equal(value, exact)
    assert value == pytest.approx(same, abs=1e-3 * float(exact.std()))
    # no further from the exact gradient than automatic differentiation in bfloat16, nearly
    assert (gradient - own).norm() < 1.2 * (rounded - own).norm() < 0.1 * own.norm()


@pytest.mark.parametrize(
    ("options", "net_arch", "rule"),
    [
        ({}, (8, 8), by_hand),
        (NORMALISED, (8,), by_hand),
        ({}, (), by_autograd),
        ({"activation_fn": "GELU"}, (8, 8), by_autograd),
        ({"layer_norm": True, "activation_fn": "SiLU"}, (8, 8), by_autograd),
        ({"network": "simba"}, (8, 8), by_autograd),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_critic_chooses_its_rule_when_it_is_built(
    options: dict[str, Any], net_arch: tuple[int, ...], rule: Any
) -> None:
    assert critic(net_arch, **options).gradient_rule is rule


def test_by_hand_takes_no_automatic_differentiation(monkeypatch: pytest.MonkeyPatch) -> None:
    one, arguments = critic(**NORMALISED), points(4, 5)
    monkeypatch.delattr(th.autograd, "grad")
    one.value_and_action_gradient(*arguments)
    one.value_and_action_gradient(*arguments, mean=True)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_is_evaluated_by_its_own_parameters(clone: Any) -> None:
    one, arguments = critic(**NORMALISED), points(4, 5)
    before = one.value_and_action_gradient(*arguments)
    other = clone(one)
    for parameter in one.parameters():
        parameter.data.zero_()
    assert other.gradient_rule is by_hand
    th.testing.assert_close(other.value_and_action_gradient(*arguments), before, rtol=0, atol=0)


@pytest.mark.parametrize("cls", [RFMFlow, SAC])
def test_a_loaded_critic_is_evaluated_by_hand(cls: Any, tmp_path: Path) -> None:
    kwargs = {"net_arch": [8, 8], "critic_kwargs": NORMALISED}
    one = cls("MlpPolicy", Bandit(), buffer_size=9, policy_kwargs=kwargs)
    one.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model")
    arguments = points(4, 5, dtype=th.float32)
    for ours, theirs in ((one.critic, loaded.critic), (one.critic_target, loaded.critic_target)):
        assert type(theirs) is Critic
        assert theirs.gradient_rule is by_hand
        results = (c.value_and_action_gradient(*arguments) for c in (ours, theirs))
        th.testing.assert_close(*results, rtol=0, atol=0)


class Squares(nn.Module):
    """A user's network."""

    def forward(self, features: Tensor, actions: Tensor, bfloat16: bool) -> Tensor:
        del bfloat16
        return features.sum(-1, keepdim=True) - actions.square().sum(-1, keepdim=True)


def test_a_users_networks_are_differentiated() -> None:
    one, (features, actions) = critic(), points(4, 5)
    one.use([Squares(), Squares()])
    value, gradient = one.value_and_action_gradient(features, actions)
    th.testing.assert_close(value, features.sum(-1) - actions.square().sum(-1))
    th.testing.assert_close(gradient, -2 * actions)
    with pytest.raises(ValueError, match=r"networks.*2; got 3"):
        one.use([Squares()] * 3)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(5, 1)],
        [nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 1)],
        [nn.Linear(5, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 1)],
        [nn.Linear(5, 4), nn.LayerNorm(4, elementwise_affine=False), nn.ReLU(), nn.Linear(4, 1)],
        [nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 1)],
        [nn.Linear(5, 4), nn.ReLU(), nn.Identity()],
    ],
    ids=str,
)
def test_a_rectifier_network_refuses_other_layers(layers: list[nn.Module]) -> None:
    with pytest.raises(ValueError, match="layers must satisfy: Linear, LayerNorm"):
        RectifierNetwork(*layers)
    assert CriticNetwork(*layers)(th.rand(3, 5)).shape[0] == 3


def test_a_part_of_a_rectifier_network_is_a_sequence_of_layers() -> None:
    network = critic(**NORMALISED).q_networks[0]
    assert type(network[:3]) is nn.Sequential
    assert network[2] is list(network)[2]
