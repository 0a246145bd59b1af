"""Hidden layers of rectifier networks, forward and backward without a graph."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_rfm.sampling.numerics.devices import on_host

rectified = th.ops.aten.threshold_backward
"""The gradient where an activation is above a threshold, 0 elsewhere, in one pass over memory."""


@dataclass(frozen=True)
class Trace:
    """
    What a hidden layer's forward pass leaves to its backward pass.

    :param activation: what comes out of the layer, (*S, width)
    :param normalised: what its LayerNorm took, the mean of that and the reciprocal of its standard
        deviation, (*S, width), (*S, 1) and (*S, 1); nothing where it has none
    """

    activation: Tensor
    normalised: tuple[Tensor, ...] = ()

    def each(self, function: Callable[[Tensor], Tensor]) -> "Trace":
        """
        The trace with a function applied to each of its tensors.

        :param function: of one tensor
        :return: the trace
        """
        return Trace(function(self.activation), tuple(map(function, self.normalised)))


@dataclass(frozen=True)
class HiddenLayer:
    """
    ``relu(norm(W x + b))``.

    :param linear: the linear layer
    :param norm: a LayerNorm with gain and bias; None for none
    """

    linear: nn.Linear
    norm: nn.LayerNorm | None

    def product(self, x: Tensor) -> Tensor:
        """
        ``W x + b`` in the precision of x.

        :param x: (*S, inputs)
        :return: (*S, width)
        """
        return F.linear(x, self.linear.weight.to(x.dtype), self.linear.bias.to(x.dtype))

    def activate(self, product: Tensor, dtype: th.dtype) -> Trace:
        """
        ``relu(norm(product))``; statistics are float32 at least.

        :param product: may be written over, (*S, width)
        :param dtype: of the activation
        :return: the trace
        """
        if self.norm is None:
            return Trace(product.relu_().to(dtype))
        norm: Any = self.norm
        # the kernels of a GPU have one precision for their input and the parameters
        taken = product if on_host(product) else product.to(norm.weight.dtype)
        normal, mean, reciprocal = th.native_layer_norm(
            taken, norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )
        return Trace(normal.relu_().to(dtype), (taken, mean, reciprocal))

    def backward(self, trace: Trace, gradient: Tensor) -> Tensor:
        """
        Gradient in ``W x + b``.

        :param trace: of the forward pass, (N, width)
        :param gradient: in the activation, (N, width)
        :return: (N, width)
        """
        gradient = rectified(gradient, trace.activation, 0)
        if self.norm is None:
            return gradient
        norm: Any = self.norm
        taken, mean, reciprocal = trace.normalised
        gradient, _, _ = th.ops.aten.native_layer_norm_backward(
            gradient.to(taken.dtype),
            taken,
            norm.normalized_shape,
            mean,
            reciprocal,
            norm.weight,
            norm.bias,
            [True, False, False],
        )
        return gradient


def parse_hidden_layers(layers: list[nn.Module]) -> tuple[HiddenLayer, ...] | None:
    """
    Hidden layers from modules.

    :param layers: in order
    :return: the hidden layers; None unless each is a linear layer, a LayerNorm of its outputs with
        gain and bias or none, and ReLU, all with biases
    """
    hidden, rest = [], list(layers)
    while rest:
        linear: Any = rest.pop(0)
        norm: Any = rest.pop(0) if rest and type(rest[0]) is nn.LayerNorm else None
        activation = rest.pop(0) if rest else None
        if type(linear) is not nn.Linear or type(activation) is not nn.ReLU or linear.bias is None:
            return None
        if norm is not None and (norm.bias is None or len(norm.normalized_shape) > 1):
            return None
        hidden.append(HiddenLayer(linear, norm))
    return tuple(hidden)
