import math

import pytest
import torch as th
from analytic import PROPERTY, doubles, seeded
from hypothesis import given
from hypothesis import strategies as st

from sb3_rfm.sampling.estimators.control_variates import Diagonal, Fixed, Isotropic
from sb3_rfm.sampling.numerics.importance import normalised_weights

# (K, B, D) = (9, 2, 3): skewed positions, uneven weights and a score that is not linear.
X_0 = th.randn(9, 2, 3, dtype=th.float64, generator=seeded(0)).exp()
WEIGHTS = normalised_weights(th.randn(9, 2, dtype=th.float64, generator=seeded(1)))
SCORE = doubles(0.7, -1.0, 2.0) - X_0 * doubles(1.0, 3.0, 0.5) + 0.3 * X_0.sin()

rules = pytest.mark.parametrize(
    "rule", [Diagonal(), Diagonal(centred=True), Isotropic(), Isotropic(centred=True)], ids=repr
)


@PROPERTY
@given(st.floats(-3, 3))
def test_fixed_is_its_number_everywhere(eta):
    assert th.equal(Fixed(eta)(WEIGHTS, X_0, SCORE), th.full((2, 3), eta, dtype=th.float64))
    assert Fixed(eta).uses_score == (eta != 0)


@pytest.mark.parametrize(("rule", "pooled"), [(Diagonal(), False), (Isotropic(), True)])
def test_minimises_the_squared_error_it_was_derived_from(rule, pooled):
    """Propositions 4 and 5: the coefficient that minimises the variance of the estimate."""
    coefficient = rule(WEIGHTS, X_0, SCORE).clone().requires_grad_()
    centre = (WEIGHTS[..., None] * X_0).sum(0)
    error = WEIGHTS[..., None] * (X_0 - centre + coefficient * SCORE)
    (slope,) = th.autograd.grad(error.square().sum(), coefficient)
    if pooled:
        assert th.equal(coefficient, coefficient[:, :1].expand(2, 3))
        assert slope.abs().max() > 1e-3  # no single coordinate is at its own minimum
        slope = slope.sum(-1)
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("rule", [Diagonal(centred=True), Isotropic(centred=True)], ids=repr)
def test_centred_finds_the_slope_of_a_linear_score(rule):
    slope = doubles(-2.0, -2.0, -2.0) if isinstance(rule, Isotropic) else doubles(-0.5, -2.0, -7.0)
    coefficient = rule(WEIGHTS, X_0, 4.0 + slope * X_0)
    th.testing.assert_close(coefficient, (-1 / slope).expand(2, 3))


@pytest.mark.parametrize("centred", [False, True])
def test_isotropic_is_diagonal_in_one_dimension(centred):
    one = slice(1, 2)
    isotropic = Isotropic(centred=centred)(WEIGHTS, X_0[..., one], SCORE[..., one])
    diagonal = Diagonal(centred=centred)(WEIGHTS, X_0[..., one], SCORE[..., one])
    th.testing.assert_close(isotropic, diagonal)
    assert diagonal.abs().min() > 1e-3


@rules
def test_scales_and_shifts_with_the_particles(rule):
    coefficient = rule(WEIGHTS, X_0, SCORE)
    th.testing.assert_close(rule(WEIGHTS, X_0 + 5.0, SCORE), coefficient)
    th.testing.assert_close(rule(WEIGHTS, 2.0 * X_0, SCORE), 2.0 * coefficient)
    th.testing.assert_close(rule(WEIGHTS, X_0, 4.0 * SCORE), coefficient / 4.0)


def test_centring_ignores_a_constant_in_the_score_and_eq_20_does_not():
    shifted = SCORE + 10.0
    for kind in (Diagonal, Isotropic):
        centred, plain = kind(centred=True), kind()
        th.testing.assert_close(centred(WEIGHTS, X_0, shifted), centred(WEIGHTS, X_0, SCORE))
        change = plain(WEIGHTS, X_0, shifted) - plain(WEIGHTS, X_0, SCORE)
        assert change.abs().min() > 1e-2


@rules
def test_rows_and_coordinates_do_not_mix_but_isotropic_pools_coordinates(rule):
    coefficient = rule(WEIGHTS, X_0, SCORE)
    other = SCORE.clone()
    other[:, 0, 2] += X_0[:, 0, 2]
    changed = (rule(WEIGHTS, X_0, other) - coefficient).abs() > 1e-6
    pooled = isinstance(rule, Isotropic)
    assert changed.tolist() == [[pooled, pooled, True], [False, False, False]]


@rules
def test_ridge_is_relative_to_the_number_of_particles(rule):
    ridged = type(rule)(centred=rule.centred, ridge=0.5)
    once = ridged(WEIGHTS, X_0, SCORE)
    twice = ridged(WEIGHTS.repeat(2, 1) / 2, X_0.repeat(2, 1, 1), SCORE.repeat(2, 1, 1))
    th.testing.assert_close(twice, once)
    assert (once.abs() < rule(WEIGHTS, X_0, SCORE).abs()).all()


def test_clip_bounds_the_coefficient_and_keeps_its_sign():
    score = SCORE * doubles(1.0, -1.0)[:, None]
    free = Diagonal(centred=True)(WEIGHTS, X_0, score)
    clip = float(free.abs().median())
    clipped = Diagonal(centred=True, clip=clip)(WEIGHTS, X_0, score)
    assert (free > clip).any()
    assert (free < -clip).any()
    assert (free.abs() < clip).any()
    th.testing.assert_close(clipped, free.sign() * free.abs().clamp_max(clip))


@rules
@pytest.mark.parametrize("score", ["zero", "constant over one particle"])
def test_zero_where_there_is_nothing_to_learn_from(rule, score):
    if score == "zero":
        coefficient = rule(WEIGHTS, X_0, th.zeros_like(SCORE))
    else:
        coefficient = rule(th.ones_like(WEIGHTS[:1]), X_0[:1], SCORE[:1])
    assert th.equal(coefficient, th.zeros(2, 3, dtype=th.float64))


@pytest.mark.parametrize(
    ("make", "error", "name"),
    [
        (lambda: Fixed(math.nan), ValueError, "eta"),
        (lambda: Fixed("1"), TypeError, "eta"),
        (lambda: Fixed(True), TypeError, "eta"),
        (lambda: Diagonal(ridge=-1e-9), ValueError, "ridge"),
        (lambda: Diagonal(clip=-1.0), ValueError, "clip"),
        (lambda: Isotropic(clip=math.nan), ValueError, "clip"),
        (lambda: Isotropic(ridge=math.inf), ValueError, "ridge"),
    ],
)
def test_bad_arguments(make, error, name):
    with pytest.raises(error, match=name):
        make()
