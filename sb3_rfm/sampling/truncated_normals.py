"""
The normal law on the box [-1, 1], by coordinate: samples, log-density, mean and Stein kernel.

Every formula is reflected so that the box's centre is not above the location, and is written with
the scaled tail ``tail(z) = Phi(-z) / phi(z)`` where plain differences of Phi would cancel. The
arithmetic is float64.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch as th
from torch import Tensor

from sb3_rfm.sampling.devices import on_host

SQRT_HALF, SQRT_HALF_PI = math.sqrt(0.5), math.sqrt(math.pi / 2)
SQRT_2PI = math.sqrt(2 * math.pi)
LOG_SQRT_2PI = math.log(SQRT_2PI)
FAR = -3.0  # walls below this many scales are handled by scaled tails: there Phi is below .0014
NEWTON_STEPS = 3  # from a start whose relative error is 1 / FAR² the error is then below 1e-12


def tail(z: Tensor) -> Tensor:
    """
    Mills ratio ``Phi(-z) / phi(z)``: finite however large z is.

    :param z: any shape; below about -37 it overflows float64
    :return: the same shape
    """
    ratio: Tensor = SQRT_HALF_PI * th.special.erfcx(SQRT_HALF * z)
    return ratio


def log_phi(z: Tensor) -> Tensor:
    """
    Log-density of the standard normal law.

    :param z: any shape
    :return: the same shape
    """
    return -0.5 * z.square() - LOG_SQRT_2PI


@dataclass(frozen=True)
class TruncatedNormal:
    """
    ``TN(x; loc, scale²) ∝ N(x; loc, scale²) 1[-1 <= x <= 1]``, independent coordinates.

    Accurate for locations up to ±1e3 and scales from 1e-5 to 1e3. As the scale grows it tends to
    the uniform law, and as it shrinks inside the box to the plain normal.

    :param loc: location of the normal, (*S)
    :param scale: its standard deviation, positive, (*S)
    """

    loc: Tensor
    scale: Tensor

    @cached_property
    def sign(self) -> Tensor:
        """-1 where loc < 0, else 1: reflects the location to the centre or above it."""
        return th.where(self.loc < 0, -1.0, 1.0).double()

    @cached_property
    def width(self) -> Tensor:
        """The box's width in scales."""
        return 2 / self.scale.double()

    @cached_property
    def high(self) -> Tensor:
        """The reflected box's upper wall, ``(1 - |loc|) / scale``."""
        return (1 - self.loc.double().abs()) / self.scale.double()

    @cached_property
    def low(self) -> Tensor:
        """The reflected box's lower wall, ``(-1 - |loc|) / scale``, never above 0."""
        return (-1 - self.loc.double().abs()) / self.scale.double()

    @cached_property
    def far(self) -> Tensor:
        """Where the whole box lies deep in the lower tail."""
        return self.high < FAR

    @cached_property
    def decay(self) -> Tensor:
        """``phi(low) / phi(high)`` of the reflected box, at most 1 if it lies in the lower tail."""
        return th.exp(0.5 * self.width * (self.low + self.high))

    @cached_property
    def scaled_mass(self) -> Tensor:
        """``(Phi(high) - Phi(low)) / phi(high)``, for a far box."""
        return tail(-self.high.clamp_max(0)) - self.decay.clamp_max(1) * tail(-self.low)

    @cached_property
    def mass(self) -> Tensor:
        """``Phi(high) - Phi(low)``, for a box that is not far."""
        mass: Tensor = th.special.ndtr(self.high) - self.mass_below
        return mass.clamp_min(th.finfo(th.float64).tiny)

    @cached_property
    def mass_below(self) -> Tensor:
        """``Phi(low)``."""
        below: Tensor = th.special.ndtr(self.low)
        return below

    @cached_property
    def log_mass(self) -> Tensor:
        """Logarithm of the plain normal's mass in the box."""
        deep = log_phi(self.high) + self.scaled_mass.log()
        return th.where(self.far, deep, self.mass.log()).to(self.loc.dtype)

    @cached_property
    def mean_z(self) -> Tensor:
        """Mean of the reflected, scaled law, never above 0."""
        near = (log_phi(self.low).exp() - log_phi(self.high).exp()) / self.mass
        deep = th.expm1(0.5 * (self.width * (self.low + self.high)).clamp_max(0)) / self.scaled_mass
        return th.minimum(th.maximum(th.where(self.far, deep, near), self.low), self.high)

    @property
    def mean(self) -> Tensor:
        """Mean, in [-1, 1], (*S)."""
        # counted from the wall: loc + scale * mean_z would cancel for a far location
        offset = (self.high - self.mean_z) * self.scale.double()
        return (self.sign * (1 - offset)).clamp(-1, 1).to(self.loc.dtype)

    def _from_wall(self, x: Tensor) -> Tensor:
        """``high - z``, from a point to the reflected upper wall in scales; no cancellation."""
        return (1 - self.sign * x.double()) / self.scale.double()

    def log_prob(self, x: Tensor) -> Tensor:
        """
        Normalised log-density of each coordinate, for points in the box.

        :param x: in [-1, 1], broadcastable with (*S)
        :return: the broadcast shape
        """
        distance, log_scale = self._from_wall(x), self.scale.double().log()
        near = log_phi(self.high - distance) - self.mass.log()
        deep = 0.5 * distance * (2 * self.high - distance) - self.scaled_mass.log()
        return (th.where(self.far, deep, near) - log_scale).to(self.loc.dtype)

    def score(self, x: Tensor) -> Tensor:
        """
        Gradient of the log-density, ``-(x - loc) / scale²``.

        :param x: broadcastable with (*S)
        :return: the broadcast shape
        """
        return (self.loc - x) / self.scale.square()

    def icdf(self, u: Tensor) -> Tensor:
        """
        Inverse of the distribution function (of the reflected law: a uniform u gives a draw).

        :param u: in [0, 1], broadcastable with (*S)
        :return: in [-1, 1]
        """
        u = u.double()
        distance = self.high - th.special.ndtri(self.mass_below + u * self.mass)
        if not on_host(u) or bool(self.far.any()):
            distance = th.where(self.far, self._deep_distance(u), distance)
        distance = th.minimum(distance.clamp_min(0), self.width)
        return (self.sign * (1 - distance * self.scale.double())).clamp(-1, 1).to(self.loc.dtype)

    def _deep_distance(self, u: Tensor) -> Tensor:
        """
        The distance y below a far upper wall h with ``Phi(h - y) / Phi(h)`` at the level of u.

        By Newton's method: in logs the equation is
        ``-|h| y - y²/2 + log tail(|h| + y) - log tail(|h|) = log level``, concave in y.
        """
        depth = (-self.high).clamp_min(-FAR)
        log_tail = tail(depth).log()
        lowest = th.exp(
            -depth * self.width
            - 0.5 * self.width.square()
            + tail(depth + self.width).log()
            - log_tail
        )
        log_level = (u + (1 - u) * lowest).clamp_min(1e-300).log()
        y = -2 * log_level / ((depth.square() - 2 * log_level).sqrt() + depth)
        for _ in range(NEWTON_STEPS):
            ratio = tail(depth + y)
            y = y + ratio * (-depth * y - 0.5 * y.square() + ratio.log() - log_tail - log_level)
        return y

    def stein_kernel(self, x: Tensor) -> Tensor:
        """
        ``tau(x) = (1 / r(x)) ∫_x^1 (y - mean) r(y) dy``, so that ``(tau r)' = (mean - x) r``.

        It is between 0 and scale² and zero at both walls. The integral is taken on the side of x
        that needs no cancellation: above the mean up to the upper wall, below it from the lower.

        :param x: in [-1, 1], broadcastable with (*S)
        :return: the broadcast shape
        """
        distance = self._from_wall(x)
        z, above_low = self.high - distance, self.width - distance
        growth = th.exp(
            (-0.5 * distance * (2 * self.high - distance)).clamp_max(80.0)
        )  # phi(high) / phi(z)
        # one evaluation for both tails: Phi(z) + Phi(-z) = 1
        tail_size, negative = tail(z.abs()), z < 0
        whole = SQRT_2PI * th.exp(0.5 * z.clamp(-20.0, 0.0).square())  # 1 / phi(z)
        tail_z = th.where(negative, whole - tail_size, tail_size)
        lower_tail_z = th.where(negative, tail_size, SQRT_HALF_PI)
        near = tail_z - growth * tail(self.high.clamp_min(FAR))
        deep = growth * tail(-self.high.clamp_max(0)) - lower_tail_z
        upper = 1 - growth - self.mean_z * th.where(self.far, deep, near)
        fall = th.exp(0.5 * above_low * (z + self.low).clamp_max(0))  # phi(low) / phi(z)
        lower = 1 - fall + self.mean_z * (lower_tail_z - fall * tail(-self.low))
        kernel = th.where(z >= self.mean_z, upper, lower).clamp(0, 1)
        return (kernel * self.scale.double().square()).to(self.loc.dtype)
