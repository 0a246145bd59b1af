"""The estimators against closed forms, quadrature and one another."""

from dataclasses import dataclass

import pytest
import torch as th
from analytic import (
    ALL_INTERPOLANTS,
    ESTIMATOR_NAMES,
    GAUSSIAN,
    MIXTURE,
    DiagonalGaussian,
    doubles,
    quadrature_ends,
    seeded,
    standard_error,
    time_at,
)

from sb3_rfm.sampling import Gaussian, LangevinStein, Linear, VPCosine, posterior_mean
from sb3_rfm.sampling.estimators.control_variates import Diagonal, Fixed, Isotropic
from sb3_rfm.sampling.estimators.posteriors import value_and_score
from sb3_rfm.sampling.estimators.proposals import Prior
from sb3_rfm.sampling.numerics.importance import normalised_weights

every_interpolant = pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
every_estimator = pytest.mark.parametrize("estimator", [*ESTIMATOR_NAMES, 0.4])
# beta / alpha: the noise in units of the data, from mostly noise to nearly clean.
every_ratio = pytest.mark.parametrize("ratio", [1.5, 0.6, 0.15])

REPEATS = 32
# |t| > 5 has probability 2e-5 for 31 degrees of freedom; fewer than a hundred independent ones are
# drawn (interpolants of the same beta / alpha see the same particles).
Z_BOUND = 5.0


def mix(target: DiagonalGaussian, c) -> th.Tensor:
    """An ``x_t`` that the target could have made, off centre to another side in each coordinate."""
    return c.alpha * target.mean + target.variance_at(c).sqrt() * doubles(0.8, -0.5, 1.1)


def assert_agrees(estimate, c, exact_0, exact_1, spread):
    """
    Both means agree with the exact ones within the Monte Carlo error of ``REPEATS`` repeats.

    Self-normalised weights have a bias of the order ``spread / ESS``, ``spread`` the posterior's
    standard deviation of x_0; twice that is allowed besides. The premise: all of it together is
    less than half the spread.
    """
    bias = 2 * spread / estimate.ess.min()
    # The error of x_1 is that of x_0 times -beta / alpha.
    for error in (estimate.x_0 - exact_0, (estimate.x_1 - exact_1) * c.alpha / c.beta):
        tolerance = Z_BOUND * standard_error(error) + bias
        assert (tolerance < 0.5 * spread).all()
        assert (error.mean(0).abs() < tolerance).all()


@every_interpolant
@every_ratio
@every_estimator
def test_agrees_with_the_posterior_of_a_gaussian(interpolant, ratio, estimator):
    t = time_at(interpolant, ratio)
    c = interpolant(doubles(t))
    x_t = mix(GAUSSIAN, c)
    estimate = posterior_mean(
        GAUSSIAN,
        x_t.expand(REPEATS, 3),
        t,
        interpolant=interpolant,
        estimator=estimator,
        n_particles=2048,
        generator=seeded(0),
    )
    spread = c.alpha * GAUSSIAN.scale / GAUSSIAN.variance_at(c).sqrt()
    assert_agrees(estimate, c, *GAUSSIAN.ends(c, x_t), spread)


@every_interpolant
@every_ratio
@every_estimator
def test_agrees_with_quadrature_on_a_skewed_mixture(interpolant, ratio, estimator):
    t = time_at(interpolant, ratio)
    c = interpolant(doubles(t))
    x_t = float(0.45 * c.alpha)  # between the two modes
    estimate = posterior_mean(
        MIXTURE,
        th.full((REPEATS, 1), x_t, dtype=th.float64),
        t,
        interpolant=interpolant,
        estimator=estimator,
        n_particles=2048,
        generator=seeded(1),
    )
    assert_agrees(estimate, c, *quadrature_ends(MIXTURE, c, x_t))


def test_noise_with_bounds_agrees_with_quadrature_on_the_box():
    def steep(x):
        return (1.5 * x - 2.0 * x.square() + 0.8 * (4 * x).sin()).sum(-1)

    low, high, t, x_t = -0.4, 0.9, 0.55, (0.5, -0.4)
    c = Linear()(doubles(t))
    estimate = posterior_mean(
        steep,
        doubles(*x_t).expand(REPEATS, 2),
        t,
        estimator="noise_expectation",
        n_particles=4096,
        bounds=(low, high),
        generator=seeded(2),
    )
    # The coordinates are independent: each has its own integral.
    exact = th.stack([doubles(*quadrature_ends(steep, c, x, low, high)) for x in x_t], dim=1)
    assert_agrees(estimate, c, *exact)
    assert ((low < estimate.x_1) & (estimate.x_1 < high)).all()
    # The premise: the walls matter.
    unbounded = doubles(*(quadrature_ends(steep, c, x)[1] for x in x_t))
    assert ((unbounded - exact[1]).abs() > 3 * Z_BOUND * standard_error(estimate.x_1)).all()


