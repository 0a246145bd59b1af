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
    the ascent too: lambda is a scale of noise, not of values.

    Where it differs from the paper: five steps instead of twenty, scalar critics instead of
    distributions, Q is divided by its mean size, and lambda stays at the 3 that theirs starts at
    (an entropy moves it by three percent at most in 10,000 updates). ``temperature="auto_3"`` tunes
    it at each update to -.9 nats a coordinate, by the entropy of a Gaussian, not of a mixture.

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
            n=1, evaluate=1, select="best", noise="temperature_0.1", noise_color="white"
        ),
        actor_update=ActorUpdateSettings(x_t_from=None, objective="none", value_gradient=1.0),
        critic_update=CriticUpdateSettings(target_noise="temperature_0.1"),
        temperature=3.0,
        target_entropy="auto_0.9",
    )
