"""The bounded estimator against quadrature: targets, paths, guides, times and walls."""

import pytest
import torch as th
from analytic import DiagonalGaussian, doubles, quadrature_ends, seeded
from boxed_targets import (
    BOX,
    NOISE,
    REPEATS,
    TARGETS,
    TIMES,
    assert_agrees,
    corner,
    every_guide,
    every_interpolant,
    every_target,
    exact_ends,
    flat,
    quadratic,
    samples_of,
)

from sb3_rfm.sampling import Bounded, Linear, VPCosine, posterior_mean


@every_interpolant
@every_target
@every_guide
def test_agrees_with_quadrature(interpolant, target, guide):
    exact = th.stack([exact_ends(target, interpolant, t) for t in TIMES])
    x_t, _, mean, spread = exact.repeat(REPEATS, 1).T[..., None]
    estimate = posterior_mean(
        TARGETS[target][0],
        x_t,
        doubles(*TIMES).repeat(REPEATS),
        interpolant=interpolant,
        estimator=Bounded(256),
        bounds=BOX,
        policy_samples=samples_of([target], guide, len(x_t)),
        generator=seeded(0),
    )
    assert estimate.x_1.abs().max() <= 1
    error = (estimate.x_1 - mean).view(REPEATS, len(TIMES))
    ess = estimate.ess.view(REPEATS, len(TIMES)).amin(0)
    assert_agrees(error, spread.view(REPEATS, -1)[0], ess, precision=0.25)


def at_all_times(target: str, guide: str | None, estimator: Bounded) -> tuple[th.Tensor, ...]:
    """Errors (REPEATS, T), effective sample sizes and spreads (T) of times that share particles."""
    x_t, _, mean, spread = th.stack([exact_ends(target, Linear(), t) for t in TIMES]).T
    coefficients = Linear()(doubles(*TIMES).view(-1, 1, 1))
    samples = samples_of([target], guide, REPEATS)
    posterior = estimator(
        TARGETS[target][0],
        coefficients,
        x_t.view(-1, 1, 1).expand(-1, REPEATS, 1),
        generator=seeded(0),
        policy_samples=None if samples is None else samples.transpose(0, 1),
    )
    error = posterior.mean.x_1[..., 0].T - mean
    return error, posterior.ess.amin(1), spread


@every_target
@every_guide
def test_times_that_share_particles_agree_with_quadrature(target, guide):
    error, ess, spread = at_all_times(target, guide, Bounded(1280))
    assert_agrees(error, spread, ess, precision=0.25)


