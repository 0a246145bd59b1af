"""The critics' networks: values of many actions a state, and their gradient in the action."""

from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_rfm.common.hidden_layers import Trace, parse_hidden_layers
from sb3_rfm.common.networks import through
from sb3_rfm.sampling.registry import require

EXPANSION = 4
"""Width of a SimBa block's inner layer over its outer (Lee et al. 2024)."""


class CriticNetwork(nn.Sequential):
    """
    Layers from observation features and action to a value; the first and the last are linear.

    The first layer is a sum of two, ``W_s f + W_a a + b``: given features and actions apart,
    ``W_s f + b`` is computed once a state, not once an action.
    """

    def forward(
        self, features: Tensor, actions: Tensor | None = None, bfloat16: bool = False
    ) -> Tensor:
        """
        Values of actions.

        :param features: (B, F); or features and actions side by side, (B, F + D), as
            Stable-Baselines3 calls a critic network
        :param actions: (*S, B, D)
        :param bfloat16: whether the layers between the first and the last run in bfloat16
        :return: (*S, B, 1)
        """
        if actions is None:
            return super().forward(features)
        layers: list[nn.Module] = list(self)
        return through(layers[1:], self.first_layer(features, actions), bfloat16)

    def first_layer(self, features: Tensor, actions: Tensor) -> Tensor:
        """
        The first layer as a sum of two.

        :param features: (B, F)
        :param actions: (*S, B, D)
        :return: (*S, B, width)
        """
        first: Any = self[0]
        weight_features, weight_actions = first.weight.split(
            [features.shape[-1], actions.shape[-1]], dim=1
        )
        state = F.linear(features, weight_features, first.bias)
        return F.linear(actions, weight_actions).add_(state)


