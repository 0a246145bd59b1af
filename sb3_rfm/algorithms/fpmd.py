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

    Where it differs from the paper: the regression's action is a draw of the present policy instead
    of the best of 32 that the critics' target was made of; values are normalised over the batch
    instead of by running statistics, weights by their mean; the temperature starts at .1, not at 5,
    at which all weigh alike for longer than runs here last; flows start from full noise.

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
