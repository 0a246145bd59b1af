"""
The policies of several models as one: weights are stacked, and each model's own are views of them.

Only layers with weights need to know whose rows they are given: ``torch.func.vmap`` runs them over
the axis of members. Everything else treats states independently, as it does those of one model.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple, cast

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.func import functional_call, vmap

from sb3_rfm.common.actor import FlowActor
from sb3_rfm.common.batches import mapped, tensors_of
from sb3_rfm.common.behaviour import BehaviourValue
from sb3_rfm.common.critic_gradients import by_autograd
from sb3_rfm.common.critics import Critic
from sb3_rfm.common.observations import NormalizedInputs
from sb3_rfm.common.policies import FlowPolicy
from sb3_rfm.sampling.numerics.devices import on_host

ON_HOST = "statistics"
"""The buffer of an observation normaliser that stays with its member, in the host's memory."""
NUMBERS = ("log_value", "unit")
"""What a member has one number of: stacked as (N, 1), next to the axis of states."""


class _Call(nn.Module):
    """Calls a function of a module, whose weights are replaced meanwhile."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.inner, *arguments)


class Stacked(nn.Module):
    """
    N modules of one shape, run over an axis of members.

    On a GPU vmap makes one operation of N. On the CPU a layer's N products take as long in one as
    after one another, and its bias and LayerNorm longer: there each member's module runs by itself.

    :param modules: the members' own
    :param template: one of that shape, whose weights are never read
    :param stack: the stacked weights by those of the template
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        template: nn.Module,
        stack: Mapping[Tensor, Tensor],
    ) -> None:
        super().__init__()
        # neither are submodules: they have no parameters of their own
        self.members, self.__dict__["_call"] = tuple(modules), _Call(template)
        self.tensors: dict[str, Tensor] = {}
        for name, tensor in [*template.named_parameters(), *template.named_buffers()]:
            if tensor not in stack:
                continue
            own, stacked = name.replace(".", "__"), stack[tensor]
            if isinstance(stacked, nn.Parameter):
                self.register_parameter(own, stacked)
            else:
                self.register_buffer(own, stacked)
            self.tensors[f"inner.{name}"] = stacked

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        axes: Sequence[int | None],
        out: int,
    ) -> Any:
        """
        Run a function of each member's module.

        :param function: (module, arguments) -> a tensor, or several
        :param arguments: of all members
        :param axes: which axis of each argument is that of members; None for what they share
        :param out: which axis of the results
        :return: the results
        """
        if on_host(tensors_of(arguments)[0]):
            results = [
                function(member, *map(partial(_of_member, index), arguments, axes))
                for index, member in enumerate(self.members)
            ]
            if isinstance(results[0], Tensor):
                return th.stack(results, out)
            return tuple(th.stack(each, out) for each in zip(*results, strict=True))

        call: nn.Module = self.__dict__["_call"]
        call.train(self.members[0].training)

        def of_one(weights: dict[str, Tensor], *own: Any) -> Any:
            return functional_call(call, weights, (function, *own), tie_weights=False)

        every = vmap(of_one, in_dims=(0, *axes), out_dims=out, randomness="different")
        return every(self.tensors, *arguments)


def _of_member(index: int, argument: Any, axis: int | None) -> Any:
    """A member's part of an argument."""
    return argument if axis is None else mapped(argument, lambda tensor: tensor.select(axis, index))


class StackedFlowNetwork(Stacked):
    """:class:`sb3_rfm.common.networks.FlowNetwork` of each member."""

    def condition(self, features: Tensor) -> Tensor:
        """
        :param features: (N, B, F)
        :return: (N, B, width)
        """
        return self.run(lambda network, f: network.condition(f), features, axes=(0,), out=0)

    def forward(
        self,
        condition: Tensor,
        x: Tensor,
        t: Tensor,
        bfloat16: bool = False,
        later: Tensor | None = None,
    ) -> Tensor:
        """
        :param condition: (N, B, width)
        :param x: points, (*S, N, B, D)
        :param t: time, () or (*S, N, B)
        :param bfloat16: whether the layers between the first and the last run in bfloat16
        :param later: of the shape of t, of networks of two times
        :return: the prediction, (*S, N, B, D)
        """
        axis, times = x.dim() - 3, [t] if later is None else [t, later]
        return self.run(
            lambda network, condition, x, t, *later: network(condition, x, t, bfloat16, *later),
            *(condition, x, *times),
            axes=(0, axis, *[axis if t.dim() else None] * len(times)),
            out=axis,
        )


