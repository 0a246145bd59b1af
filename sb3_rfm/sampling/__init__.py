"""
Reverse flow matching as a sampling library: pure torch, no reinforcement learning.

:func:`posterior_mean` is the front door; the pieces it composes are importable from the modules
beside it.
"""

from sb3_rfm.sampling.bounded import Bounded
from sb3_rfm.sampling.estimators import PosteriorMean, make_estimator, posterior_mean
from sb3_rfm.sampling.interpolants import (
    Coefficients,
    Interpolant,
    Linear,
    VEGeometric,
    VPCosine,
    VPLinear,
)
from sb3_rfm.sampling.parametrizations import (
    Data,
    EndPoints,
    Noise,
    Parametrization,
    Score,
    Velocity,
)
from sb3_rfm.sampling.posteriors import Estimator, LangevinStein, Posterior
from sb3_rfm.sampling.solvers import DDIM, Euler, EulerMaruyama, Heun, Solver, ancestral
from sb3_rfm.sampling.sources import Gaussian, Source
from sb3_rfm.sampling.supports import Box, Support, TanhLatent
from sb3_rfm.sampling.truncated_normals import TruncatedNormal

__all__ = [
    "DDIM",
    "Bounded",
    "Box",
    "Coefficients",
    "Data",
    "EndPoints",
    "Estimator",
    "Euler",
    "EulerMaruyama",
    "Gaussian",
    "Heun",
    "Interpolant",
    "LangevinStein",
    "Linear",
    "Noise",
    "Parametrization",
    "Posterior",
    "PosteriorMean",
    "Score",
    "Solver",
    "Source",
    "Support",
    "TanhLatent",
    "TruncatedNormal",
    "VEGeometric",
    "VPCosine",
    "VPLinear",
    "Velocity",
    "ancestral",
    "make_estimator",
    "posterior_mean",
]
