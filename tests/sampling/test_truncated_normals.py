"""The truncated normal against 50 digits, quadrature, its limits and its symmetry."""

import math
from functools import lru_cache

import mpmath as mp
import numpy as np
import pytest
import torch as th
from analytic import doubles
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_rfm.sampling import TruncatedNormal

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=40)
EPS = th.finfo(th.float64).eps

# Inside the box, on a wall, outside it, so far outside that nothing but the wall is left.
LOCS = [0.0, 0.3, -0.9, 1.0, 1.5, -5.0, 30.0, 1e3, -1e3, 5e3]
SCALES = [1e-5, 1e-3, 0.05, 0.6, 5.0, 1e3]
# Of moderate width, for quadrature.
MODERATE = [(0.3, 0.4), (-0.9, 0.25), (1.5, 0.7), (-5.0, 1.2), (0.2, 30.0), (-40.0, 9.0)]
moderate = pytest.mark.parametrize(("loc", "scale"), MODERATE)

locations = st.one_of(st.floats(-1e3, 1e3), st.floats(-1.5, 1.5))
scales = st.floats(-5, 3).map(lambda power: min(max(10.0**power, 1e-5), 1e3))


def law_of(loc: float, scale: float, dtype: th.dtype = th.float64) -> TruncatedNormal:
    return TruncatedNormal(th.tensor(loc, dtype=dtype), th.tensor(scale, dtype=dtype))


def uniforms() -> th.Tensor:
    """Even levels and extreme ones."""
    return th.cat([doubles(0.0, 1e-300, 1e-12), th.arange(0.02, 1, 0.04), doubles(1 - 1e-12, 1)])


def nodes() -> tuple[th.Tensor, th.Tensor]:
    """Points and weights of a quadrature over the box: exact to the last digits for our laws."""
    return tuple(th.from_numpy(part) for part in np.polynomial.legendre.leggauss(200))


class Exact:
    """
    The same law to 50 digits, from the normal distribution function.

    Every difference is taken on the side of zero, and every integral on the side of the mean, that
    does not lose them.
    """

    def __init__(self, loc: float, scale: float) -> None:
        self.loc, self.scale = mp.mpf(loc), mp.mpf(scale)
        self.low, self.high = self.z(-1), self.z(1)
        self.total = self.mass(self.low, self.high)
        self.mean_z = (mp.npdf(self.low) - mp.npdf(self.high)) / self.total
        self.mean = self.loc + self.scale * self.mean_z

    def z(self, x: float) -> mp.mpf:
        return (mp.mpf(x) - self.loc) / self.scale

    @staticmethod
    def mass(a: mp.mpf, b: mp.mpf) -> mp.mpf:
        return mp.ncdf(-a) - mp.ncdf(-b) if a + b > 0 else mp.ncdf(b) - mp.ncdf(a)

    @property
    def spread(self) -> mp.mpf:
        walls = self.low * mp.npdf(self.low) - self.high * mp.npdf(self.high)
        return self.scale * mp.sqrt(1 + walls / self.total - self.mean_z**2)

    def density(self, x: float) -> mp.mpf:
        return mp.npdf(self.z(x)) / self.total / self.scale

    def cdf(self, x: float) -> mp.mpf:
        return self.mass(self.low, self.z(x)) / self.total

    def kernel(self, x: float) -> mp.mpf:
        z = self.z(x)
        wall, sign = (self.high, 1) if z > self.mean_z else (self.low, -1)
        part = self.mass(*sorted((z, wall)))
        integral = mp.npdf(z) - mp.npdf(wall) - sign * self.mean_z * part
        return self.scale**2 * integral / mp.npdf(z)


@lru_cache
def exact(loc: float, scale: float) -> Exact:
    return Exact(loc, scale)


@pytest.fixture(autouse=True)
def fifty_digits():
    with mp.workdps(50):
        yield


every_law = pytest.mark.parametrize("scale", SCALES)


@every_law
def test_mean_is_the_one_to_fifty_digits(scale):
    for loc in LOCS:
        error = abs(float(law_of(loc, scale).mean) - exact(loc, scale).mean)
        assert error < 1e-9 * exact(loc, scale).spread + 4 * EPS * (1 + abs(loc))  # rounding


@every_law
def test_log_prob_is_the_one_to_fifty_digits(scale):
    for loc in LOCS:
        law = law_of(loc, scale)
        for x in [*law.icdf(doubles(0.001, 0.3, 0.98)).tolist(), -1.0, 0.7, 1.0]:
            error = abs(float(law.log_prob(doubles(x))) - mp.log(exact(loc, scale).density(x)))
            z, wall = abs(exact(loc, scale).z(x)), abs(exact(abs(loc), scale).high)
            assert error < 1e-12 + 4 * EPS * z * (z + wall)  # rounding of z, squared


