"""
What the actor's regression is made of: the actions that ``x_t`` is mixed from, and what the network
is to predict there.

Most methods regress on the posterior means given ``x_t``, whichever action it was mixed from; some
on that very action, weighted by its value.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Tensor

from sb3_rfm.common.boltzmann import CriticLogDensity
from sb3_rfm.common.flow import VelocityField
from sb3_rfm.common.selection import gather_selected, select_by_softmax
from sb3_rfm.sampling.registry import Registry, require_float, require_int


@dataclass(frozen=True)
class ActorBatch:
    """
    What the actor's losses are made of, for B states, computed once. Of a population of P members
    the states are (P, B), and the temperature is (P, 1).

    :param velocity: the flow network's
    :param acting_velocity: the one-step network's; None where there is none
    :param reference_velocity: the averaged network's, where predictions are kept near it
    :param log_density: the Boltzmann law of the critics; None where nothing is estimated
    :param features: of the critics, where actions are judged, (B, F)
    :param replayed: points of the actions in the batch, (B, D)
    :param noise: what candidates start from, (M, B, D); none where nothing needs them
    :param x_1: where the flow carries it, the candidates, (M, B, D)
    :param q: their values, (M, B)
    :param temperature: lambda, ()
    :param excess: by how much the replayed action is worth more than the first candidate, by the
        behaviour's values and in the critics' unit, (B); None where nothing needs it
    """

    velocity: VelocityField
    acting_velocity: VelocityField | None
    reference_velocity: VelocityField | None
    log_density: CriticLogDensity | None
    features: Tensor
    replayed: Tensor
    noise: Tensor
    x_1: Tensor
    q: Tensor
    temperature: Tensor
    excess: Tensor | None = None


# ---------------------------------------------------------------- the action that x_t is mixed from


class XtFrom(ABC):
    """
    A rule for the action that ``x_t`` is mixed from; ``from_policy`` says that it is one of the
    policy's candidates.
    """

    from_policy: bool = True

    @abstractmethod
    def __call__(self, batch: ActorBatch) -> Tensor:
        """
        The actions.

        :param batch: what there is
        :return: points, (B, D)
        """


@dataclass(frozen=True)
class FromPolicy(XtFrom):
    """A candidate drawn with probability softmax(Q / temperature) (RFM)."""

    def __call__(self, batch: ActorBatch) -> Tensor:
        return gather_selected(batch.x_1, select_by_softmax(batch.q, batch.temperature))


@dataclass(frozen=True)
class FromBest(XtFrom):
    """The candidate of the largest value (SDAC)."""

    def __call__(self, batch: ActorBatch) -> Tensor:
        return gather_selected(batch.x_1, batch.q.argmax(0))


@dataclass(frozen=True)
class FromReplay(XtFrom):
    """The action in the replay buffer (MaxEntDP, DQS, QSM)."""

    from_policy = False  # not annotated: a constant of the class, not a field of the dataclass

    def __call__(self, batch: ActorBatch) -> Tensor:
        return batch.replayed


X_T_FROM = Registry[XtFrom](
    "actor_update.x_t_from", {"policy": FromPolicy, "best": FromBest, "replay": FromReplay}
)
XtFromLike = str | XtFrom


# ---------------------------------------------------------------- what the network regresses on


class Objective:
    """
    What the network regresses on; ``uses_temperature`` says whether lambda has a part in it, and
    ``depends_on_scale`` whether it is then in units of value.
    """

    uses_temperature: bool = True
    depends_on_scale: bool = True


@dataclass(frozen=True)
class PosteriorMeans(Objective):
    """The posterior means of noise and action given ``x_t``, by an estimator (RFM, Theorem 1)."""


@dataclass(frozen=True)
class NoRegression(Objective):
    """Nothing: the values' gradient alone trains the network (DACER)."""

    uses_temperature = False  # not annotated: a constant of the class, not a field of the dataclass


class WeightedActions(Objective, ABC):
    """
    Actions of its own and their noise themselves, weighted by their values; ``from_policy`` says
    whether the policy's candidates have a part in it, ``needs_behaviour`` whether values of the
    behaviour have.
    """

    from_policy: bool = True
    needs_behaviour: bool = False

    @abstractmethod
    def __call__(self, batch: ActorBatch) -> tuple[Tensor, Tensor]:
        """
        The actions, and the weights of their squared errors.

        :param batch: what there is
        :return: points (N, B, D) and weights (N, B)
        """


