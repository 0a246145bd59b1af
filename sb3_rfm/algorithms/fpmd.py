"""FPMD: flow policy mirror descent."""

from typing import ClassVar

from sb3_rfm.algorithms.dpmd import DPMD
from sb3_rfm.common.config import Settings


class FPMD(DPMD):
    """
    Flow policy mirror descent (arXiv 2507.23675, 2025), its variant R: :class:`sb3_rfm.DPMD` on the
    straight path.

    Twenty steps draw what trains and explores. One step evaluates: from pure noise the exact
    velocity is ``E[a] - x_0``, so that it lands on the mean action, and is off by the policy's
    spread, which mirror descent shrinks.

    Where it differs from the paper: as DPMD does; flows start from full noise.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = DPMD.defaults.changed(
        {
            "flow": {
                "interpolant": "linear",
                "parametrization": "velocity",
                "solver": "euler",
                "evaluation_steps": 1,
            }
        }
    )
