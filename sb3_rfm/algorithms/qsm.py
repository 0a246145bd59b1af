"""QSM: Q-score matching."""

from typing import ClassVar

from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.row import Row
from sb3_rfm.sampling.estimators.approximations import PlugIn


class QSM(BoltzmannAlgorithm):
    """
    Q-score matching (Psenka et al., ICML 2024).

    The noise network regresses on ``-M_q grad Q(s, x_t)``, Q the mean of the critics, ``M_q = 1 /
    temperature = 50`` (they take 120 on hard tasks: ``temperature=1 / 120``). ``x_t`` is mixed from
    the actions in the replay buffer; actions have a noise of .1, in the critics' target too. The
    score at ``x_t`` is not that of the mix: the law drawn is not the Boltzmann law.

    Where it differs from the paper: time runs from noise to action, and the exploration noise is
    part of the policy, not of the training script.

    Arguments: see :class:`sb3_rfm.common.algorithm.BoltzmannAlgorithm`.
    """

    row: ClassVar[Row] = Row(
        interpolant="vp_linear",
        examples="replay",
        estimator=PlugIn(),
        critic_view="mean",
        support="extrapolated",
        parametrization="noise",
        solver="ancestral",
        sampling_steps=10,
        n_candidates=1,
        n_eval_candidates=1,
        exploration_noise=0.1,
        target_noise=0.1,
        temperature=0.02,
        policy_delay=1,
    )
