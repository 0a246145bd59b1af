"""RFMDiffusion: a variance-preserving path from noise to action, sampled as a diffusion."""

from typing import ClassVar

from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.row import Row


class RFMDiffusion(BoltzmannAlgorithm):
    """
    Reverse flow matching with a diffusion policy (Li, Tang, Azizan, arXiv 2601.08136).

    The same regression as :class:`sb3_rfm.RFMFlow` on the variance-preserving cosine path, with
    DDPM's ancestral sampler (DDIM for ``predict(deterministic=True)``). ``parametrization="noise"``
    predicts the noise, ``interpolant="ve"`` explodes.

    >>> from sb3_rfm import RFMDiffusion
    >>> model = RFMDiffusion("MlpPolicy", "Pendulum-v1").learn(1_000)  # doctest: +SKIP

    Arguments: see :class:`sb3_rfm.common.algorithm.BoltzmannAlgorithm`, which names the paper's
    value beside each.
    """

    row: ClassVar[Row] = Row(interpolant="vp_cosine", solver="ancestral", sampling_steps=6)
