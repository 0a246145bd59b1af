"""The temperature lambda of the Boltzmann law: constant, scheduled, or tuned to an entropy."""

import math
from collections.abc import Callable

import torch as th
from torch import Tensor, nn

from sb3_rfm.common.arguments import check_rate, plain_number
from sb3_rfm.sampling.registry import require, require_float

TemperatureLike = float | str | Callable[[float], float]

DEFAULT_INITIAL = 1.0
ALLOWED = "a positive number, a schedule, 'auto', 'auto_<initial>' or 'lin_<initial>'"

DUAL_RATE = 0.001
"""Rate of the dual's descent: the share by which lambda falls, an actor update, for each nat a
coordinate above the target. It is slow on purpose: the law is wide for the first thousands of
updates, and finds more than one that is at its target at once."""
LARGEST_EXCESS = 3.0
"""Nats a coordinate that an update reacts to at most."""
LEAST_DEVIATION = 1e-3
"""Half widths of the box below which a coordinate's standard deviation counts as this."""


class Temperature(nn.Module):
    """
    A positive scalar, kept as its logarithm; part of the policy, so that a policy saved alone keeps
    its temperature.

    :param value: initial value, in units of return
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.log_value = nn.Parameter(th.tensor(math.log(value)))

    def forward(self) -> Tensor:
        """:return: the temperature, ()"""
        return self.log_value.exp()

    @th.no_grad()
    def rescale(self, factor: Tensor) -> None:
        """
        Keep the law of values whose unit is another, in place.

        :param factor: what the unit was multiplied by, positive, ()
        """
        self.log_value.add_(factor.log())

    def dual_loss(self, entropy: Tensor, target: float) -> Tensor:
        """
        A dual of a bound on the policy's entropy, ``log lambda (H - target)`` (Haarnoja et al.
        2018, arXiv 1812.05905, section 5, with log lambda for lambda): its descent lowers the
        temperature where the policy is more random than it is to be, and raises it where less.

        Plain descent steps in proportion to the excess, where Adam's steps have one size: with
        :data:`DUAL_RATE` a factor of ten takes a thousand updates at first and ends without a
        swing.

        :param entropy: of the policy, nats a coordinate, (); what is not finite is left out
        :param target: what it is to be, nats a coordinate
        :return: ()
        """
        excess = (entropy - target).clamp(-LARGEST_EXCESS, LARGEST_EXCESS)
        excess = th.where(entropy.isfinite(), excess, 0.0).detach()
        return self.log_value.view_as(excess) * excess

    def assign(self, value: float) -> None:
        """
        Set the temperature.

        :param value: the new value, positive
        """
        require_float("temperature", value)
        require(value > 0, "temperature", value, "a positive number at every progress")
        self.log_value.data.fill_(math.log(value))


class ConstantTemperature:
    """
    The rule that never changes the temperature.

    :param value: lambda, positive
    """

    default = math.nan  # of a name without a number
    tuned = False

    def __init__(self, value: float) -> None:
        require_float("temperature", value)
        require(value > 0, "temperature", value, ALLOWED)
        self.value = float(value)

    def __call__(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: 1 at the beginning of training, 0 at its end
        :return: the temperature
        """
        return self.value


class ScheduledTemperature(ConstantTemperature):
    """
    Follows a schedule of SB3's kind.

    :param schedule: progress remaining (1 to 0) -> temperature
    """

    def __init__(self, schedule: Callable[[float], float]) -> None:
        super().__init__(plain_number(schedule(1.0)))
        self.schedule = schedule

    def __call__(self, progress_remaining: float) -> float:
        return float(self.schedule(progress_remaining))  # NumPy's numbers too


class LinearTemperature(ConstantTemperature):
    """
    Falls from its initial value to a hundredth of it: ``value max(progress, .01)``
    ('lin_<initial>').
    """

    def __call__(self, progress_remaining: float) -> float:
        return self.value * max(progress_remaining, 0.01)


class AutoTemperature(ConstantTemperature):
    """Starts at its value and is tuned to an entropy (:meth:`Temperature.dual_loss`)."""

    default = DEFAULT_INITIAL
    tuned = True


RelativeTemperature = AutoTemperature
"""In files of before, a rule that there is no more: their temperature is tuned from then on."""

RULES: dict[str, type[ConstantTemperature]] = {
    "auto": AutoTemperature,
    "lin": LinearTemperature,
}


def parse_temperature(temperature: TemperatureLike) -> ConstantTemperature:
    """
    The rule that a user's argument names.

    :param temperature: a positive number, a schedule, "lin_0.1" (linear from .1), "auto" or
        "auto_0.1" (initial value .1)
    :return: the rule
    """
    if callable(temperature):
        check_rate("temperature", temperature)
        return ScheduledTemperature(temperature)
    if not isinstance(temperature, str):
        return ConstantTemperature(temperature)
    name, underscore, number = temperature.partition("_")
    try:
        rule = RULES[name]
        return rule(float(number) if underscore else rule.default)
    except (KeyError, ValueError):
        raise ValueError(f"temperature must be {ALLOWED}; got {temperature!r}") from None


def entropy_per_action(target_entropy: str | float) -> tuple[float, float]:
    """
    A target entropy that a user's argument names, ``nats - share * D``.

    :param target_entropy: nats; "auto" for minus the action's dimension, "auto_0.9" for .9 of that
    :return: share and nats
    :raises ValueError: another string, or a number that is not finite
    """
    if not isinstance(target_entropy, str):
        require_float("target_entropy", target_entropy)
        return 0.0, float(target_entropy)
    name, _, number = target_entropy.partition("_")
    try:
        share = float(number or 1.0) if name == "auto" else math.nan
        require_float("target_entropy", share, 0.0)
    except ValueError:
        allowed = "a number of nats, 'auto' or 'auto_<share of minus the dimension>'"
        raise ValueError(f"target_entropy must be {allowed}; got {target_entropy!r}") from None
    return share, 0.0


def gaussian_entropy(actions: Tensor) -> Tensor:
    """
    Entropy of the Gaussian with the candidates' variances, coordinates summed, states averaged: an
    upper bound of their own.

    ``H = sum_j ½ log(2 pi e v_j)``; the bias of the logarithm of a sample variance is removed as
    for normal samples (``E log v̂ = log v + digamma(n) - log n`` with ``n = (M - 1) / 2``).

    :param actions: M candidates in [-1, 1], (M, *P, B, D), M of at least 2
    :return: nats, (*P)
    """
    half = th.tensor((len(actions) - 1) / 2, dtype=actions.dtype)
    bias = th.digamma(half) - half.log()
    log_variance = actions.var(0).clamp_min(LEAST_DEVIATION**2).log() - bias
    return (0.5 * (math.log(2 * math.pi * math.e) + log_variance)).sum(-1).mean(-1)
