"""
What the actor's regression is made of: the actions that ``x_t`` is mixed from, and their weights.

Most methods regress on the posterior means given ``x_t``, whichever action it was mixed from; some
on that very action, weighted by its value.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.common.selection import choose, take
from sb3_rfm.sampling.registry import Registry, require_float, require_int


@dataclass(frozen=True)
class Material:
    """
    What a rule may draw on, for B states.

    :param replayed: points of the actions in the batch, (B, D)
    :param starts: noise that the policy draws from, (M, B, D); none where nothing needs it
    :param points: where the flow carries it, (M, B, D)
    :param q: their values, (M, B)
    :param temperature: lambda, ()
    :param features: the critic's, of the states, (B, F); none where nothing asks the critic
    """

    replayed: Tensor
    starts: Tensor
    points: Tensor
    q: Tensor
    temperature: Tensor
    features: Tensor


class Examples(ABC):
    """
    A rule for the actions that ``x_t`` is mixed from.

    ``from_policy`` says that it needs the policy's candidates, ``own_ends`` that the regression's
    target is that action and its noise themselves, instead of the posterior's means.
    """

    from_policy: bool = True
    own_ends: bool = False

    @abstractmethod
    def __call__(self, material: Material) -> tuple[Tensor, Tensor]:
        """
        The actions, and the weights of their squared errors.

        :param material: what there is
        :return: points (N, B, D) and weights (N, B); N is 1 unless ``own_ends``
        """


@dataclass(frozen=True)
class Policy(Examples):
    """A candidate drawn with probability softmax(Q / temperature) (RFM)."""

    def __call__(self, material: Material) -> tuple[Tensor, Tensor]:
        return _plain(take(material.points, choose(material.q, material.temperature)))


@dataclass(frozen=True)
class BestOfPolicy(Examples):
    """The candidate of the largest value (SDAC)."""

    def __call__(self, material: Material) -> tuple[Tensor, Tensor]:
        return _plain(take(material.points, material.q.argmax(0)))


@dataclass(frozen=True)
class Replay(Examples):
    """The action in the replay buffer (MaxEntDP, DQS, QSM)."""

    from_policy = False  # not annotated: a constant of the class, not a field of the dataclass

    def __call__(self, material: Material) -> tuple[Tensor, Tensor]:
        return _plain(material.replayed)


@dataclass(frozen=True)
class Exponential(Examples):
    """
    The policy's own draw, weighted by ``exp(clip(z, ±limit) / temperature)``, ``z`` its normalised
    value: mirror descent (DPMD, Ma et al. 2025).

    Values are normalised by mean and deviation over the batch, weights by their mean.

    :param limit: largest normalised value
    """

    limit: float = 3.0

    own_ends = True

    def __post_init__(self) -> None:
        require_float("limit", self.limit, 0.0)

    def __call__(self, material: Material) -> tuple[Tensor, Tensor]:
        q = material.q[:1]
        z = (q - q.mean()) / q.std(correction=0).clamp_min(1e-6)
        log_weight = z.clamp(-self.limit, self.limit) / material.temperature
        return material.points[:1], th.softmax(log_weight, -1) * log_weight.shape[-1]


@dataclass(frozen=True)
class Advantage(Examples):
    """
    The best candidate, weighted by ``max(Q - V, 0)``, and uniform actions with a share of that
    weight, which keep the policy's entropy up (QVPO, Ding et al. 2024).

    ``V`` is the mean over the candidates.

    :param n_uniform: uniform actions a state
    :param uniform_share: the weight of each, as a share of the best candidate's
    """

    n_uniform: int = 10
    uniform_share: float = 0.02

    own_ends = True

    def __post_init__(self) -> None:
        require_int("n_uniform", self.n_uniform, 0)
        require_float("uniform_share", self.uniform_share, 0.0)

    def __call__(self, material: Material) -> tuple[Tensor, Tensor]:
        best = take(material.points, material.q.argmax(0)).unsqueeze(0)
        weight = (material.q.amax(0) - material.q.mean(0)).clamp_min(0.0).unsqueeze(0)
        uniform = 2 * th.rand_like(best.expand(self.n_uniform, -1, -1)) - 1
        others = (self.uniform_share * weight).expand(self.n_uniform, -1)
        return th.cat([best, uniform]), th.cat([weight, others])


def _plain(points: Tensor) -> tuple[Tensor, Tensor]:
    """One example a state, of weight one."""
    return points.unsqueeze(0), th.ones_like(points[..., 0]).unsqueeze(0)


EXAMPLES = Registry[Examples](
    "examples",
    {
        "policy": Policy,
        "best": BestOfPolicy,
        "replay": Replay,
        "exponential": Exponential,
        "advantage": Advantage,
    },
)
ExamplesLike = str | Examples
