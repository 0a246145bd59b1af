"""Training-free sampling: laws at the end, every piece that can be chosen, and what is refused."""

import math
from functools import partial

import pytest
import torch as th
from analytic import (
    ALL_INTERPOLANTS,
    GAUSSIAN,
    MIXTURE,
    SOURCE_LAWS,
    DiagonalGaussian,
    doubles,
    seeded,
)
from scipy import stats

from sb3_rfm.sampling import (
    MCMC,
    SMC,
    Bounded,
    Euler,
    EulerMaruyama,
    Gaussian,
    Heun,
    LangevinStein,
    Laplace,
    Linear,
    PosteriorField,
    StudentT,
    Uniform,
    VEGeometric,
    VPLinear,
    posterior_mean,
    sample,
)
from sb3_rfm.sampling.estimators.control_variates import Diagonal, Fixed
from sb3_rfm.sampling.estimators.proposals import Prior

# A Kolmogorov-Smirnov distance of .087 has level 1e-3 for 500 samples; the rest up to .1 is for the
# approximation by a few steps and particles. Mirror images are .5 away.
N, DISTANCE = 500, 0.1
draw = partial(sample, dtype=th.float64)
slow_case = partial(pytest.param, marks=pytest.mark.slow)
few = partial(draw, n_particles=32, steps=12)


def steep(x):
    """On a box: its mode is at the upper wall."""
    return (3 * x + 0.8 * (4 * x).sin()).sum(-1)


def distance_on(low: float, high: float, samples: th.Tensor) -> float:
    """Kolmogorov-Smirnov distance from ``steep`` on a box, by quadrature."""
    x = th.linspace(low, high, 4001, dtype=th.float64)
    mass = th.cumulative_trapezoid(steep(x[:, None]).exp(), x)
    cdf = th.cat([mass.new_zeros(1), mass / mass[-1]])
    at = th.searchsorted(x, samples.flatten().contiguous()).clamp_max(4000)
    return float(stats.kstest(cdf[at].numpy(), "uniform").statistic)


@pytest.mark.parametrize(
    "solver", ["heun", "euler", "ddim", "ancestral", "euler_maruyama", EulerMaruyama(0.3)]
)
def test_moments_of_a_normal_target(solver):
    """
    Within five standard errors and the error of twenty steps: seven percent of a scale.

    For a normal law every moment follows from the first two.
    """
    x = draw(GAUSSIAN, N, 3, solver=solver, n_particles=32, generator=seeded(0))
    assert x.shape == (N, 3)
    z = (x - GAUSSIAN.mean) / GAUSSIAN.scale
    error = 5 / math.sqrt(N)
    assert (z.mean(0).abs() < error + 0.07).all()
    assert ((z.std(0) - 1).abs() < error / math.sqrt(2) + 0.07).all()
    off_diagonal = th.corrcoef(z.T)[th.triu_indices(3, 3, 1).unbind()]
    assert (off_diagonal.abs() < error).all()


@pytest.mark.parametrize(
    ("interpolant", "solver"),
    [
        ("linear", "heun"),
        ("vp_cosine", "heun"),
        (VPLinear(), "euler_maruyama"),
        (VEGeometric(0.01, 6.0), "euler_maruyama"),
        slow_case("linear", "euler_maruyama"),
        slow_case("vp_cosine", "euler_maruyama"),
        slow_case(VPLinear(), "heun"),
        slow_case(VEGeometric(0.01, 6.0), "heun"),
    ],
)
def test_two_hills_along_every_interpolant(interpolant, solver):
    steps = 20 if isinstance(interpolant, str) and solver == "heun" else 40
    run = partial(draw, n_particles=32, steps=steps, solver=solver, interpolant=interpolant)
    x = run(MIXTURE, N, 1, generator=seeded(1))
    assert MIXTURE.kolmogorov_smirnov(x)[0] < DISTANCE
    assert MIXTURE.kolmogorov_smirnov(x, sign=-1)[0] > 0.3


