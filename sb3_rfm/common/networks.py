"""The actor's network and its time embedding, and the precision that is fast where they run."""

import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import Tensor, nn


def has_fast_bfloat16(device: th.device) -> bool:
    """
    Whether matrix products in bfloat16 are faster than in float32.

    With AMX they are three to four times as fast. With AVX512-BF16 alone they are twice as fast on
    some processors and half as fast on others, so that two products are timed, once a process.

    :param device: where they run
    :return: true on a processor that is faster with it, and on a GPU with bfloat16 units
    """
    if device.type == "cuda":
        return th.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not th.cpu._is_avx512_bf16_supported():
        return False
    return th.cpu._is_amx_tile_supported() or _times_faster_in_bfloat16() > 1.3


@lru_cache
def _times_faster_in_bfloat16() -> float:
    """A layer's product in float32 over the same in bfloat16, the shortest time of ten each."""
    seconds = {th.float32: math.inf, th.bfloat16: math.inf}
    for _ in range(10):
        for dtype in seconds:
            rows, weights = th.ones(1024, 256, dtype=dtype), th.ones(256, 256, dtype=dtype)
            start = time.perf_counter()
            rows @ weights
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return seconds[th.float32] / seconds[th.bfloat16]


def through(layers: Iterable[nn.Module], x: Tensor, bfloat16: bool) -> Tensor:
    """
    Run layers, all but the last in bfloat16 where asked.

    The last stays as it is: rounding a value of 80 to bfloat16 would move it by more than ten
    temperatures of .02.

    :param layers: in order
    :param x: what the first of them takes
    :param bfloat16: whether the layers before the last run in bfloat16
    :return: what the last of them gives, in the dtype of ``x``; ``x`` where there is none
    """
    every: list[Any] = list(layers)
    if not every:
        return x
    hidden = x
    with th.autocast(x.device.type, th.bfloat16) if bfloat16 else nullcontext():
        for layer in every[:-1]:
            hidden = layer(hidden)
    last: Tensor = every[-1](hidden.to(x.dtype))
    return last


class TimeEmbedding(nn.Module):
    """
    Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017, as diffusion
    models use it).

    :param dim: number of features, even
    :param max_frequency: the highest angular frequency, in radians per unit of t; the lowest is 1
    """

    frequencies: Tensor

    def __init__(self, dim: int = 16, max_frequency: float = 30.0) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer(
            "frequencies", th.logspace(0.0, math.log10(max_frequency), dim // 2), persistent=False
        )

    def forward(self, t: Tensor) -> Tensor:
        """
        :param t: time, (*S)
        :return: (*S, dim)
        """
        angle = t.unsqueeze(-1) * self.frequencies
        return th.cat([angle.sin(), angle.cos()], dim=-1)


class FlowNetwork(nn.Module):
    """
    A multilayer perceptron of observation features, point and time.

    The first layer is a sum of three: its observation part is computed once a state by
    :meth:`condition`, and shared by all the candidates and solver steps of that state.

    :param features_dim: size of the observation features, F
    :param point_dim: size of a point of the flow, D
    :param net_arch: widths of the hidden layers, at least one
    :param activation_fn: activation between layers
    :param time_dim: size of the time embedding
    :param two_times: whether it takes a later time too
    """

    def __init__(
        self,
        features_dim: int,
        point_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        time_dim: int = 16,
        two_times: bool = False,
    ) -> None:
        super().__init__()
        width = net_arch[0] if net_arch else point_dim
        self.time_embedding = TimeEmbedding(time_dim)
        self.observation_layer = nn.Linear(features_dim, width)
        self.point_layer = nn.Linear(point_dim, width, bias=False)
        self.two_times = two_times
        self.time_layer = nn.Linear((1 + two_times) * time_dim, width, bias=False)
        rest = create_mlp(width, point_dim, list(net_arch[1:]), activation_fn)
        self.trunk = nn.Sequential(*([activation_fn(), *rest] if net_arch else []))

    def condition(self, features: Tensor) -> Tensor:
        """
        The part of the first layer that depends on the observation alone.

        :param features: (B, F)
        :return: (B, width)
        """
        return self.observation_layer(features)

    def forward(
        self,
        condition: Tensor,
        x: Tensor,
        t: Tensor,
        bfloat16: bool = False,
        later: Tensor | None = None,
    ) -> Tensor:
        """
        :param condition: what :meth:`condition` returned, (B, width)
        :param x: points, (*S, B, D)
        :param t: time, () or (B)
        :param bfloat16: whether the layers between the first and the last run in bfloat16
        :param later: a time that is not before t, of its shape, of a network of two times; None
            for t itself
        :return: the prediction, (*S, B, D)
        """
        times = self.time_embedding(t)
        if self.two_times:
            span = th.zeros_like(t) if later is None else later - t
            times = th.cat([times, self.time_embedding(span)], -1)
        state_and_time = condition + self.time_layer(times)
        return through(self.trunk, state_and_time + self.point_layer(x), bfloat16)
