"""The flow: the pieces that draw actions, and the velocity that a network's prediction implies."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch as th
from torch import Tensor

from sb3_rfm.common.networks import FlowNetwork
from sb3_rfm.sampling.interpolants import Coefficients, Interpolant
from sb3_rfm.sampling.parametrizations import Data, EndPoints, Parametrization
from sb3_rfm.sampling.solvers import DDIM, Solver
from sb3_rfm.sampling.supports import Support

Clamp = Callable[[Tensor, float], Tensor]
"""A tensor and a bound -> the tensor within plus and minus the bound."""


def clamp_to(x: Tensor, bound: float) -> Tensor:
    """
    The usual clamp, whose gradient is zero beyond the bound.

    :param x: (*S)
    :param bound: positive
    :return: (*S)
    """
    return x.clamp(-bound, bound)


class InwardClamp(th.autograd.Function):
    """
    The same clamp, beyond which the gradient of a loss still passes where its descent leads back
    towards the bound: what is saturated can be drawn out again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        """
        :param ctx: what the gradient needs
        :param x: (*S)
        :param bound: positive
        :return: (*S)
        """
        clamped = x.clamp(-bound, bound)
        ctx.save_for_backward(x - clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """
        :param ctx: from the forward pass
        :param gradients: of the loss in what is clamped, (*S)
        :return: in x, (*S), and none in the bound
        """
        (gradient,), (beyond,) = gradients, ctx.saved_tensors
        return th.where(gradient * beyond < 0, 0.0, gradient), None


def clamp_inward(x: Tensor, bound: float) -> Tensor:
    """:class:`InwardClamp` of a tensor."""
    clamped: Tensor = InwardClamp.apply(x, bound)
    return clamped


@dataclass(frozen=True)
class Flow:
    """
    What :class:`sb3_rfm.common.config.FlowSettings` names.

    :param interpolant: how noise and action mix
    :param parametrization: what the network predicts
    :param solver: how noise is carried to an action
    :param support: how a point of the flow becomes an action
    :param steps: of the solver
    :param time_shift: above 1, its steps are short near the action
    :param t_range: times that training draws; sampling goes from the first of them to 1
    :param evaluation_steps: of the solver for deterministic actions; None for as many
    """

    interpolant: Interpolant
    parametrization: Parametrization
    solver: Solver
    support: Support
    steps: int
    time_shift: float
    t_range: tuple[float, float]
    evaluation_steps: int | None = None

    def deterministic(self) -> "Flow":
        """The flow that draws deterministic actions: without noise of the solver's own."""
        steps = self.steps if self.evaluation_steps is None else self.evaluation_steps
        return replace(self, solver=self.solver.deterministic(), steps=steps)

    def in_one_step(self) -> "Flow":
        """The flow of a network that predicts where noise ends: one step of DDIM lands there."""
        return replace(self, parametrization=Data(), solver=DDIM(), steps=1)

    def clip_prediction(
        self,
        bound: float,
        coefficients: Coefficients,
        x_t: Tensor,
        ends: EndPoints,
        clamp: Clamp = clamp_to,
    ) -> EndPoints:
        """
        The action end, kept within a bound, and the noise end that ``x_t`` ties to it.

        :param bound: largest coordinate of the action end; infinite: the ends as they are
        :param coefficients: the interpolant at the time of ``x_t``
        :param x_t: (*S, D)
        :param ends: both ends, (*S, D)
        :param clamp: how it is kept there
        :return: both ends
        """
        if math.isinf(bound):
            return ends
        x_1 = clamp(ends.x_1, bound)
        return EndPoints(coefficients.noise_end(x_t, x_1), x_1)


@dataclass(frozen=True)
class VelocityField:
    """
    The marginal velocity of B states that a network's prediction implies; its action end is kept
    within the support's bound.

    :param flow: what the network predicts, on which path
    :param network: the network
    :param condition: what it needs of the observations, computed once a state, (B, width)
    :param bfloat16: whether the network's middle layers run in bfloat16
    :param clamp: how the action end is kept within the bound
    """

    flow: Flow
    network: FlowNetwork
    condition: Tensor
    bfloat16: bool = False
    clamp: Clamp = clamp_to

    def __call__(self, x: Tensor, t: Tensor, later: Tensor | None = None) -> Tensor:
        """
        The velocity; with a later time the network's mean velocity until then.

        :param x: points, (*S, B, D)
        :param t: time, ()
        :param later: time, ()
        :return: (*S, B, D)
        """
        flow, coefficients = self.flow, self.flow.interpolant(t)
        prediction = self.predict(x, t, later)
        ends = flow.parametrization.end_points(coefficients, x, prediction)
        ends = flow.clip_prediction(flow.support.bound, coefficients, x, ends, self.clamp)
        return coefficients.d_alpha * ends.x_1 + coefficients.d_beta * ends.x_0

    def predict(self, x: Tensor, t: Tensor, later: Tensor | None = None) -> Tensor:
        """
        What the network predicts.

        :param x: points, (*S, B, D)
        :param t: time, () or (*S, B)
        :param later: likewise, of a network of two times
        :return: (*S, B, D)
        """
        if later is None:
            return self.network(self.condition, x, t, self.bfloat16)
        return self.network(self.condition, x, t, self.bfloat16, later)

    def integrate(self, x_0: Tensor, solver: Solver | None = None) -> Tensor:
        """
        Where the flow carries its noise.

        :param x_0: noise as it is at the first time, (*S, B, D)
        :param solver: what integrates; None for the flow's own
        :return: x_1, (*S, B, D)
        """
        flow, times = self.flow, (self.flow.t_range[0], 1.0)
        solver = flow.solver if solver is None else solver
        return solver.solve(
            self, x_0, flow.interpolant, flow.steps, times, time_shift=flow.time_shift
        )