@pytest.mark.parametrize("name", SOURCE_LAWS)
@pytest.mark.parametrize("solver", ["heun", slow_case(EulerMaruyama(0.2))], ids=repr)
def test_two_hills_from_every_source(name, solver):
    source = SOURCE_LAWS[name][0]
    steps = 12 if solver == "heun" else 40
    x = draw(
        MIXTURE,
        N,
        1,
        source=source,
        solver=solver,
        n_particles=32,
        steps=steps,
        generator=seeded(2),
    )
    assert MIXTURE.kolmogorov_smirnov(x)[0] < DISTANCE
    assert MIXTURE.kolmogorov_smirnov(x, sign=-1)[0] > 0.3


@pytest.mark.parametrize(
    "estimator", ["noise_expectation", "isotropic", "diagonal", Diagonal(centred=True)]
)
@pytest.mark.parametrize("refinement", [MCMC(), "smc"], ids=repr)
def test_two_hills_by_every_estimator(estimator, refinement):
    x = few(MIXTURE, N, 1, estimator=estimator, refinement=refinement, generator=seeded(3))
    assert MIXTURE.kolmogorov_smirnov(x)[0] < DISTANCE


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-0.4, 2.6)])
@pytest.mark.parametrize(
    "pieces",
    [
        {},
        {"solver": "euler_maruyama", "steps": 40},
        {"solver": "ancestral", "interpolant": "vp_cosine", "steps": 40},
        {"interpolant": VEGeometric(0.01, 6.0), "steps": 40},
    ],
    ids=repr,
)
def test_a_box(bounds, pieces):
    x = draw(steep, N, 2, bounds=bounds, **{"n_particles": 32} | pieces, generator=seeded(4))
    assert (x >= bounds[0]).all()
    assert (x <= bounds[1]).all()
    for coordinate in x.T:
        assert distance_on(*bounds, coordinate) < DISTANCE
    assert distance_on(*bounds, bounds[0] + bounds[1] - x[:, 0]) > 0.3


def test_far_from_the_noise_and_narrow():
    """What the source's particles never see by themselves, in four dimensions."""
    target = DiagonalGaussian(doubles(3.0, -2.0, 0.0, 1.0), doubles(0.1, 0.2, 0.1, 0.3))
    x = few(target, 200, 4, interpolant=VEGeometric(0.01, 10.0), generator=seeded(5))
    z = (x - target.mean) / target.scale
    assert (z.mean(0).abs() < 0.5).all()
    assert ((z.std(0) - 1).abs() < 0.4).all()
    plain = few(target, 200, 4, estimator="diagonal_centred", generator=seeded(5))
    assert ((plain - target.mean) / target.scale).std(0).min() > 3  # the premise


def test_generator_decides_and_the_global_one_is_left_alone():
    def run(seed, **pieces):
        generator = None if seed is None else seeded(seed)
        return sample(MIXTURE.__call__, 5, 1, steps=3, n_particles=4, generator=generator, **pieces)

    run = partial(run, dtype=th.float64)
    for pieces in ({}, {"solver": "ancestral"}, {"source": "student_t", "refinement": MCMC(2)}):
        th.manual_seed(1)
        before = th.get_rng_state()
        first = run(7, **pieces)
        assert th.equal(th.get_rng_state(), before)
        assert th.equal(run(7, **pieces), first)
        assert not th.equal(run(8, **pieces), first)
        with_global = run(None, **pieces)
        th.manual_seed(1)
        assert th.equal(run(None, **pieces), with_global)


def test_batches_limit_what_is_carried_together():
    sizes = []

    def watched(x):
        sizes.append(tuple(x.shape))
        return MIXTURE(x)

    x = few(watched, N, 1, batch_size=150, generator=seeded(6))
    assert x.shape == (N, 1)
    assert {size[1] for size in sizes} == {150, 50}
    assert MIXTURE.kolmogorov_smirnov(x)[0] < DISTANCE
    whole = few(MIXTURE, 40, 1, batch_size=40, generator=seeded(6))
    assert th.equal(whole, few(MIXTURE, 40, 1, generator=seeded(6)))


def test_dtype_and_graph():
    weight = th.nn.Parameter(th.ones(()))

    def target(x):
        return -weight * x.square().sum(-1)

    x = sample(target, 4, 2, steps=2, n_particles=4)
    assert x.dtype == th.get_default_dtype()
    assert not x.requires_grad
    assert weight.grad is None
    assert sample(lambda x: target(x).double(), 4, 2, steps=2, dtype=th.float64).dtype == th.float64
    with pytest.raises(ValueError, match=r"^dtype must"):
        sample(target, 4, 2, dtype=th.int64)


