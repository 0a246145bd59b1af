"""QSM: Q-score matching."""

from typing import ClassVar

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import (
    ActorUpdateSettings,
    CandidateSettings,
    CriticUpdateSettings,
    EstimatorSettings,
    FlowSettings,
    Settings,
)
from sb3_rfm.sampling.estimators.approximations import PlugIn


class QSM(FlowActorCritic):
    """
    Q-score matching (Psenka et al., ICML 2024).

    The noise network regresses on ``-M_q grad Q(s, x_t)``, Q the mean of the critics, ``M_q = 1 /
    temperature = 50`` (they take 120 on hard tasks: ``temperature=1 / 120``). ``x_t`` is mixed from
    the actions in the replay buffer; actions have a noise of .1, in the critics' target too. The
    score at ``x_t`` is not that of the mix: the law drawn is not the Boltzmann law.

    Where it differs from the paper: time runs from noise to action, and the exploration noise is
    part of the policy, not of the training script.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = Settings(
        flow=FlowSettings(
            interpolant="vp_linear",
            parametrization="noise",
            solver="ancestral",
            steps=10,
            time_shift=1.0,
            support="extrapolated",
        ),
        estimator=EstimatorSettings(PlugIn(), n_particles=None, n_times=1, q_aggregation="mean"),
        candidates=CandidateSettings(n=1, evaluate=1, noise=0.1, noise_color="white"),
        actor_update=ActorUpdateSettings(x_t_from="replay", every=1),
        critic_update=CriticUpdateSettings(target_noise=0.1),
        temperature=0.02,
    )
