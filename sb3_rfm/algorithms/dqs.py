"""DQS: diffusion Q-sampling, gradient expectation on a variance-exploding path."""

from typing import ClassVar

from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.row import Row
from sb3_rfm.sampling.interpolants import VEGeometric


class DQS(BoltzmannAlgorithm):
    """
    Diffusion Q-sampling (Jain et al., RLC 2025).

    The score network regresses on the gradient of ``log mean_i exp(Q(s, x_1^i) / temperature)``,
    ``x_1^i = x_t + beta noise``, its squared error weighted by the variance ``beta²``. ``x_t`` is
    mixed from the actions in the replay buffer, and the critics see points outside the box.

    Where it differs from the paper: the action is the clipped end of the SDE and not its tanh,
    because a law that was trained on ``Q(s, a)`` of actions a would be bent by it; predicted
    actions are kept within the box.

    Arguments: see :class:`sb3_rfm.common.algorithm.BoltzmannAlgorithm`.
    """

    row: ClassVar[Row] = Row(
        interpolant=VEGeometric(sigma_min=1e-5, sigma_max=1.0),
        examples="replay",
        estimator="gradient",
        n_particles=1000,
        support="extrapolated",
        parametrization="score",
        loss_weighting="noise",
        solver="euler_maruyama",
        sampling_steps=20,
        n_candidates=1,
        n_eval_candidates=1,
        temperature=0.05,
        policy_delay=1,
    )
