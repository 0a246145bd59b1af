"""QNE: maximum-entropy diffusion policy by noise expectation."""

from typing import ClassVar

from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.row import Row


class QNE(BoltzmannAlgorithm):
    """
    Q-weighted noise estimation, MaxEntDP (Dong et al., ICML 2025).

    The noise network regresses on ``sum_i w_i x_0^i``, ``w ∝ exp(Q'(s, x_1^i) / temperature)`` with
    the target critics' Q', the noise truncated so that ``x_1`` stays in the box. ``x_t`` is mixed
    from the actions in the replay buffer; the critics' target holds the policy's entropy.

    Where it differs from the paper: the network is conditioned on t, not on the log-SNR; log pi
    comes from the change of variables along the solver's steps, by Hutchinson's probes, instead of
    from 50 x 20 denoising errors; predicted actions are kept within the box.

    Arguments: see :class:`sb3_rfm.common.algorithm.BoltzmannAlgorithm`.
    """

    row: ClassVar[Row] = Row(
        interpolant="vp_cosine",
        examples="replay",
        estimator="truncated_noise",
        n_particles=500,
        critic_view="target_min",
        parametrization="noise",
        solver="ancestral",
        sampling_steps=20,
        n_candidates=1,
        n_eval_candidates=10,
        entropy_backup="hutchinson",
        temperature=0.05,
        t_range=(0.001, 0.999),
        policy_delay=1,
    )
