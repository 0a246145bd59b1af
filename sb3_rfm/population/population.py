"""A population: models of one kind whose updates and exploring actions are computed together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples
from torch import Tensor

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.batches import together, uploaded
from sb3_rfm.common.config import Settings
from sb3_rfm.common.cuda_graphs import Update, graphed_act, graphed_updates, may_capture
from sb3_rfm.common.device_replay import DeviceReplay, News
from sb3_rfm.common.optimization import Info, Report, gradient_step, step
from sb3_rfm.common.temperature import DUAL_RATE
from sb3_rfm.common.updates import Updates
from sb3_rfm.population.stacking import stack_policies
from sb3_rfm.sampling.registry import require

SAME = (
    "observation_space",
    "action_space",
    "device",
    "n_envs",
    "batch_size",
    "train_freq",
    "gradient_steps",
    "learning_starts",
    "n_steps",
    "tau",
    "policy_class",
    "policy_kwargs",
    "target_entropy",
    "bfloat16",
    "on_nan",
    "cuda_graph",
)
"""What members have in common beside their class and settings."""


class Population(Updates):
    """
    N models whose policies are stacked: an update of all of them is one.

    Each goes on to be an ordinary model: what is done to it alone (``save``, ``predict``,
    ``set_parameters``, an update of its own) is done to its part of the stack. Its optimizers stay
    its own.

    :param models: of one class and of equal settings; seeds, environments, learning rates, gamma
        and temperatures that are not tuned may differ
    :raises ValueError: members that differ in anything else, and what cannot be stacked
    """

    def __init__(self, models: Sequence[FlowActorCritic]) -> None:
        check_members(models)
        first = models[0]
        self.models = list(models)
        self.settings, self.method = first.settings, first.method
        self.temperature_rule, self.tau = first.temperature_rule, first.tau
        gammas = [model.gamma for model in models]
        self._device = device = first.device
        self.gamma: Any = th.tensor(gammas, device=device).view(-1, 1, 1)
        if len(set(gammas)) == 1:
            self.gamma = gammas[0]
        self.policy, self._parameters = stack_policies([model.policy for model in models])
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self.critic_target = self.policy.critic_target
        self._find_statistics()
        log_value = self.actor.temperature.log_value
        self.temperature_optimizer = th.optim.SGD([log_value], DUAL_RATE)
        shared = self.policy.share_features_extractor
        critics = self.critic.q_networks if shared else [self.critic]
        self.parameters = {
            "actor": self.actor.flow_parameters(),
            "critic": [p for network in critics for p in network.parameters()],
        }
        if self.policy.behaviour is not None:
            self.parameters["critic"] += self.policy.behaviour.parameters_to_learn()
        gradients = {
            parameter: gradient
            for shared in self._parameters
            for parameter, gradient in zip(shared.own, shared.gradients, strict=True)
        }
        optimizers = [part.optimizer for model in models for part in (model.actor, model.critic)]
        firsts = [optimizer.param_groups[0]["params"][0] for optimizer in optimizers]
        self._looked_at = [(parameter, gradients[parameter]) for parameter in firsts]
        self.skips = first.on_nan == "skip"
        self.replay = DeviceReplay(self.models, device)
        self._compute: Mapping[bool, Update] = {
            with_actor: partial(self._update_all, with_actor=with_actor)
            for with_actor in (False, True)
        }
        self._act: Callable[[Any, Any], Tensor] = self._act_all
        for model in models:
            model.forget_graphs()
        if may_capture(first.cuda_graph, device, first.on_nan, optimizers):
            gives_way = first.cuda_graph == "auto"
            self._compute = graphed_updates(self._compute, self.replay, gives_way)
            self._act = graphed_act(self._act_all, device, gives_way)

    def update(
        self, batches: Sequence[ReplayBufferSamples | News], with_actor: bool
    ) -> list[Report]:
        """
        One update of each member.

        :param batches: one for each
        :param with_actor: whether it is the actors' too
        :return: quantities to log of each
        """
        if any(parameter.grad is not gradient for parameter, gradient in self._looked_at):
            for each in self._parameters:  # a member has updated itself meanwhile
                each.link()
        report = Report.of(self._compute[with_actor](*batches))
        return [Report(report.names, row) for row in report.row.unbind(1)]

    def act(self, obs: Sequence[PyTorchObs], noise: Sequence[Tensor]) -> list[Tensor]:
        """
        One exploring action of each member in each of its environments.

        :param obs: of each, on the host, (B, ...)
        :param noise: where its candidates start, on the host, (M, B, D)
        :return: of each, in [-1, 1], (B, D)
        """
        actions = self._act(tuple(obs), tuple(noise))
        return list(actions.to("cpu").unbind())  # one wait for all

    def _update_all(self, *batches: Any, with_actor: bool) -> Info:
        """:meth:`Updates._update` of the members' batches, (N, B, ...)."""
        if isinstance(batches[0], News):
            return self._update(self.replay.batch(*batches), with_actor)
        data: ReplayBufferSamples = together(*batches)
        if self._device.type == "cuda":
            data = uploaded(data, self._device)  # a graph's are there
        return self._update(data, with_actor)

    @th.no_grad()
    def _act_all(self, obs: Sequence[PyTorchObs], noise: Sequence[Tensor]) -> Tensor:
        """Actions, (N, B, D)."""
        if self._device.type == "cuda":
            obs, noise = uploaded((tuple(obs), tuple(noise)), self._device)
        return self.actor.act(together(*obs), th.stack(list(noise), 1), deterministic=False)

    def _descend(self, part: str, loss: Tensor) -> None:
        if part == "temperature":
            gradient_step(self.temperature_optimizer, loss.sum())
            return
        gradients: Any = [p.grad for p in self.parameters[part]]
        th._foreach_zero_(gradients)
        loss.sum().backward()
        limit = self.settings.actor_update.max_grad_norm if part == "actor" else None
        for model in self.models:
            step(getattr(model, part).optimizer, limit, self.skips)


def check_members(models: Sequence[FlowActorCritic]) -> None:
    """
    Refuse models that are not of one kind.

    :param models: the members
    :raises ValueError: what is not the same
    :raises TypeError: a model whose updates are not this package's
    """
    for model in models:
        if not isinstance(model, FlowActorCritic):
            raise TypeError(
                "members of a population must be of an algorithm of sb3_rfm whose updates are its "
                f"own (not SAC, whose are Stable-Baselines3's); got {type(model).__name__}"
            )
    first = models[0]
    for index, model in enumerate(models[1:], 1):
        require(type(model) is type(first), f"member {index}", type(model), f"{type(first)}")
        for name in SAME:
            own, others = getattr(model, name), getattr(first, name)
            require(own == others, f"{name} of member {index}", own, f"that of member 0, {others}")
        own, others = (_shared_settings(each.settings) for each in (model, first))
        require(own == others, f"settings of member {index}", own, f"those of member 0, {others}")
        done, others_done = model._n_updates, first._n_updates
        every, what = first.settings.actor_update.every, f"updates of member {index}"
        require(done % every == others_done % every, what, done, f"{others_done}")


def _shared_settings(settings: Settings) -> Settings:
    """What members have in common: not the critics' learning rate, nor a temperature not tuned."""
    temperature = "auto" if settings.tunes_temperature else 1.0
    update = replace(settings.critic_update, learning_rate=1.0)
    return replace(settings, critic_update=update, temperature=temperature)
