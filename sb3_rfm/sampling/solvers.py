"""How actions are drawn: solvers that carry noise (t = 0) to an action (t = 1) along a velocity."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch as th
from torch import Tensor

from sb3_rfm.sampling.interpolants import Coefficients, Interpolant
from sb3_rfm.sampling.parametrizations import Velocity
from sb3_rfm.sampling.registry import Registry, require, require_float, require_int
from sb3_rfm.sampling.sources import Gaussian, Source

VelocityField = Callable[[Tensor, Tensor], Tensor]


class ScoredField(ABC):
    """
    A velocity field that also knows the score of its marginals, whatever the source.

    For a standard normal source the score follows from the velocity, so that a plain function does;
    for another it does not (Appendix A).
    """

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """
        The marginal velocity.

        :param x: (B, D)
        :param t: time, ()
        :return: (B, D)
        """

    @abstractmethod
    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """
        The marginal velocity and ``grad log p_t(x)``.

        :param x: (B, D)
        :param t: time, ()
        :return: (B, D) each
        """


@dataclass(frozen=True)
class Step:
    """
    One step of a solver.

    :param interpolant: the interpolant
    :param t: time before, ()
    :param t_next: time after, ()
    :param last: whether this step ends the grid, where some velocities are not defined
    """

    interpolant: Interpolant
    t: Tensor
    t_next: Tensor
    last: bool

    @cached_property
    def now(self) -> Coefficients:
        """The interpolant before."""
        return self.interpolant(self.t)

    @cached_property
    def then(self) -> Coefficients:
        """The interpolant after."""
        return self.interpolant(self.t_next)


def check_t_range(t_range: tuple[float, float]) -> None:
    """
    Refuse times that are not in order within [0, 1].

    :param t_range: first and last time
    :raises ValueError: unless 0 <= first < last <= 1
    """
    order = "(first, last) with 0 <= first < last <= 1"
    require(len(t_range) == 2 and 0 <= t_range[0] < t_range[1] <= 1, "t_range", t_range, order)


def check_time_shift(time_shift: float, argument: str = "time_shift") -> None:
    """
    Refuse a shift that is no positive number.

    :param time_shift: the shift of a time grid
    :param argument: its name, for error messages
    :raises ValueError: unless it is finite and above 0
    """
    require_float(argument, time_shift, 0.0)
    require(time_shift > 0, argument, time_shift, "a number above 0")


def time_grid(
    interpolant: Interpolant,
    steps: int,
    t_range: tuple[float, float],
    like: Tensor,
    time_shift: float = 1.0,
) -> list[Step]:
    """
    The steps of a time grid: uniform, or crowded towards one end.

    With shift k the uniform grid's ``s`` in [0, 1] becomes ``k s / (1 + (k - 1) s)`` (Esser et al.
    2024, eq. 23, with noise at 0): above 1 the steps are short near the action. Few uniform steps
    draw a sharp law too narrow: two Euler steps on the linear path draw a normal law of standard
    deviation .25 with .24 of its spread at k = 1 and .5 at k = 4, the most that two can.

    :param interpolant: the interpolant
    :param steps: number of steps
    :param t_range: first and last time, 0 <= first < last <= 1
    :param like: gives dtype and device
    :param time_shift: k, above 0
    :return: the steps, in order
    :raises ValueError: no steps, times that are not in order within [0, 1], or a bad shift
    """
    require_int("steps", steps)
    check_t_range(t_range)
    check_time_shift(time_shift)
    times = th.linspace(*t_range, steps + 1, dtype=like.dtype, device=like.device)
    if time_shift != 1:
        even = th.linspace(0, 1, steps + 1, dtype=like.dtype, device=like.device)
        share = time_shift * even / (1 + (time_shift - 1) * even)
        times = th.lerp(times[0], times[-1], share)  # exact at both ends
    return [
        Step(interpolant, t, t_next, last=i == steps - 1)
        for i, (t, t_next) in enumerate(pairwise(times.unbind()))
    ]


class Solver(ABC):
    """A rule for one step; the velocity is never evaluated at the last time of the grid."""

    @abstractmethod
    def step(
        self, velocity: VelocityField, x: Tensor, step: Step, generator: th.Generator | None
    ) -> Tensor:
        """
        Carry ``x`` from ``step.t`` to ``step.t_next``.

        :param velocity: (B, D), () -> (B, D)
        :param x: (B, D)
        :param step: the step
        :param generator: random generator
        :return: (B, D)
        """

    def deterministic(self) -> "Solver":
        """The same solver without its noise: same marginals in the limit of many steps."""
        return self

    def suits(self, source: Source) -> bool:
        """Whether the solver is right for a velocity whose noise has that law."""
        return True

    def solve(
        self,
        velocity: VelocityField,
        x: Tensor,
        interpolant: Interpolant,
        steps: int,
        t_range: tuple[float, float] = (0.0, 1.0),
        generator: th.Generator | None = None,
        time_shift: float = 1.0,
    ) -> Tensor:
        """
        Integrate over a time grid.

        :param velocity: marginal velocity, (B, D), () -> (B, D): a network or an estimator
        :param x: the state at the first time: ``beta(t) x_0`` where alpha(t) is small, (B, D)
        :param interpolant: the interpolant the velocity belongs to
        :param steps: number of steps
        :param t_range: first and last time, 0 <= first < last <= 1
        :param generator: random generator; torch's global one by default
        :param time_shift: of the grid, see :func:`time_grid`
        :return: the state at the last time, (B, D)
        :raises ValueError: no steps, times that are not in order within [0, 1], or a bad shift
        """
        for step in time_grid(interpolant, steps, t_range, x, time_shift):
            x = self.step(velocity, x, step, generator)
        return x


@dataclass(frozen=True)
class Euler(Solver):
    """``x + h u(x, t)``: first order."""

    def step(
        self, velocity: VelocityField, x: Tensor, step: Step, generator: th.Generator | None
    ) -> Tensor:
        return x + (step.t_next - step.t) * velocity(x, step.t)


@dataclass(frozen=True)
class Heun(Solver):
    """
    The explicit trapezoidal rule: second order, two velocities a step.

    The last step is Euler's (the velocity at t = 1 may not exist), which keeps the order (Karras et
    al. 2022).
    """

    def step(
        self, velocity: VelocityField, x: Tensor, step: Step, generator: th.Generator | None
    ) -> Tensor:
        h, u = step.t_next - step.t, velocity(x, step.t)
        x_euler = x + h * u
        if step.last:
            return x_euler
        return x + 0.5 * h * (u + velocity(x_euler, step.t_next))


@dataclass(frozen=True)
class Midpoint(Solver):
    """``x + h u(x + h u(x, t) / 2, t + h / 2)``: second order, two velocities a step."""

    def step(
        self, velocity: VelocityField, x: Tensor, step: Step, generator: th.Generator | None
    ) -> Tensor:
        h = step.t_next - step.t
        middle = x + 0.5 * h * velocity(x, step.t)
        return x + h * velocity(middle, step.t + 0.5 * h)


@dataclass(frozen=True)
class MeanStep(Solver):
    """
    ``x + h u(x, t, t + h)``, u the mean velocity over the step (MeanFlow, Geng et al. 2025):
    without an error of its own in any number of steps.

    The velocity is called with a third argument, the time after the step.
    """

    def step(
        self, velocity: VelocityField, x: Tensor, step: Step, generator: th.Generator | None
    ) -> Tensor:
        mean: Callable[..., Tensor] = velocity
        return x + (step.t_next - step.t) * mean(x, step.t, step.t_next)


@dataclass(frozen=True)
class DDIM(Solver):
    """
    Mix the predictions anew: ``x_s = alpha_s x̂_1 + sqrt(beta_s² - v) x̂_0 + sqrt(v) eps``.

    ``v = stochasticity² beta_s² (1 - (alpha_t beta_s / (alpha_s beta_t))²)`` (Song et al. 2021,
    eq. 12). Stochasticity 0 is DDIM, 1 is DDPM's ancestral sampling. At t = 1 it lands on the
    predicted action itself.

    :param stochasticity: share of the ancestral noise, in [0, 1]; where it is not 0 the source has
        to be Gaussian: fresh noise replaces part of the predicted one
    """

    stochasticity: float = 0.0

    def __post_init__(self) -> None:
        require_float("stochasticity", self.stochasticity, 0.0, 1.0)

    def deterministic(self) -> "DDIM":
        return DDIM(0.0)

    def suits(self, source: Source) -> bool:
        return self.stochasticity == 0 or isinstance(source, Gaussian)

    def step(
        self, velocity: VelocityField, x: Tensor, step: Step, generator: th.Generator | None
    ) -> Tensor:
        now, then = step.now, step.then
        ends = Velocity().end_points(now, x, velocity(x, step.t))
        if self.stochasticity == 0:
            return then.alpha * ends.x_1 + then.beta * ends.x_0
        kept = now.alpha * then.beta / (then.alpha * now.beta)
        variance = self.stochasticity**2 * then.beta**2 * (1 - kept**2)
        noise = Gaussian().sample(tuple(x.shape), like=x, generator=generator)
        return (
            then.alpha * ends.x_1
            + (then.beta**2 - variance).sqrt() * ends.x_0
            + variance.sqrt() * noise
        )


def ancestral() -> DDIM:
    """DDPM's ancestral sampling: :class:`DDIM` with all of its noise."""
    return DDIM(1.0)


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """
    The SDE with the same marginals: ``dx = (u + g²/2 score) dt + g dW``.

    ``g² = -2 stochasticity beta d_beta``. A :class:`ScoredField` gives the score, for any source; a
    plain function has to be the velocity of a Gaussian source, where ``score = -x̂_0 / beta`` and
    the drift is ``d_alpha x̂_1 + (1 + stochasticity) d_beta x̂_0``: nothing is divided by beta.
    Stochasticity 1 is the variance-exploding diffusion, 0 is Euler.

    :param stochasticity: scale of g², at least 0
    """

    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        require_float("stochasticity", self.stochasticity, 0.0)

    def deterministic(self) -> "EulerMaruyama":
        return EulerMaruyama(0.0)

    def step(
        self, velocity: VelocityField, x: Tensor, step: Step, generator: th.Generator | None
    ) -> Tensor:
        h, now = step.t_next - step.t, step.now
        if self.stochasticity == 0:
            return x + h * velocity(x, step.t)
        u, scaled_score = self._scored(velocity, x, step)
        drift = u - self.stochasticity * now.d_beta * scaled_score
        scale = (-2 * self.stochasticity * now.beta * now.d_beta * h).sqrt()
        return (
            x + h * drift + scale * Gaussian().sample(tuple(x.shape), like=x, generator=generator)
        )

    @staticmethod
    def _scored(velocity: VelocityField, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """The velocity, and beta times the score."""
        if isinstance(velocity, ScoredField):
            u, score = velocity.with_score(x, step.t)
            return u, step.now.beta * score
        u = velocity(x, step.t)
        return u, -Velocity().end_points(step.now, x, u).x_0


SOLVERS = Registry[Solver](
    "solver",
    {
        "euler": Euler,
        "heun": Heun,
        "midpoint": Midpoint,
        "mean_step": MeanStep,
        "ddim": DDIM,
        "ancestral": ancestral,
        "euler_maruyama": EulerMaruyama,
    },
)
SolverLike = str | Solver