@pytest.mark.parametrize(
    ("pieces", "first"),
    [
        ({}, 0.02),
        ({"interpolant": "vp_cosine"}, 0.02),
        ({"interpolant": "vp_linear"}, 0.0),
        ({"interpolant": "ve"}, 0.0),
        ({"bounds": (-1.0, 1.0)}, 0.0),
        ({"bounds": (-1.0, 1.0), "estimator": "noise_expectation"}, 0.02),
        ({"t_range": (0.3, 0.9)}, 0.3),
    ],
    ids=repr,
)
def test_starts_as_early_as_the_pieces_allow(pieces, first):
    times = []

    class Watch(Euler):
        def step(self, velocity, x, step, generator):
            times.append((float(step.t), float(step.t_next)))
            return super().step(velocity, x, step, generator)

    few(
        steep, 3, 1, **pieces | {"solver": Watch(), "steps": 2}, refinement=pieces.get("refinement")
    )
    assert times[0][0] == pytest.approx(first)
    assert times[-1][1] == pytest.approx(pieces.get("t_range", (0.0, 1.0))[1])


@pytest.mark.parametrize("interpolant", [Linear(), VEGeometric(1.0, 10.0)], ids=repr)
def test_the_start_has_the_mean_and_scale_of_the_marginal(interpolant):
    """To first order in alpha: for a target far off centre the noise alone would not do."""
    target, t = DiagonalGaussian(doubles(6.0), doubles(1.5)), 0.05 * (interpolant == Linear())
    field = PosteriorField(
        target,
        interpolant=interpolant,
        estimator="diagonal_centred",
        refinement="smc",
        generator=seeded(7),
    )
    noise = th.randn(4000, 1, dtype=th.float64, generator=seeded(8))
    c = interpolant(doubles(t))
    x, sd = field.start(noise, t), target.variance_at(c).sqrt()
    assert abs(float((x.mean() - c.alpha * target.mean) / sd)) < 5 / math.sqrt(4000) + 0.02
    assert abs(float(x.std() / sd) - 1) < 5 / math.sqrt(8000) + 1.1 * float(c.alpha * 1.5 / sd) ** 2
    assert abs(float((c.beta * noise).mean() - c.alpha * 6.0)) > 0.2 * float(sd)  # the premise


def test_a_field_is_posterior_mean_for_any_solver():
    pieces = {
        "interpolant": "vp_cosine",
        "source": StudentT(),
        "estimator": "diagonal",
        "n_particles": 16,
        "refinement": MCMC(2),
    }
    x, t = doubles(0.4, -0.2, 1.0)[:, None], doubles(0.6)[0]
    field = PosteriorField(MIXTURE, **pieces, generator=seeded(9))
    velocity, score = field.with_score(x, t)
    direct = posterior_mean(MIXTURE, x, t, **pieces, generator=seeded(9))
    assert th.equal(velocity, direct.velocity)
    assert th.equal(score, direct.score)
    again = PosteriorField(MIXTURE, **pieces, generator=seeded(9))
    assert th.equal(again(x, t), direct.velocity)
    box = PosteriorField(steep, estimator="bounded", bounds=(-0.4, 2.6), generator=seeded(9))
    inside = posterior_mean(
        steep, x, t, estimator="bounded", bounds=(-0.4, 2.6), generator=seeded(9)
    )
    assert th.equal(box(x, t), inside.velocity)
    end = Heun().solve(field, x, field.interpolant, 3, (0.1, 1.0))
    assert end.isfinite().all()


