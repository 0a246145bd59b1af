"""Training-free sampling of any unnormalised density: a solver along an estimated velocity."""

import torch as th
from torch import Tensor

from sb3_rfm.sampling.estimators.posteriors import LogDensity
from sb3_rfm.sampling.estimators.refinements import RefinementLike
from sb3_rfm.sampling.interpolants import INTERPOLANTS, Interpolant, InterpolantLike
from sb3_rfm.sampling.posterior_mean import (
    EstimatorLike,
    PosteriorMean,
    make_estimator,
    posterior_mean,
)
from sb3_rfm.sampling.registry import require, require_int
from sb3_rfm.sampling.solvers import SOLVERS, ScoredField, Solver, SolverLike, check_t_range
from sb3_rfm.sampling.sources import SOURCES, Source, SourceLike

# First time where alpha(0) = 0 and particles are drawn from the source: x_1 spreads like beta /
# alpha, 49 on the linear path. The start is off by alpha² of the target's variance, 4e-4.
EARLIEST = 0.02


class PosteriorField(ScoredField):
    """
    Marginal velocity and score of an unnormalised density, estimated anew at each call (Remark 5).

    Any solver takes it in a network's place.

    :param log_density: unnormalised log-density of the target, (*S, D) -> (*S)
    :param interpolant: see :func:`sb3_rfm.sampling.posterior_mean`, also for the others
    :param source: the law of the noise
    :param estimator: how posterior means are estimated
    :param n_particles: K
    :param bounds: (low, high) of the box that holds the target
    :param refinement: what moves the particles towards the posterior
    :param generator: random generator of the particles; torch's global one by default
    :raises ValueError: an unknown name, or pieces that do not suit each other
    """

    def __init__(
        self,
        log_density: LogDensity,
        *,
        interpolant: InterpolantLike = "linear",
        source: SourceLike = "gaussian",
        estimator: EstimatorLike = "diagonal",
        n_particles: int = 64,
        bounds: tuple[float, float] | None = None,
        refinement: RefinementLike | None = None,
        generator: th.Generator | None = None,
    ) -> None:
        self.log_density = log_density
        self.interpolant = INTERPOLANTS.resolve(interpolant, Interpolant)
        self.estimator = make_estimator(estimator, n_particles, source, refinement)
        self.estimator.check_support(bounds is not None)
        self.bounds = bounds
        self.generator = generator

    @property
    def earliest(self) -> float:
        """First time to start from: 0 where the estimator can."""
        blind = not self.estimator.in_box and not self.interpolant(th.zeros(())).alpha > 0
        return EARLIEST if blind else 0.0

    @property
    def has_score(self) -> bool:
        """Whether a form of the score holds: source or target is without walls (Appendix A)."""
        return self.bounds is None or not self.estimator.source.has_walls

    def at(self, x: Tensor, t: Tensor) -> PosteriorMean:
        """
        All that is estimated at a point.

        :param x: (B, D)
        :param t: time, () or (B)
        :return: the means, the velocity, the score and the effective sample size
        """
        return posterior_mean(
            self.log_density,
            x,
            t,
            interpolant=self.interpolant,
            estimator=self.estimator,
            bounds=self.bounds,
            generator=self.generator,
        )

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.at(x, t).velocity

    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        estimate = self.at(x, t)
        return estimate.velocity, estimate.score

    def start(self, x_0: Tensor, t: float) -> Tensor:
        """
        Where a path begins: ``beta x_0 + alpha E[X_1 | x_t = beta x_0]``.

        The noise itself where alpha = 0. Elsewhere it follows the marginal to first order in alpha:
        the variance is off by about ``alpha²`` times the target's.

        :param x_0: noise, (B, D)
        :param t: first time
        :return: (B, D)
        """
        time = th.tensor(t, dtype=x_0.dtype, device=x_0.device)
        c = self.interpolant(time)
        x = c.beta * x_0
        return x + c.alpha * self.at(x, time).x_1 if c.alpha > 0 else x


