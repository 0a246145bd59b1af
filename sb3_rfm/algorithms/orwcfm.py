"""ORW-CFM-W2: online reward-weighted flow matching with a Wasserstein-2 penalty."""

from typing import ClassVar

from sb3_rfm.algorithms.fpmd import FPMD
from sb3_rfm.common.config import Settings
from sb3_rfm.common.targets import Exponential


class ORWCFM(FPMD):
    """
    Online reward-weighted conditional flow matching, ORW-CFM-W2 (Fan et al., ICLR 2025), as a
    policy: :class:`sb3_rfm.FPMD` that is kept near the average of what it was.

    The velocity is regressed on that of the policy's own actions, each weighted by ``exp(clip(z,
    ±5) / temperature)`` of its normalised advantage z, plus ``c |v - v_ref|²`` at the same ``x_t``.
    The penalty bounds the Wasserstein-2 distance to the reference; without it, rounds of weighting
    end in a point.

    Where it differs from the paper: the reward is ``Q(s, a)`` less its mean over seven other draws,
    normalised over the batch; the reference is the averaged policy, a proximal step, not the first
    policy; evaluation takes the best of 32.

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`.
    """

    defaults: ClassVar[Settings] = FPMD.defaults.changed(
        {
            "flow": {"steps": 10, "evaluation_steps": 10},
            "candidates": {"n": 1, "train": 8, "noise": 0.0},
            "actor_update": {
                "objective": Exponential(5.0, best=False, baseline=True),
                "reference": 1.0,
            },
            "temperature": 1.0,
        }
    )
