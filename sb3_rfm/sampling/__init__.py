"""
Reverse flow matching as a sampling library: pure torch, no reinforcement learning.

:func:`posterior_mean` and :func:`sample` are the front doors; the pieces that they compose are
importable from the modules beside them.
"""

from sb3_rfm.sampling.divergences import Divergence, ExactDivergence, Hutchinson
from sb3_rfm.sampling.estimators.approximations import ClippedScore, PlugIn, UnitScore
from sb3_rfm.sampling.estimators.bounded import Bounded
from sb3_rfm.sampling.estimators.posteriors import Estimator, LangevinStein, Posterior
from sb3_rfm.sampling.estimators.refinements import MCMC, SMC, Refinement
from sb3_rfm.sampling.flow_density import FlowDensity
from sb3_rfm.sampling.interpolants import (
    Coefficients,
    Interpolant,
    Linear,
    VEGeometric,
    VPCosine,
    VPLinear,
)
from sb3_rfm.sampling.loss_weightings import ErrorOf, LossWeighting, MinSNR
from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal
from sb3_rfm.sampling.parametrizations import (
    Data,
    EndPoints,
    MeanVelocity,
    Noise,
    Parametrization,
    Score,
    Velocity,
)
from sb3_rfm.sampling.posterior_mean import PosteriorMean, make_estimator, posterior_mean
from sb3_rfm.sampling.samplers import PosteriorField, sample
from sb3_rfm.sampling.solvers import (
    DDIM,
    Euler,
    EulerMaruyama,
    Heun,
    MeanStep,
    Midpoint,
    ScoredField,
    Solver,
    ancestral,
)
from sb3_rfm.sampling.sources import (
    Gaussian,
    GaussianMixture,
    Laplace,
    Source,
    StudentT,
    Uniform,
)
from sb3_rfm.sampling.supports import Box, Clipped, Support, TanhLatent

__all__ = [
    "DDIM",
    "MCMC",
    "SMC",
    "Bounded",
    "Box",
    "Clipped",
    "ClippedScore",
    "Coefficients",
    "Data",
    "Divergence",
    "EndPoints",
    "ErrorOf",
    "Estimator",
    "Euler",
    "EulerMaruyama",
    "ExactDivergence",
    "FlowDensity",
    "Gaussian",
    "GaussianMixture",
    "Heun",
    "Hutchinson",
    "Interpolant",
    "LangevinStein",
    "Laplace",
    "Linear",
    "LossWeighting",
    "MeanStep",
    "MeanVelocity",
    "Midpoint",
    "MinSNR",
    "Noise",
    "Parametrization",
    "PlugIn",
    "Posterior",
    "PosteriorField",
    "PosteriorMean",
    "Refinement",
    "Score",
    "ScoredField",
    "Solver",
    "Source",
    "StudentT",
    "Support",
    "TanhLatent",
    "TruncatedNormal",
    "Uniform",
    "UnitScore",
    "VEGeometric",
    "VPCosine",
    "VPLinear",
    "Velocity",
    "ancestral",
    "make_estimator",
    "posterior_mean",
    "sample",
]
