"""QNE: maximum-entropy diffusion policy by noise expectation."""

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


class QNE(FlowActorCritic):
    """
    Q-weighted noise estimation, MaxEntDP (Dong et al., ICML 2025).

    The noise network regresses on ``sum_i w_i x_0^i``, ``w ∝ exp(Q'(s, x_1^i) / temperature)`` with
    the target critics' Q', the noise truncated so that ``x_1`` stays in the box. ``x_t`` is mixed
    from the actions in the replay buffer; the critics' target holds the policy's entropy.

    Where it differs from the paper: the network is conditioned on t, not on the log-SNR; log pi
    comes from the change of variables along the solver's steps, by Hutchinson's probes, instead of
    from 50 x 20 denoising errors; predicted actions are kept within the box.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = Settings(
        flow=FlowSettings(
            interpolant="vp_cosine",
            parametrization="noise",
            solver="ancestral",
            steps=20,
            time_shift=1.0,
            t_range=(0.001, 0.999),
        ),
        estimator=EstimatorSettings(
            "truncated_noise", n_particles=500, n_times=1, use_target_critic=True
        ),
        candidates=CandidateSettings(n=1, evaluate=10, noise_color="white"),
        actor_update=ActorUpdateSettings(x_t_from="replay", every=1),
        critic_update=CriticUpdateSettings(entropy="hutchinson"),
        temperature=0.05,
    )
