"""Particles, weights and residual of the bounded estimator, and what it is exact on."""

from functools import partial

import pytest
import torch as th
from analytic import DiagonalGaussian, doubles, quadrature_ends, seeded, standard_error
from boxed_targets import (
    BOX,
    REPEATS,
    TARGETS,
    TIMES,
    Z_BOUND,
    bimodal,
    corner,
    every_guide,
    every_interpolant,
    every_target,
    exact_ends,
    flat,
    samples_of,
)

from sb3_rfm.sampling import Bounded, Linear, posterior_mean
from sb3_rfm.sampling.estimators.proposals import bridge


@every_target
@pytest.mark.parametrize("guide", [None, "right", "wrong", "lost"])
def test_residual_has_mean_zero(target, guide):
    """
    ``E_p[residual] = 0`` for every reference: with even particles the control vanishes.

    4096 shifted Sobol points in one dimension are strata: an average of theirs is an integral. The
    residual of a guide far from the target is a spike in the far corner that few of them hit.
    """
    exact = th.stack([exact_ends(target, Linear(), t) for t in TIMES])
    x_t, _, mean, spread = exact.T[..., None]
    samples = samples_of([target], guide, len(TIMES))
    posterior = Bounded(4096)(
        TARGETS[target][0],
        Linear()(doubles(*TIMES)[:, None]),
        x_t,
        seeded(3),
        None if samples is None else samples.transpose(0, 1),
    )
    precision = 0.003 if guide in (None, "right") else 0.01
    assert (posterior.control.x_1.abs() < precision * spread).all()
    assert ((posterior.mean.x_1 - mean).abs() < precision * spread).all()
    assert (posterior.coefficient.abs() > 0.02).all()  # the premise: the residual is used


@every_interpolant
@every_guide
def test_means_mix_to_x_t_and_particles_stay_in_the_box(interpolant, guide):
    t = doubles(*TIMES)[:, None]
    c = interpolant(t)
    x_t = c.alpha * doubles(0.9, -0.4) + c.beta * doubles(2.5, -1.5)
    samples = samples_of(["corner", "bimodal"], guide, len(TIMES))
    samples = None if samples is None else samples.transpose(0, 1)
    posterior = Bounded(32)(corner, c, x_t, seeded(4), samples)
    assert posterior.x_1.abs().max() <= 1
    assert posterior.x_1.std(0).min() > 1e-5
    for ends in (posterior, posterior.mean):
        mixed = c.alpha * ends.x_1 + c.beta * ends.x_0
        th.testing.assert_close(mixed, x_t.expand_as(mixed), rtol=0, atol=1e-12)
    assert posterior.mean.x_1.abs().max() <= 1


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_the_estimate_is_in_the_box_however_bad_the_particles(dtype):
    def cliff(x):
        return (80 * x + 30 * (9 * x).sin()).sum(-1)

    x_t = th.linspace(-3, 3, 200, dtype=dtype).view(100, 2)
    wrong = th.tensor([-0.95, -0.97], dtype=dtype).view(1, 2, 1).expand(100, 2, 2)
    estimate = posterior_mean(
        cliff,
        x_t,
        0.1,
        estimator=Bounded(2, ridge=0.0),
        bounds=BOX,
        policy_samples=wrong,
        generator=seeded(5),
    )
    assert estimate.x_1.abs().max() <= 1
    assert (estimate.x_1.abs() == 1).any()  # the premise: some had to be clipped
    for part in (estimate.x_0, estimate.velocity, estimate.ess, estimate.coefficient):
        assert part.isfinite().all()


def log_peak(t, x_t):
    """The bridge's log-density at its highest: a constant that its log-weights leave out, (B)."""
    law, origin = bridge(Linear()(doubles(t)), x_t), th.zeros_like(x_t)
    return (law.log_prob(origin) - law.log_relative(origin)).sum(-1)


@pytest.mark.parametrize(
    ("share", "width"), [(0.25, 0.0), (0.25, 0.5), (0.75, 0.0), (0.75, 0.5), (1.0, 0.5)]
)
def test_weights_of_a_flat_target_average_to_one(share, width):
    """
    ``E_q[bridge / q] = 1``, and the mixture's weights are bounded (balance heuristic).

    A guide alone, share 1, has to cover the target: no test of a narrow one.
    """
    centre = doubles(0.4, -0.2)
    samples = th.stack([centre - width, centre + width])[:, None].expand(2, REPEATS, 2)
    x_t = doubles(0.2, -0.1).expand(REPEATS, 2)
    posterior = Bounded(512, guided_share=share, local_share=0.0)(
        flat, Linear()(doubles(0.4)), x_t, seeded(6), samples
    )
    ratio = (posterior.log_w + log_peak(0.4, x_t)).exp()
    average = ratio.mean(0)
    tolerance = Z_BOUND * standard_error(average)
    assert tolerance < 0.15
    assert abs(average.mean() - 1) < tolerance
    assert float(ratio.std()) > 0.05  # the premise: the weights differ
    if share < 1:
        assert ratio.max() <= 1 / (1 - share) + 1e-9


def test_without_a_guided_share_the_weights_are_the_target():
    samples = samples_of(["quadratic"], "right", 3).transpose(0, 1)
    x_t = doubles(0.1, 0.4, -0.2)[:, None]
    posterior = Bounded(16, guided_share=0.0, local_share=0.0)(
        corner, Linear()(doubles(0.6)), x_t, seeded(7), samples
    )
    log_w = posterior.log_w + log_peak(0.6, x_t)
    th.testing.assert_close(log_w, corner(posterior.x_1), rtol=0, atol=1e-12)


