"""The flow: the pieces that draw actions, and the support's bound that keeps them sensible."""

import math
from dataclasses import dataclass, field, replace

from torch import Tensor

from sb3_rfm.common.selection import Choice, GaussianNoise, Softmax
from sb3_rfm.sampling.interpolants import Coefficients, Interpolant, Linear
from sb3_rfm.sampling.parametrizations import Data, EndPoints, Parametrization, Velocity
from sb3_rfm.sampling.registry import require, require_float, require_int
from sb3_rfm.sampling.solvers import DDIM, Euler, Solver, check_time_shift
from sb3_rfm.sampling.supports import Support, TanhLatent


@dataclass(frozen=True)
class Flow:
    """
    How actions are drawn.

    :param interpolant: how noise and action mix
    :param parametrization: what the network predicts
    :param solver: how noise is carried to an action
    :param support: how a point of the flow becomes an action
    :param sampling_steps: steps of the solver
    :param time_shift: above 1, its steps are short near the action
    :param n_candidates: candidates a state, M, while acting and in the critics' target
    :param n_training_candidates: candidates a state of the actor's update
    :param n_eval_candidates: candidates a state for ``predict(deterministic=True)``
    :param choice: which candidate acts while exploring
    :param exploration_noise: added to that action
    :param averaged: whether the critics' target is drawn by a moving average of the network
    :param one_step: whether a network distilled from the flow acts and draws the critics' target
    :param t_range: times that training draws; sampling goes from the first of them to 1
    :param temperature: initial lambda
    """

    interpolant: Interpolant = field(default_factory=Linear)
    parametrization: Parametrization = field(default_factory=Velocity)
    solver: Solver = field(default_factory=Euler)
    support: Support = field(default_factory=TanhLatent)
    sampling_steps: int = 5
    time_shift: float = 1.0
    n_candidates: int = 8
    n_training_candidates: int = 8
    n_eval_candidates: int = 32
    choice: Choice = field(default_factory=Softmax)
    exploration_noise: GaussianNoise = field(default_factory=GaussianNoise)
    averaged: bool = False
    one_step: bool = False
    t_range: tuple[float, float] = (0.01, 0.99)
    temperature: float = 0.02

    def __post_init__(self) -> None:
        numbers = ("n_candidates", "n_training_candidates", "n_eval_candidates")
        for name in ("sampling_steps", *numbers):
            require_int(name, getattr(self, name))
        check_time_shift(self.time_shift)
        pair = "two numbers, 0 < low < high < 1"
        two = isinstance(self.t_range, tuple | list) and len(self.t_range) == 2
        require(two, "t_range", self.t_range, pair)
        for number in self.t_range:
            require_float("t_range", number)
        require(0 < self.t_range[0] < self.t_range[1] < 1, "t_range", self.t_range, pair)

    def in_one_step(self) -> "Flow":
        """The flow of a network that predicts where noise ends: one step of DDIM lands there."""
        return replace(self, parametrization=Data(), solver=DDIM(), sampling_steps=1)

    def kept_within(
        self, bound: float, coefficients: Coefficients, x_t: Tensor, ends: EndPoints
    ) -> EndPoints:
        """
        The action end, kept within a bound, and the noise end that ``x_t`` ties to it.

        :param bound: largest coordinate of the action end; infinite: the ends as they are
        :param coefficients: the interpolant at the time of ``x_t``
        :param x_t: (*S, D)
        :param ends: both ends, (*S, D)
        :return: both ends
        """
        if math.isinf(bound):
            return ends
        x_1 = ends.x_1.clamp(-bound, bound)
        return EndPoints(coefficients.noise_end(x_t, x_1), x_1)
