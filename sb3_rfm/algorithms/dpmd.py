"""DPMD: diffusion policy mirror descent."""

from typing import ClassVar

from sb3_rfm.algorithms.sdac import SDAC
from sb3_rfm.common.config import Settings


class DPMD(SDAC):
    """
    Diffusion policy mirror descent (Ma et al., ICML 2025): :class:`sb3_rfm.SDAC` without reverse
    sampling.

    The noise network regresses on the noise itself of the best of the policy's own actions,
    weighted by ``exp(clip(z, ±3) / temperature)`` of its normalised value z. Each update tilts the
    policy from where it is: its fixed point is not the Boltzmann law of the critic.

    Where it differs from the paper: the best action is one at the states of the batch and not the
    one of the critics' target; values are normalised over the batch instead of by running
    statistics, weights by their mean.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = SDAC.defaults.changed(
        {"actor_update": {"objective": "exponential"}, "temperature": "auto_5"}
    )