@dataclass(frozen=True)
class Exponential(WeightedActions):
    """
    The policy's best candidate, weighted by ``exp(clip(z, ±limit) / temperature)``, ``z`` its
    normalised value: mirror descent (DPMD, Ma et al. 2025).

    Values are normalised by mean and deviation over the batch, weights by their mean.

    :param limit: largest normalised value
    :param baseline: whether it is a state's advantage, over the mean of its other candidates, that
        is normalised: without, states of large values weigh more, whatever the action
    :param best: whether it is the best of the candidates, as released code has it, or one draw
    """

    limit: float = 3.0
    baseline: bool = False
    best: bool = True

    depends_on_scale = False  # not annotated: a constant of the class, not a field of the dataclass

    def __post_init__(self) -> None:
        require_float("limit", self.limit, 0.0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on with one draw where it was saved before there was a choice."""
        self.__dict__.update({"best": False, **state})

    def __call__(self, batch: ActorBatch) -> tuple[Tensor, Tensor]:
        x_1, q = batch.x_1[:1], batch.q[:1]
        if self.best:
            x_1 = gather_selected(batch.x_1, batch.q.argmax(0)).unsqueeze(0)
            q = batch.q.amax(0, keepdim=True)
        if self.baseline:
            q = q - batch.q[1:].mean(0, keepdim=True)
        z = (q - q.mean(-1, True)) / q.std(-1, correction=0, keepdim=True).clamp_min(1e-6)
        log_weight = z.clamp(-self.limit, self.limit) / batch.temperature
        return x_1, th.softmax(log_weight, -1) * log_weight.shape[-1]


@dataclass(frozen=True)
class Advantage(WeightedActions):
    """
    The best candidate, weighted by ``max(Q - V, 0)``, and uniform actions with a share of that
    weight, which keep the policy's entropy up (QVPO, Ding et al. 2024).

    ``V`` is the mean over the candidates.

    :param n_uniform: uniform actions a state
    :param uniform_share: the weight of each, as a share of the best candidate's
    """

    n_uniform: int = 10
    uniform_share: float = 0.02

    uses_temperature = False  # not annotated: a constant of the class

    def __post_init__(self) -> None:
        require_int("n_uniform", self.n_uniform, 0)
        require_float("uniform_share", self.uniform_share, 0.0)

    def __call__(self, batch: ActorBatch) -> tuple[Tensor, Tensor]:
        best = gather_selected(batch.x_1, batch.q.argmax(0)).unsqueeze(0)
        weight = (batch.q.amax(0) - batch.q.mean(0)).clamp_min(0.0).unsqueeze(0)
        uniform = 2 * th.rand_like(best.expand(self.n_uniform, *best.shape[1:])) - 1
        others = (self.uniform_share * weight).expand(self.n_uniform, *weight.shape[1:])
        return th.cat([best, uniform]), th.cat([weight, others])


@dataclass(frozen=True)
class Replayed(WeightedActions):
    """The actions in the batch, all alike: flow matching on what was done."""

    uses_temperature = False  # not annotated: constants of the class
    from_policy = False

    def __call__(self, batch: ActorBatch) -> tuple[Tensor, Tensor]:
        return batch.replayed.unsqueeze(0), th.ones_like(batch.replayed[None, ..., 0])


@dataclass(frozen=True)
class BetterReplayed(WeightedActions):
    """
    The actions in the batch that are worth more than the policy's draw a', weighted by ``exp(D)``,
    ``D = max(Q_behaviour(s, a) - Q(s, a'), 0)`` in the critics' unit less its mean over the batch;
    the others have no weight (FlowRL, arXiv 2506.12811).

    :param limit: largest weight
    """

    limit: float = 10.0

    uses_temperature = False  # not annotated: constants of the class
    needs_behaviour = True

    def __post_init__(self) -> None:
        require_float("limit", self.limit, 0.0)

    def __call__(self, batch: ActorBatch) -> tuple[Tensor, Tensor]:
        assert batch.excess is not None
        better = batch.excess.clamp_min(0)
        weight = (better - better.mean(-1, keepdim=True)).exp().clamp_max(self.limit)
        weight = th.where(batch.excess >= 0, weight, 0.0)
        return batch.replayed.unsqueeze(0), weight.unsqueeze(0)


OBJECTIVES = Registry[Objective](
    "actor_update.objective",
    {
        "posterior_mean": PosteriorMeans,
        "exponential": Exponential,
        "advantage": Advantage,
        "replay": Replayed,
        "better_replay": BetterReplayed,
        "none": NoRegression,
    },
)
ObjectiveLike = str | Objective
