"""FPMD-M: flow policy mirror descent by mean velocities."""

from typing import ClassVar

from sb3_rfm.algorithms.fpmd import FPMD
from sb3_rfm.common.config import Settings


class FPMD_M(FPMD):
    """
    Flow policy mirror descent (arXiv 2507.23675, 2025), its variant M: :class:`sb3_rfm.FPMD` with a
    network of mean velocities (MeanFlow), which draws the policy itself in one step, not its mean.

    The network of two times regresses on ``u = v + (r - t) (v · grad u + d_t u)``, v the velocity
    of the weighted action; one step from 0 to 1 trains, explores and evaluates.

    Where it differs from the paper: as FPMD does; three quarters of the times have r = t, as
    MeanFlow's own have, instead of none.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = FPMD.defaults.changed(
        {"flow": {"parametrization": "mean_velocity", "solver": "mean_step", "steps": 1}}
    )