@every_law
def test_icdf_is_the_inverse_of_the_distribution_function(scale):
    for loc in LOCS:
        u = doubles(1e-9, 0.001, 0.1, 0.45, 0.8, 0.999, 1 - 1e-9)
        for level, x in zip(u.tolist(), law_of(loc, scale).icdf(u).tolist(), strict=True):
            reached = exact(loc, scale).cdf(x)
            # a negative location is reflected: there the draws fall as u rises
            error = abs((reached if loc >= 0 else 1 - reached) - mp.mpf(level))
            assert error < 1e-12 + EPS * exact(loc, scale).density(x)  # rounding of x


@every_law
def test_kernel_is_the_one_to_fifty_digits(scale):
    for loc in LOCS:
        law = law_of(loc, scale)
        for x in law.icdf(doubles(0.001, 0.1, 0.4, 0.6, 0.95)).tolist():
            expected = exact(loc, scale).kernel(x)
            error = abs(float(law.stein_kernel(doubles(x))) - expected)
            assert error < 1e-13 * scale**2
            if abs(loc) <= 5 and scale >= 1e-3:
                assert error <= 1e-6 * expected


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@PROPERTY
@given(locations, scales)
def test_everything_is_finite_and_in_its_range(dtype, loc, scale):
    law = law_of(loc, scale, dtype)
    draws = law.icdf(uniforms())
    x = th.cat([draws, th.linspace(-1, 1, 21, dtype=dtype)])
    kernel, log_prob = law.stein_kernel(x), law.log_prob(x)
    for part in (draws, law.mean, kernel, log_prob):
        assert part.dtype == dtype
        assert part.isfinite().all()
    assert draws.abs().max() <= 1
    assert law.mean.abs() <= 1
    assert draws.min() <= law.mean <= draws.max()
    assert kernel.min() >= 0
    assert kernel.max() <= law.scale.square()
    # They rise with u, or fall where the location is negative.
    assert ((-1 if law.loc < 0 else 1) * draws[1:-1].diff() >= 0).all()


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@PROPERTY
@given(locations, scales)
def test_kernel_vanishes_at_both_walls(dtype, loc, scale):
    law = law_of(loc, scale, dtype)
    kernel = law.stein_kernel(th.tensor([-1.0, 1.0], dtype=dtype))
    assert kernel.max() <= 1e-14 * law.scale.square()


@PROPERTY
@given(locations, scales)
def test_single_precision_is_double_precision_rounded(loc, scale):
    single = law_of(loc, scale, th.float32)
    double = TruncatedNormal(single.loc.double(), single.scale.double())
    x = single.icdf(uniforms())
    th.testing.assert_close(x, double.icdf(uniforms()).float(), rtol=0, atol=0)
    for name in ("stein_kernel", "log_prob"):
        got = getattr(single, name)(x)
        th.testing.assert_close(got, getattr(double, name)(x.double()).float(), rtol=0, atol=0)
    th.testing.assert_close(single.mean, double.mean.float(), rtol=0, atol=0)


@PROPERTY
@given(locations.filter(lambda loc: loc != 0), scales)
def test_reflection(loc, scale):
    """The box is symmetric: the law of -loc is the mirror image."""
    law, mirror = law_of(loc, scale), law_of(-loc, scale)
    x = law.icdf(uniforms())
    assert th.equal(mirror.icdf(uniforms()), -x)
    assert th.equal(mirror.mean, -law.mean)
    assert th.equal(mirror.log_prob(-x), law.log_prob(x))
    assert th.equal(mirror.stein_kernel(-x), law.stein_kernel(x))


def test_reflection_of_the_centre():
    law, x = law_of(0.0, 0.7), th.linspace(-1, 1, 41, dtype=th.float64)
    assert float(law.mean) == 0.0
    th.testing.assert_close(law.stein_kernel(-x), law.stein_kernel(x), rtol=1e-12, atol=1e-15)
    th.testing.assert_close(law.icdf(1 - uniforms()), -law.icdf(uniforms()), rtol=0, atol=1e-4)


@moderate
def test_log_prob_integrates_to_one_and_to_the_mean(loc, scale):
    x, w = nodes()
    law = law_of(loc, scale)
    mass = w * law.log_prob(x).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    assert float((mass * x).sum()) == pytest.approx(float(law.mean), abs=1e-12)


@moderate
def test_icdf_carries_uniform_numbers_to_the_law(loc, scale):
    """An average over even u is an integral over the density: moments that tell the law apart."""
    x, w = nodes()
    law = law_of(loc, scale)
    mass, draws = w * law.log_prob(x).exp(), law.icdf((x + 1) / 2)
    for f in (th.square, th.sin, lambda x: (2 * x - 0.4).tanh()):
        average = float((w / 2 * f(draws)).sum())
        assert average == pytest.approx(float((mass * f(x)).sum()), abs=1e-4)