def test_defaults_are_the_estimators_that_suit_the_target(monkeypatch):
    made = []

    def watched(self, *args, **kwargs):
        original(self, *args, **kwargs)
        made.append(self.estimator)

    original = PosteriorField.__init__
    monkeypatch.setattr(PosteriorField, "__init__", watched)
    box = {"bounds": (-1.0, 1.0)}
    cases = [
        ({}, LangevinStein(Fixed(), 8, Prior(), SMC())),
        ({"refinement": MCMC(2)}, LangevinStein(Fixed(), 8, Prior(), MCMC(2))),
        ({"source": "laplace"}, LangevinStein(Fixed(), 8, Prior(Laplace()), SMC())),
        ({"source": "uniform"}, LangevinStein(Fixed(), 8, Prior(Uniform()), SMC())),
        ({"estimator": "noise_expectation"}, LangevinStein(Fixed(), 8)),
        (box, Bounded(8)),
        ({"estimator": LangevinStein(Fixed(), 5, Prior(Laplace()))},) * 2,
    ]
    for pieces, expected in cases:
        sample(steep, 2, 1, n_particles=8, steps=1, **pieces)
        assert made.pop() == (expected["estimator"] if expected is pieces else expected)


@pytest.mark.parametrize(
    ("argument", "changes", "error"),
    [
        ("n_samples", {"n_samples": 0}, ValueError),
        ("n_samples", {"n_samples": 2.0}, TypeError),
        ("dim", {"dim": 0}, ValueError),
        ("dim", {"dim": None}, TypeError),
        ("n_particles", {"n_particles": 0}, ValueError),
        ("n_particles", {"n_particles": 1}, ValueError),
        ("steps", {"steps": 0}, ValueError),
        ("steps", {"steps": 2.0}, TypeError),
        ("batch_size", {"batch_size": 0}, ValueError),
        ("batch_size", {"batch_size": 1.5}, TypeError),
        ("interpolant", {"interpolant": "cosine"}, ValueError),
        ("source", {"source": "normal"}, ValueError),
        ("source", {"source": "uniform", "estimator": "diagonal"}, ValueError),
        ("source", {"source": "laplace", "bounds": (-1.0, 1.0)}, ValueError),
        ("estimator", {"estimator": "best"}, ValueError),
        ("estimator", {"estimator": "diagonal", "bounds": (-1.0, 1.0)}, ValueError),
        ("estimator", {"estimator": "bounded"}, ValueError),
        ("refinement", {"refinement": "hmc"}, ValueError),
        ("bounds", {"bounds": (1.0, -1.0)}, ValueError),
        ("solver", {"solver": "rk4"}, ValueError),
        ("solver", {"solver": Heun}, TypeError),
        ("solver", {"solver": "ancestral", "source": "laplace"}, ValueError),
        (
            "solver",
            {
                "solver": "euler_maruyama",
                "source": "uniform",
                "estimator": "noise_expectation",
                "bounds": (-1.0, 1.0),
            },
            ValueError,
        ),
        ("t_range", {"t_range": (0.0, 1.0)}, ValueError),
        ("t_range", {"t_range": (0.5, 0.5)}, ValueError),
        ("t_range", {"t_range": (0.1, 1.1)}, ValueError),
        ("t_range", {"t_range": (0.1,)}, ValueError),
        ("log_density", {"log_density": lambda x: x.detach().sum(-1)}, ValueError),
        ("log_density", {"log_density": lambda x: x.sum(-1, keepdim=True)}, ValueError),
    ],
)
def test_bad_arguments_are_named(argument, changes, error):
    arguments = {"log_density": steep, "n_samples": 2, "dim": 1, "steps": 2} | changes
    with pytest.raises(error, match=rf"^{argument} must"):
        sample(**arguments)


def test_walls_at_both_ends_suit_a_solver_without_noise():
    span, box = (0.5, 1.0), (-1.0, 1.0)
    pieces = {"source": "uniform", "estimator": "noise_expectation", "bounds": box, "t_range": span}
    x = few(steep, 10, 1, solver="euler", **pieces)
    assert x.abs().max() <= 1
    field = PosteriorField(
        steep, source="uniform", estimator="noise_expectation", bounds=(-1.0, 1.0)
    )
    assert not field.has_score
    assert PosteriorField(steep, source="uniform", estimator="noise_expectation").has_score


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
def test_single_precision_is_finite(interpolant):
    def hills(x):
        return -(x.square().sum(-1) - 1).square() / 0.02

    x = sample(hills, 20, 2, interpolant=interpolant, steps=6, n_particles=16)
    assert x.isfinite().all()
    assert x.dtype == th.float32
    assert Gaussian() == PosteriorField(hills, estimator="noise_expectation").estimator.source
