"""The Boltzmann law of a critic: its values, its score, and both in bfloat16."""

from typing import Any

import pytest
import torch as th
from bandit_models import model
from torch import nn

from sb3_rfm.common.boltzmann import CriticLogDensity, critic_features, minimum_q
from sb3_rfm.common.critic_gradients import FEWEST_SORTED, N_SIZES
from sb3_rfm.common.critic_networks import RectifierNetwork
from sb3_rfm.common.hidden_layers import Trace
from sb3_rfm.sampling import Box, TanhLatent
from sb3_rfm.sampling.estimators.posteriors import value_and_gradient, value_and_score
from sb3_rfm.sampling.supports import Clipped


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
