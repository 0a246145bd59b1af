"""QVPO: Q-weighted variational policy optimisation."""

from typing import ClassVar

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import ActorUpdateSettings, CandidateSettings, FlowSettings, Settings


class QVPO(FlowActorCritic):
    """
    Q-weighted variational policy optimisation (Ding et al., NeurIPS 2024).

    The noise network regresses on the noise itself of the best of 64 of the policy's actions,
    weighted by ``max(Q - V, 0)``, and of 10 uniform actions of .02 times that weight, which keep
    the entropy up. The best of 4 candidates acts, of 32 at evaluation; the critics' target is drawn
    by an averaged policy.

    Where it differs from the paper: the critics' target takes the best of its 4 candidates by the
    target critics.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = Settings(
        flow=FlowSettings(
            interpolant="vp_cosine",
            parametrization="noise",
            solver="ancestral",
            steps=20,
            time_shift=1.0,
            support="clipped",
        ),
        estimator=None,
        candidates=CandidateSettings(n=4, train=64, select="best", noise_color="white"),
        actor_update=ActorUpdateSettings(
            x_t_from=None, objective="advantage", every=1, average=0.005
        ),
        temperature=0.02,  # which nothing uses: one that moves would cost evaluations of Q
    )
