"""MCMC and SMC: they keep a known posterior, reach one that importance sampling misses, and tie."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch as th
from analytic import (
    MIXTURE,
    SOURCE_LAWS,
    DiagonalGaussian,
    Mixture,
    NoisePosterior,
    doubles,
    quadrature_ends,
    seeded,
    standard_error,
    walled,
)

from sb3_rfm.sampling import (
    MCMC,
    SMC,
    LangevinStein,
    Linear,
    Refinement,
    Uniform,
    VEGeometric,
    VPCosine,
    posterior_mean,
)
from sb3_rfm.sampling.estimators.control_variates import Diagonal, Fixed
from sb3_rfm.sampling.estimators.posteriors import value_and_score
from sb3_rfm.sampling.estimators.proposals import Prior
from sb3_rfm.sampling.estimators.refinements import (
    REFINEMENTS,
    next_tempering,
    reweighted,
    spread_of,
    systematic,
)
from sb3_rfm.sampling.numerics.importance import effective_sample_size, normalised_weights
from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal

every_refinement = pytest.mark.parametrize(
    "refinement", [MCMC(), MCMC(3, 0.3), SMC(), SMC(3, 4, 0.5, 0.8)], ids=repr
)
each = pytest.mark.parametrize("refinement", [MCMC(), SMC()], ids=repr)

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


# Narrow and far from where the source's particles fall: at most a few of 64 have any weight.
FAR = Mixture(doubles(0.75, 0.25), doubles(2.9, 3.2), doubles(0.06, 0.12))


@pytest.mark.parametrize(
    ("refinement", "t", "fold"),
    [
        (SMC(), 0.05, 15),
        (SMC(), 0.1, 8),
        (SMC(), 0.3, 4),
        (MCMC(30), 0.05, 15),
        (MCMC(30), 0.1, 8),
        (MCMC(30), 0.3, 4),
    ],
    ids=repr,
)
def test_error_falls_on_a_hard_posterior(refinement, t, fold):
    """The root mean square error falls that many times over, beyond three standard errors."""
    c, x_t = Linear()(doubles(t)), 0.3
    _, exact, _ = quadrature_ends(FAR, c, x_t)
    run = partial(
        posterior_mean,
        FAR,
        th.full((400, 1), x_t, dtype=th.float64),
        t,
        estimator="noise_expectation",
        n_particles=64,
    )
    plain, better = run(generator=seeded(1)), run(refinement=refinement, generator=seeded(1))
    assert plain.ess.median() < 0.06 * 64  # the premise
    errors = [(estimate.x_1 - exact).square() for estimate in (plain, better)]
    at_least = errors[0].mean() - 3 * standard_error(errors[0])
    at_most = errors[1].mean() + 3 * standard_error(errors[1])
    assert fold**2 * at_most < at_least


@each
def test_error_falls_a_hundredfold_in_four_dimensions(refinement):
    """With the control variate the refined estimate is exact, as its particles are spread out."""
    target = DiagonalGaussian(doubles(0.6, -1.1, 2.0, 0.0), doubles(0.1, 0.2, 0.1, 0.3))
    c = Linear()(doubles(0.1))
    x_t = (c.alpha * target.mean + target.variance_at(c).sqrt() * doubles(0.8, -0.5, 1.1, 0.3))[
        None
    ]
    run = partial(
        posterior_mean,
        target,
        x_t.expand(100, 4),
        0.1,
        estimator="diagonal_centred",
        n_particles=64,
    )
    plain, better = (
        (run(refinement=r, generator=seeded(2)).x_1 - target.ends(c, x_t)[1]).square().mean().sqrt()
        for r in (None, refinement)
    )
    assert plain > 1.0
    assert better < 1e-2


def test_smc_weighs_hills_that_importance_sampling_cannot_see():
    """Two hills with few particles near either: their shares decide the mean."""
    hills = Mixture(doubles(0.3, 0.7), doubles(-2.0, 2.0), doubles(0.1, 0.1))
    c = Linear()(doubles(0.05))
    _, exact, _ = quadrature_ends(hills, c, 0.0)
    run = partial(
        posterior_mean,
        hills,
        th.zeros(400, 1, dtype=th.float64),
        0.05,
        estimator="noise_expectation",
    )
    errors = {}
    for name, refinement in (("none", None), ("mcmc", MCMC(20)), ("smc", SMC(10, 4))):
        x_1 = run(n_particles=128, refinement=refinement, generator=seeded(3)).x_1
        errors[name] = float((x_1 - exact).square().mean().sqrt())
    assert errors["smc"] < 0.4 * errors["none"]
    assert errors["smc"] < 0.4 * errors["mcmc"]  # it keeps the shares of the weights


@every_refinement
@pytest.mark.parametrize("interpolant", [Linear(), VPCosine(), VEGeometric()], ids=repr)
@pytest.mark.parametrize("coefficient", [Fixed(), Diagonal(centred=True)], ids=repr)
def test_particles_and_means_mix_to_x_t(refinement, interpolant, coefficient):
    c = interpolant(doubles(0.1, 0.5, 0.95)[:, None])
    x_t = doubles(0.4, -0.2, 1.3).expand(3, 3)
    estimator = LangevinStein(coefficient, 16, refinement=refinement)
    target = DiagonalGaussian(doubles(0.6, -1.1, 0.2), doubles(0.5, 1.5, 0.9))
    posterior = estimator(target, c, x_t, seeded(4))
    for ends in (posterior, posterior.mean):
        mixed = c.alpha * ends.x_1 + c.beta * ends.x_0
        th.testing.assert_close(mixed, x_t.expand_as(mixed))
    if isinstance(refinement, MCMC):
        assert th.equal(posterior.log_w, th.zeros_like(posterior.log_w))
    # The coefficient is the rule's of these very particles and weights.
    ratio = c.beta / c.alpha
    score = -posterior.x_0 - ratio * value_and_score(target, posterior.x_1)[1]
    again = coefficient(normalised_weights(posterior.log_w), posterior.x_0, score)
    th.testing.assert_close(posterior.coefficient, again)


@each
def test_centred_diagonal_stays_exact_on_a_diagonal_gaussian(refinement):
    """Remark 4: the control variate carries over to the refined particles, eight here."""
    target = DiagonalGaussian(doubles(0.6, -1.1, 0.2), doubles(0.5, 1.5, 0.9))
    c, x_t = VPCosine()(doubles(0.6)), doubles(0.4, -0.2, 1.3)[None]
    estimator = LangevinStein(Diagonal(centred=True), 8, refinement=refinement)
    mean = estimator(target, c, x_t, seeded(5)).mean
    for got, exact in zip(mean, target.ends(c, x_t), strict=True):
        th.testing.assert_close(got, exact, rtol=0, atol=1e-7)


@each
def test_a_box_is_kept_and_its_posterior_reached(refinement):
    """With "noise_expectation" the target may have walls: moves across them are turned down."""

    def steep(x):
        return (4.0 * x - 2.0 * x.square() + 0.8 * (4 * x).sin()).sum(-1)

    low, high, t, x_t = -0.4, 0.9, 0.3, 0.5
    c = Linear()(doubles(t))
    _, exact, spread_0 = quadrature_ends(steep, c, x_t, low, high)
    seen = []

    def watched(x):
        seen.append(float(x.detach().max()))
        return steep(x)

    estimate = posterior_mean(
        watched,
        doubles(x_t).expand(32, 1),
        t,
        estimator="noise_expectation",
        n_particles=256,
        bounds=(low, high),
        refinement=refinement,
        generator=seeded(6),
    )
    error = estimate.x_1[:, 0] - exact
    spread = spread_0 * float(c.beta / c.alpha)
    tolerance = 5 * standard_error(error) + 2 * spread / 64
    assert tolerance < 0.2 * spread
    assert abs(error.mean()) < tolerance
    assert max(seen) > high  # the premise: some tried
    assert ((low < estimate.x_1) & (estimate.x_1 < high)).all()


@each
def test_a_source_with_walls_keeps_them(refinement):
    source = Uniform(1.5)
    estimator = LangevinStein(Fixed(), 512, Prior(source), refinement)
    c, x_t = Linear()(doubles(0.5)), 0.35
    posterior = estimator(MIXTURE, c, doubles(x_t).expand(32, 1), seeded(7))
    assert (posterior.x_0.abs() <= 1.5).all()
    truth = NoisePosterior.of(MIXTURE, "uniform", c, x_t)
    assert SOURCE_LAWS["uniform"][0] == source
    error = posterior.mean.x_0[:, 0] - truth.mean(truth.x_0)
    assert abs(error.mean()) < 5 * standard_error(error) + truth.spread(truth.x_0) / 64


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


@each
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_generator_decides_and_dtype_is_kept(refinement, dtype):
    def target(x):
        return -20 * (x - 1.5).square().sum(-1)

    def run(seed):
        generator = None if seed is None else seeded(seed)
        x_t = th.tensor([[0.4, -0.2]], dtype=dtype)
        return posterior_mean(target, x_t, 0.3, refinement=refinement, generator=generator)

    th.manual_seed(1)
    before = th.get_rng_state()
    first = run(7)
    assert th.equal(th.get_rng_state(), before)
    assert {part.dtype for part in vars(first).values()} == {dtype}
    assert th.equal(run(7).x_1, first.x_1)
    assert not th.equal(run(8).x_1, first.x_1)
    with_global = run(None)
    assert not th.equal(run(None).x_1, with_global.x_1)
    th.manual_seed(1)
    assert th.equal(run(None).x_1, with_global.x_1)


@each
def test_targets_are_data(refinement):
    """Nothing returned requires grad and the parameters' gradients stay as they were."""
    th.manual_seed(0)
    network = th.nn.Sequential(th.nn.Linear(2, 1), th.nn.Flatten(-2)).double()
    for parameter in network.parameters():
        parameter.grad = th.full_like(parameter, 3.0)
    x_t = doubles(0.4, -0.6).expand(3, 2).clone().requires_grad_()

    def target(x):
        return network(x) - x.square().sum(-1)

    result = posterior_mean(target, x_t, 0.5, refinement=refinement, n_particles=8)
    assert not any(part.requires_grad for part in vars(result).values())
    assert all(th.equal(p.grad, th.full_like(p, 3.0)) for p in network.parameters())


