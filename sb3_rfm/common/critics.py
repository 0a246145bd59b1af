"""The critics, and the options that every algorithm's critic has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from sb3_rfm.common.critic_gradients import gradient_rule
from sb3_rfm.common.critic_networks import CriticNetwork, mlp_network, simba_network
from sb3_rfm.common.observations import NormalizedInputs, ObservationNormalizer
from sb3_rfm.sampling.registry import require

NETWORKS: dict[str, Callable[[int, list[int], type[nn.Module], bool], CriticNetwork]] = {
    "mlp": mlp_network,
    "simba": simba_network,
}

OUTPUT_RMS = 20.0
"""Root mean square of what the networks of a critic with a unit of its own learn to give."""
UNIT_RATE = 0.05
"""Share of the way to the latest batch's that the logarithm of that unit goes, an update."""
LEAST_UNIT = 1e-12
"""Where values are zero, for want of any reward so far, the unit stays above this."""


@dataclass(frozen=True)
class CriticOptions:
    """
    What ``policy_kwargs=dict(critic_kwargs=...)`` may hold: plain values, so that a YAML file can.

    :param network: "mlp" or "simba"
    :param layer_norm: a LayerNorm after each hidden linear layer of "mlp": True unless given; False
        is Stable-Baselines3's critic. "simba" has its own, and takes neither
    :param activation_fn: an activation class of ``torch.nn`` or its name ("GELU"); None for the
        policy's
    :raises ValueError: a name or a combination that is not allowed
    :raises TypeError: a value of the wrong kind
    """

    network: str = "mlp"
    layer_norm: bool | None = None
    activation_fn: str | type[nn.Module] | None = None

    def __post_init__(self) -> None:
        names = ", ".join(NETWORKS)
        require(self.network in NETWORKS, "critic_kwargs: network", self.network, f"one of {names}")
        if not any(self.layer_norm is allowed for allowed in (True, False, None)):
            raise TypeError(
                f"critic_kwargs: layer_norm must be True, False or None; got {self.layer_norm!r}"
            )
        if self.layer_norm is None and self.network == "mlp":
            object.__setattr__(self, "layer_norm", True)
        if self.activation_fn is not None:
            activation_class(self.activation_fn)

    @classmethod
    def parse(
        cls, critic_kwargs: Mapping[str, Any] | None, default: "CriticOptions | None" = None
    ) -> "CriticOptions":
        """
        The options of a user's dictionary.

        :param critic_kwargs: values by name; None for the defaults
        :param default: what is not given stays as it is here; a LayerNorm with its network alone
        :return: the options
        :raises ValueError: a name that there is not
        :raises TypeError: anything but a dictionary
        """
        default = cls() if default is None else default
        if critic_kwargs is None:
            return default
        names = ", ".join(field.name for field in fields(cls))
        if not isinstance(critic_kwargs, Mapping):
            raise TypeError(f"critic_kwargs must be a dict of {names}; got {critic_kwargs!r}")
        for name in critic_kwargs:
            require(name in names.split(", "), "critic_kwargs", name, f"the names {names}")
        same = critic_kwargs.get("network", default.network) == default.network
        own = {} if same else {"layer_norm": None}
        return replace(default, **{**own, **critic_kwargs})

    def plain(self) -> dict[str, Any]:
        """
        The dictionary of which :meth:`parse` makes these options.

        :return: values by name
        """
        return asdict(self)

    def build(
        self, input_dim: int, net_arch: list[int], activation_fn: type[nn.Module]
    ) -> CriticNetwork:
        """
        Build one network.

        :param input_dim: size of features and action together
        :param net_arch: widths of the hidden layers
        :param activation_fn: the policy's activation
        :return: the network
        :raises ValueError: widths that the network cannot have
        """
        own = self.activation_fn
        activation = activation_fn if own is None else activation_class(own)
        return NETWORKS[self.network](input_dim, net_arch, activation, bool(self.layer_norm))

    @property
    def normalizes_values(self) -> bool:
        """Whether values have a unit of their own (:func:`move_unit`): not the plain critic's."""
        return self.layer_norm is not False


PLAIN = CriticOptions(layer_norm=False)
"""Stable-Baselines3's critic."""


def activation_class(activation_fn: str | type[nn.Module]) -> type[nn.Module]:
    """
    The activation that a user's argument names.

    :param activation_fn: a module class that needs no arguments, or the name of one of
        ``torch.nn``'s activations
    :return: the class
    :raises ValueError: there is no such activation
    :raises TypeError: not a name or a module class, or one that needs arguments
    """
    allowed = "an activation class of torch.nn or its name, such as 'ReLU', 'GELU' or 'SiLU'"
    argument = "critic_kwargs: activation_fn"
    if isinstance(activation_fn, str):
        known = nn.modules.activation.__all__
        require(activation_fn in known, argument, activation_fn, allowed)
    named = getattr(nn, activation_fn) if isinstance(activation_fn, str) else activation_fn
    try:
        is_module = isinstance(named(), nn.Module)
    except TypeError:
        is_module = False
    if not is_module:
        raise TypeError(f"{argument} must be {allowed}; got {activation_fn!r}")
    return named


