"""MCMC and SMC keep a known posterior, and the steps that they are made of."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch as th
from analytic import doubles, seeded, standard_error, walled
from refined import each, every_refinement

from sb3_rfm.sampling import MCMC, SMC, LangevinStein, Refinement
from sb3_rfm.sampling.estimators.posteriors import value_and_score
from sb3_rfm.sampling.estimators.refinements import (
    REFINEMENTS,
    next_tempering,
    reweighted,
    spread_of,
    systematic,
)
from sb3_rfm.sampling.numerics.importance import effective_sample_size, normalised_weights
from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal

MEAN, SCALE = doubles(0.7, -0.4), doubles(0.5, 0.2)


def standard(x):
    return -0.5 * x.square().sum(-1), -x


def normal(x):
    return -0.5 * ((x - MEAN) / SCALE).square().sum(-1), (MEAN - x) / SCALE**2


def from_standard_to_normal(x):
    return normal(x)[0] - standard(x)[0], normal(x)[1] - standard(x)[1]


def nothing(x):
    return th.zeros_like(x[..., 0]), th.zeros_like(x)


def columns(values, weights):
    """Weighted means of each column's particles, (B, D)."""
    return (weights[..., None] * values).sum(0)


@every_refinement
@pytest.mark.parametrize("cold", [False, True], ids=["from the posterior", "from the source"])
def test_moments_of_a_normal_posterior(refinement, cold):
    """
    Kept if the particles start there, reached if they start elsewhere.

    Each column is one repeat. The scale of the moves comes from the particles themselves: an error
    of the order 1 / K, of which 10 are allowed.
    """
    n_particles, repeats, g = 500, 64, seeded(0)
    noise = th.randn(n_particles, repeats, 2, dtype=th.float64, generator=g)
    pieces = (standard, from_standard_to_normal, noise)
    particles, log_w = refinement(*(pieces if cold else (normal, nothing, MEAN + SCALE * noise)), g)
    weights, z = normalised_weights(log_w), (particles.x - MEAN) / SCALE
    for values, exact in ((z, 0.0), (z.square(), 1.0), (z.prod(-1, keepdim=True), 0.0)):
        means = columns(values, weights)
        tolerance = 5 * standard_error(means) + 10 / n_particles
        assert (tolerance < 0.1).all()
        assert ((means.mean(0) - exact).abs() < tolerance).all()
    assert (particles.x != (noise if cold else MEAN + SCALE * noise)).double().mean() > 0.9


@each
def test_in_action_coordinates_from_a_truncated_normal(refinement):
    """As a bounded estimator would call it: q on the box, ``l`` nothing beyond the walls."""
    law = TruncatedNormal(doubles(0.2, -0.6), doubles(0.8, 0.5))

    def target(x):
        return (6 * x - 3 * x.square()).sum(-1)

    ratio = walled(
        partial(value_and_score, lambda x: target(x) - law.log_prob(x).sum(-1)), -1.0, 1.0
    )
    base = partial(value_and_score, lambda x: law.log_prob(x).sum(-1))
    u = th.rand(500, 32, 2, dtype=th.float64, generator=seeded(8))
    particles, log_w = refinement(base, ratio, law.icdf(u), seeded(9))
    assert particles.x.abs().max() <= 1
    means = columns(particles.x, normalised_weights(log_w))
    grid = th.linspace(-1, 1, 4001, dtype=th.float64)
    mass = target(grid[:, None]).exp()
    exact = float(th.trapezoid(mass * grid, grid) / th.trapezoid(mass, grid))
    assert ((means.mean(0) - exact).abs() < 5 * standard_error(means) + 2e-3).all()


def test_systematic_copies_each_particle_its_share_of_times():
    weights = normalised_weights(2 * th.randn(20, 300, dtype=th.float64, generator=seeded(10)))
    weights[3] = 0.0
    weights = weights / weights.sum(0)
    chosen = systematic(weights, seeded(11))
    counts = th.stack([(chosen == i).sum(0) for i in range(20)])
    assert (counts[3] == 0).all()
    assert (counts >= (20 * weights).floor() - 1e-9).all()
    assert (counts <= (20 * weights).ceil() + 1e-9).all()
    one = weights[:, :1].expand(20, 20_000)
    counts = th.stack([(systematic(one, seeded(12)) == i).sum(0) for i in range(20)]).double()
    error = counts.std(1) / math.sqrt(20_000)
    assert ((counts.mean(1) - 20 * one[:, 0]).abs() <= 5 * error + 1e-9).all()