@every_estimator
def test_particles_where_the_target_has_no_density_count_for_nothing(estimator):
    """Outside (-1, 1) this log-density and its gradient are NaN; it vanishes at the walls."""

    def beta_law(x):
        return (8 * (1 - x).sqrt().log() + 10 * (1 + x).sqrt().log()).sum(-1)

    c, x_t = Linear()(doubles(0.6)), 0.3
    estimate = posterior_mean(
        beta_law,
        th.full((REPEATS, 1), x_t, dtype=th.float64),
        0.6,
        estimator=estimator,
        n_particles=2048,
        generator=seeded(11),
    )
    assert_agrees(estimate, c, *quadrature_ends(beta_law, c, x_t, -1.0, 1.0))
    outside = (x_t - 0.4 * th.randn(2048, dtype=th.float64, generator=seeded(11))) / 0.6 > 1
    assert outside.sum() > 100


@every_interpolant
@every_estimator
@pytest.mark.parametrize("n_particles", [1, 8])
def test_means_mix_to_x_t(interpolant, estimator, n_particles):
    t = doubles(0.05, 0.4, 0.97)
    c = interpolant(t[:, None])
    x_t = doubles(0.4, -0.2, 1.3).expand(3, 3)
    estimate = posterior_mean(
        GAUSSIAN,
        x_t,
        t,
        interpolant=interpolant,
        estimator=estimator,
        n_particles=n_particles,
        generator=seeded(3),
    )
    th.testing.assert_close(c.alpha * estimate.x_1 + c.beta * estimate.x_0, x_t)


@every_interpolant
def test_gradient_expectation_is_autograd_of_log_mean_exp(interpolant):
    """
    The identity behind iDEM: with ``L(x_t) = log mean_i p_1((x_t - beta x_0^i) / alpha)``.

    L estimates ``log p_t(x_t)`` up to a constant, and Tweedie's formula for a normal source says
    ``E[X_0 | x_t] = -beta grad log p_t(x_t)``. On the same particles both sides are equal.
    """
    c = interpolant(doubles(0.35, 0.8)[:, None])
    x_t = doubles(0.4, -0.2).view(2, 1)
    posterior = LangevinStein(Fixed(1.0), 20)(MIXTURE, c, x_t, seeded(4))

    leaf = x_t.clone().requires_grad_()
    particles = (leaf - c.beta * posterior.x_0) / c.alpha
    (score,) = th.autograd.grad(MIXTURE(particles).logsumexp(0).sum(), leaf)
    th.testing.assert_close(posterior.mean.x_0, -c.beta * score)
    assert (posterior.ess > 1.2).all()  # more than one particle has a say


def test_value_and_score_are_the_closed_forms_and_cut_off_from_the_graph():
    x = doubles(0.4, -0.2, 1.3, 0.0, 0.7, -1.5).view(2, 1, 3).requires_grad_()
    value, score = value_and_score(GAUSSIAN, x)
    th.testing.assert_close(value, GAUSSIAN(x).detach())
    th.testing.assert_close(score, (GAUSSIAN.mean - x.detach()) / GAUSSIAN.scale**2)
    assert not value.requires_grad
    assert not score.requires_grad
    assert x.grad is None


def test_qsm_is_the_one_particle_plug_in():
    """One particle at the source's mean: the gradient of the target there, as if x_1 were known."""

    @dataclass(frozen=True)
    class Origin(Gaussian):
        def sample(self, shape, like, generator=None):
            return like.new_zeros(shape)

    c, x_t = VPCosine()(doubles(0.6)), doubles(0.4, -0.2, 1.3)[None]
    estimator = LangevinStein(Fixed(1.0), n_particles=1, proposal=Prior(Origin()))
    estimate = estimator(GAUSSIAN, c, x_t).mean
    gradient = (GAUSSIAN.mean - x_t / c.alpha) / GAUSSIAN.scale**2
    th.testing.assert_close(estimate.x_0, -(c.beta / c.alpha) * gradient)