class StackedCriticNetwork(Stacked):
    """:class:`sb3_rfm.common.critic_networks.CriticNetwork` of each member."""

    def forward(
        self, features: Tensor, actions: Tensor | None = None, bfloat16: bool = False
    ) -> Tensor:
        """
        :param features: (N, B, F); or features and actions side by side, (N, B, F + D)
        :param actions: (*S, N, B, D)
        :param bfloat16: whether the layers between the first and the last run in bfloat16
        :return: (*S, N, B, 1)
        """
        if actions is None:
            return self.run(lambda network, f: network(f), features, axes=(0,), out=0)
        axis = actions.dim() - 3
        return self.run(
            lambda network, f, a: network(f, a, bfloat16),
            *(features, actions),
            axes=(0, axis),
            out=axis,
        )


class StackedGradients(Stacked):
    """The value and action gradient of each member's critic networks, by the members' own rule."""

    def __init__(
        self, critics: Sequence[Critic], template: Critic, stack: Mapping[Tensor, Tensor]
    ) -> None:
        every = [nn.ModuleList(critic.q_networks) for critic in (*critics, template)]
        super().__init__(every[:-1], every[-1], stack)
        self.rule = template.gradient_rule

    def forward(
        self, networks: Any, features: Tensor, actions: Tensor, mean: bool, bfloat16: bool
    ) -> tuple[Tensor, Tensor]:
        """A :data:`sb3_rfm.common.critic_gradients.GradientRule` of states (N, B)."""
        if self.rule is by_autograd:
            return by_autograd(networks, features, actions, mean, bfloat16)
        axis = actions.dim() - 3
        value, gradient = self.run(
            lambda own, f, a: self.rule(list(own), f, a, mean, bfloat16),
            *(features, actions),
            axes=(0, axis),
            out=axis,
        )
        return value, gradient


class _Inputs(nn.Module):
    """What extracts features of observations, as a module of its own."""

    def __init__(self, owner: NormalizedInputs) -> None:
        super().__init__()
        self.extractor, self.normalizer = owner.features_extractor, owner.normalizer
        self.features = owner.features


class StackedInputs(Stacked):
    """The features of each member's observations, normalised where the policies do that."""

    def forward(self, obs: Any) -> Tensor:
        """
        :param obs: (N, B, ...), or a dictionary of such
        :return: (N, B, F)
        """
        features: Tensor = self.run(lambda inputs, own: inputs.features(own), obs, axes=(0,), out=0)
        return features


class Shared(NamedTuple):
    """
    A stacked parameter and the members' own, which are views of it.

    :param stacked: (N, ...)
    :param own: of each member
    :param gradients: views of the stacked parameter's gradient
    """

    stacked: nn.Parameter
    own: list[nn.Parameter]
    gradients: list[Tensor]

    def link(self) -> None:
        """Have each member's gradient be a view of the stacked one, whatever it was."""
        for parameter, gradient in zip(self.own, self.gradients, strict=True):
            parameter.grad = gradient


def stack_policies(policies: Sequence[FlowPolicy]) -> tuple[FlowPolicy, list[Shared]]:
    """
    One policy of N policies of one shape: its networks take states (N, B).

    The parameters of the policies, their gradients and their buffers are views of its own from
    then on, but for the statistics of normalisers: what each of them does by itself goes on to
    work, and what is done to all is done to each.

    :param policies: of the members
    :return: their policy, and its parameters with the members'
    :raises ValueError: running statistics of BatchNorm
    """
    template = _copied(policies[0])
    stack, parameters = _stacked(template, policies)
    policy = deepcopy(template)
    actors = [own.actor for own in policies]
    _stack_actor(policy.actor, actors, template.actor, stack)
    for name in ("critic", "critic_target"):
        critics = [getattr(own, name) for own in policies]
        _stack_critic(getattr(policy, name), critics, getattr(template, name), stack)
    if template.behaviour is not None:
        behaviours = [cast(BehaviourValue, own.behaviour) for own in policies]
        _stack_behaviour(
            cast(BehaviourValue, policy.behaviour), behaviours, template.behaviour, stack
        )
    return policy, parameters


