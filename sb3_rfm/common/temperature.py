"""
The temperature lambda of the Boltzmann law: constant, scheduled, relative to the spread of Q, or
tuned to an entropy.
"""

import math
from collections.abc import Callable

import torch as th
from torch import Tensor, nn

from sb3_rfm.common.arguments import plain_number
from sb3_rfm.sampling.registry import require, require_float

TemperatureLike = float | str | Callable[[float], float]

DEFAULT_INITIAL = 0.1
DEFAULT_MULTIPLE = 0.3
ALLOWED = (
    "a positive number, a schedule, 'relative', 'relative_<multiple>', 'auto', 'auto_<initial>' or "
    "'lin_<initial>'"
)


class Temperature(nn.Module):
    """
    A positive scalar, kept as its logarithm; part of the policy, so that a policy saved alone keeps
    its temperature.

    :param value: initial value, in units of return
    """

    optimizer: th.optim.Optimizer

    def __init__(self, value: float) -> None:
        super().__init__()
        self.log_value = nn.Parameter(th.tensor(math.log(value)), requires_grad=False)

    def forward(self) -> Tensor:
        """:return: the temperature, ()"""
        return self.log_value.exp()

    @th.no_grad()
    def move_towards(self, value: Tensor, rate: float) -> None:
        """
        Move the logarithm of the temperature towards another's, in place.

        :param value: the other, (); what is not positive and finite is left out
        :param rate: share of the way, in [0, 1]
        """
        step = rate * (value.log() - self.log_value)
        self.log_value.add_(th.where(step.isfinite(), step, 0.0))

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
    relative = False

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


class RelativeTemperature(ConstantTemperature):
    """
    A multiple of the spread of Q over the action box
    (:func:`sb3_rfm.common.boltzmann.spread_over_box`), whose logarithm it follows as a moving
    average: the law is as sharp whatever the unit of return. It starts at a spread of one.
    """

    default = DEFAULT_MULTIPLE
    relative = True


class AutoTemperature(ConstantTemperature):
    """Starts at its value and is tuned by gradient steps on the dual of an entropy constraint."""

    default = DEFAULT_INITIAL
    tuned = True


RULES: dict[str, type[ConstantTemperature]] = {
    "auto": AutoTemperature,
    "lin": LinearTemperature,
    "relative": RelativeTemperature,
}


def parse_temperature(temperature: TemperatureLike) -> ConstantTemperature:
    """
    The rule that a user's argument names.

    :param temperature: a positive number, a schedule, "relative" or "relative_0.3" (.3 times the
        spread of Q), "lin_0.1" (linear from .1), "auto" or "auto_0.1" (initial value .1)
    :return: the rule
    """
    if callable(temperature):
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

    :param actions: M candidates in [-1, 1], (M, B, D), M of at least 2
    :return: nats, ()
    """
    half = th.tensor((len(actions) - 1) / 2, dtype=actions.dtype)
    bias = th.digamma(half) - half.log()
    log_variance = actions.var(0).clamp_min(1e-12).log() - bias
    return (0.5 * (math.log(2 * math.pi * math.e) + log_variance)).sum(-1).mean()


def entropy_dual_loss(temperature: Temperature, entropy: Tensor, target_entropy: float) -> Tensor:
    """
    ``log lambda (H - target)``: its gradient lowers the temperature while the policy is more random
    than the target.

    :param temperature: the temperature
    :param entropy: the policy's entropy, nats, ()
    :param target_entropy: nats
    :return: the loss, ()
    """
    return temperature.log_value * (entropy - target_entropy).detach()
