"""FLAME-M: maximum-entropy flow policy by mean velocities."""

from typing import ClassVar

from sb3_rfm.algorithms.flame import FLAME
from sb3_rfm.common.config import Settings


class FLAME_M(FLAME):
    """
    Flow-based maximum-entropy policy by mean velocities: :class:`sb3_rfm.FLAME` with a network of
    two times, as MFPO has it (arXiv 2604.14698, 2026) and FLAME's variant M (arXiv 2602.01606).

    The network regresses on ``u = v + (r - t) (v · grad u + d_t u)``, v FLAME's mean velocity of
    truncated noise. Two steps draw the policy; log pi is exact, by their own Jacobians.

    Where it differs from the paper: that is MFPO's. Here log pi needs no second network for the
    mean divergence; particles are truncated noise alone, without the policy's; critics are scalar;
    evaluation takes the best of 32, not of 10. FLAME-M adds a gradient of Q through the step, which
    has no part in its theory.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = FLAME.defaults.changed(
        {
            "flow": {
                "parametrization": "mean_velocity",
                "solver": "mean_step",
                "steps": 2,
                "evaluation_steps": None,
            },
            "critic_update": {"entropy": True},
        }
    )