def test_systematic_takes_the_only_particle_with_weight():
    weights = th.zeros(7, 3)
    weights[[0, 4, 6], [0, 1, 2]] = 1.0
    assert systematic(weights, seeded(13)).unique(dim=0).tolist() == [[0, 4, 6]]


def test_spread_is_the_standard_deviation_and_survives_a_dominant_weight():
    x = th.randn(50, 2, 3, dtype=th.float64, generator=seeded(14))
    equal = th.full((50, 2), 1 / 50, dtype=th.float64)
    th.testing.assert_close(spread_of(equal, x), x.std(0))
    twice = th.cat([equal[:1] * 2, equal[2:]])  # a particle that counts twice
    assert ((spread_of(twice, x[1:]) - x.std(0)).abs() < 0.2).all()
    two = th.zeros_like(equal)
    two[0], two[7] = 1 - 1e-9, 1e-9
    half_distance = ((x[0] - x[7]).square() / 2).sqrt()
    th.testing.assert_close(spread_of(two, x), half_distance, rtol=1e-5, atol=0)
    assert th.equal(spread_of(equal[:1] * 50, x[:1]), th.zeros(2, 3, dtype=th.float64))


@pytest.mark.parametrize("steepness", [1e-3, 3.0, 1e4, 1e9])
@pytest.mark.parametrize("tempering", [0.0, 0.2])
def test_next_tempering_keeps_the_effective_sample_size(steepness, tempering):
    log_l = steepness * th.randn(100, 5, dtype=th.float64, generator=seeded(15)).cumsum(1)
    start, log_w = doubles(*[tempering] * 5), th.zeros(100, 5, dtype=th.float64)
    warmer = next_tempering(start, log_w, log_l, 50.0)
    assert (warmer > start).all()
    ess = effective_sample_size(reweighted(log_w, warmer - start, log_l))
    if steepness < 1:
        assert (warmer == 1).all()
        assert (ess > 50).all()
    else:
        assert ess.tolist() == pytest.approx([50.0] * 5, abs=1.0)


def test_next_tempering_passes_particles_without_mass():
    log_l = th.full((10, 1), -math.inf, dtype=th.float64)
    log_l[0] = 0.0
    zero = th.zeros_like(log_l)
    warmer = next_tempering(doubles(0.0), zero, log_l, 5.0)
    assert 0 < float(warmer) < 1e-9
    assert float(effective_sample_size(reweighted(zero, warmer, log_l))) == 1.0
    assert th.equal(reweighted(zero, doubles(0.0), log_l), zero)


@pytest.mark.parametrize(
    ("make", "error", "argument"),
    [
        (lambda: MCMC(0), ValueError, "n_moves"),
        (lambda: MCMC(2.0), TypeError, "n_moves"),
        (lambda: MCMC(2, 0.0), ValueError, "step_size"),
        (lambda: MCMC(2, math.inf), ValueError, "step_size"),
        (lambda: SMC(0), ValueError, "n_stages"),
        (lambda: SMC(2, True), TypeError, "n_moves"),
        (lambda: SMC(step_size="1"), TypeError, "step_size"),
        (lambda: SMC(ess_share=0.0), ValueError, "ess_share"),
        (lambda: SMC(ess_share=1.0), ValueError, "ess_share"),
        (lambda: LangevinStein(n_particles=1, refinement=MCMC()), ValueError, "n_particles"),
    ],
)
def test_bad_arguments_are_named(make, error, argument):
    with pytest.raises(error, match=rf"^{argument} must"):
        make()


def test_registry_names_and_values():
    names = {"mcmc": MCMC(), "smc": SMC()}
    assert {name: REFINEMENTS.resolve(name, Refinement) for name in names} == names
    assert replace(SMC(), n_stages=3) == SMC(3)
    assert len({MCMC(), MCMC(), SMC()}) == 2
