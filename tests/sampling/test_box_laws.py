"""What is fitted to policy samples and to gradients, and the choice among references."""

import pytest
import torch as th
from analytic import doubles, seeded

from sb3_rfm.sampling.estimators.box_fits import (
    PSEUDO_COUNT,
    SPLITTABLE,
    best_reference,
    guided_proposal,
    two_groups,
    weighted_fit,
)
from sb3_rfm.sampling.estimators.proposals import bridge
from sb3_rfm.sampling.interpolants import Linear
from sb3_rfm.sampling.numerics.truncated_mixtures import TruncatedMixture
from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal

LAW = bridge(Linear()(doubles(0.4)), doubles(0.5, -0.2).expand(3, 2))
GRID = th.linspace(-1, 1, 4001, dtype=th.float64).view(-1, 1, 1)
FLOOR = 0.05


def shapes_agree(one, two):
    """Two log-densities on the grid, (4001, B, D), equal but for a constant in each column."""
    difference = one - two
    th.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=0, atol=1e-7)


def hills(*sides):
    """Eight samples for each of three states and two coordinates: so many about -.6 and .5."""
    noise = 0.03 * th.randn(8, 3, 2, dtype=th.float64, generator=seeded(0))
    return doubles(*sides).view(8, 1, 1) + noise


THREE_LOW = hills(*[-0.6] * 3, *[0.5] * 5)


def test_two_hills_are_two_groups():
    groups = two_groups(THREE_LOW, FLOOR)
    share = (3 + PSEUDO_COUNT) / (8 + 2 * PSEUDO_COUNT)
    lower = groups.means.argmin(0, keepdim=True)
    th.testing.assert_close(groups.shares.gather(0, lower), doubles(share).expand(1, 3, 2))
    th.testing.assert_close(groups.shares.sum(0), th.ones(3, 2, dtype=th.float64))
    low, high = THREE_LOW[:3], THREE_LOW[3:]
    th.testing.assert_close(groups.means.amin(0), low.mean(0))
    th.testing.assert_close(groups.means.amax(0), high.mean(0))
    pooled = (2 * low.var(0) + 4 * high.var(0)) / 6
    th.testing.assert_close(groups.variance, pooled)


def test_the_order_of_the_samples_does_not_matter():
    shuffled = THREE_LOW[th.randperm(8, generator=seeded(1))]
    for one, two in zip(two_groups(THREE_LOW, FLOOR), two_groups(shuffled, FLOOR), strict=True):
        th.testing.assert_close(one, two)


@pytest.mark.parametrize(
    "samples",
    [th.linspace(-0.5, 0.7, 9, dtype=th.float64), 0.02 * (doubles(*[0] * 4, *[1] * 4))],
    ids=["evenly spread", "closer than the floor"],
)
def test_one_hill_is_one_group(samples):
    groups = two_groups(samples.view(-1, 1, 1), FLOOR)
    th.testing.assert_close(groups.shares, th.full((2, 1, 1), 0.5, dtype=th.float64))
    th.testing.assert_close(groups.means, samples.mean().expand(2, 1, 1))
    th.testing.assert_close(groups.variance, samples.var().view(1, 1))


def test_guided_by_two_hills_is_the_bridge_times_two_normals():
    law = guided_proposal(LAW, THREE_LOW, widening=1.5, floor=FLOOR)
    assert isinstance(law, TruncatedMixture)
    groups = two_groups(THREE_LOW, FLOOR)
    scale = (1.5 * groups.variance).clamp_min(FLOOR**2).sqrt()
    fits = [th.distributions.Normal(mean, scale).log_prob(GRID) for mean in groups.means]
    two = th.logsumexp(th.stack(fits) + groups.shares.log()[:, None], 0)
    shapes_agree(law.log_prob(GRID), LAW.log_prob(GRID) + two)


def test_guided_by_few_samples_is_one_normal():
    few = THREE_LOW[: SPLITTABLE - 1]
    assert isinstance(guided_proposal(LAW, few, widening=1.5, floor=FLOOR), TruncatedNormal)


@pytest.mark.parametrize("curvature", [0.0, -3.0, -400.0])
def test_fitted_is_the_posterior_of_a_quadratic(curvature):
    """Whatever the particles and their weights."""
    slope = doubles(8.0, -3.0)
    x = 2 * th.rand(5, 3, 2, dtype=th.float64, generator=seeded(2)) - 1
    weights = th.rand(5, 3, dtype=th.float64, generator=seeded(3)).softmax(0)
    law = weighted_fit(LAW, x, slope + curvature * x, weights)
    target = slope * GRID + 0.5 * curvature * GRID.square()
    shapes_agree(law.log_prob(GRID), LAW.log_prob(GRID) + target)


def test_fitted_is_finite_on_particles_that_are_one_point():
    x = doubles(0.3).expand(4, 3, 2)
    law = weighted_fit(LAW, x, 5 + 0 * x, th.full((4, 3), 0.25, dtype=th.float64))
    th.testing.assert_close(law.scale, LAW.scale)
    assert law.mean.isfinite().all()


def test_closest_is_the_posterior_itself_in_each_coordinate():
    right = TruncatedNormal(doubles(0.3, -0.4), doubles(0.2, 0.1))
    one = TruncatedNormal(doubles(0.3, 0.9), doubles(0.2, 0.1))
    two = TruncatedNormal(doubles(-0.5, -0.4), doubles(0.01, 0.1))
    x = 2 * th.rand(6, 1, 2, dtype=th.float64, generator=seeded(4)) - 1
    laws = [TruncatedNormal(law.loc[None], law.scale[None]) for law in (one, two)]
    chosen = best_reference(laws, x, right.score(x), th.full((6, 1), 1 / 6, dtype=th.float64))
    th.testing.assert_close(chosen.loc, right.loc[None])
    th.testing.assert_close(chosen.scale, right.scale[None])
