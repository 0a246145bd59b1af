"""Langevin moves leave known laws as they are, whatever their size, and respect walls."""

import math

import pytest
import torch as th
from analytic import MIXTURE, doubles, seeded, walled
from scipy import stats

from sb3_rfm.sampling.estimators.mala import Langevin, Particles
from sb3_rfm.sampling.estimators.posteriors import value_and_score

# An off-centre normal posterior as q exp(l), q standard normal: l is what is left.
MEAN, SCALE = doubles(0.7, -0.4), doubles(0.5, 1.6)


def base(x):
    return -0.5 * x.square().sum(-1), -x


def ratio(x):
    log_p, gradient = -0.5 * ((x - MEAN) / SCALE).square().sum(-1), (MEAN - x) / SCALE**2
    return log_p + 0.5 * x.square().sum(-1), gradient + x


def nothing(x):
    return th.zeros_like(x[..., 0]), th.zeros_like(x)


def moved(chain, x, tempering=1.0, size=1.0, scale=1.0, n_moves=10):
    """Particles after some moves of fixed size, and the share that moved at the last."""
    batch, dim = x.shape[1:]
    particles, rate = Particles.at(chain.base, chain.ratio, x), None
    for _ in range(n_moves):
        particles, rate = chain.move(
            particles,
            doubles(*[tempering] * batch),
            doubles(scale).expand(batch, dim),
            doubles(*[size] * batch),
        )
    return particles, rate


@pytest.mark.parametrize(
    ("tempering", "size", "rate"),
    [(1.0, 0.3, 0.9), (1.0, 1.0, 0.5), (1.0, 2.5, 0.0), (0.4, 1.0, 0.5)],
)
def test_a_normal_law_stays(tempering, size, rate):
    """Small and large moves, many and few accepted; the precisions mix as 1 - h to h."""
    precision = (1 - tempering) + tempering / SCALE**2
    mean, sd = tempering * MEAN / SCALE**2 / precision, precision.rsqrt()
    g = seeded(0)
    x = mean + sd * th.randn(20_000, 1, 2, dtype=th.float64, generator=g)
    after, accepted = moved(Langevin(base, ratio, g), x, tempering, size, scale=0.7)
    assert (after.x != x).any(-1).double().mean() > 0.15
    assert rate <= float(accepted) <= rate + 0.5
    z = ((after.x - mean) / sd)[:, 0]
    for values, exact in ((z, 0.0), (z.square(), 1.0), (z.prod(-1, keepdim=True), 0.0)):
        error = values.std(0) / math.sqrt(len(values))
        assert ((values.mean(0) - exact).abs() < 5 * error).all()


@pytest.mark.parametrize("size", [0.2, 1.5])
def test_a_skewed_law_of_two_hills_stays(size):
    """Kolmogorov-Smirnov at level 1e-3; without the correction of Metropolis it would not."""
    x = MIXTURE.sample(5000, seed=1)[:, None]
    chain = Langevin(lambda x: value_and_score(MIXTURE, x), nothing, seeded(2))
    after, accepted = moved(chain, x, size=size, scale=0.6, n_moves=20)
    assert MIXTURE.kolmogorov_smirnov(after.x)[1] > 1e-3
    assert float(accepted) < 0.999
    g, free = seeded(2), x
    for _ in range(20):
        drift = 0.5 * size * 0.6 * value_and_score(MIXTURE, free)[1]
        noise = th.randn(free.shape, dtype=th.float64, generator=g)
        free = free + size * 0.6 * (drift + noise)
    if size > 1:
        assert MIXTURE.kolmogorov_smirnov(free)[1] < 1e-9


@pytest.mark.parametrize("start", ["wrong hill", "far"])
def test_finds_the_law_from_elsewhere(start):
    x = th.full((2000, 1, 1), 1.5 if start == "wrong hill" else 40.0, dtype=th.float64)
    chain = Langevin(lambda x: value_and_score(MIXTURE, x), nothing, seeded(3))
    particles, one = Particles.at(chain.base, chain.ratio, x), doubles(1.0)
    particles, size = chain.moves(particles, one, one[:, None], one, 0, 300)
    assert MIXTURE.kolmogorov_smirnov(particles.x)[1] > 1e-3
    assert 0.3 < float(size) < 5


