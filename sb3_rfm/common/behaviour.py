"""What the actions in the replay buffer are worth: values of the best that was done."""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples
from torch import Tensor, nn

from sb3_rfm.common.boltzmann import critic_features, minimum_q
from sb3_rfm.common.critics import Critic

EXPECTILE = 0.9
"""Which expectile of the replayed actions' values a state's value is (FlowRL)."""


class BehaviourValue(nn.Module):
    """
    Values of the behaviour that filled the replay buffer, were the best of it done: twin critics on
    ``r + discount V(s')``, and V, an expectile of the smaller of their targets' values at replayed
    actions (implicit Q-learning, Kostrikov et al. 2022, arXiv 2110.06169, eq. 5 and 6).

    V is in the critics' unit.

    :param critic: the critics, whose features V shares
    :param critic_target: their average
    :param value_network: of V, (B, F) -> (B, 1)
    """

    def __init__(self, critic: Critic, critic_target: Critic, value_network: nn.Module) -> None:
        super().__init__()
        self.critic, self.critic_target = critic, critic_target
        self.value_network = value_network
        if critic.normalizes_values:
            last = list(list(value_network.children())[-1].parameters())
            for parameter in last:
                nn.init.zeros_(parameter)
            critic.last_parameters += last

    def parameters_to_learn(self) -> list[nn.Parameter]:
        """
        What an optimizer owns: the critics, not their average, and V.

        :return: the parameters
        """
        return [*self.critic.parameters(), *self.value_network.parameters()]

    def value(self, obs: PyTorchObs) -> Tensor:
        """
        V, without a gradient in the features.

        :param obs: B observations
        :return: (B, 1), in units of return
        """
        with th.no_grad():
            features = self.critic.features(obs)
        values: Tensor = self.critic.unit.unsqueeze(-1) * self.value_network(features)
        return values

    def errors(self, data: ReplayBufferSamples, target: Tensor) -> Tensor:
        """
        Half the squared errors of each of the critics, and V's, each times its side of the
        expectile.

        :param data: a batch of B transitions
        :param target: ``r + discount V(s')``, (B, 1)
        :return: (C + 1, B, 1), in units of return squared
        """
        values = th.stack(self.critic(data.observations, data.actions))
        with th.no_grad():
            features = critic_features(self.critic_target, data.observations)
            above = minimum_q(self.critic_target, features, data.actions).unsqueeze(-1)
        excess = above - self.value(data.observations)
        side = th.where(excess > 0, EXPECTILE, 1 - EXPECTILE)
        return th.cat([0.5 * (values - target).square(), (side * excess.square())[None]])
