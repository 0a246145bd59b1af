"""
The log-density of a flow's samples (RFM, Remark 6): a path's density loses the volume that it
gains, ``d log p(x_t) / dt = -div u(x_t, t)``.
"""

from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.divergences import DIVERGENCES, Divergence, DivergenceLike, jacobian
from sb3_rfm.sampling.interpolants import (
    INTERPOLANTS,
    Coefficients,
    Interpolant,
    InterpolantLike,
)
from sb3_rfm.sampling.registry import require
from sb3_rfm.sampling.solvers import SOLVERS, Solver, SolverLike, Step, VelocityField, time_grid
from sb3_rfm.sampling.sources import SOURCES, Source, SourceLike


@dataclass(frozen=True)
class FlowDensity:
    """
    The law of the points that a deterministic solver draws, with its density.

    The path starts at ``beta(t) x_0``. Each step is a map S, and the density changes by
    ``-log |det S'|``: this is the density of the points that are drawn, which a few steps set well
    apart from the ODE's, and it tends to the ODE's with the order of the solver. To first order it
    is ``-h div u``, the Euler step of Remark 6's equation. Where a step folds the space, so that
    several points meet, it is the share of the point's own branch: less than the density.

    >>> def widen(x, t):
    ...     return 2 * x / (1 + 2 * t)  # three times as wide at t = 1
    >>> x_1, log_p = FlowDensity(steps=64).sample_and_log_prob(widen, th.tensor([[0.5]]))
    >>> exact = th.distributions.Normal(0.0, 3.0).log_prob(th.tensor(1.5))
    >>> bool((log_p - exact).abs() < 1e-3)
    True

    :param interpolant: "linear", "vp_cosine", "vp_linear", "ve", or an object
    :param steps: steps of the solver
    :param t_range: first and last time
    :param solver: "heun", "euler", "ddim" or an object; a stochastic one is taken without its
        noise: the probability-flow ODE of the same field, whose law is the same in the limit of
        many steps
    :param divergence: "exact", "hutchinson" or an object
    :param source: the law of ``x_0``, "gaussian" or an object
    :param time_shift: of the time grid, see :func:`sb3_rfm.sampling.solvers.time_grid`
    :raises ValueError: at a call: an unknown name, a bad number of steps or time, a velocity of
        another shape or dtype, or one that has no gradient in its points
    """

    interpolant: InterpolantLike = "linear"
    steps: int = 64
    t_range: tuple[float, float] = (0.0, 1.0)
    solver: SolverLike = "heun"
    divergence: DivergenceLike = "exact"
    source: SourceLike = "gaussian"
    time_shift: float = 1.0

    def sample_and_log_prob(
        self, velocity: VelocityField, x_0: Tensor, generator: th.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Carry noise to the last time, and the log-density with it.

        :param velocity: (*S, D), () -> (*S, D), differentiable in its points
        :param x_0: noise drawn from the source, (*S, D)
        :param generator: random generator of the probes; torch's global one by default
        :return: the points (*S, D) and their log-density (*S); nothing requires grad
        """
        with th.inference_mode(False), th.no_grad():
            x_0 = _checked_points(x_0)
            path = self._path(velocity, x_0, generator)
            x, log_density = path.start.beta * x_0, self._start_log_density(path, x_0)
            for step in path.grid:
                x, log_volume = path.advance(x, step)
                log_density = log_density - log_volume
            return x, log_density

    def log_prob(
        self, velocity: VelocityField, x_1: Tensor, generator: th.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Carry given points back to the source: the inverse of :meth:`sample_and_log_prob`.

        Each step is inverted by Newton's method, so the density is again that of the solver's own
        law, at any number of steps; an iteration takes D vector-Jacobian products whatever the
        divergence is. Noise and log-density are nan where a step has no inverse: at a point that
        the solver cannot draw, or where a step is so long that it folds the space.

        :param velocity: (*S, D), () -> (*S, D), differentiable in its points
        :param x_1: points at the last time, (*S, D)
        :param generator: random generator of the probes; torch's global one by default
        :return: the noise (*S, D) and the log-density of ``x_1`` (*S); nothing requires grad
        """
        with th.inference_mode(False), th.no_grad():
            x = _checked_points(x_1)
            path = self._path(velocity, x, generator)
            total = th.zeros_like(x[..., 0])
            for step in reversed(path.grid):
                x = path.invert(x, step)
                total = total + path.advance(x, step)[1]
            x_0 = x / path.start.beta
            return x_0, self._start_log_density(path, x_0) - total

    def _path(self, velocity: VelocityField, x: Tensor, generator: th.Generator | None) -> "_Path":
        """The pieces resolved from their names, the time grid and the probes."""
        rule = DIVERGENCES.resolve(self.divergence, Divergence)
        interpolant = INTERPOLANTS.resolve(self.interpolant, Interpolant)
        grid = time_grid(interpolant, self.steps, self.t_range, x, self.time_shift)
        solver = SOLVERS.resolve(self.solver, Solver).deterministic()
        return _Path(velocity, solver, rule, rule.probes(x, generator), grid)

    def _start_log_density(self, path: "_Path", x_0: Tensor) -> Tensor:
        """``log p_0(x_0) - D log beta``: the log-density of ``beta x_0``, (*S)."""
        log_prob = SOURCES.resolve(self.source, Source).log_prob(x_0)
        return log_prob - x_0.shape[-1] * path.start.beta.log()


def _checked_points(x: Tensor) -> Tensor:
    """The points without a graph, whatever mode they were made in; refuses what are no points."""
    if not isinstance(x, Tensor):
        raise TypeError(f"points must be a tensor; got {type(x).__name__}")
    floating = x.ndim >= 1 and x.shape[-1] >= 1 and x.is_floating_point()
    require(floating, "points", (tuple(x.shape), x.dtype), "shape (*S, D), a floating dtype")
    return x.clone() if x.is_inference() else x.detach()


@dataclass(frozen=True)
class _Path:
    """One path: velocity, deterministic solver, divergence with its probes, time grid."""

    velocity: VelocityField
    solver: Solver
    divergence: Divergence
    probes: Tensor
    grid: list[Step]

    @property
    def start(self) -> Coefficients:
        """The interpolant at the first time."""
        return self.grid[0].now

    def image(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """The points as a leaf, and what the step makes of them, with its graph."""
        leaf = x.detach().requires_grad_(True)
        return leaf, self.solver.step(self.checked_velocity, leaf, step, None)

    def checked_velocity(self, x: Tensor, *times: Tensor) -> Tensor:
        """The velocity, refused where it would broadcast or its divergence be zero unnoticed."""
        u = self.velocity(x, *times)
        wanted, got = (tuple(x.shape), x.dtype), (tuple(u.shape), u.dtype)
        require(wanted == got, "velocity", got, f"a result of {wanted}")
        graph = "a result that autograd can differentiate in the points (a constant: c + 0 * x)"
        require(u.requires_grad, "velocity", "a result without a graph", graph)
        return u

    @th.enable_grad()
    def advance(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """The points after a step, and the log-volume that it adds."""
        leaf, x_next = self.image(x, step)
        log_volume = self.divergence.log_volume(leaf, x_next, self.probes)
        return x_next.detach(), log_volume.detach()

    def invert(self, target: Tensor, step: Step, iterations: int = 50) -> Tensor:
        """
        The points that a step carries to ``target``, by Newton's method with backtracking.

        :param target: (*S, D)
        :param step: the step
        :param iterations: at most so many
        :return: (*S, D), nan where none was found
        """
        eps = th.finfo(target.dtype).eps
        size = 1 + target.norm(dim=-1, keepdim=True)
        x = best = target
        error, length = th.full_like(size, th.inf), th.ones_like(size)
        direction = th.zeros_like(target)
        for _ in range(iterations):
            miss, newton = self.newton(x, target, step)
            closer = miss < error
            error, best = th.where(closer, miss, error), th.where(closer, x, best)
            direction = th.where(closer, newton, direction)
            length = th.where(closer, 1.0, length / 2)
            # done: what is precise, what ten halvings don't improve, and what was nan before
            if not bool(((error > 8 * eps * size) & (length > 1e-3)).any()):
                break
            x = best + length * direction
        return th.where(error <= eps**0.5 * size, best, th.nan)

    @th.enable_grad()
    def newton(self, x: Tensor, target: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """How far the image of ``x`` is from the target, (*S, 1), and Newton's correction of x."""
        leaf, x_next = self.image(x, step)
        slopes, miss = jacobian(leaf, x_next), (target - x_next).detach()
        correction = th.linalg.solve_ex(slopes, miss.unsqueeze(-1)).result.squeeze(-1)
        return miss.norm(dim=-1, keepdim=True), correction
