"""The flow's network and the critics': their layers, and bfloat16."""

import dataclasses

import pytest
import torch as th
from bandit_models import model

from sb3_rfm.common import networks
from sb3_rfm.common.boltzmann import critic_features
from sb3_rfm.common.networks import FlowNetwork, TimeEmbedding


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
