"""DQS: diffusion Q-sampling, gradient expectation on a variance-exploding path."""

from typing import ClassVar

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import (
    ActorUpdateSettings,
    CandidateSettings,
    EstimatorSettings,
    FlowSettings,
    Settings,
)
from sb3_rfm.sampling.interpolants import VEGeometric


class DQS(FlowActorCritic):
    """
    Diffusion Q-sampling (Jain et al., RLC 2025).

    The score network regresses on the gradient of ``log mean_i exp(Q(s, x_1^i) / temperature)``,
    ``x_1^i = x_t + beta noise``, its squared error weighted by the variance ``beta²``. ``x_t`` is
    mixed from the actions in the replay buffer, and the critics see points outside the box.

    Where it differs from the paper: the action is the clipped end of the SDE and not its tanh,
    because a law that was trained on ``Q(s, a)`` of actions a would be bent by it; predicted
    actions are kept within the box.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = Settings(
        flow=FlowSettings(
            interpolant=VEGeometric(sigma_min=1e-5, sigma_max=1.0),
            parametrization="score",
            solver="euler_maruyama",
            steps=20,
            time_shift=1.0,
            support="extrapolated",
        ),
        estimator=EstimatorSettings("gradient_expectation", n_particles=1000, n_times=1),
        candidates=CandidateSettings(n=1, evaluate=1, noise_color="white"),
        actor_update=ActorUpdateSettings(x_t_from="replay", loss_weighting="noise", every=1),
        temperature=0.05,
    )
