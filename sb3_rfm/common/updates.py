"""One update of critics, actor, temperature and targets: of a model, or of a population of them."""

from abc import ABC, abstractmethod
from functools import reduce

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor

from sb3_rfm.common.actor import FlowActor
from sb3_rfm.common.actor_losses import (
    actor_batch,
    distillation_loss,
    regression_loss,
    temperature_loss,
    value_gradient_loss,
)
from sb3_rfm.common.config import Settings
from sb3_rfm.common.critic_losses import behaviour_loss, critic_loss, critic_target
from sb3_rfm.common.critics import Critic, move_unit
from sb3_rfm.common.method import Method
from sb3_rfm.common.optimization import Info, move_towards
from sb3_rfm.common.policies import FlowPolicy
from sb3_rfm.common.temperature import ConstantTemperature


class Updates(ABC):
    """The updates of what has a policy, a method and settings, and knows how to descend a loss."""

    policy: FlowPolicy
    actor: FlowActor
    critic: Critic
    critic_target: Critic
    method: Method
    settings: Settings
    gamma: float
    tau: float
    temperature_rule: ConstantTemperature
    statistics: list[Tensor]
    target_statistics: list[Tensor]

    @abstractmethod
    def _descend(self, part: str, loss: Tensor) -> None:
        """
        One step of an optimizer.

        :param part: "actor", "critic" or "temperature"
        :param loss: (), or (P) of a population
        """

    def _find_statistics(self) -> None:
        """Find the running statistics of the critics' normalisation layers, to be copied."""
        pairs = self.policy.averages()
        self.statistics, self.target_statistics = (
            [s for pair in pairs for s in get_parameters_by_name(pair[of], ["running_"])]
            for of in (0, 1)
        )

    def _update(self, data: ReplayBufferSamples, with_actor: bool) -> Info:
        """One update on a batch, targets included."""
        info = self._update_critic(data)
        if with_actor:
            info.update(self._update_actor(data))
            self._average_policy()
        for critic, target in self.policy.averages():
            move_towards(target.parameters(), critic.parameters(), self.tau)
        move_towards(self.target_statistics, self.statistics, 1.0)
        return info

    def _update_critic(self, data: ReplayBufferSamples) -> Info:
        """One step of the critics, in their unit, which moves first."""
        critic, temperature, behaviour = self.critic, self.actor.temperature, self.policy.behaviour
        discounts = self.gamma if data.discounts is None else data.discounts
        target, info = critic_target(self.policy, self.method, data, discounts)
        if critic.normalizes_values:
            factor = move_unit([each for pair in self.policy.averages() for each in pair], target)
            if self.method.rescales_temperature:
                temperature.rescale(factor)
        loss, losses = critic_loss(self.policy, data, target)
        if behaviour is not None:
            more, others = behaviour_loss(behaviour, self.method, data, discounts)
            loss, losses = loss + more, {**losses, **others}
        self._descend("critic", loss / critic.unit.square().view_as(loss))
        return {**info, **losses}

    def _update_actor(self, data: ReplayBufferSamples) -> Info:
        """One step of the actor, of its one-step network and of the temperature."""
        batch = actor_batch(self.policy, self.method, data)
        losses = []
        if self.method.regresses:
            losses.append(regression_loss(self.method, batch))
        if self.method.value_gradient:
            losses.append(value_gradient_loss(self.policy, self.method, batch))
        if batch.acting_velocity is not None:
            losses.append(distillation_loss(batch))
        loss = reduce(th.add, [each for each, _ in losses])
        info = {name: value for _, each in losses for name, value in each.items()}
        self._descend("actor", loss)
        info["rfm/temperature"] = batch.temperature.view_as(loss)
        if self.temperature_rule.tuned:
            loss, more = temperature_loss(self.actor.temperature, self.method, batch)
            self._descend("temperature", loss)
            info.update(more)
        return info

    def _average_policy(self) -> None:
        """Move the averaged network towards the actor's, where there is one."""
        averaged, tau = self.actor.averaged_network, self.settings.actor_update.average
        if averaged is not None and tau is not None:
            move_towards(averaged.parameters(), self.actor.acting_network.parameters(), tau)