def test_reverse_score_matching_has_the_gradient_of_noise_expectation():
    """Regressing on each particle by its weight, or on their mean: the same gradient everywhere."""
    c, x_t = Linear()(doubles(0.5)), doubles(0.4, -0.2).view(2, 1)
    posterior = LangevinStein(Fixed(0.0), 20)(MIXTURE, c, x_t, seeded(5))
    weights = normalised_weights(posterior.log_w)[..., None]
    prediction = doubles(-3.0, 0.7).view(2, 1).requires_grad_()
    for particles, mean in zip((posterior.x_0, posterior.x_1), posterior.mean, strict=True):
        by_particle = (weights * (prediction - particles).square()).sum()
        by_mean = (prediction - mean).square().sum()
        th.testing.assert_close(
            th.autograd.grad(by_particle, prediction), th.autograd.grad(by_mean, prediction)
        )
        assert by_particle > by_mean + 0.1  # the losses differ by the posterior's variance


@every_interpolant
def test_fixed_coefficient_is_affine_in_eta(interpolant):
    """Theorem 2: one line through noise expectation (0) and gradient expectation (1)."""

    def run(eta):
        return posterior_mean(
            MIXTURE,
            doubles(0.4, -0.2).view(2, 1),
            0.5,
            interpolant=interpolant,
            estimator=eta,
            n_particles=16,
            generator=seeded(6),
        )

    noise, gradient = run("noise_expectation"), run("gradient_expectation")
    assert (noise.x_0 - gradient.x_0).abs().min() > 1e-2
    for eta in (-0.5, 0, 0.3, 1, 2.5):
        for name in ("x_0", "x_1", "velocity"):
            line = (1 - eta) * getattr(noise, name) + eta * getattr(gradient, name)
            th.testing.assert_close(getattr(run(eta), name), line)


@every_interpolant
@every_ratio
def test_centred_diagonal_is_exact_on_a_diagonal_gaussian_with_eight_particles(interpolant, ratio):
    t = time_at(interpolant, ratio)
    c = interpolant(doubles(t))
    x_t = mix(GAUSSIAN, c)[None]
    exact = (*GAUSSIAN.ends(c, x_t), GAUSSIAN.velocity(c, x_t))

    def error(coefficient):
        e = posterior_mean(
            GAUSSIAN,
            x_t,
            t,
            interpolant=interpolant,
            estimator=coefficient,
            n_particles=8,
            generator=seeded(7),
        )
        got = (e.x_0, e.x_1, e.velocity)
        return max(float((a - b).abs().max()) for a, b in zip(got, exact, strict=True))

    assert error(Diagonal(centred=True)) < 1e-7
    # It has to be all three: a coefficient, one for each coordinate, and centred.
    assert min(map(error, (Fixed(0.0), Isotropic(centred=True), Diagonal()))) > 1e-3


def test_isotropic_is_diagonal_in_one_dimension():
    def run(estimator):
        x_t = doubles(0.4, -0.2).view(2, 1)
        return posterior_mean(
            MIXTURE, x_t, 0.7, estimator=estimator, n_particles=16, generator=seeded(8)
        )

    isotropic, diagonal = run("isotropic"), run("diagonal")
    th.testing.assert_close(isotropic.x_1, diagonal.x_1)
    assert diagonal.coefficient.abs().min() > 1e-3


@pytest.mark.parametrize("estimator", ["isotropic", "diagonal", "diagonal_centred"])
def test_control_variate_pays_near_the_action(estimator):
    """At small noise the mean squared error falls by more than twenty-five."""
    t = time_at(Linear(), 0.05)
    c = Linear()(doubles(t))
    x_t = float(-0.6 * c.alpha)
    exact = quadrature_ends(MIXTURE, c, x_t)[0]

    def squared_errors(name):
        estimate = posterior_mean(
            MIXTURE,
            th.full((400, 1), x_t, dtype=th.float64),
            t,
            estimator=name,
            n_particles=32,
            generator=seeded(9),
        )
        return (estimate.x_0 - exact).square()

    plain, better = squared_errors("noise_expectation"), squared_errors(estimator)
    # Three standard errors off each mean, to the side that is against the claim.
    at_most = better.mean(0) + 3 * standard_error(better)
    at_least = plain.mean(0) - 3 * standard_error(plain)
    assert 25 * at_most < at_least


def test_effective_sample_size_falls_with_the_noise_and_lies_between_1_and_k():
    x_t = doubles(0.4, -0.2, 1.3)[None]
    ess = [
        float(posterior_mean(GAUSSIAN, x_t, t, n_particles=64, generator=seeded(10)).ess)
        for t in (0.05, 0.3, 0.6, 0.9, 1.0)
    ]
    assert ess == sorted(ess)
    assert 1 <= ess[0] < 5
    assert ess[-1] == pytest.approx(64)  # beta = 0: every particle is x_t itself
