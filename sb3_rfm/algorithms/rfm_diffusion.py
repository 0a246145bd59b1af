"""RFMDiffusion: a variance-preserving path from noise to action, sampled as a diffusion."""

from typing import ClassVar

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import CandidateSettings, EstimatorSettings, FlowSettings, Settings


class RFMDiffusion(FlowActorCritic):
    """
    Reverse flow matching with a diffusion policy (Li, Tang, Azizan, arXiv 2601.08136).

    The same regression as :class:`sb3_rfm.RFMFlow` on the variance-preserving cosine path, with
    DDPM's ancestral sampler (DDIM for ``predict(deterministic=True)``). ``parametrization="noise"``
    predicts the noise, ``interpolant="ve"`` explodes.

    >>> from sb3_rfm import RFMDiffusion
    >>> model = RFMDiffusion("MlpPolicy", "Pendulum-v1").learn(1_000)  # doctest: +SKIP

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`, which names the paper's
    value beside each.
    """

    defaults: ClassVar[Settings] = Settings(
        flow=FlowSettings(interpolant="vp_cosine", solver="ancestral", steps=6, time_shift=1.0),
        estimator=EstimatorSettings("bounded", n_particles=16, n_times=1),
        candidates=CandidateSettings(n=4, noise_color="white"),
    )
