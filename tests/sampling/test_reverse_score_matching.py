"""Posterior means and marginal scores for every source, against quadrature (Appendix A)."""

from functools import lru_cache, partial

import pytest
import torch as th
from analytic import (
    ALL_INTERPOLANTS,
    GAUSSIAN,
    MIXTURE,
    SOURCE_LAWS,
    NoisePosterior,
    doubles,
    quadrature_score,
    seeded,
    standard_error,
    time_at,
)

from sb3_rfm.sampling import (
    MCMC,
    SMC,
    Bounded,
    Gaussian,
    GaussianMixture,
    Interpolant,
    LangevinStein,
    Laplace,
    Linear,
    StudentT,
    Uniform,
    VPCosine,
    make_estimator,
    posterior_mean,
)
from sb3_rfm.sampling.estimators.control_variates import Diagonal, Fixed
from sb3_rfm.sampling.estimators.posteriors import value_and_score
from sb3_rfm.sampling.estimators.proposals import Prior

REPEATS = 32
Z_BOUND = 5.0  # |t| > 5 has probability 2e-5 for 31 degrees of freedom
SMOOTH = [name for name in SOURCE_LAWS if name != "uniform"]

every_source = pytest.mark.parametrize("name", SOURCE_LAWS)
every_smooth_source = pytest.mark.parametrize("name", SMOOTH)
every_interpolant = pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
every_ratio = pytest.mark.parametrize("ratio", [1.5, 0.6, 0.15])


@lru_cache
def exact(name: str, interpolant: Interpolant, ratio: float) -> dict[str, float]:
    """
    ``t``, an ``x_t`` between the hills, the two means and the score, by quadrature.

    ``spread`` is the posterior's of the noise, ``score_spread`` that of what the two forms of the
    score average, the larger one.
    """
    t = time_at(interpolant, ratio)
    c = interpolant(doubles(t))
    x_t = float(0.45 * c.alpha)
    posterior = NoisePosterior.of(MIXTURE, name, c, x_t)
    source_score = SOURCE_LAWS[name][0].score(posterior.x_0[:, None])[:, 0] / c.beta
    target_score = value_and_score(MIXTURE, posterior.x_1[:, None])[1][:, 0] / c.alpha
    return {
        "t": t,
        "x_t": x_t,
        "x_0": posterior.mean(posterior.x_0),
        "x_1": posterior.mean(posterior.x_1),
        "spread": posterior.spread(posterior.x_0),
        "score": quadrature_score(MIXTURE, name, c, x_t),
        "score_spread": max(map(posterior.spread, (source_score, target_score))),
    }


def assert_agrees(estimates, ess, truth, spread, precision):
    """Within the error of the repeats and the bias of normalised weights, ``2 spread / ESS``."""
    tolerance = Z_BOUND * standard_error(estimates) + 2 * spread / ess.min()
    assert tolerance < precision * spread
    assert abs(estimates.mean(0) - truth) < tolerance


def estimate(name, interpolant, ratio, **changes):
    case = exact(name, interpolant, ratio)
    arguments = {"n_particles": 2048, "generator": seeded(0), "source": SOURCE_LAWS[name][0]}
    return posterior_mean(
        MIXTURE,
        th.full((REPEATS, 1), case["x_t"], dtype=th.float64),
        case["t"],
        interpolant=interpolant,
        **arguments | changes,
    )


@pytest.mark.parametrize(
    ("name", "estimator"),
    [("uniform", "noise_expectation")]
    + [
        (name, estimator)
        for name in SMOOTH
        for estimator in (
            "noise_expectation",
            "gradient_expectation",
            0.4,
            "diagonal",
            "diagonal_centred",
        )
    ],
)
@every_ratio
@every_interpolant
def test_means_and_score_agree_with_quadrature(name, interpolant, ratio, estimator):
    truth = exact(name, interpolant, ratio)
    got = estimate(name, interpolant, ratio, estimator=estimator)
    c = interpolant(doubles(truth["t"]))
    assert_agrees(got.x_0[:, 0], got.ess, truth["x_0"], truth["spread"], 0.5)
    spread_1 = truth["spread"] * float(c.beta / c.alpha)
    assert_agrees(got.x_1[:, 0], got.ess, truth["x_1"], spread_1, 0.5)
    assert_agrees(got.score[:, 0], got.ess, truth["score"], truth["score_spread"], 0.5)
    th.testing.assert_close(
        c.alpha * got.x_1 + c.beta * got.x_0, th.full_like(got.x_0, truth["x_t"])
    )