class RectifierNetwork(CriticNetwork):
    """
    Hidden layers ``relu(W x + b)`` or ``relu(LayerNorm(W x + b))``, at least one, and a linear
    layer: its value's gradient in the action is known without automatic differentiation.

    :param layers: the modules, in order
    :raises ValueError: other modules
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        hidden = parse_hidden_layers(list(layers[:-1]))
        kinds = "Linear, LayerNorm with gain and bias or none, ReLU (at least once), then Linear"
        fits = bool(hidden) and type(layers[-1]) is nn.Linear
        require(fits, "layers", [type(layer).__name__ for layer in layers], kinds)
        self.hidden = hidden or ()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):  # a part of it is no such network
            return nn.Sequential(*self)[index]
        return super().__getitem__(index)

    def forward(
        self, features: Tensor, actions: Tensor | None = None, bfloat16: bool = False
    ) -> Tensor:
        """
        Values of actions; see :meth:`CriticNetwork.forward`.

        :param features: (B, F) or (B, F + D)
        :param actions: (*S, B, D)
        :param bfloat16: whether the layers between the first and the last run in bfloat16
        :return: (*S, B, 1)
        """
        if actions is None or th.is_grad_enabled():
            return super().forward(features, actions, bfloat16)
        last = self.traces(features, actions, bfloat16)[-1]
        return self.value(last, actions.dtype).unsqueeze(-1)

    def traces(self, features: Tensor, actions: Tensor, bfloat16: bool) -> list[Trace]:
        """
        The forward pass through the hidden layers, without a graph.

        :param features: (B, F)
        :param actions: (*S, B, D)
        :param bfloat16: see :meth:`forward`
        :return: after each hidden layer, (*S, B, width)
        """
        dtype = th.bfloat16 if bfloat16 else actions.dtype
        first, *others = self.hidden
        traces = [first.activate(self.first_layer(features, actions), dtype)]
        for layer in others:
            traces.append(layer.activate(layer.product(traces[-1].activation), dtype))
        return traces

    def value(self, trace: Trace, dtype: th.dtype) -> Tensor:
        """
        The last layer.

        :param trace: after the last hidden layer, (*S, width)
        :param dtype: of the value
        :return: (*S)
        """
        last: Any = self[-1]
        return F.linear(trace.activation.to(dtype), last.weight, last.bias).squeeze(-1)

    def action_gradient(self, traces: list[Trace], action_dim: int) -> Tensor:
        """
        The backward pass: gradient of the value in the action.

        :param traces: rows of what :meth:`traces` returned, (N, width)
        :param action_dim: D
        :return: (N, D), in the dtype of the weights
        """
        first, *others = self.hidden
        activation, last = traces[-1].activation, self[-1]
        gradient = last.weight.to(activation.dtype).expand_as(activation)
        for layer, trace in zip(reversed(others), reversed(traces[1:]), strict=True):
            gradient = layer.backward(trace, gradient)
            gradient = gradient @ layer.linear.weight.to(gradient.dtype)
        weight = first.linear.weight
        gradient = first.backward(traces[0], gradient).to(weight.dtype)
        # other layouts of the product take up to sixteen times as long, by processor
        return (weight[:, -action_dim:].T.contiguous() @ gradient.T).T


class ResidualBlock(nn.Module):
    """
    A SimBa block, ``x + W_2 activation(W_1 LayerNorm(x))``; He-normal weights, zero biases.

    :param width: size of x
    :param activation_fn: activation between the two layers
    """

    def __init__(self, width: int, activation_fn: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        inner = EXPANSION * width
        first, last = nn.Linear(width, inner), nn.Linear(inner, width)
        self.branch = nn.Sequential(nn.LayerNorm(width), first, activation_fn(), last)
        for layer in (first, last):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """
        :param x: (*S, width)
        :return: (*S, width)
        """
        return x + self.branch(x)


def mlp_network(
    input_dim: int, net_arch: list[int], activation_fn: type[nn.Module], layer_norm: bool = False
) -> CriticNetwork:
    """
    Stable-Baselines3's critic network; with a LayerNorm after each hidden linear layer, before its
    activation, where asked (DroQ, arXiv 2110.02034; RLPD, arXiv 2302.02948). LayerNorm draws no
    random numbers: equal seeds give the two the same weights.

    :param input_dim: size of features and action together
    :param net_arch: widths of the hidden layers
    :param activation_fn: activation after each
    :param layer_norm: whether to normalise
    :return: the network
    """
    norms: list[type[nn.Module]] = [nn.LayerNorm] if layer_norm else []
    by_hand = activation_fn is nn.ReLU and len(net_arch) > 0
    network = RectifierNetwork if by_hand else CriticNetwork
    return network(*create_mlp(input_dim, 1, net_arch, activation_fn, post_linear_modules=norms))


def simba_network(
    input_dim: int, net_arch: list[int], activation_fn: type[nn.Module], layer_norm: bool = False
) -> CriticNetwork:
    """
    SimBa (Lee et al. 2024, arXiv 2410.09754): a linear embedding, residual blocks, a LayerNorm, a
    linear value; orthogonal weights in both linear layers, zero biases. The paper's running
    normalisation of observations is the policy's (``normalize_observations``).

    :param input_dim: size of features and action together
    :param net_arch: one equal width for each block (paper: [512, 512])
    :param activation_fn: activation within each block (paper: ReLU)
    :param layer_norm: must be False, the blocks have theirs
    :return: the network
    :raises ValueError: widths that differ, or ``layer_norm``
    """
    require(
        not layer_norm, "layer_norm", layer_norm, "False with network 'simba', which has its own"
    )
    equal = "equal widths, one for each residual block, with network 'simba'"
    require(len(set(net_arch)) == 1, "net_arch (qf)", net_arch, equal)
    width = net_arch[0]
    first, last = nn.Linear(input_dim, width), nn.Linear(width, 1)
    for layer in (first, last):
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    blocks = [ResidualBlock(width, activation_fn) for _ in net_arch]
    return CriticNetwork(first, *blocks, nn.LayerNorm(width), last)
