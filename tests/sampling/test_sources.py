"""Densities, scores and draws of every source against scipy, quadrature and automatic gradients."""

import math
import pickle
from dataclasses import astuple

import pytest
import torch as th
from analytic import SOURCE_LAWS, doubles, seeded
from scipy import stats

from sb3_rfm.sampling import Gaussian, GaussianMixture, Laplace, Source, StudentT, Uniform
from sb3_rfm.sampling.sources import SOURCES

every_source = pytest.mark.parametrize("name", SOURCE_LAWS)

CORNERS = ((1.0, -0.5, 0.0), (-2.0, 0.3, 1.0))
IN_SPACE = [
    Gaussian(),
    Uniform(0.7),
    Laplace(1.3),
    StudentT(2.5, 0.4),
    GaussianMixture(CORNERS, 0.6, (2.0, 1.0)),
]
every_source_in_space = pytest.mark.parametrize("source", IN_SPACE, ids=repr)


@every_source
def test_samples_follow_the_law(name):
    """Kolmogorov-Smirnov at level 1e-3; the premise: a shift by a fifth would have been seen."""
    source, law = SOURCE_LAWS[name]
    x_0 = source.sample((5000, 1), like=doubles(0.0), generator=seeded(0)).flatten().numpy()
    assert stats.kstest(x_0, law.cdf).pvalue > 1e-3
    assert stats.kstest(x_0 + 0.2, law.cdf).pvalue < 1e-3


@every_source
def test_density_is_that_of_the_law_and_integrates_to_one(name):
    source, law = SOURCE_LAWS[name]
    reach = 1.5 if name == "uniform" else 400.0
    x = th.linspace(-reach, reach, 400_001, dtype=th.float64)
    log_p = source.log_prob(x[:, None])
    inside = slice(1, -1)  # whether the walls belong to it is a matter of taste
    exact = th.from_numpy(law.logpdf(x.numpy()))
    th.testing.assert_close(log_p[inside], exact[inside])
    assert float(th.trapezoid(log_p.exp(), x)) == pytest.approx(1.0, abs=1e-6)


@every_source_in_space
def test_density_is_normalised_in_space(source):
    """Importance sampling from a wide law: the mean weight is one within five standard errors."""
    wide = StudentT(3.0, 1.0)
    x = wide.sample((200_000, 3), like=doubles(0.0), generator=seeded(1))
    ratio = (source.log_prob(x) - wide.log_prob(x)).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert error < 0.02
    assert abs(float(ratio.mean()) - 1) < 5 * error


@every_source_in_space
def test_score_is_the_gradient_of_the_log_density(source):
    x_0 = source.sample((20, 4, 3), like=doubles(0.0), generator=seeded(2)).requires_grad_()
    if source.has_walls:
        assert th.equal(source.score(x_0.detach()), th.zeros_like(x_0))
        assert source.log_prob(x_0.detach()).unique().numel() == 1
        return
    (gradient,) = th.autograd.grad(source.log_prob(x_0).sum(), x_0)
    th.testing.assert_close(source.score(x_0.detach()), gradient)
    assert gradient.abs().min(0).values.max() > 0


@every_source_in_space
def test_mean_of_the_score_is_zero_but_for_walls(source):
    """Stein's identity ``E[x_j s_j] = -1`` and ``E[s] = 0``; a cube's score is zero throughout."""
    x_0 = source.sample((100_000, 3), like=doubles(0.0), generator=seeded(3))
    score = source.score(x_0)
    for values, exact in ((score, 0.0), (x_0 * score, -1.0)):
        error = values.std(0) / math.sqrt(len(values))
        agrees = (values.mean(0) - exact).abs() < 5 * error + 1e-12
        assert bool(agrees.all()) == (not source.has_walls or exact == 0.0)


@every_source_in_space
def test_coordinates_and_rows_are_independent_draws(source):
    x_0 = source.sample((2000, 2, 3), like=doubles(0.0), generator=seeded(4))
    assert x_0.shape == (2000, 2, 3)
    assert stats.pearsonr(x_0[:, 0, 0].numpy(), x_0[:, 1, 0].numpy()).pvalue > 1e-3
    if not isinstance(source, GaussianMixture):
        assert stats.spearmanr(x_0[:, 0, 0].numpy(), x_0[:, 0, 1].numpy()).pvalue > 1e-3
        assert stats.spearmanr(x_0[:, 0, 0].abs(), x_0[:, 0, 1].abs()).pvalue > 1e-3


def test_mixture_visits_its_components_in_their_shares():
    source = GaussianMixture(CORNERS, 0.1, (2.0, 1.0))
    x_0 = source.sample((9000, 3), like=doubles(0.0), generator=seeded(5))
    first = x_0[:, 0] > -0.5
    assert abs(float(first.double().mean()) - 2 / 3) < 5 * math.sqrt(2 / 9 / 9000)
    for mask, corner in zip((first, ~first), CORNERS, strict=True):
        deviation = (x_0[mask].mean(0) - doubles(*corner)).abs()
        assert (deviation < 5 * 0.1 / math.sqrt(mask.sum())).all()
    equal = GaussianMixture(CORNERS, 0.1)
    points = doubles(*CORNERS[0], *CORNERS[1]).view(2, 3)
    assert float(equal.log_prob(points).diff()) == pytest.approx(0.0)
    assert float(source.log_prob(points).diff()) == pytest.approx(-math.log(2))