@pytest.mark.parametrize("fit", [20.0, 0.02])
def test_the_size_of_the_moves_follows_what_is_accepted(fit):
    """Whether the scale is far too large or too small, after some moves about 57 percent pass."""
    g, one = seeded(4), doubles(1.0)
    x = th.randn(4000, 1, 2, dtype=th.float64, generator=g)
    chain = Langevin(base, nothing, g)
    particles, size = Particles.at(base, nothing, x), one
    particles, size = chain.moves(particles, one, doubles(fit).expand(1, 2), size, 0, 60)
    _, rate = chain.move(particles, one, doubles(fit).expand(1, 2), size)
    assert float(rate) == pytest.approx(0.574, abs=0.15)
    assert 0.5 < float(size) * fit < 3
    # What has been learned is kept: the changes fall with the number of moves made before.
    _, later = chain.moves(particles, one, doubles(fit).expand(1, 2), 5 * size, 10_000, 1)
    assert float(later / (5 * size)) == pytest.approx(1.0, abs=0.01)


def test_walls_are_kept_and_the_law_between_them_stays():
    seen = []

    def flat(x):
        seen.append(float(x.abs().max()))
        return nothing(x)

    box = walled(flat, -1.0, 0.5)
    g = seeded(5)
    x = -1 + 1.5 * th.rand(5000, 1, 1, dtype=th.float64, generator=g)
    after, accepted = moved(Langevin(nothing, box, g), x, scale=0.5, n_moves=20)
    assert after.x.min() >= -1
    assert after.x.max() <= 0.5
    assert stats.kstest(after.x.flatten().numpy(), stats.uniform(-1, 1.5).cdf).pvalue > 1e-3
    assert 0.3 < float(accepted) < 0.9  # the premise: some were turned back
    assert max(seen) <= 1.0  # the density is never asked beyond its walls


@pytest.mark.parametrize("garbage", [math.nan, -math.inf])
def test_points_without_a_density_are_left_and_never_entered(garbage):
    def half(x):
        value, score = base(x)
        return value.masked_fill(x[..., 0] < 0, garbage), score.masked_fill(x < 0, math.nan)

    x = doubles(-1.0, -0.5, 0.5, 2.0).view(4, 1, 1).repeat(1000, 1, 1)
    after, _ = moved(Langevin(half, nothing, seeded(6)), x, n_moves=100)
    assert (after.x > 0).double().mean() > 0.99
    started_inside = x > 0
    assert (after.x[started_inside] > 0).all()
    assert after.x.isfinite().all()
    assert stats.kstest(after.x[started_inside].numpy(), stats.halfnorm.cdf).pvalue > 1e-3


def test_columns_do_not_mix():
    """A column moves as it would alone, but for the random numbers: one stays if its size is 0."""
    x = th.randn(50, 2, 2, dtype=th.float64, generator=seeded(7))
    chain = Langevin(base, ratio, seeded(8))
    particles = Particles.at(base, ratio, x)
    after, rate = chain.move(particles, doubles(1, 1), doubles(1).expand(2, 2), doubles(1, 0))
    assert th.equal(after.x[:, 1], x[:, 1])
    assert not th.equal(after.x[:, 0], x[:, 0])
    assert float(rate[1]) == 1.0
    half, _ = chain.move(particles, doubles(1, 1), doubles(1, 0).expand(2, 2), doubles(1, 1))
    assert th.equal(half.x[..., 1], x[..., 1])


def test_swarm_carries_its_parts_together():
    x = th.randn(6, 2, 3, dtype=th.float64, generator=seeded(9))
    other = Particles.at(nothing, nothing, x + 1)
    particles = Particles.at(base, lambda x: (x.sum(-1), th.ones_like(x)), x)
    indices = th.tensor([[5, 0], [5, 1], [2, 1], [0, 0], [1, 4], [3, 3]])
    for taken, part in zip(particles.take(indices), particles, strict=True):
        for k, b in ((0, 0), (1, 1), (4, 1)):
            assert th.equal(taken[k, b], part[indices[k, b], b])
    where = indices > 2
    for mixed, new, old in zip(particles.replaced(other, where), other, particles, strict=True):
        assert th.equal(mixed[where], new[where])
        assert th.equal(mixed[~where], old[~where])
    log_p, gradient = particles.tempered(doubles(0.25, 1.0))
    th.testing.assert_close(log_p, particles.log_q + doubles(0.25, 1.0) * x.sum(-1))
    th.testing.assert_close(gradient[:, 0], 0.25 - x[:, 0])
