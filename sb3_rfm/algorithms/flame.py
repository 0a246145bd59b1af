"""FLAME: maximum-entropy flow policy by noise expectation on the straight path."""

from typing import ClassVar

from sb3_rfm.algorithms.qne import QNE
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import Settings


class FLAME(FlowActorCritic):
    """
    Flow-based maximum-entropy policy (arXiv 2602.01606, 2026), its variant R: :class:`sb3_rfm.QNE`
    on the straight path.

    The velocity is regressed on ``sum_i w_i (x_1^i - x_0^i)``, ``w ∝ exp(min Q(s, x_1^i) /
    temperature)``, the noise truncated so that ``x_1`` stays in the box. Ten steps explore and give
    log pi for the critics' target; one step, best of 32, evaluates.

    Where it differs from the paper: exploring actions take as many steps as log pi, and are single
    draws; ``x_t`` is not clipped, and flows start from the noise that they are trained on; the
    temperature is tuned by the entropy of a Gaussian with the candidates' variances.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = QNE.defaults.changed(
        {
            "flow": {
                "interpolant": "linear",
                "parametrization": "velocity",
                "solver": "euler",
                "steps": 10,
                "evaluation_steps": 1,
                "t_range": (0.001, 0.995),
            },
            "estimator": {"n_particles": 100, "use_target_critic": False},
            "candidates": {"evaluate": 32},
            "actor_update": {"every": 2},
            "temperature": "auto",
        }
    )
