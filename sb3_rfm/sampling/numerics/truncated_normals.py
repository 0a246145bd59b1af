"""
The normal law on the box [-1, 1], by coordinate: samples, log-density, mean and Stein kernel.

Every formula is reflected so that the box's centre is not above the location, counts from the point
of the box that is nearest to the location, and is written with the scaled tail
``tail(z) = Phi(-z) / phi(z)``, z >= 0: plain differences of Phi would cancel. The arithmetic is
float64.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch as th
from torch import Tensor

from sb3_rfm.sampling.numerics.devices import on_host

SQRT_HALF, SQRT_HALF_PI = math.sqrt(0.5), math.sqrt(math.pi / 2)
SQRT_2PI = math.sqrt(2 * math.pi)
FAR = -30.0  # laws whose upper wall is below it are drawn in logs: there Phi is below 1e-197
NEWTON_STEPS = 2  # from a start whose relative error is 1 / FAR² the error is then below 1e-12


def tail(z: Tensor) -> Tensor:
    """
    Mills ratio ``Phi(-z) / phi(z)``: finite however large z is.

    :param z: any shape; below about -37 it overflows float64
    :return: the same shape
    """
    ratio: Tensor = SQRT_HALF_PI * th.special.erfcx(SQRT_HALF * z)
    return ratio


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
    def gap(self) -> Tensor:
        """The box's nearest point, in scales from the location: 0 for one in the box, else high."""
        return self.high.clamp_max(0)

    @cached_property
    def decay(self) -> Tensor:
        """``phi(low) / phi(high) - 1``, never above 0."""
        return th.expm1(-self.width * (self.loc.double().abs() / self.scale.double()))

    @cached_property
    def at_high(self) -> Tensor:
        """``phi(high) / phi(gap)``, at most 1."""
        return th.exp(-0.5 * self.high.clamp_min(0).square())

    @cached_property
    def at_low(self) -> Tensor:
        """``phi(low) / phi(gap)``, at most 1."""
        return self.at_high * (1 + self.decay)

    @cached_property
    def tail_high(self) -> Tensor:
        """``tail(|high|)``, negative for a location in the box."""
        size = tail(self.high.abs())
        return th.where(self.high < 0, size, -size)

    @cached_property
    def tail_low(self) -> Tensor:
        """``tail(-low)``."""
        return tail(-self.low)

    @cached_property
    def whole(self) -> Tensor:
        """``1 / phi(0)`` for a location in the box, else 0: what its two tails are missing from."""
        return SQRT_2PI * (self.high >= 0).double()

    @cached_property
    def mass(self) -> Tensor:
        """``(Phi(high) - Phi(low)) / phi(gap)``: the mass in the box over the highest density."""
        upper, lower = self.at_high * self.tail_high, self.at_low * self.tail_low
        return (self.whole + upper - lower).clamp_min(th.finfo(th.float64).tiny)

    @cached_property
    def log_mass(self) -> Tensor:
        """Logarithm of the plain normal's mass in the box."""
        return ((self.mass / SQRT_2PI).log() - 0.5 * self.gap.square()).to(self.loc.dtype)

    @cached_property
    def mean_z(self) -> Tensor:
        """Mean of the reflected, scaled law, never above 0."""
        mean = self.at_high * self.decay / self.mass
        return th.minimum(th.maximum(mean, self.low), self.high)

    @property
    def mean(self) -> Tensor:
        """Mean, in [-1, 1], (*S)."""
        # counted from the wall: loc + scale * mean_z would cancel for a far location
        offset = (self.high - self.mean_z) * self.scale.double()
        return (self.sign * (1 - offset)).clamp(-1, 1).to(self.loc.dtype)

    def log_relative(self, x: Tensor) -> Tensor:
        """
        Logarithm of the density over its highest value in the box, at most 0.

        :param x: in [-1, 1], broadcastable with (*S)
        :return: the broadcast shape
        """
        return self._fall(x).to(self.loc.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """
        Normalised log-density of each coordinate, for points in the box.

        :param x: in [-1, 1], broadcastable with (*S)
        :return: the broadcast shape
        """
        return (self._fall(x) - (self.mass * self.scale.double()).log()).to(self.loc.dtype)

    def _fall(self, x: Tensor) -> Tensor:
        """:meth:`log_relative` in float64."""
        loc, scale = self.loc.double(), self.scale.double()
        nearest = loc.clamp(-1, 1)
        # squares counted from the nearest point: those from a far location would cancel
        away = (x.double() - nearest) / scale
        return th.add((loc - nearest) / scale, away, alpha=-0.5).mul_(away)

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
        top = th.exp(-0.5 * self.gap.square()) / SQRT_2PI
        level = top * (self.at_low * self.tail_low + u * self.mass)
        distance = self.high - th.special.ndtri(level.clamp_max(1))
        far = self.high < FAR
        if not on_host(u):  # to select the far laws a GPU would have to wait
            distance = th.where(far, self._deep_distance(u), distance)
        elif bool(far.any()):
            chosen = far.expand_as(distance)
            loc, scale, level = (
                each.expand_as(distance)[chosen] for each in (self.loc, self.scale, u)
            )
            distance[chosen] = TruncatedNormal(loc, scale)._deep_distance(level)
        distance = th.minimum(distance.clamp_min(0), self.width)
        return (self.sign * (1 - distance * self.scale.double())).clamp(-1, 1).to(self.loc.dtype)

    def _deep_distance(self, u: Tensor) -> Tensor:
        """
        The distance y below a far upper wall h with ``Phi(h - y) / Phi(h)`` at the level of u.

        By Newton's method: in logs the equation is
        ``-|h| y - y²/2 + log tail(|h| + y) = log level + log tail(|h|)``, concave in y.
        """
        depth = (-self.high).clamp_min(-FAR)
        top = tail(depth)
        lowest = (1 + self.decay) * self.tail_low / top
        log_level = (u + (1 - u) * lowest).clamp_min(1e-300).log()
        y = -2 * log_level / ((depth.square() - 2 * log_level).sqrt() + depth)
        aim = log_level + top.log()
        for _ in range(NEWTON_STEPS):
            ratio = tail(depth + y)
            y = y + ratio * (ratio.log() - y * th.add(depth, y, alpha=0.5) - aim)
        return y

    def stein_kernel(self, x: Tensor) -> Tensor:
        """
        ``tau(x) = (1 / r(x)) ∫_x^1 (y - mean) r(y) dy``, so that ``(tau r)' = (mean - x) r``.

        It is between 0 and scale² and zero at both walls. The integral is taken on the side of x
        that needs no cancellation: above the mean up to the upper wall, below it from the lower.

        :param x: in [-1, 1], broadcastable with (*S)
        :return: the broadcast shape
        """
        # from the upper wall: z itself would cancel for a far location
        distance = (1 - self.sign * x.double()) / self.scale.double()
        z, above_low = self.high - distance, self.width - distance
        size = tail(z.abs())  # beyond z, away from 0
        # phi(high) / phi(z), and 1 / phi(z) where 0 is between z and the upper wall
        growth = th.exp((distance * (0.5 * distance - self.high)).clamp_max(80.0))
        whole = self.whole * th.exp(0.5 * z.clamp(-20.0, 0.0).square())
        above = th.addcmul(th.where(z < 0, whole - size, size), growth, self.tail_high)
        upper = 1 - growth - self.mean_z * above
        fall = th.exp((0.5 * above_low * (z + self.low)).clamp_max(0))  # phi(low) / phi(z)
        lower = 1 - fall + self.mean_z * (size - fall * self.tail_low)
        kernel = th.where(z >= self.mean_z, upper, lower).clamp(0, 1)
        return (kernel * self.scale.double().square()).to(self.loc.dtype)
