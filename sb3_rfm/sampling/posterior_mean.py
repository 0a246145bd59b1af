"""The front door: an estimator by its name, and the posterior means of any unnormalised density."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real

import torch as th
from torch import Tensor

from sb3_rfm.sampling.estimators.approximations import ClippedScore
from sb3_rfm.sampling.estimators.bounded import Bounded
from sb3_rfm.sampling.estimators.control_variates import Coefficient, Diagonal, Fixed, Isotropic
from sb3_rfm.sampling.estimators.posteriors import (
    Estimator,
    LangevinStein,
    LogDensity,
    Posterior,
    evaluate,
)
from sb3_rfm.sampling.estimators.proposals import Bridge, Prior
from sb3_rfm.sampling.estimators.refinements import REFINEMENTS, Refinement, RefinementLike
from sb3_rfm.sampling.interpolants import INTERPOLANTS, Coefficients, Interpolant, InterpolantLike
from sb3_rfm.sampling.parametrizations import EndPoints
from sb3_rfm.sampling.registry import Registry, require, require_float, require_int
from sb3_rfm.sampling.sources import SOURCES, Gaussian, Source, SourceLike


def _langevin_stein(
    coefficient: Coefficient, n_particles: int, source: Source, refinement: Refinement | None
) -> LangevinStein:
    return LangevinStein(coefficient, n_particles, Prior(source), refinement)


def _clipped_gradient(
    n_particles: int, source: Source, refinement: Refinement | None
) -> ClippedScore:
    return ClippedScore(_langevin_stein(Fixed(1.0), n_particles, source, refinement))


def _truncated_noise(
    n_particles: int, source: Source, refinement: Refinement | None
) -> LangevinStein:
    return LangevinStein(Fixed(), n_particles, Bridge())


def _bounded(
    coupling: bool, n_particles: int, source: Source, refinement: Refinement | None
) -> Bounded:
    return Bounded(n_particles, coupling=coupling)


# name -> what makes the estimator from its number of particles, its source and its refinement
ESTIMATORS: dict[str, Callable[[int, Source, Refinement | None], Estimator]] = {
    "noise_expectation": partial(_langevin_stein, Fixed()),
    "gradient_expectation": partial(_langevin_stein, Fixed(1.0)),
    "isotropic": partial(_langevin_stein, Isotropic()),
    "diagonal": partial(_langevin_stein, Diagonal()),
    "diagonal_centred": partial(_langevin_stein, Diagonal(centred=True, ridge=1e-4, clip=2.0)),
    "clipped_gradient": _clipped_gradient,
    "truncated_noise": _truncated_noise,
    "bounded": partial(_bounded, True),
    "bounded_uncoupled": partial(_bounded, False),
}
EstimatorLike = str | float | Coefficient | Estimator


def make_estimator(
    estimator: EstimatorLike,
    n_particles: int,
    source: SourceLike = "gaussian",
    refinement: RefinementLike | None = None,
) -> Estimator:
    """
    An estimator from its name.

    :param estimator: "noise_expectation" (eta = 0), "gradient_expectation" (eta = 1), a number
        (that eta), "isotropic" (eq. 21), "diagonal" (eq. 20), "diagonal_centred" (the authors'
        released form: centred score, ridge 1e-4, coefficient within ±2), "clipped_gradient" (eta =
        1, the norm of the marginal score cut off at 20: iDEM's; not consistent), "truncated_noise"
        (eta = 0 with noise that keeps the action in the box), "bounded" (Stein kernel on a box),
        "bounded_uncoupled" (each coordinate regressed on its own residual alone: cheaper), a
        coefficient's object, or an estimator's
    :param n_particles: K; an estimator's object keeps its own
    :param source: "gaussian", "uniform", "laplace", "student_t", or an object; an estimator's
        object keeps its own
    :param refinement: "mcmc", "smc", an object, or None; an estimator's object keeps its own
    :return: the estimator
    :raises ValueError: an unknown name, or an estimator that cannot have that source or refinement
    """
    require_int("n_particles", n_particles)
    law = SOURCES.resolve(source, Source)
    mover = None if refinement is None else REFINEMENTS.resolve(refinement, Refinement)
    if isinstance(estimator, int | float | Real):
        require_float("estimator", estimator)
        estimator = Fixed(float(estimator))
    if isinstance(estimator, Coefficient):
        return _langevin_stein(estimator, n_particles, law, mover)
    names = {name: partial(make, n_particles, law, mover) for name, make in ESTIMATORS.items()}
    made = Registry[Estimator]("estimator", names).resolve(estimator, Estimator)
    same = law in (Gaussian(), made.source)
    require(same, "source", law, f"{made.source}, the source of {made}")
    same = mover in (None, made.refinement)
    require(same, "refinement", mover, f"{made.refinement}, the refinement of {made}")
    return made


@dataclass(frozen=True)
class PosteriorMean:
    """
    What :func:`posterior_mean` returns.

    :param x_0: estimate of ``E[X_0 | x_t]``, (B, D)
    :param x_1: estimate of ``E[X_1 | x_t]``, (B, D)
    :param velocity: ``d_alpha x_1 + d_beta x_0``, the marginal velocity (eq. 9), (B, D)
    :param score: estimate of ``grad log p_t(x_t)``, the marginal score (Appendix A), (B, D); not
        finite at beta = 0, and NaN where source and target both have walls
    :param ess: effective sample size of the weights, (B)
    :param coefficient: the control variate's coefficient, (B, D)
    """

    x_0: Tensor
    x_1: Tensor
    velocity: Tensor
    score: Tensor
    ess: Tensor
    coefficient: Tensor


@th.no_grad()
def posterior_mean(
    log_density: LogDensity,
    x_t: Tensor,
    t: float | Tensor,
    *,
    interpolant: InterpolantLike = "linear",
    source: SourceLike = "gaussian",
    estimator: EstimatorLike = "diagonal",
    n_particles: int = 64,
    bounds: tuple[float, float] | None = None,
    refinement: RefinementLike | None = None,
    policy_samples: Tensor | None = None,
    generator: th.Generator | None = None,
) -> PosteriorMean:
    """
    Estimate ``E[X_0 | x_t]`` and ``E[X_1 | x_t]`` for ``X_1 ~ exp(log_density)`` (RFM, eq. 14-25).

    No sample of the target is needed.

    >>> gaussian = lambda x: -0.5 * ((x - 1.0) / 0.5).square().sum(-1)
    >>> x_t = th.zeros(3, 2)
    >>> estimate = posterior_mean(gaussian, x_t, 0.5, estimator="diagonal_centred", n_particles=512)
    >>> exact = (1 / 0.25) / (1 / 0.25 + 1)  # the linear path at t = 1/2: a product of Gaussians
    >>> bool((estimate.x_1 - exact).abs().max() < 0.01)
    True

    :param log_density: unnormalised log-density of the target, (*S, D) -> (*S); called with
        (K, B, D)
    :param x_t: the mix of noise and action, (B, D), a floating dtype
    :param t: time in (0, 1], a number, () or (B)
    :param interpolant: "linear", "vp_cosine", "vp_linear", "ve", or an object
    :param source: the law of the noise: "gaussian", "uniform", "laplace", "student_t", or an
        object; "bounded" and "truncated_noise" take the first alone; with "uniform" (walls) the
        estimator is "noise_expectation" and the score comes from the target's gradient
    :param estimator: a name, a number (fixed eta) or an object, see :func:`make_estimator`
    :param n_particles: K
    :param bounds: (low, high) of the box that holds the target, for "bounded" (ours),
        "truncated_noise" and "noise_expectation" (whose weights are then zero outside); the
        others are biased at walls
    :param refinement: "mcmc", "smc" or an object: moves the particles towards the posterior
        (Remark 4); the target has to be differentiable
    :param policy_samples: guesses at the target, (B, M, D), that guide "bounded"; the others
        ignore them
    :param generator: random generator; torch's global one by default
    :return: the means, the velocity, the score, the effective sample size and the coefficient;
        nothing requires grad
    :raises ValueError: a bad shape, time, name or number
    :raises TypeError: an argument of the wrong type
    """
    time = _checked_time(t, x_t)
    coefficients = INTERPOLANTS.resolve(interpolant, Interpolant)(time)
    made = make_estimator(estimator, n_particles, source, refinement)
    made.check_support(bounds is not None)
    guide = None if policy_samples is None else _checked_guide(policy_samples, x_t)
    if bounds is None or not made.in_box:
        at_zero = "alpha(t) > 0: at alpha = 0 the noise says nothing about the action"
        require(bool((coefficients.alpha > 0).all()), "t", t, at_zero)
        density = log_density if bounds is None else _restricted(log_density, bounds)
        posterior = made(density, coefficients, x_t, generator, guide)
        ends = posterior.mean
    else:
        require(bool((coefficients.beta > 0).all()), "t", t, "beta(t) > 0 for a bounded estimator")
        posterior, ends = _on_unit_box(
            made, log_density, coefficients, x_t, bounds, guide, generator
        )
    score = posterior.score(coefficients)
    if made.source.has_walls and bounds is not None:
        score = th.full_like(score, th.nan)  # neither form of Appendix A holds
    return PosteriorMean(
        x_0=ends.x_0,
        x_1=ends.x_1,
        velocity=coefficients.d_alpha * ends.x_1 + coefficients.d_beta * ends.x_0,
        score=score,
        ess=posterior.ess,
        coefficient=posterior.coefficient,
    )


def _on_unit_box(
    estimator: Estimator,
    log_density: LogDensity,
    coefficients: Coefficients,
    x_t: Tensor,
    bounds: tuple[float, float],
    guide: Tensor | None,
    generator: th.Generator | None,
) -> tuple[Posterior, EndPoints]:
    """
    An estimator of [-1, 1]^d on ``x = centre + half y``: ``beta`` becomes ``beta / half``.

    :return: the posterior in units of the box, whose noise is that of the target, and its means in
        units of the target
    """
    low, high = _checked_bounds(bounds)
    centre, half = (low + high) / 2, (high - low) / 2

    def scaled(y: Tensor) -> Tensor:
        return evaluate(log_density, centre + half * y)

    y_t = (x_t - coefficients.alpha * centre) / half
    unit = coefficients._replace(beta=coefficients.beta / half, d_beta=coefficients.d_beta / half)
    samples = None if guide is None else (guide - centre) / half
    posterior = estimator(scaled, unit, y_t, generator, samples)
    ends = posterior.mean
    return posterior, ends._replace(x_1=centre + half * ends.x_1)


def _checked_time(t: float | Tensor, x_t: Tensor) -> Tensor:
    """``t`` in the dtype of ``x_t``, as () or (B, 1); refuses a bad ``x_t`` or ``t``."""
    if not isinstance(x_t, Tensor):
        raise TypeError(f"x_t must be a tensor; got {type(x_t).__name__}")
    floating = x_t.ndim == 2 and x_t.is_floating_point()
    require(floating, "x_t", (tuple(x_t.shape), x_t.dtype), "shape (B, D), a floating dtype")
    if not isinstance(t, Tensor):
        require_float("t", t, 0.0, 1.0)
    time = th.as_tensor(t, dtype=x_t.dtype, device=x_t.device)
    shapes = f"a scalar or shape ({len(x_t)},)"
    require(time.shape in {(), x_t.shape[:1]}, "t", tuple(time.shape), shapes)
    require(bool(((time >= 0) & (time <= 1)).all()), "t", t, "0 <= t <= 1")
    return time if time.ndim == 0 else time[:, None]


def _checked_guide(samples: Tensor, x_t: Tensor) -> Tensor:
    """Policy samples (B, M, D) with the particles' axis first."""
    batch, dim = x_t.shape
    matches = samples.ndim == 3 and samples.shape[0] == batch and samples.shape[2] == dim
    require(matches, "policy_samples", tuple(samples.shape), f"shape ({batch}, M, {dim})")
    return samples.to(x_t).transpose(0, 1)


def _checked_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """The two walls of the box."""
    require(len(bounds) == 2 and bounds[0] < bounds[1], "bounds", bounds, "(low, high), low < high")
    return bounds


def _restricted(log_density: LogDensity, bounds: tuple[float, float]) -> LogDensity:
    """The log-density, -inf outside the bounds."""
    low, high = _checked_bounds(bounds)

    def restricted(x: Tensor) -> Tensor:
        return th.where(((x >= low) & (x <= high)).all(-1), evaluate(log_density, x), -th.inf)

    return restricted
