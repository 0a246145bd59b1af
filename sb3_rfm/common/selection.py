"""Which candidate acts, what that selection is worth, and the noise that is added to it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.registry import Registry, require_float


class Selection(ABC):
    """
    A rule that selects one of a state's M candidates by their values.

    ``is_soft`` says whether it depends on the temperature.
    """

    is_soft: bool = True

    @abstractmethod
    def __call__(self, q: Tensor, temperature: Tensor) -> Tensor:
        """
        Select.

        :param q: values of the candidates, (M, B)
        :param temperature: lambda, ()
        :return: indices, (B)
        """

    @abstractmethod
    def value(self, q: Tensor, temperature: Tensor) -> Tensor:
        """
        The expected value of what is selected.

        :param q: values of the candidates, (M, B)
        :param temperature: lambda, ()
        :return: (B)
        """


@dataclass(frozen=True)
class Softmax(Selection):
    """Candidate m with probability ``softmax(q / lambda)_m``."""

    def __call__(self, q: Tensor, temperature: Tensor) -> Tensor:
        return select_by_softmax(q, temperature)

    def value(self, q: Tensor, temperature: Tensor) -> Tensor:
        return (th.softmax(q / temperature, 0) * q).sum(0)


@dataclass(frozen=True)
class Best(Selection):
    """The candidate of the largest value."""

    is_soft = False  # not annotated: a constant of the class, not a field of the dataclass

    def __call__(self, q: Tensor, temperature: Tensor) -> Tensor:
        return q.argmax(0)

    def value(self, q: Tensor, temperature: Tensor) -> Tensor:
        return q.amax(0)


def select_by_softmax(q: Tensor, temperature: Tensor) -> Tensor:
    """
    Draw one candidate a state with probability softmax(Q / temperature), by the Gumbel-max rule.

    :param q: values of M candidates, (M, B)
    :param temperature: lambda, ()
    :return: indices, (B)
    """
    gumbel = -th.empty_like(q).exponential_().log()
    return (q / temperature + gumbel).argmax(0)


def gather_selected(candidates: Tensor, index: Tensor) -> Tensor:
    """
    The selected candidate of each state.

    :param candidates: (M, *B, D)
    :param index: (*B)
    :return: (*B, D)
    """
    if index.dim() == 1:  # what an exported graph can have for any number of states
        return candidates[index, th.arange(candidates.shape[1], device=candidates.device)]
    return candidates.take_along_dim(index[None, ..., None], 0)[0]


@dataclass(frozen=True)
class GaussianNoise:
    """
    Normal noise on actions, which stay within the box.

    :param std: standard deviation, in half widths of the box, at least 0
    :param per_temperature: whether it is in units of the temperature
    """

    std: float = 0.0
    per_temperature: bool = False

    def __call__(self, actions: Tensor, temperature: Tensor) -> Tensor:
        """
        The actions with their noise.

        :param actions: in [-1, 1], (*S, D)
        :param temperature: lambda, ()
        :return: in [-1, 1], (*S, D)
        """
        if self.std == 0:
            return actions
        std = self.std * temperature.unsqueeze(-1) if self.per_temperature else self.std
        return (actions + std * th.randn_like(actions)).clamp(-1, 1)


def make_noise(argument: str, noise: float | str) -> GaussianNoise:
    """
    Noise from a plain value.

    :param argument: name of the argument, for error messages
    :param noise: standard deviation, or "temperature_0.1" for that multiple of the temperature
    :return: the noise
    :raises ValueError: another string, or a number below 0
    """
    if not isinstance(noise, str):
        require_float(argument, noise, 0.0)
        return GaussianNoise(float(noise))
    name, _, number = noise.partition("_")
    try:
        std = float(number) if name == "temperature" else -1.0
        require_float(argument, std, 0.0)
    except ValueError:
        allowed = "a number of at least 0, or 'temperature_<multiple>'"
        raise ValueError(f"{argument} must be {allowed}; got {noise!r}") from None
    return GaussianNoise(std, per_temperature=True)


SELECTIONS = Registry[Selection]("candidates.select", {"softmax": Softmax, "best": Best})
SelectionLike = str | Selection