@moderate
def test_stein_identity(loc, scale):
    """``E_r[(mean - x) f + tau f'] = 0`` for any smooth f, however it behaves at the walls."""
    x, w = nodes()
    law = law_of(loc, scale)
    mass, tau = w * law.log_prob(x).exp(), law.stein_kernel(x)
    for f, slope in [
        (x, th.ones_like(x)),
        (x**3 + x.square(), 3 * x.square() + 2 * x),
        ((3 * x + 1).sin(), 3 * (3 * x + 1).cos()),
        ((2 * x).exp(), 2 * (2 * x).exp()),
    ]:
        first, second = (mass * (law.mean - x) * f).sum(), (mass * tau * slope).sum()
        assert float(first + second) == pytest.approx(0, abs=1e-12)
        assert float(second.abs()) > 1e-6  # the premise: there is something to cancel


@moderate
def test_mean_of_the_kernel_is_the_variance(loc, scale):
    x, w = nodes()
    law = law_of(loc, scale)
    mean_kernel = float((w * law.log_prob(x).exp() * law.stein_kernel(x)).sum())
    assert mean_kernel == pytest.approx(float(exact(loc, scale).spread ** 2), rel=1e-9)


@moderate
@pytest.mark.parametrize("steepness", [-6.0, 4.0])
def test_residual_has_mean_zero_under_any_law_of_the_box(loc, scale, steepness):
    """``E_p[(mean_r - x) + tau_r (d log p - d log r)] = 0`` for a p that presses on a wall."""
    x, w = nodes()
    log_p = steepness * x + 0.8 * (5 * x + 1).sin()
    slope_p = steepness + 4 * (5 * x + 1).cos()
    mass = w * (log_p - log_p.max()).exp()
    mass = mass / mass.sum()
    r = law_of(loc, scale)
    residual = (r.mean - x) + r.stein_kernel(x) * (slope_p + (x - loc) / scale**2)
    spread = (mass * residual.square()).sum().sqrt()
    assert float((mass * residual).sum() / spread) == pytest.approx(0, abs=1e-9)
    assert float((mass * (r.mean - x)).sum().abs() / spread) > 1e-3  # neither part alone has


@pytest.mark.parametrize("loc", [0.0, 0.8, -0.6])
def test_a_wide_normal_is_uniform(loc):
    law, x = law_of(loc, 1e3), th.linspace(-1, 1, 41, dtype=th.float64)
    assert float(law.mean) == pytest.approx(0, abs=1e-6)
    th.testing.assert_close(law.log_prob(x), th.full_like(x, -math.log(2)), rtol=0, atol=1e-5)
    th.testing.assert_close(law.stein_kernel(x), (1 - x.square()) / 2, rtol=0, atol=1e-6)
    u = (x + 1) / 2
    th.testing.assert_close(law.icdf(u), (-1 if loc < 0 else 1) * x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("loc", [0.0, 0.8, -0.6])
def test_a_narrow_normal_inside_the_box_is_not_truncated(loc):
    scale = 1e-3
    law, z = law_of(loc, scale), th.linspace(-5, 5, 41, dtype=th.float64)
    x = loc + scale * z
    assert float(law.mean) == pytest.approx(loc, abs=1e-15)
    th.testing.assert_close(law.stein_kernel(x), th.full_like(x, scale**2), rtol=1e-12, atol=0)
    normal = th.distributions.Normal(doubles(loc), scale)
    th.testing.assert_close(law.log_prob(x), normal.log_prob(x), rtol=0, atol=1e-9)
    u = normal.cdf(x)
    drawn = loc + (-1 if loc < 0 else 1) * scale * z
    th.testing.assert_close(law.icdf(u), drawn, rtol=0, atol=1e-8 * scale)


@pytest.mark.parametrize("wall", [-1, 1])
def test_a_normal_far_outside_is_exponential_from_the_wall(wall):
    """Deep in its tail the density falls by e over ``scale² / (|loc| - 1)``."""
    loc, scale = 101.0, 0.1
    law, decay = law_of(wall * loc, scale), scale**2 / (loc - 1)
    u = doubles(0.1, 0.5, 0.9)
    drop = -decay * u.log()  # of an exponential law, from the wall
    th.testing.assert_close(1 - wall * law.icdf(u), drop, rtol=1e-5, atol=0)
    assert 1 - wall * float(law.mean) == pytest.approx(decay, rel=1e-5)
    # the kernel of an exponential law is (distance to the wall) * (mean distance)
    got = law.stein_kernel(wall * (1 - drop))
    th.testing.assert_close(got, drop * decay, rtol=1e-4, atol=0)


def test_parts_broadcast():
    law = TruncatedNormal(doubles(0.2, -3.0).expand(4, 2), doubles(0.5, 8.0).expand(4, 2))
    x = law.icdf(th.rand(7, 4, 2, generator=th.Generator().manual_seed(0)))
    assert law.mean.shape == (4, 2)
    for part in (x, law.log_prob(x), law.stein_kernel(x)):
        assert part.shape == (7, 4, 2)
    alone = law_of(-3.0, 8.0)
    th.testing.assert_close(law.stein_kernel(x)[3, 2, 1], alone.stein_kernel(x[3, 2, 1]))
