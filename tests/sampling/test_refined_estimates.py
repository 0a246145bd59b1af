"""Estimates with MCMC and SMC: a posterior that importance sampling misses, walls, and ties."""

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
)
from refined import each, every_refinement

from sb3_rfm.sampling import (
    MCMC,
    SMC,
    LangevinStein,
    Linear,
    Uniform,
    VEGeometric,
    VPCosine,
    posterior_mean,
)
from sb3_rfm.sampling.estimators.control_variates import Diagonal, Fixed
from sb3_rfm.sampling.estimators.posteriors import value_and_score
from sb3_rfm.sampling.estimators.proposals import Prior
from sb3_rfm.sampling.numerics.importance import normalised_weights

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