def test_particles_come_from_both_laws_in_their_shares():
    x_t = doubles(0.0).expand(4, 1)
    samples = doubles(0.9, 0.901).view(2, 1, 1).expand(2, 4, 1)  # the guide's floor is .05
    posterior = Bounded(100, guided_share=0.3, local_share=0.0)(
        flat, Linear()(doubles(0.5)), x_t, seeded(9), samples
    )
    near = (posterior.x_1 - 0.9).abs() < 0.2
    law = bridge(Linear()(doubles(0.5)), x_t)
    x = th.linspace(0.7, 1, 1001, dtype=th.float64)[:, None, None]
    mass = float(th.trapezoid(law.log_prob(x).exp()[:, 0, 0], x[:, 0, 0]))
    assert near.sum(0).float().mean() == pytest.approx(30 + 70 * mass, abs=1.5)


def test_exact_on_a_flat_target_with_two_particles():
    """The target is the reference: the residual is the particles' own error, sign turned."""
    t = doubles(0.3, 0.95)
    x_t = doubles(0.8, -0.3, 1.2, 0.1).view(2, 2)
    run = partial(posterior_mean, flat, x_t, t, bounds=BOX, generator=seeded(10))
    estimate = run(estimator=Bounded(2, ridge=0.0))
    exact = bridge(Linear()(t[:, None]), x_t).mean
    th.testing.assert_close(estimate.x_1, exact, rtol=0, atol=1e-12)
    th.testing.assert_close(estimate.coefficient, -th.ones_like(x_t))
    plain = run(estimator="noise_expectation", n_particles=1024).x_1
    assert ((plain - exact).abs() > 1e-6).all()  # sampling alone is not
    # The ridge takes its share of the variance of x and of the residual, equal here.
    shrunk = run(estimator=Bounded(2, ridge=0.1)).coefficient
    th.testing.assert_close(shrunk, th.full_like(x_t, -1 / 1.2))


def test_exact_on_the_normal_that_the_policy_samples_fit():
    """The target is the guide: the mixture and the kernel of its reference leave no error."""
    target = DiagonalGaussian(doubles(0.7, -0.4), doubles(0.2, 0.5))
    half_range = target.scale / 3**0.5  # of two samples of variance 2 scale² / 3, widened by 1.5
    samples = th.stack([target.mean - half_range, target.mean + half_range]).expand(3, 2, 2)
    t, x_t = doubles(0.1, 0.5, 0.9), doubles(1.4, -0.6).expand(3, 2)
    estimate = posterior_mean(
        target,
        x_t,
        t,
        estimator=Bounded(4, ridge=0.0),
        bounds=BOX,
        policy_samples=samples,
        generator=seeded(11),
    )
    for row, time in enumerate(t.tolist()):
        for column in range(2):
            one = DiagonalGaussian(target.mean[column, None], target.scale[column, None])
            _, exact, _ = quadrature_ends(one, Linear()(doubles(time)), x_t[row, column], *BOX)
            assert float(estimate.x_1[row, column]) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("n_samples", [0, 1])
def test_too_few_policy_samples_to_fit_leave_the_bridge(n_samples):
    x_t = doubles(0.3, -0.2)[:, None]
    run = partial(
        posterior_mean, corner, x_t, 0.5, estimator=Bounded(16, local_share=0.0), bounds=BOX
    )
    alone = run(generator=seeded(15))
    for name in ("x_0", "x_1", "ess", "coefficient"):
        few = run(policy_samples=x_t.new_zeros(2, n_samples, 1), generator=seeded(15))
        assert th.equal(getattr(few, name), getattr(alone, name))
    two = run(policy_samples=doubles(0.9, 0.8).view(1, 2, 1).expand(2, 2, 1), generator=seeded(15))
    assert not th.equal(two.x_1, alone.x_1)


@pytest.mark.parametrize(
    ("target", "t", "fold"),
    [
        ("corner", 0.2, 30),
        ("corner", 0.5, 20),
        ("quadratic", 0.2, 30),
        ("quadratic", 0.5, 20),
        ("bimodal", 0.2, 4),
        ("bimodal", 0.5, 1.3),  # the known weak spot: two narrow hills, and no policy samples
    ],
)
def test_far_lower_error_than_noise_with_as_many_particles(target, t, fold):
    """The root mean square error falls that many times over, beyond three standard errors."""
    x_t, _, mean, _ = exact_ends(target, Linear(), t)

    def squared_errors(name):
        estimate = posterior_mean(
            TARGETS[target][0],
            x_t.expand(400, 1),
            t,
            estimator=name,
            n_particles=16,
            bounds=BOX,
            generator=seeded(20),
        )
        return (estimate.x_1 - mean).square()

    plain, better = squared_errors("noise_expectation"), squared_errors("bounded")
    at_most = better.mean() + 3 * standard_error(better)
    at_least = plain.mean() - 3 * standard_error(plain)
    assert fold**2 * at_most < at_least


def test_eight_particles_do_better_with_four_even_ones_than_with_two(monkeypatch):
    """A quarter of eight is too few for the fit, the choice and the slopes."""
    x_t, _, mean, _ = exact_ends("bimodal", Linear(), 0.2)

    def squared_errors(fewest):
        monkeypatch.setattr("sb3_rfm.sampling.estimators.bounded.FEWEST_EVEN", fewest)
        points = x_t.expand(2000, 1)
        posterior = Bounded(8)(bimodal, Linear()(doubles(0.2)), points, seeded(21))
        return (posterior.mean.x_1 - mean).square()

    two, four = squared_errors(0), squared_errors(4)
    assert four.mean() + 3 * standard_error(four - two) < two.mean()
