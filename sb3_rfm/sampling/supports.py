"""Where the target lives, and how a point of the flow becomes an action in the box [-1, 1]^d."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch as th
from torch import Tensor
from torch.nn import functional as F

from sb3_rfm.sampling.registry import Registry, require, require_float


class Support(ABC):
    """A map from the flow's space to actions, with its Jacobian and a bound on sensible points."""

    bound: float
    bounded: bool = False
    clips: bool = False
    """Whether an action is its point, clipped to the box."""

    @property
    def target_bound(self) -> float:
        """No posterior mean of an action end lies beyond it; infinite where it may be anywhere."""
        return self.bound

    def critic_input(self, x: Tensor) -> Tensor:
        """
        What the critic judges where the Boltzmann law is evaluated: the action, unless a support
        says otherwise.

        :param x: (*S, D)
        :return: (*S, D)
        """
        return self.to_action(x)

    @abstractmethod
    def to_action(self, x: Tensor) -> Tensor:
        """
        The action of a point.

        :param x: (*S, D)
        :return: in [-1, 1], (*S, D)
        """

    @abstractmethod
    def from_action(self, action: Tensor) -> Tensor:
        """
        A point of that action.

        :param action: in [-1, 1], (*S, D)
        :return: (*S, D)
        """

    def log_det(self, x: Tensor) -> Tensor:
        """
        ``log |d action / d x|``: what a density over actions gains when it is written over points;
        0 where an action is its own point, unless a support says otherwise.

        :param x: (*S, D)
        :return: (*S)
        """
        return th.zeros_like(x[..., 0])

    def score_of_point(self, x: Tensor, seen: Tensor, score: Tensor) -> Tensor:
        """
        The chain rule: the gradient in x of ``log p(seen) + log_det(x)``; 0 where a coordinate is
        clipped, unless a support says otherwise.

        :param x: (*S, D)
        :param seen: :meth:`critic_input` of x, (*S, D)
        :param score: gradient of ``log p`` there, (*S, D)
        :return: (*S, D)
        """
        return th.where(x == seen, score, 0.0)


@dataclass(frozen=True)
class TanhLatent(Support):
    """
    ``action = tanh(x)``, ``log_det = sum_j log sech²(x_j)``: all of R^d covers the open box.

    The choice of the paper's authors.

    :param bound: points beyond ±bound are never predicted; tanh(5) = .9999
    """

    bound: float = 5.0

    def __post_init__(self) -> None:
        require_float("bound", self.bound, 0.0)
        require(self.bound > 0, "bound", self.bound, "bound > 0")

    def to_action(self, x: Tensor) -> Tensor:
        return th.tanh(x)

    def from_action(self, action: Tensor) -> Tensor:
        return th.atanh(action.clamp(-1, 1)).clamp(-self.bound, self.bound)

    def log_det(self, x: Tensor) -> Tensor:
        return 2 * (math.log(2.0) - x - F.softplus(-2 * x)).sum(-1)

    def score_of_point(self, x: Tensor, seen: Tensor, score: Tensor) -> Tensor:
        return score * (1 - seen.square()) - 2 * seen


@dataclass(frozen=True)
class Box(Support):
    """The flow lives in the box of actions itself: nothing is transformed, ``log_det = 0``."""

    # not annotated: constants of the class, not fields of the dataclass
    bound = 1.0
    bounded = True
    clips = True

    def to_action(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)  # only rounding, and noise that a solver leaves at t = 1

    def from_action(self, action: Tensor) -> Tensor:
        return action


@dataclass(frozen=True)
class Clipped(Support):
    """
    All of R^d, with the action clipped to the box: ``action = clip(x, -1, 1)``, ``log_det = 0``.

    What most diffusion policies do. It is no change of variables: the mass of the flow beyond a
    wall becomes an atom on it, and ``exp(Q(clip(x)))`` has no finite integral. Predictions are kept
    within the box, posterior means are not.

    :param extrapolate: whether the critic of the Boltzmann law sees the point itself, where it was
        never trained beyond the walls; else the clipped one, where its gradient is zero
    """

    extrapolate: bool = False

    bound = 1.0
    clips = True

    @property
    def target_bound(self) -> float:
        return math.inf

    def critic_input(self, x: Tensor) -> Tensor:
        return x if self.extrapolate else self.to_action(x)

    def to_action(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    def from_action(self, action: Tensor) -> Tensor:
        return action


SUPPORTS = Registry[Support](
    "support",
    {
        "tanh": TanhLatent,
        "box": Box,
        "clipped": Clipped,
        "extrapolated": partial(Clipped, extrapolate=True),
    },
)
SupportLike = str | Support
