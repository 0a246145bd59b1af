"""
What the critics learn: their target, their errors, and those of the behaviour's values.

Of a population of P members, states are (P, B) in the place of (B), and each loss is (P) in the
place of ().
"""

from dataclasses import replace

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples
from torch import Tensor
from torch.nn import functional as F

from sb3_rfm.common.behaviour import BehaviourValue
from sb3_rfm.common.boltzmann import critic_features, minimum_q
from sb3_rfm.common.method import Method
from sb3_rfm.common.optimization import Info
from sb3_rfm.common.policies import FlowPolicy


def critic_loss(
    policy: FlowPolicy, data: ReplayBufferSamples, target: Tensor
) -> tuple[Tensor, Info]:
    """
    Half the squared errors ``(Q(s, a) - target)²``, summed over the critics.

    :param policy: whose critics they are
    :param data: a batch of B transitions
    :param target: :func:`critic_target`, (B, 1)
    :return: (), in units of return squared, and quantities to log
    """
    values = policy.critic(data.observations, data.actions)
    loss = 0.5 * th.stack([mean_square(value[None], target[None]) for value in values]).sum(0)
    return loss, {"train/critic_loss": loss.detach()}


def behaviour_loss(
    behaviour: BehaviourValue, method: Method, data: ReplayBufferSamples, discounts: float | Tensor
) -> tuple[Tensor, Info]:
    """
    The errors of the behaviour's values (:meth:`sb3_rfm.common.behaviour.BehaviourValue.errors`).

    :param behaviour: the values
    :param method: the method
    :param data: a batch of B transitions
    :param discounts: gamma, or one for each transition (n-step returns), (B, 1)
    :return: (), in units of return squared, and quantities to log
    """
    with th.no_grad():
        value = behaviour.value(data.next_observations)
        target = bootstrapped(method, data, discounts, value)
    loss = behaviour.errors(data, target).mean((-2, -1)).sum(0)
    return loss, {"rfm/behaviour_loss": loss.detach(), "rfm/behaviour_value": value.mean((-2, -1))}


@th.no_grad()
def critic_target(
    policy: FlowPolicy, method: Method, data: ReplayBufferSamples, discounts: float | Tensor
) -> tuple[Tensor, Info]:
    """
    What the critics learn, ``r + discount V(s')``.

    :param policy: actor and target critics
    :param method: the method
    :param data: a batch of B transitions
    :param discounts: gamma, or one for each transition (n-step returns), (B, 1)
    :return: (B, 1), and quantities to log
    """
    value, info = next_value(policy, method, data.next_observations)
    target = bootstrapped(method, data, discounts, value.unsqueeze(-1))
    return target, {"rfm/q_target": target.mean((-2, -1)), **info}


def bootstrapped(
    method: Method, data: ReplayBufferSamples, discounts: float | Tensor, value: Tensor
) -> Tensor:
    """
    ``r + discount V(s')``, without the second part where an episode ends.

    :param method: the method
    :param data: a batch of B transitions
    :param discounts: gamma, or one for each transition, (B, 1)
    :param value: ``V(s')``, (B, 1)
    :return: (B, 1)
    """
    return method.reward_scale * data.rewards + (1 - data.dones) * discounts * value


@th.no_grad()
def next_value(policy: FlowPolicy, method: Method, obs: PyTorchObs) -> tuple[Tensor, Info]:
    """
    The value of states by the target critics, over M candidates.

    It is the expectation of the selection by which the policy acts; for softmax, as the authors
    have it, ``V = sum_m softmax(q / lambda)_m q_m``. With entropy it is the soft value of the
    flow's own law, ``V = mean_m(q_m - lambda log pi(a_m | s))`` (Remark 6): lambda times the
    logarithm of ``int exp(Q / lambda)`` where the flow draws the Boltzmann law, less where it does
    not.

    :param policy: actor and target critics
    :param method: the method
    :param obs: B observations
    :return: V (B), and quantities to log
    """
    actor, critic, info = policy.actor, policy.critic_target, {}
    n, temperature = actor.candidates.n, actor.temperature()
    velocity = actor.acting_velocity(actor.features(obs), target=True)
    if method.divergence is None:
        x_1 = replace(velocity, bfloat16=method.bfloat16).integrate(
            actor.sample_noise(velocity.condition, n)
        )
    else:
        x_1, log_pi = actor.sample_with_log_prob(velocity, n, method.divergence)
        info = {"rfm/policy_entropy": -log_pi.mean((0, -1))}
    actions = method.target_noise(actor.flow.support.to_action(x_1), temperature)
    q = minimum_q(critic, critic_features(critic, obs), actions, method.bfloat16)
    if method.divergence is None:
        value = actor.select.value(q, temperature)
    else:
        value = (q - temperature * log_pi).mean(0)
    spread = (q - q.mean(0)).square().mean(0).sqrt().mean(-1)  # th.std is slower over few rows
    return value, {**info, "rfm/candidate_spread": spread}


def mean_square(values: Tensor, targets: Tensor) -> Tensor:
    """
    The mean squared difference over all that there is of a member.

    :param values: (S, B, N); (S, P, B, N) of a population's P members
    :param targets: of that shape
    :return: () or (P)
    """
    if values.dim() == 3:
        return F.mse_loss(values, targets)
    return F.mse_loss(values, targets, reduction="none").mean((0, -2, -1))