@every_smooth_source
@pytest.mark.parametrize("ratio", [1.5, 0.15])
def test_references_satisfy_both_forms(name, ratio):
    """The premise of the tests: quadrature knows that the two forms of Appendix A are the score."""
    case, interpolant = exact(name, Linear(), ratio), Linear()
    c = interpolant(doubles(case["t"]))
    posterior = NoisePosterior.of(MIXTURE, name, c, case["x_t"])
    source_score = SOURCE_LAWS[name][0].score(posterior.x_0[:, None])[:, 0]
    target_score = value_and_score(MIXTURE, posterior.x_1[:, None])[1][:, 0]
    for form in (posterior.mean(source_score) / c.beta, posterior.mean(target_score) / c.alpha):
        assert float(form) == pytest.approx(case["score"], abs=1e-4)


def test_a_source_with_walls_has_the_targets_form_alone():
    """The average of a cube's score is zero, and the score of the marginal is not."""
    case = exact("uniform", Linear(), 0.6)
    c = Linear()(doubles(case["t"]))
    posterior = NoisePosterior.of(MIXTURE, "uniform", c, case["x_t"])
    target_score = value_and_score(MIXTURE, posterior.x_1[:, None])[1][:, 0]
    assert posterior.mean(target_score) / float(c.alpha) == pytest.approx(case["score"], abs=1e-4)
    assert abs(case["score"]) > 0.1


@every_interpolant
@pytest.mark.parametrize(
    "estimator", ["noise_expectation", "gradient_expectation", "diagonal", "isotropic", "bounded"]
)
def test_score_of_a_gaussian_source_is_its_noise_over_beta(interpolant, estimator):
    """Tweedie, with the same control variate: no other estimate of the same thing."""
    t = doubles(0.2, 0.5, 0.9)
    c, x_t = interpolant(t[:, None]), doubles(0.4, -0.2, 1.3).expand(3, 3)
    bounds = (-2.0, 2.5) if estimator == "bounded" else None
    got = posterior_mean(
        GAUSSIAN,
        x_t,
        t,
        interpolant=interpolant,
        estimator=estimator,
        n_particles=8,
        bounds=bounds,
        generator=seeded(1),
    )
    th.testing.assert_close(got.score, -got.x_0 / c.beta)


@every_smooth_source
def test_score_is_affine_in_eta_from_the_sources_form_to_the_targets(name):
    source = SOURCE_LAWS[name][0]
    c, x_t = Linear()(doubles(0.5)), doubles(0.4, -0.2)[:, None]

    def run(eta):
        return LangevinStein(Fixed(eta), 16, Prior(source))(MIXTURE, c, x_t, seeded(2))

    posterior = run(0.0)
    weights = th.softmax(posterior.log_w, 0)[..., None]
    source_form = (weights * source.score(posterior.x_0)).sum(0) / c.beta
    target_form = (weights * value_and_score(MIXTURE, posterior.x_1)[1]).sum(0) / c.alpha
    assert (source_form - target_form).abs().min() > 1e-2
    for eta in (0.0, 0.3, 1.0, -0.5):
        line = (1 - eta) * source_form + eta * target_form
        th.testing.assert_close(run(eta).score(c), line)


@pytest.mark.parametrize("name", ["student_t", "mixture"])
def test_control_variate_pays_for_the_score_too(name):
    """Near the action the mean squared error of the score falls by more than twenty-five."""
    t = time_at(Linear(), 0.05)
    c = Linear()(doubles(t))
    x_t = float(-0.6 * c.alpha)
    truth = quadrature_score(MIXTURE, name, c, x_t)

    def squared_errors(estimator):
        score = posterior_mean(
            MIXTURE,
            th.full((400, 1), x_t, dtype=th.float64),
            t,
            source=SOURCE_LAWS[name][0],
            estimator=estimator,
            n_particles=64,
            generator=seeded(3),
        ).score
        return (score - truth).square()

    plain, better = squared_errors("noise_expectation"), squared_errors("diagonal")
    # Three standard errors off each mean, to the side that is against the claim.
    at_most = better.mean(0) + 3 * standard_error(better)
    assert 25 * at_most < plain.mean(0) - 3 * standard_error(plain)


@every_source
@pytest.mark.parametrize("refinement", [MCMC(), SMC()], ids=repr)
def test_refined_means_and_score_agree_with_quadrature(name, refinement):
    truth = exact(name, Linear(), 0.6)
    estimator = "noise_expectation" if name == "uniform" else "diagonal_centred"
    got = estimate(name, Linear(), 0.6, estimator=estimator, refinement=refinement, n_particles=512)
    # Refined particles share ancestors: what counts for the bias is not the ESS of their weights.
    few = got.ess / 8
    assert_agrees(got.x_0[:, 0], few, truth["x_0"], truth["spread"], 0.5)
    assert_agrees(got.score[:, 0], few, truth["score"], truth["score_spread"], 0.5)