@th.no_grad()
def sample(
    log_density: LogDensity,
    n_samples: int,
    dim: int,
    *,
    interpolant: InterpolantLike = "linear",
    source: SourceLike = "gaussian",
    estimator: EstimatorLike | None = None,
    n_particles: int = 64,
    solver: SolverLike = "heun",
    steps: int = 20,
    bounds: tuple[float, float] | None = None,
    refinement: RefinementLike | None = None,
    t_range: tuple[float, float] | None = None,
    batch_size: int | None = None,
    generator: th.Generator | None = None,
    dtype: th.dtype | None = None,
    device: th.device | str | None = None,
) -> Tensor:
    """
    Draw from an unnormalised density without training anything (Remark 5).

    Noise is carried along the estimated velocity. The error falls with the steps and the
    particles; hills far narrower than their distance need more of both. Keep the target's scale
    near that of the noise; for hills narrower than a tenth of it take ``interpolant="ve"``, whose
    uniform steps are geometric in the noise.

    >>> log_density = lambda x: -0.5 * ((x - 3.0) / 0.5).square().sum(-1)
    >>> x = sample(log_density, 200, 2, steps=10, generator=th.Generator().manual_seed(0))
    >>> x.shape, bool((x.mean(0) - 3).abs().max() < 0.2), bool((x.std(0) - 0.5).abs().max() < 0.2)
    (torch.Size([200, 2]), True, True)

    :param log_density: unnormalised log-density, (*S, D) -> (*S); called with (K, B, D)
    :param n_samples: number of samples
    :param dim: D
    :param interpolant: "linear", "vp_cosine", "vp_linear", "ve" (whose largest noise has to exceed
        the target's scale), or an object
    :param source: the law of the noise: "gaussian" (alone where there are bounds), "uniform",
        "laplace", "student_t", or an object
    :param estimator: see :func:`sb3_rfm.sampling.posterior_mean`. By default "bounded" where there
        are bounds, else "noise_expectation" refined by "smc" unless another refinement is given (a
        control variate helps where the target's gradient is tame, and is unstable where it is
        steep). A named estimator is refined only if asked
    :param n_particles: K
    :param solver: "heun", "euler", "ddim", "ancestral", "euler_maruyama", or an object
    :param steps: number of steps
    :param bounds: (low, high) of the box that holds the target
    :param refinement: "mcmc", "smc", an object, or None
    :param t_range: first and last time; by default to 1 from 0, or from .02 where alpha(0) = 0 and
        the particles come from the source
    :param batch_size: samples that are carried together, all by default; memory holds ``n_particles
        * batch_size * dim`` numbers several times
    :param generator: random generator; torch's global one by default
    :param dtype: torch's default dtype by default
    :param device: the CPU by default
    :return: samples, (n_samples, dim)
    :raises ValueError: a bad number, an unknown name, or pieces that do not suit each other
    :raises TypeError: an argument of the wrong type
    """
    require_int("n_samples", n_samples)
    require_int("dim", dim)
    require_int("batch_size", n_samples if batch_size is None else batch_size)
    law, integrator = SOURCES.resolve(source, Source), SOLVERS.resolve(solver, Solver)
    if estimator is None:
        estimator = "noise_expectation" if bounds is None else "bounded"
        refinement = refinement or ("smc" if bounds is None else None)
    field = PosteriorField(
        log_density,
        interpolant=interpolant,
        source=law,
        estimator=estimator,
        n_particles=n_particles,
        bounds=bounds,
        refinement=refinement,
        generator=generator,
    )
    _check_solver(integrator, field)
    times = _checked_range(t_range, field)
    like = th.empty(0, dtype=dtype or th.get_default_dtype(), device=device)
    require(like.is_floating_point(), "dtype", dtype, "a floating dtype")
    noise = field.estimator.source.sample((n_samples, dim), like=like, generator=generator)
    parts = [
        integrator.solve(
            field, field.start(x_0, times[0]), field.interpolant, steps, times, generator
        )
        for x_0 in noise.split(batch_size or n_samples)
    ]
    samples = th.cat(parts)
    return samples if bounds is None else samples.clamp(*bounds)


def _check_solver(solver: Solver, field: PosteriorField) -> None:
    """Raise if the solver's noise does not suit the source, or needs a score that is not known."""
    source = field.estimator.source
    require(solver.suits(source), "solver", solver, f"one without noise for the source {source}")
    known = field.has_score or solver == solver.deterministic()
    require(known, "solver", solver, "one without noise where source and target both have walls")


def _checked_range(
    t_range: tuple[float, float] | None, field: PosteriorField
) -> tuple[float, float]:
    """First and last time; refuses times at which the field is not defined."""
    if t_range is None:
        return field.earliest, 1.0
    check_t_range(t_range)
    later = "first > 0 where alpha(0) = 0, unless the estimator is 'bounded'"
    require(t_range[0] > 0 or field.earliest == 0, "t_range", t_range, later)
    return t_range
