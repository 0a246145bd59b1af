import math

import pytest
import torch as th
from analytic import PROPERTY, doubles, seeded
from hypothesis import given
from hypothesis import strategies as st

from sb3_rfm.sampling.numerics.importance import (
    effective_sample_size,
    normalised_weights,
    tempered,
    weighted_mean,
)

finite = st.floats(-500, 500)
hostile = st.one_of(finite, st.sampled_from([math.nan, -math.inf, math.inf, 1e300]))


def log_weights(elements):
    return st.lists(elements, min_size=1, max_size=12).map(lambda xs: doubles(*xs))


@PROPERTY
@given(log_weights(hostile))
def test_weights_are_a_distribution_and_ess_is_between_1_and_k(log_w):
    weights, ess = normalised_weights(log_w), effective_sample_size(log_w)
    assert (weights >= 0).all()
    assert float(weights.sum()) == pytest.approx(1.0)
    assert 1 - 1e-12 <= float(ess) <= len(log_w) * (1 + 1e-12)


@PROPERTY
@given(log_weights(finite), st.floats(-1e4, 1e4))
def test_invariant_to_a_shift(log_w, shift):
    th.testing.assert_close(
        normalised_weights(log_w + shift), normalised_weights(log_w), rtol=1e-9, atol=1e-12
    )


@PROPERTY
@given(log_weights(finite))
def test_equivariant_to_the_order_of_particles(log_w):
    th.testing.assert_close(normalised_weights(log_w).flip(0), normalised_weights(log_w.flip(0)))


def test_weights_are_proportional_to_the_exponential():
    expected = doubles(1.0, 5.0, 2.0) / 8
    th.testing.assert_close(normalised_weights(doubles(1.0, 5.0, 2.0).log()), expected)


@pytest.mark.parametrize("mass", [1, 3, 8])
def test_ess_counts_the_particles_that_share_the_mass(mass):
    log_w = th.full((8,), -math.inf, dtype=th.float64)
    log_w[:mass] = -1234.5
    assert float(effective_sample_size(log_w)) == pytest.approx(mass)


def test_ess_tends_to_one_when_one_particle_dominates():
    assert float(effective_sample_size(doubles(0.0, 40.0, 1.0))) == pytest.approx(1.0)


@pytest.mark.parametrize("nothing", [-math.inf, math.nan])
def test_uniform_where_no_particle_has_mass_and_only_there(nothing):
    log_w = th.stack([doubles(nothing, nothing), doubles(nothing, 2.0)], dim=1)
    expected = th.stack([doubles(0.5, 0.5), doubles(0.0, 1.0)], dim=1)
    assert th.equal(normalised_weights(log_w), expected)


def test_infinite_weights_share_all_the_mass():
    log_w = doubles(math.inf, 700.0, math.inf, -math.inf)
    assert th.equal(normalised_weights(log_w), doubles(0.5, 0.0, 0.5, 0.0))


def test_columns_do_not_mix():
    log_w = th.randn(5, 3, 2, dtype=th.float64, generator=seeded(0))
    alone = log_w[:, 1, 0]
    th.testing.assert_close(normalised_weights(log_w)[:, 1, 0], normalised_weights(alone))
    th.testing.assert_close(effective_sample_size(log_w)[1, 0], effective_sample_size(alone))
    assert effective_sample_size(log_w).shape == (3, 2)


def test_weighted_mean_in_numbers():
    weights = th.stack([doubles(1, 2, 3) / 6, doubles(0, 1, 0)], dim=1)
    values = doubles(6, 12, -4).view(3, 1, 1) * doubles(1, 100)
    expected = th.stack([doubles(3, 300), doubles(12, 1200)])
    th.testing.assert_close(weighted_mean(weights, values.expand(3, 2, 2)), expected)


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_a_particle_without_weight_counts_for_nothing(garbage):
    values = doubles(4.0, garbage).view(2, 1, 1)
    assert float(weighted_mean(doubles(1, 0)[:, None], values)) == 4.0
    assert not math.isfinite(float(weighted_mean(doubles(0.9, 0.1)[:, None], values)))


@PROPERTY
@given(log_weights(finite), st.floats(0.0, 0.95))
def test_tempered_weights_are_even_enough_and_in_the_same_order(log_w, share):
    least = share * len(log_w)
    even = tempered(log_w, least)
    assert float(effective_sample_size(even)) >= least - 1e-6
    assert th.equal(even.argsort(stable=True), log_w.argsort(stable=True))
    if float(effective_sample_size(log_w)) >= least:
        assert th.equal(even, log_w)


def test_tempering_is_by_column_and_as_little_as_halving_allows():
    log_w = doubles(0.0, -40.0, -40.0, 0.0, -0.1, -0.2).view(2, 3).T
    even = tempered(log_w, 2.0)
    th.testing.assert_close(even[:, 1], log_w[:, 1])
    power = even[1, 0] / log_w[1, 0]
    assert float(power.log2()) == pytest.approx(round(float(power.log2())))
    assert effective_sample_size(2 * even[:, 0]) < 2 <= effective_sample_size(even[:, 0])


def test_tempering_leaves_particles_without_mass_without_it():
    even = tempered(doubles(-math.inf, 0.0, -500.0, math.nan), 2.0)
    assert normalised_weights(even)[[0, 3]].tolist() == [0.0, 0.0]
    assert float(effective_sample_size(even)) == pytest.approx(2.0, abs=0.01)