def _copied(policy: FlowPolicy) -> FlowPolicy:
    """A policy, without what it acts by at the moment."""
    actor = policy.actor
    graphs, process = actor.graphs, actor.noise_process
    actor.graphs = actor.noise_process = None
    copied = deepcopy(policy)
    actor.graphs, actor.noise_process = graphs, process
    return copied


def _stacked(
    template: FlowPolicy, policies: Sequence[FlowPolicy]
) -> tuple[dict[Tensor, Tensor], list[Shared]]:
    """The stacked tensors by those of a template; the policies' are views of them from then on."""
    stack: dict[Tensor, Tensor] = {}
    parameters: list[Shared] = []
    named = [_tensors(policy) for policy in policies]
    for name, tensor in _tensors(template).items():
        last = name.split(".")[-1]
        if last == ON_HOST:
            continue
        if last.startswith("running_"):
            raise ValueError(f"networks with BatchNorm ({name}) do not train in a population")
        own = [tensors[name] for tensors in named]
        values = th.stack([each.detach() for each in own])
        values = values.unsqueeze(-1) if last in NUMBERS else values
        for index, each in enumerate(own):
            each.data = values[index].view_as(each)
        stack[tensor] = values
        if isinstance(tensor, nn.Parameter):
            stack[tensor] = stacked = nn.Parameter(values, tensor.requires_grad)
            stacked.grad = th.zeros_like(values)
            gradients = [part.view_as(tensor) for part in stacked.grad]
            parameters.append(Shared(stacked, cast(list[nn.Parameter], own), gradients))
            parameters[-1].link()
    return stack, parameters


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _stack_actor(
    actor: FlowActor, own: Sequence[FlowActor], template: FlowActor, stack: Mapping[Tensor, Tensor]
) -> None:
    """Replace the networks of an actor."""
    for name in ("network", "one_step_network", "averaged_network"):
        network, networks = getattr(template, name), [getattr(each, name) for each in own]
        if network is not None:
            setattr(actor, name, StackedFlowNetwork(networks, network, stack))
    log_value = stack[template.temperature.log_value]
    actor.temperature.log_value = cast(nn.Parameter, log_value)
    _stack_inputs(actor, own, template, stack)


def _stack_critic(
    critic: Critic, own: Sequence[Critic], template: Critic, stack: Mapping[Tensor, Tensor]
) -> None:
    """Replace the networks of a critic."""
    networks = zip(*(each.q_networks for each in own), strict=True)
    critic.q_networks = [
        StackedCriticNetwork(each, network, stack)
        for each, network in zip(networks, template.q_networks, strict=True)
    ]
    for index, network in enumerate(critic.q_networks):
        critic.add_module(f"qf{index}", network)
    critic.gradient_rule = StackedGradients(own, template, stack)
    critic.last_parameters = [cast(nn.Parameter, stack[p]) for p in template.last_parameters]
    critic.unit = stack[template.unit]
    _stack_inputs(critic, own, template, stack)


def _stack_behaviour(
    behaviour: BehaviourValue,
    own: Sequence[BehaviourValue],
    template: BehaviourValue,
    stack: Mapping[Tensor, Tensor],
) -> None:
    """Replace the networks of the behaviour's values."""
    for name in ("critic", "critic_target"):
        critics = [getattr(each, name) for each in own]
        _stack_critic(getattr(behaviour, name), critics, getattr(template, name), stack)
    networks = [each.value_network for each in own]
    behaviour.value_network = StackedCriticNetwork(networks, template.value_network, stack)


def _stack_inputs(
    owner: NormalizedInputs,
    own: Sequence[NormalizedInputs],
    template: NormalizedInputs,
    stack: Mapping[Tensor, Tensor],
) -> None:
    """Replace what extracts features."""
    inputs = StackedInputs([_Inputs(each) for each in own], _Inputs(template), stack)
    owner.features_extractor = cast(BaseFeaturesExtractor, inputs)
    owner.__dict__["features"] = inputs
    owner.__dict__["normalizer"] = None
