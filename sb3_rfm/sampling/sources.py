"""Where the noise comes from: the source law p_0 of ``x_0``."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.registry import Registry


class Source(ABC):
    """A law p_0 on R^d that can be sampled and whose log-density and score are known."""

    @abstractmethod
    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: th.Generator | None = None
    ) -> Tensor:
        """
        Draw independent samples.

        :param shape: shape of the result, the last axis is the dimension
        :param like: gives dtype and device
        :param generator: random generator; torch's global one by default
        :return: noise of that shape
        """

    @abstractmethod
    def log_prob(self, x_0: Tensor) -> Tensor:
        """
        Normalised log-density.

        :param x_0: points, (*S, D)
        :return: (*S)
        """

    @abstractmethod
    def score(self, x_0: Tensor) -> Tensor:
        """
        Gradient of the log-density.

        :param x_0: points, (*S, D)
        :return: (*S, D)
        """


@dataclass(frozen=True)
class Gaussian(Source):
    """The standard normal law N(0, I): ``log p_0 = -|x|²/2 - d log(2 pi)/2``, score ``-x``."""

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: th.Generator | None = None
    ) -> Tensor:
        return th.randn(shape, dtype=like.dtype, device=like.device, generator=generator)

    def log_prob(self, x_0: Tensor) -> Tensor:
        return -0.5 * (x_0.square().sum(-1) + x_0.shape[-1] * math.log(2 * math.pi))

    def score(self, x_0: Tensor) -> Tensor:
        return -x_0


SOURCES = Registry[Source]("source", {"gaussian": Gaussian})
SourceLike = str | Source
