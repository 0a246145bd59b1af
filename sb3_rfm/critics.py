"""The critics, and the options that every algorithm's critic has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from sb3_rfm.critic_gradients import gradient_rule
from sb3_rfm.critic_networks import CriticNetwork, mlp_network, simba_network
from sb3_rfm.sampling.registry import require

NETWORKS: dict[str, Callable[[int, list[int], type[nn.Module], bool], CriticNetwork]] = {
    "mlp": mlp_network,
    "simba": simba_network,
}


@dataclass(frozen=True)
class CriticOptions:
    """
    What ``policy_kwargs=dict(critic_kwargs=...)`` may hold: plain values, so that a YAML file can.

    :param network: "mlp" or "simba"
    :param layer_norm: a LayerNorm after each hidden linear layer of "mlp"
    :param activation_fn: an activation class of ``torch.nn`` or its name ("GELU"); None for the
        policy's
    :raises ValueError: a name or a combination that is not allowed
    :raises TypeError: a value of the wrong kind
    """

    network: str = "mlp"
    layer_norm: bool = False
    activation_fn: str | type[nn.Module] | None = None

    def __post_init__(self) -> None:
        names = ", ".join(NETWORKS)
        require(self.network in NETWORKS, "critic_kwargs: network", self.network, f"one of {names}")
        if not isinstance(self.layer_norm, bool):
            raise TypeError(
                f"critic_kwargs: layer_norm must be True or False; got {self.layer_norm!r}"
            )
        if self.activation_fn is not None:
            activation_class(self.activation_fn)

    @classmethod
    def parse(cls, critic_kwargs: Mapping[str, Any] | None) -> "CriticOptions":
        """
        The options of a user's dictionary.

        :param critic_kwargs: values by name; None for the defaults
        :return: the options
        :raises ValueError: a name that there is not
        :raises TypeError: anything but a dictionary
        """
        if critic_kwargs is None:
            return cls()
        names = ", ".join(field.name for field in fields(cls))
        if not isinstance(critic_kwargs, Mapping):
            raise TypeError(f"critic_kwargs must be a dict of {names}; got {critic_kwargs!r}")
        for name in critic_kwargs:
            require(name in names.split(", "), "critic_kwargs", name, f"the names {names}")
        return cls(**critic_kwargs)

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
        return NETWORKS[self.network](input_dim, net_arch, activation, self.layer_norm)


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


class Critic(ContinuousCritic):
    """
    Stable-Baselines3's critic with networks of :class:`CriticOptions`.

    By the default options its parameters and values are those of ``ContinuousCritic``, bit for bit.

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
    """

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
        options, input_dim = options or CriticOptions(), features_dim + get_action_dim(action_space)
        self.use([options.build(input_dim, net_arch, activation_fn) for _ in range(n_critics)])

    def use(self, networks: Sequence[nn.Module]) -> None:
        """
        Take networks, in the place of those that it has, and decide how to evaluate them: by hand
        where all are rectifier networks, else by automatic differentiation.

        An optimizer that exists already goes on with the parameters of the networks before.

        :param networks: ``n_critics`` of them, called like
            :class:`sb3_rfm.critic_networks.CriticNetwork`
        :raises ValueError: another number of networks
        """
        require(len(networks) == self.n_critics, "networks", len(networks), f"{self.n_critics}")
        self.q_networks = list(networks)
        for index, network in enumerate(networks):
            self.add_module(f"qf{index}", network)
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
        return self.gradient_rule(self.q_networks, features, actions, mean, bfloat16)
