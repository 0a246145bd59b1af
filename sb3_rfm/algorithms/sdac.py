"""SDAC: soft diffusion actor-critic by reverse score matching."""

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


class SDAC(FlowActorCritic):
    """
    Soft diffusion actor-critic, reverse sampled score matching (Ma et al., ICML 2025).

    The noise network regresses on ``sum_i w_i x_0^i``, ``w ∝ exp(Q(s, clip(x_1^i)) /
    temperature)``: on average the gradient of RSM's own loss, which weights each particle's squared
    error. ``x_t`` is mixed from the best of 32 candidates; the best acts, with noise of .1 lambda.

    Where it differs from the paper: the temperature is tuned by the entropy of a Gaussian with the
    candidates' variances instead of that of the added noise, and the critics' target takes the best
    candidate by the target critics, drawn by an averaged policy.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = Settings(
        flow=FlowSettings(
            interpolant="vp_linear",
            parametrization="noise",
            solver="ancestral",
            steps=20,
            time_shift=1.0,
            support="clipped",
        ),
        estimator=EstimatorSettings("noise_expectation", n_particles=64, n_times=1),
        candidates=CandidateSettings(
            n=32, select="best", noise="temperature_0.1", noise_color="white"
        ),
        actor_update=ActorUpdateSettings(x_t_from="best", average=0.005),
        critic_update=CriticUpdateSettings(reward_scale=0.2),
        temperature="auto_0.1",
        target_entropy="auto_0.9",
    )