@every_target
def test_shared_particles_are_worth_more_than_a_share_of_them(target):
    shared, alone = (
        at_all_times(target, "wrong", Bounded(20))[0],
        th.stack(
            [
                posterior_mean(
                    TARGETS[target][0],
                    exact_ends(target, Linear(), t)[0].view(1, 1).expand(REPEATS, 1),
                    doubles(t)[0],
                    estimator=Bounded(20 // len(TIMES)),
                    bounds=BOX,
                    policy_samples=samples_of([target], "wrong", REPEATS),
                    generator=seeded(0),
                ).x_1[:, 0]
                - exact_ends(target, Linear(), t)[2]
                for t in TIMES
            ],
            dim=1,
        ),
    )
    assert shared.square().mean() < 0.5 * alone.square().mean()


@every_guide
@pytest.mark.parametrize("interpolant", [Linear(), VPCosine()], ids=repr)
@pytest.mark.parametrize("t", [0.001, 0.5, 0.999])
def test_agrees_with_quadrature_on_a_product(interpolant, guide, t):
    """Three coordinates, each with its own target: one weight for all of them."""
    names = list(TARGETS)
    x_t, _, mean, spread = th.stack([exact_ends(name, interpolant, t) for name in names], dim=1)

    def product(x):
        return sum(TARGETS[name][0](x[..., i, None]) for i, name in enumerate(names))

    estimate = posterior_mean(
        product,
        x_t.expand(REPEATS, 3),
        t,
        interpolant=interpolant,
        estimator=Bounded(1024),
        bounds=BOX,
        policy_samples=samples_of(names, guide, REPEATS),
        generator=seeded(1),
    )
    assert_agrees(estimate.x_1 - mean, spread, estimate.ess.min(), precision=0.5)


@pytest.mark.parametrize("guide", [None, "right", "wrong"])
def test_agrees_with_quadrature_where_coordinates_depend_on_each_other(guide):
    def banana(x):
        first, second = x.unbind(-1)
        return -8 * (second - 1.2 * first.square() + 0.3).square() + 1.5 * first + second

    c, x_t = Linear()(doubles(0.4)), doubles(0.3, -0.1)
    grid = th.linspace(-1, 1, 801, dtype=th.float64)
    points = th.cartesian_prod(grid, grid)
    noise = (x_t - c.alpha * points) / c.beta
    edge = th.ones_like(grid)
    edge[[0, -1]] = 0.5
    log_mass = banana(points) - 0.5 * noise.square().sum(-1)
    mass = log_mass.softmax(0) * th.outer(edge, edge).flatten()
    mean = (mass[:, None] * points).sum(0) / mass.sum()
    spread = ((mass[:, None] * (points - mean).square()).sum(0) / mass.sum()).sqrt()
    samples = {"right": doubles(0.2, 0.1, 0.7, 0.4), "wrong": doubles(-0.9, 0.9, -0.99, 0.95)}
    estimate = posterior_mean(
        banana,
        x_t.expand(REPEATS, 2),
        0.4,
        estimator=Bounded(1024),
        bounds=BOX,
        policy_samples=samples[guide].view(2, 2).expand(REPEATS, 2, 2) if guide else None,
        generator=seeded(2),
    )
    assert_agrees(estimate.x_1 - mean, spread, estimate.ess.min(), precision=0.1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_agrees_with_quadrature_at_either_share(share):
    x_t, _, mean, spread = exact_ends("quadratic", Linear(), 0.3)
    estimate = posterior_mean(
        quadratic,
        x_t.expand(REPEATS, 1),
        0.3,
        estimator=Bounded(256, guided_share=share, local_share=0.0),
        bounds=BOX,
        policy_samples=samples_of(["quadratic"], "right", REPEATS),
        generator=seeded(8),
    )
    assert_agrees(estimate.x_1 - mean, spread, estimate.ess.min(), precision=0.1)


@pytest.mark.parametrize("t", [0.0, 1e-4, 9e-4])
def test_almost_only_noise(t):
    """As t falls to 0 the mix says less and less about the action; at 0 it says nothing."""
    c, x_t = Linear()(doubles(t)), 2.5
    x = th.linspace(-1, 1, 20_001, dtype=th.float64)
    for target in (flat, corner):
        log_mass = target(x[:, None]) - 0.5 * ((x_t - c.alpha * x) / c.beta).square()
        mass = (log_mass - log_mass.max()).exp()
        exact = float(th.trapezoid(mass * x, x) / th.trapezoid(mass, x))
        estimate = posterior_mean(
            target,
            doubles(x_t)[None],
            t,
            estimator=Bounded(4096, ridge=0.0),
            bounds=BOX,
            generator=seeded(13),
        )
        assert float(estimate.x_1) == pytest.approx(exact, abs=1e-6 if target is flat else 1e-4)


@pytest.mark.parametrize("t", [0.9995, 0.99999])
@pytest.mark.parametrize("action", [0.3, 1.0])
def test_almost_no_noise(t, action):
    """The narrowest bridge is still the right one: what is left of the noise depends on it."""
    c = Linear()(doubles(t))
    x_t = float(c.alpha * action + c.beta * NOISE)
    reach = 12 * float(c.beta / c.alpha)
    window = (max(-1.0, action - reach), min(1.0, action + reach))
    exact_0, exact_1, _ = quadrature_ends(quadratic, c, x_t, *window)
    estimate = posterior_mean(
        quadratic,
        doubles(x_t)[None],
        t,
        estimator=Bounded(256),
        bounds=BOX,
        generator=seeded(14),
    )
    assert float(estimate.x_0) == pytest.approx(exact_0, abs=1e-3)
    assert float(estimate.x_1) == pytest.approx(exact_1, abs=1e-3 * float(c.beta))


def test_general_bounds_agree_with_quadrature():
    def target(x):
        return (1.5 * x - 0.6 * x.square() + 0.8 * (3 * x).sin()).sum(-1)

    low, high, t, x_t = -0.4, 2.6, 0.55, 1.3
    c = Linear()(doubles(t))
    _, exact, spread_0 = quadrature_ends(target, c, x_t, low, high)
    estimate = posterior_mean(
        target,
        doubles(x_t).expand(REPEATS, 1),
        t,
        estimator=Bounded(128),
        bounds=(low, high),
        generator=seeded(17),
    )
    spread = doubles(spread_0) * c.beta / c.alpha
    assert_agrees(estimate.x_1 - exact, spread, estimate.ess.min(), precision=0.05)


def test_a_wide_box_far_away_is_all_of_the_line():
    """Walls two hundred scales off: the posterior of a normal target in closed form."""
    target = DiagonalGaussian(doubles(10.0, -20.0), doubles(2.0, 0.5))
    c, x_t = Linear()(doubles(0.99)), doubles(9.0, -19.9)[None]
    estimate = posterior_mean(
        target,
        x_t,
        0.99,
        estimator=Bounded(64),
        bounds=(-100.0, 100.0),
        generator=seeded(18),
    )
    exact_0, exact_1 = target.ends(c, x_t)
    th.testing.assert_close(estimate.x_1, exact_1, rtol=0, atol=1e-5)
    th.testing.assert_close(estimate.x_0, exact_0, rtol=0, atol=1e-3)
