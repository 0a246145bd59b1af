"""SDAC: soft diffusion actor-critic by reverse score matching."""

from typing import ClassVar

from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.row import Row


class SDAC(BoltzmannAlgorithm):
    """
    Soft diffusion actor-critic, reverse sampled score matching (Ma et al., ICML 2025).

    The noise network regresses on ``sum_i w_i x_0^i``, ``w ∝ exp(Q(s, clip(x_1^i)) /
    temperature)``: on average the gradient of RSM's own loss, which weights each particle's squared
    error. ``x_t`` is mixed from the best of 32 candidates; the best acts, with noise of .1 lambda.

    Where it differs from the paper: the temperature is tuned by the entropy of a Gaussian with the
    candidates' variances instead of that of the added noise, and the critics' target takes the best
    candidate by the target critics, drawn by an averaged policy.

    Arguments: see :class:`sb3_rfm.common.algorithm.BoltzmannAlgorithm`.
    """

    row: ClassVar[Row] = Row(
        interpolant="vp_linear",
        examples="best",
        estimator="noise",
        n_particles=64,
        support="clipped",
        parametrization="noise",
        solver="ancestral",
        sampling_steps=20,
        n_candidates=32,
        candidate_choice="best",
        exploration_noise="temperature_0.1",
        temperature="auto_0.1",
        target_entropy="auto_0.9",
        reward_scale=0.2,
        policy_tau=0.005,
    )