@each
@pytest.mark.parametrize("t", [0.02, 0.5, 1.0])
def test_finite_where_no_particle_has_mass(refinement, t):
    """A target of which no particle knows, and the last time, where the mix is the action."""

    def nowhere(x):
        return th.where(x.sum(-1) > 1e6, 0.0, -th.inf) + 0 * x.sum(-1)

    x_t = doubles(0.4, -0.2).view(1, 2)
    estimate = posterior_mean(
        nowhere, x_t, t, estimator="noise_expectation", refinement=refinement, n_particles=8
    )
    assert estimate.x_0.isfinite().all()
    assert estimate.x_1.isfinite().all()


def test_each_move_costs_one_gradient():
    calls = []

    def counted(x):
        calls.append(x.shape)
        return MIXTURE(x)

    x_t = doubles(0.1, 0.2)[:, None]
    posterior_mean(counted, x_t, 0.5, n_particles=4, refinement=MCMC(7))
    assert calls == [(4, 2, 1)] * 8
    calls.clear()
    posterior_mean(counted, x_t, 0.5, n_particles=4, refinement=SMC(5, 3, ess_share=0.99))
    assert len(calls) == 1 + 5 * 3
    calls.clear()
    posterior_mean(counted, x_t, 0.999, n_particles=4, refinement=SMC(5, 3, ess_share=0.1))
    assert len(calls) == 1 + 3  # nothing left to do after the first stage


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