class Critic(NormalizedInputs, ContinuousCritic):
    """
    Stable-Baselines3's critic with networks of :class:`CriticOptions`, whose values are ``unit``
    times what the networks give.

    With :data:`PLAIN` options the unit is one, and parameters and values are those of
    ``ContinuousCritic``, bit for bit. Else the networks' last layers start at zero and the unit
    moves by :func:`move_unit`.

    :param observation_space: observation space
    :param action_space: action space
    :param net_arch: widths of the hidden layers
    :param features_extractor: network that extracts features of the observation
    :param features_dim: number of features
    :param activation_fn: the policy's activation
    :param normalize_images: whether to divide images by 255
    :param n_critics: number of networks
    :param share_features_extractor: whether the features extractor is the actor's
    :param options: how the networks are built
    :param normalizer: the policy's, of observations; None where they are not normalised
    """

    unit: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_critics: int = 2,
        share_features_extractor: bool = True,
        options: CriticOptions | None = None,
        normalizer: ObservationNormalizer | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            net_arch,
            features_extractor,
            features_dim,
            activation_fn,
            normalize_images,
            n_critics=0,  # SB3 builds no networks: they are built below
            share_features_extractor=share_features_extractor,
        )
        self.n_critics = n_critics
        self._borrow(normalizer)
        options, input_dim = options or CriticOptions(), features_dim + get_action_dim(action_space)
        self.normalizes_values = options.normalizes_values
        self.register_buffer("unit", th.ones(()), persistent=options.normalizes_values)
        networks = [options.build(input_dim, net_arch, activation_fn) for _ in range(n_critics)]
        if self.normalizes_values:
            for network in networks:
                for parameter in network[-1].parameters():
                    nn.init.zeros_(parameter)
        self.use(networks)

    def use(self, networks: Sequence[nn.Module]) -> None:
        """
        Take networks, in the place of those that it has, and decide how to evaluate them: by hand
        where all are rectifier networks, else by automatic differentiation.

        An optimizer that exists already goes on with the parameters of the networks before.

        :param networks: ``n_critics`` of them, called like
            :class:`sb3_rfm.common.critic_networks.CriticNetwork`
        :raises ValueError: another number of networks
        """
        require(len(networks) == self.n_critics, "networks", len(networks), f"{self.n_critics}")
        self.q_networks = list(networks)
        for index, network in enumerate(networks):
            self.add_module(f"qf{index}", network)
        lasts = [last for network in networks for last in list(network.children())[-1:]]
        self.last_parameters = [parameter for last in lasts for parameter in last.parameters()]
        self.gradient_rule = gradient_rule(networks)

    def value_and_action_gradient(
        self, features: Tensor, actions: Tensor, mean: bool = False, bfloat16: bool = False
    ) -> tuple[Tensor, Tensor]:
        """
        The smallest of the networks' values, and its gradient in the action.

        :param features: of the observations, (B, F)
        :param actions: in [-1, 1], (*S, B, D)
        :param mean: the mean of the values instead
        :param bfloat16: whether the layers between the first and the last run in bfloat16
        :return: (*S, B) and (*S, B, D), without a graph
        """
        value, gradient = self.gradient_rule(self.q_networks, features, actions, mean, bfloat16)
        return self.unit * value, self.unit.unsqueeze(-1) * gradient

    def forward(self, obs: Any, actions: Tensor) -> tuple[Tensor, ...]:
        """
        Values of one action a state, as Stable-Baselines3's.

        :param obs: B observations
        :param actions: in [-1, 1], (B, D)
        :return: of each network, (B, 1), in units of return; gradients do not reach a features
            extractor that is the actor's
        """
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            features = self.features(obs)
        joined, unit = th.cat([features, actions], -1), self.unit.unsqueeze(-1)
        return tuple(unit * network(joined) for network in self.q_networks)

    def q1_forward(self, obs: Any, actions: Tensor) -> Tensor:
        """
        The first network's values.

        :param obs: B observations
        :param actions: in [-1, 1], (B, D)
        :return: (B, 1), in units of return
        """
        return self.unit * super().q1_forward(obs, actions)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        if self.normalizes_values:
            state_dict.setdefault(f"{prefix}unit", th.ones(()))  # saved before there was a unit
        super()._load_from_state_dict(state_dict, prefix, *others)


@th.no_grad()
def move_unit(critics: Sequence[Critic], values: Tensor) -> Tensor:
    """
    Move the unit of critics so that the networks' outputs have a root mean square of
    :data:`OUTPUT_RMS`, without a change of any value: the last layers are divided by what the unit
    is multiplied by (van Hasselt et al. 2016, arXiv 1602.07714, without the shift of the mean).

    The step of an optimizer is then as large in proportion to the values whatever the unit of
    reward, and a learning rate that is right for one task is for another.

    :param critics: of one unit, those and their targets, for which ``normalizes_values`` holds
    :param values: a batch of what they learn, in units of return; where their size is zero or not
        finite the unit stays
    :return: what the unit was multiplied by, ()
    """
    unit = critics[0].unit
    squares = values.square()
    size = (squares.flatten(1).mean(1, True) if unit.dim() else squares.mean()).sqrt()
    distance = (size / (OUTPUT_RMS * unit)).log()
    factor = th.where(distance.isfinite(), UNIT_RATE * distance, 0.0).exp()
    factor = (unit * factor).clamp_min(LEAST_UNIT) / unit
    for critic in critics:
        critic.unit *= factor
        for parameter in critic.last_parameters:
            of_each = factor.view(-1, *[1] * (parameter.dim() - 1)) if factor.dim() else factor
            parameter.div_(of_each)
    return factor
