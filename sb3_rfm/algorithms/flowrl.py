"""FlowRL: a flow that ascends Q and keeps near what was better in the replay buffer."""

from typing import ClassVar

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import ActorUpdateSettings, CandidateSettings, FlowSettings, Settings


class FlowRL(FlowActorCritic):
    """
    Flow-based policy for online reinforcement learning (arXiv 2506.12811, NeurIPS 2025).

    The velocity ascends ``Q(s, a)`` through the one midpoint step that draws a, and is regressed on
    that of the replayed actions that are worth more: each is weighted by ``exp(D)``, ``D`` what
    values of the behaviour (:class:`sb3_rfm.common.behaviour.BehaviourValue`) say it is better by,
    centred over the batch, and by nothing where D is negative. One draw acts.

    Where it differs from the paper: Q is divided by its mean size and D is in the critics' unit, so
    that the unit of reward does not matter; each action's error has its own weight (the release
    averages errors first); flows start from unclipped noise, end within the box, and are not
    squashed; target networks average slowly.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = Settings(
        flow=FlowSettings(
            parametrization="velocity",
            solver="midpoint",
            steps=1,
            time_shift=1.0,
            support="clipped",
        ),
        estimator=None,
        candidates=CandidateSettings(n=1, evaluate=1, select="best", noise_color="white"),
        actor_update=ActorUpdateSettings(
            x_t_from=None, objective="better_replay", value_gradient=10.0
        ),
        temperature=1.0,  # which nothing uses
    )
