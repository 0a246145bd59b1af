"""DACERv2: DACER with its score held along the gradient of Q."""

from typing import ClassVar

from sb3_rfm.algorithms.dacer import DACER
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import Settings
from sb3_rfm.sampling.estimators.approximations import UnitScore


class DACERv2(FlowActorCritic):
    """
    DACER with a Q-gradient field (arXiv 2505.23426, 2025).

    Besides the ascent of :class:`sb3_rfm.DACER` the score at ``x_t`` is regressed on ``w grad Q /
    |grad Q|``, ``w = exp(.4 k - 1.8)``: a direction at each step, which no gradient through later
    steps has to carry.

    Where it differs from the paper: see DACER; k is five times the share of noise in ``x_t``, not
    the index of a step; ``x_t`` is mixed from the actions in the replay
    buffer; the regression's weight, 1 or .01 by task there, is a hundredth of the ascent's.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = DACER.defaults.changed(
        {
            "flow": {"support": "extrapolated"},
            "estimator": {"name": UnitScore(), "n_times": 1},
            "actor_update": {
                "objective": "posterior_mean",
                "x_t_from": "replay",
                "value_gradient": 100.0,
                "max_grad_norm": float("inf"),
            },
        }
    )