@pytest.mark.parametrize("name", SOURCES.factories)
def test_defaults_have_unit_variance(name):
    """By quadrature on nodes that spread like sinh, for the tails."""
    source = SOURCES.resolve(name, Source)
    x = th.linspace(-9, 9, 400_001, dtype=th.float64).sinh() / 3
    p = source.log_prob(x[:, None]).exp()
    tolerance = 1e-3 if name == "student_t" else 1e-4  # of what lies beyond 1300
    assert float(th.trapezoid(p * x.square(), x)) == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@every_source_in_space
def test_takes_dtype_from_like_and_numbers_from_the_generator(source, dtype):
    like = th.zeros(1, dtype=dtype)
    draw = [source.sample((3, 3), like=like, generator=seeded(s)) for s in (1, 1, 2)]
    assert draw[0].shape == (3, 3)
    assert draw[0].dtype == source.log_prob(draw[0]).dtype == source.score(draw[0]).dtype == dtype
    assert th.equal(draw[0], draw[1])
    assert not th.equal(draw[0], draw[2])
    th.manual_seed(1)
    first = source.sample((3, 3), like=like)
    assert not th.equal(source.sample((3, 3), like=like), first)
    th.manual_seed(1)
    assert th.equal(source.sample((3, 3), like=like), first)


@every_source_in_space
def test_is_a_value(source):
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(type(source)(*astuple(source))) == hash(source)


def test_student_tends_to_the_normal_law_and_far_out_stays_finite():
    x = th.linspace(-5, 5, 11, dtype=th.float64)[:, None]
    many = StudentT(1e7, 1.0)
    th.testing.assert_close(many.log_prob(x), Gaussian().log_prob(x), rtol=1e-4, atol=1e-4)
    th.testing.assert_close(many.score(x), -x, rtol=1e-4, atol=1e-4)
    heavy = StudentT(1.0, 1.0).sample((100_000, 1), like=th.zeros(1), generator=seeded(6))
    assert heavy.isfinite().all()
    assert heavy.abs().max() > 1e3  # the premise: it is Cauchy's law


def test_outside_of_the_cube_there_is_nothing():
    x = doubles(0.0, 0.0, 1.4, -1.6, 1.6, 0.0).view(3, 2)
    log_p = Uniform(1.5).log_prob(x)
    assert log_p.tolist() == [-2 * math.log(3.0), -math.inf, -math.inf]
    with_walls = [source.has_walls for source in IN_SPACE]
    assert with_walls == [False, True, False, False, False]


def test_registry_names():
    names = {
        "gaussian": Gaussian(),
        "uniform": Uniform(),
        "laplace": Laplace(),
        "student_t": StudentT(),
    }
    assert {name: SOURCES.resolve(name, Source) for name in SOURCES.factories} == names


@pytest.mark.parametrize(
    ("make", "error", "argument"),
    [
        (lambda: Uniform(0.0), ValueError, "half_width"),
        (lambda: Uniform(math.inf), ValueError, "half_width"),
        (lambda: Laplace(-1.0), ValueError, "scale"),
        (lambda: Laplace("1"), TypeError, "scale"),
        (lambda: StudentT(0.0), ValueError, "degrees"),
        (lambda: StudentT(3.0, math.nan), ValueError, "scale"),
        (lambda: StudentT(True), TypeError, "degrees"),
        (lambda: GaussianMixture(()), ValueError, "means"),
        (lambda: GaussianMixture([[0.0]]), ValueError, "means"),
        (lambda: GaussianMixture(([0.0],)), ValueError, "means"),
        (lambda: GaussianMixture(((),)), ValueError, "means"),
        (lambda: GaussianMixture(((0.0,), (0.0, 1.0))), ValueError, "means"),
        (lambda: GaussianMixture(((math.inf,),)), ValueError, "means"),
        (lambda: GaussianMixture((("0",),)), TypeError, "means"),
        (lambda: GaussianMixture(((0.0,),), 0.0), ValueError, "scale"),
        (lambda: GaussianMixture(((0.0,),), 1.0, (1.0, 1.0)), ValueError, "weights"),
        (lambda: GaussianMixture(((0.0,),), 1.0, [1.0]), ValueError, "weights"),
        (lambda: GaussianMixture(((0.0,),), 1.0, (0.0,)), ValueError, "weights"),
    ],
)
def test_bad_arguments_are_named(make, error, argument):
    with pytest.raises(error, match=rf"^{argument} must"):
        make()


def test_a_mixture_in_another_space_is_refused():
    source, wrong = GaussianMixture(CORNERS), doubles(0.0, 0.0)[None]
    for call in (source.log_prob, source.score, lambda x: source.sample(x.shape, like=x)):
        with pytest.raises(ValueError, match=r"^dimension of the source must .* 2; got 3"):
            call(wrong)


def test_laws_of_the_tests_are_normalised():
    """The references themselves; scipy's of one name are taken as they are."""
    law = SOURCE_LAWS["mixture"][1]
    x = th.linspace(-8, 1.0, 4001, dtype=th.float64)
    mass = float(th.trapezoid(th.from_numpy(law.logpdf(x.numpy())).exp(), x))
    assert mass == pytest.approx(float(law.cdf(1.0)))
    assert law.cdf(8.0) == pytest.approx(1.0)
