"""DACER: a diffusion policy trained by the gradient of Q through its sampler."""

from typing import ClassVar

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import (
    ActorUpdateSettings,
    CandidateSettings,
    CriticUpdateSettings,
    FlowSettings,
    Settings,
)


class DACER(FlowActorCritic):
    """
    Diffusion actor-critic with entropy regulator (Wang et al., NeurIPS 2024).

    The noise network ascends ``Q(s, a)``, the gradient going through every step of the sampler;
    nothing is regressed on. Noise of .1 lambda is added to actions, in the critics' target and in
    the ascent too, lambda tuned so that their entropy meets -.9 nats a coordinate: lambda is a
    scale of noise, not of values.

    Where it differs from the paper: five steps instead of twenty, scalar critics instead of
    distributions, and the entropy is that of a Gaussian with the variances of eight draws, followed
    at each update, instead of that of a mixture of three, every 10,000; Q is divided by its mean
    size.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = Settings(
        flow=FlowSettings(
            interpolant="vp_linear",
            parametrization="noise",
            solver="ancestral",
            steps=5,
            time_shift=1.0,
            support="clipped",
        ),
        estimator=None,
        candidates=CandidateSettings(
            n=1, train=8, evaluate=1, select="best", noise="temperature_0.1", noise_color="white"
        ),
        actor_update=ActorUpdateSettings(x_t_from=None, objective="none", value_gradient=1.0),
        critic_update=CriticUpdateSettings(target_noise="temperature_0.1"),
        temperature="auto_3",
        target_entropy="auto_0.9",
    )
