"""QVPO: Q-weighted variational policy optimisation."""

from typing import ClassVar

from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.row import Row


class QVPO(BoltzmannAlgorithm):
    """
    Q-weighted variational policy optimisation (Ding et al., NeurIPS 2024).

    The noise network regresses on the noise itself of the best of 64 of the policy's actions,
    weighted by ``max(Q - V, 0)``, and of 10 uniform actions of .02 times that weight, which keep
    the entropy up. The best of 4 candidates acts, of 32 at evaluation; the critics' target is drawn
    by an averaged policy.

    Where it differs from the paper: the critics' target takes the best of its 4 candidates by the
    target critics.

    Arguments: see :class:`sb3_rfm.common.algorithm.BoltzmannAlgorithm`.
    """

    row: ClassVar[Row] = Row(
        interpolant="vp_cosine",
        examples="advantage",
        estimator="noise",
        support="clipped",
        parametrization="noise",
        solver="ancestral",
        sampling_steps=20,
        n_candidates=4,
        n_training_candidates=64,
        candidate_choice="best",
        policy_delay=1,
        policy_tau=0.005,
        temperature=0.02,  # which nothing uses: one that moves would cost evaluations of Q
    )
