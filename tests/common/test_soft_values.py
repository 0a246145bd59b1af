"""The value of a state, with the policy's entropy and without."""

import dataclasses

import pytest
import torch as th
from bandit_models import fit_critic, model, one_dimensional
from scipy.stats import differential_entropy
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_rfm import RFMDiffusion, RFMFlow
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.boltzmann import critic_features, minimum_q
from sb3_rfm.common.critic_losses import next_value
from sb3_rfm.sampling.divergences import ExactDivergence


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