@pytest.mark.parametrize(
    "source", [Laplace(), StudentT(), GaussianMixture(((1.0, 0.0), (-1.0, 0.5)))], ids=repr
)
def test_score_in_the_plane_is_the_gradient_of_log_mean_exp(source):
    """``L(x_t) = log mean_i p_1((x_t - beta x_0^i) / alpha)`` on the target's form's particles."""

    def target(x):
        return -(x - 0.4).square().sum(-1) + (2 * x[..., 0] * x[..., 1]).sin()

    c = VPCosine()(doubles(0.35, 0.8)[:, None])
    x_t = doubles(0.4, -0.2, 0.1, 0.9).view(2, 2)
    posterior = LangevinStein(Fixed(1.0), 20, Prior(source))(target, c, x_t, seeded(4))
    leaf = x_t.clone().requires_grad_()
    particles = (leaf - c.beta * posterior.x_0) / c.alpha
    (score,) = th.autograd.grad(target(particles).logsumexp(0).sum(), leaf)
    th.testing.assert_close(posterior.score(c), score)


def test_walls_at_both_ends_leave_the_mean_and_no_score():
    box = partial(
        posterior_mean,
        MIXTURE,
        doubles(0.1, 0.3)[:, None],
        0.5,
        estimator="noise_expectation",
        bounds=(-1.0, 1.0),
        generator=seeded(5),
    )
    cube = box(source="uniform")
    assert cube.score.isnan().all()
    assert (cube.x_1.abs() < 1).all()
    # A target with walls has a score where the source has none.
    assert box(source="laplace").score.isfinite().all()


def test_a_source_with_walls_needs_the_targets_gradient_for_its_score():
    with pytest.raises(ValueError, match="log_density must be differentiable"):
        posterior_mean(
            lambda x: x.detach().sum(-1),
            doubles(0.1)[None],
            0.5,
            estimator="noise_expectation",
            source="uniform",
        )
    posterior_mean(
        lambda x: x.detach().sum(-1),
        doubles(0.1)[None],
        0.5,
        estimator="noise_expectation",
        source="laplace",
    )


@pytest.mark.parametrize(
    "estimator", ["gradient_expectation", 0.4, "isotropic", "diagonal", Diagonal()]
)
def test_a_control_variate_is_refused_where_the_source_has_walls(estimator):
    allowed = "a source without walls, or estimator 'noise_expectation'"
    message = rf"^source must satisfy: {allowed} .*; got Uniform"
    with pytest.raises(ValueError, match=message):
        make_estimator(estimator, 8, "uniform")
    with pytest.raises(ValueError, match=message):
        LangevinStein(Diagonal(), 8, Prior(Uniform(2.0)))
    assert make_estimator("noise_expectation", 8, Uniform(2.0)).source == Uniform(2.0)


@pytest.mark.parametrize("source", ["laplace", StudentT()])
def test_bounded_needs_a_gaussian_source(source):
    with pytest.raises(
        ValueError, match=r"^source must satisfy: Gaussian\(\), the source of Bounded"
    ):
        posterior_mean(
            MIXTURE,
            doubles(0.1)[None],
            0.5,
            estimator="bounded",
            bounds=(-1.0, 1.0),
            source=source,
        )
    assert make_estimator(Bounded(4), 8).source == Gaussian()


def test_an_estimators_object_keeps_its_source_and_refinement():
    own = LangevinStein(Diagonal(), 8, Prior(Laplace()), MCMC(2))
    assert make_estimator(own, 64) is own
    assert make_estimator(own, 64, "laplace", MCMC(2)) is own
    with pytest.raises(ValueError, match=r"^source must satisfy: Laplace.*; got StudentT"):
        make_estimator(own, 64, "student_t")
    with pytest.raises(ValueError, match=r"^refinement must satisfy: MCMC.*; got SMC"):
        make_estimator(own, 64, refinement="smc")
    made = make_estimator(0.3, 8, "student_t", "mcmc")
    assert made == LangevinStein(Fixed(0.3), 8, Prior(StudentT()), MCMC())


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("source", "normal", ValueError),
        ("source", Gaussian, TypeError),
        ("source", None, TypeError),
        ("refinement", "hmc", ValueError),
        ("refinement", SMC, TypeError),
    ],
)
def test_bad_arguments_are_named(argument, value, error):
    with pytest.raises(error, match=rf"^{argument} must"):
        posterior_mean(MIXTURE, doubles(0.1)[None], 0.5, **{argument: value})


@pytest.mark.parametrize("name", ["gaussian", "laplace", "uniform"])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_score_is_data_of_the_dtype_of_the_mix(name, dtype):
    def target(x):
        return -(x - 0.3).square().sum(-1)

    x_t = th.tensor([[0.4, -0.2]], dtype=dtype, requires_grad=True)
    score = posterior_mean(target, x_t, 0.5, estimator="noise_expectation", source=name).score
    assert score.shape == (1, 2)
    assert score.dtype == dtype
    assert not score.requires_grad
