"""Order of convergence, law at the end, and the calls that each solver makes."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch as th
from analytic import (
    ALL_INTERPOLANTS,
    GAUSSIAN,
    MIXTURE,
    DiagonalGaussian,
    Mixture,
    doubles,
    seeded,
)

from sb3_rfm.sampling import (
    DDIM,
    Euler,
    EulerMaruyama,
    Gaussian,
    Heun,
    Interpolant,
    Laplace,
    Linear,
    ScoredField,
    VEGeometric,
    VPCosine,
    VPLinear,
    ancestral,
    posterior_mean,
)
from sb3_rfm.sampling.solvers import SOLVERS, Solver, time_grid

STOCHASTIC = [ancestral(), DDIM(0.5), EulerMaruyama(), EulerMaruyama(0.5)]
every_solver = pytest.mark.parametrize("solver", [Euler(), Heun(), DDIM(), *STOCHASTIC], ids=repr)
every_stochastic = pytest.mark.parametrize("solver", STOCHASTIC, ids=repr)
# VEGeometric's default leaves noise of 1e-3: too stiff for uniform steps as large as these.
GENTLE = [Linear(), VPCosine(), VPLinear(), VEGeometric(0.1, 2.0)]
every_interpolant = pytest.mark.parametrize("interpolant", GENTLE, ids=repr)


def orders(errors: list[float]) -> list[float]:
    """Of convergence, from errors at a doubling number of steps."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


def field(target, interpolant):
    return lambda x, t: target.velocity(interpolant(t), x)


@every_interpolant
@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Heun(), 2), (DDIM(), 1)], ids=repr)
def test_order_of_convergence(solver, order, interpolant):
    x = doubles(1.0, -0.7, 0.4)[None]
    exact = GAUSSIAN.flow(interpolant(doubles(0.0)), interpolant(doubles(1.0)), x)
    velocity = field(GAUSSIAN, interpolant)
    errors = [
        float((solver.solve(velocity, x, interpolant, steps) - exact).norm())
        for steps in (64, 128, 256)
    ]
    assert orders(errors) == pytest.approx([order, order], abs=0.1)
    assert errors[-1] < 0.02


@pytest.mark.parametrize(("time_shift", "share"), [(1.0, 0.24), (4.0, 0.50)])
def test_two_steps_draw_a_sharp_law_less_narrow_on_a_shifted_grid(time_shift, share):
    """The share of the spread that is left: no grid of two Euler steps has more than a half."""
    target = DiagonalGaussian(doubles(0.3), doubles(0.25))
    x = doubles(-1.0, 1.0)[:, None]
    ends = Euler().solve(
        field(target, Linear()), x, Linear(), 2, (0.01, 1.0), time_shift=time_shift
    )
    assert float(ends[1] - ends[0]) / 2 == pytest.approx(0.25 * share, abs=0.0025)


def test_time_grid_shifted():
    """``k s / (1 + (k - 1) s)`` of the way, exact at both ends."""
    for dtype in (th.float32, th.float64):
        like = th.zeros(1, dtype=dtype)
        even, crowded = (time_grid(Linear(), 3, (0.01, 1.0), like, k) for k in (1.0, 3.0))
        for grid in (even, crowded):
            assert grid[0].t == th.tensor(0.01, dtype=dtype)
            assert float(grid[-1].t_next) == 1.0
            assert all(one.t_next == two.t for one, two in pairwise(grid))
        assert [float(step.t) for step in even] == pytest.approx([0.01, 0.34, 0.67])
        assert [float(step.t) for step in crowded] == pytest.approx(
            [0.01, 0.604, 0.01 + 0.99 * 6 / 7]
        )


@every_interpolant
@pytest.mark.parametrize("solver", [Euler(), Heun(), DDIM()], ids=repr)
def test_a_part_of_the_path(solver, interpolant):
    x = doubles(1.0, -0.7, 0.4)[None]
    exact = GAUSSIAN.flow(interpolant(doubles(0.2)), interpolant(doubles(0.7)), x)
    end = solver.solve(field(GAUSSIAN, interpolant), x, interpolant, 200, t_range=(0.2, 0.7))
    assert float((end - exact).norm()) < 0.02
    assert float((end - x).norm()) > 0.2


def gaussian_moments(solver, interpolant, steps, monkeypatch):
    """
    Mean and variance at the end for a normal target, exactly.

    The velocity is affine in x, so a step is ``a x + b + c eps``: three points give a, b and c.
    """
    target = DiagonalGaussian(doubles(0.7), doubles(0.4))
    x, eps = doubles(0, 1, 0)[:, None], doubles(0, 0, 1)[:, None]
    monkeypatch.setattr(Gaussian, "sample", lambda *args, **kwargs: eps)
    times = th.linspace(0, 1, steps + 1, dtype=th.float64).tolist()
    start, end = interpolant(doubles(0.0)), interpolant(doubles(1.0))
    mean, variance = start.alpha * target.mean, target.variance_at(start)
    for span in pairwise(times):
        moved = solver.solve(field(target, interpolant), x, interpolant, 1, span).flatten()
        b, slope, noise = moved[0], moved[1] - moved[0], moved[2] - moved[0]
        mean, variance = slope * mean + b, slope**2 * variance + noise**2
    return float(mean - end.alpha * target.mean), float(variance - target.variance_at(end))


@pytest.mark.parametrize(
    ("solver", "interpolant", "mean_is_exact"),
    [
        (ancestral(), Linear(), True),
        (ancestral(), VPCosine(), True),
        (DDIM(0.5), VPCosine(), True),
        (EulerMaruyama(), Linear(), True),
        (EulerMaruyama(), VPCosine(), False),
        (EulerMaruyama(0.5), VPCosine(), False),
        (EulerMaruyama(2.0), VEGeometric(0.1, 2.0), True),
    ],
    ids=repr,
)
def test_weak_order_of_convergence(solver, interpolant, mean_is_exact, monkeypatch):
    errors = [gaussian_moments(solver, interpolant, n, monkeypatch) for n in (128, 256, 512)]
    means, variances = ([abs(e[i]) for e in errors] for i in (0, 1))
    assert orders(variances) == pytest.approx([1, 1], abs=0.2)
    assert variances[-1] < 0.02 * 0.4**2
    if mean_is_exact:
        assert max(means) < 1e-12
    else:
        assert orders(means) == pytest.approx([1, 1], abs=0.1)


@pytest.mark.parametrize("stochasticity", [0.3, 1.0])
def test_ddim_adds_its_share_of_the_noise_of_ddpm(stochasticity, monkeypatch):
    """In DDPM's notation, ``a`` the squared signal: variance (1 - a') / (1 - a) (1 - a / a')."""
    x, eps = doubles(0.3, 0.3)[:, None], doubles(0, 1)[:, None]
    monkeypatch.setattr(Gaussian, "sample", lambda *args, **kwargs: eps)
    span = (0.35, 0.6)
    solver, velocity = DDIM(stochasticity), field(MIXTURE, VPCosine())
    without, with_noise = solver.solve(velocity, x, VPCosine(), 1, span)
    before, after = (math.sin(math.pi / 2 * t) ** 2 for t in span)
    variance = (1 - after) / (1 - before) * (1 - before / after)
    assert float(with_noise - without) == pytest.approx(stochasticity * math.sqrt(variance))


@every_solver
@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
def test_law_at_the_end_is_the_target(solver, interpolant):
    """Kolmogorov-Smirnov at level 1e-3; the premise: the mirror image would be rejected."""
    c = interpolant(doubles(0.0))
    noise = th.randn(2000, 1, dtype=th.float64, generator=seeded(0))
    x = c.alpha * MIXTURE.sample(2000, seed=1) + c.beta * noise
    end = solver.solve(field(MIXTURE, interpolant), x, interpolant, 300, generator=seeded(2))
    assert MIXTURE.kolmogorov_smirnov(end)[1] > 1e-3
    assert MIXTURE.kolmogorov_smirnov(end, sign=-1)[1] < 1e-9


@every_solver
@pytest.mark.parametrize("t_range", [(0.0, 1.0), (0.1, 0.6)])
def test_velocity_is_never_evaluated_at_the_last_time(solver, t_range):
    times = []

    def velocity(x, t):
        assert t.shape == ()
        times.append(float(t))
        return field(GAUSSIAN, Linear())(x, t)

    steps = 5
    x = doubles(1.0, -0.7, 0.4)[None]
    end = solver.solve(velocity, x, Linear(), steps, t_range, generator=seeded(0))
    assert end.isfinite().all()
    assert len(times) == (2 * steps - 1 if isinstance(solver, Heun) else steps)
    assert times[0] == t_range[0]
    grid = th.linspace(*t_range, steps + 1, dtype=th.float64)[:-1].tolist()
    assert sorted(set(times)) == pytest.approx(grid)


@every_solver
def test_deterministic_is_free_of_noise(solver, monkeypatch):
    def run(piece, seed):
        x = doubles(1.0, -0.7, 0.4)[None]
        return piece.solve(field(GAUSSIAN, VPCosine()), x, VPCosine(), 8, generator=seeded(seed))

    noisy = solver in STOCHASTIC
    assert th.equal(run(solver, 1), run(solver, 1))
    assert th.equal(run(solver, 1), run(solver, 2)) != noisy

    def refuse(*args, **kwargs):
        raise AssertionError("drew noise")

    monkeypatch.setattr(Gaussian, "sample", refuse)
    twin = {DDIM: DDIM(), EulerMaruyama: Euler()}.get(type(solver), solver)
    th.testing.assert_close(run(solver.deterministic(), 1), run(twin, 1), rtol=0, atol=0)


def test_ddim_is_euler_on_the_linear_path():
    x = doubles(1.0, -0.7, 0.4)[None]
    ends = [s.solve(field(GAUSSIAN, Linear()), x, Linear(), 7) for s in (DDIM(), Euler())]
    th.testing.assert_close(*ends)
    ends = [s.solve(field(GAUSSIAN, VPCosine()), x, VPCosine(), 7) for s in (DDIM(), Euler())]
    assert (ends[0] - ends[1]).abs().max() > 1e-3  # and on that path alone


@pytest.mark.parametrize("solver", [DDIM(), DDIM(0.5), ancestral()], ids=repr)
@pytest.mark.parametrize("interpolant", [Linear(), VPCosine(), VPLinear()], ids=repr)
def test_ddim_lands_on_the_predicted_action(solver, interpolant):
    """A network squashed to the box gives actions in the box, whatever it predicts."""
    predictions = []

    def velocity(x, t):
        c = interpolant(t)
        action = th.tanh(4 * x.flip(-1) + t)
        predictions.append(action)
        return c.d_alpha * action + c.d_beta * (x - c.alpha * action) / c.beta

    x = th.randn(20, 2, dtype=th.float64, generator=seeded(0))
    end = solver.solve(velocity, x, interpolant, 6, generator=seeded(1))
    th.testing.assert_close(end, predictions[-1])
    assert end.abs().max() < 1 + 1e-9


@pytest.mark.parametrize("interpolant", [Linear(), VPCosine()], ids=repr)
@pytest.mark.parametrize("estimator", ["noise_expectation", "diagonal_centred"])
def test_an_estimator_is_a_velocity_field(estimator, interpolant):
    """
    Remark 5: training-free sampling, approximate by its steps and particles.

    A Kolmogorov-Smirnov distance of .087 has level 1e-3 for 500 samples; the rest up to .1 is for
    the approximation. The premise: the mirror image is far outside.
    """
    generator = seeded(0)

    def velocity(x, t):
        return posterior_mean(
            MIXTURE,
            x,
            t,
            interpolant=interpolant,
            estimator=estimator,
            n_particles=128,
            generator=generator,
        ).velocity

    # At t = .02 the mix is noise but for two hundredths; at 0 the estimators are not defined.
    x = th.randn(500, 1, dtype=th.float64, generator=seeded(1))
    end = Heun().solve(velocity, x, interpolant, 20, t_range=(0.02, 1.0))
    assert MIXTURE.kolmogorov_smirnov(end)[0] < 0.1
    assert MIXTURE.kolmogorov_smirnov(end, sign=-1)[0] > 0.3


@dataclass(frozen=True)
class MixtureOfPaths(ScoredField):
    """Closed forms for a normal target and a source of two normals: each part is jointly normal."""

    target: DiagonalGaussian
    shares: th.Tensor
    means: th.Tensor
    scales: th.Tensor
    interpolant: Interpolant

    def law(self, t: float) -> Mixture:
        c = self.interpolant(doubles(t))
        variances = self.target.variance_at(c) - c.beta**2 + (c.beta * self.scales).square()
        means = c.alpha * self.target.mean + c.beta * self.means
        return Mixture(self.shares, means, variances.sqrt())

    def with_score(self, x, t):
        c, law = self.interpolant(t), self.law(float(t))
        r = th.softmax(law.shares.log() + law.parts(law.means, law.scales, x), -1)
        surprise = (x - law.means) / law.scales**2
        x_0 = self.means + c.beta * self.scales**2 * surprise
        x_1 = self.target.mean + c.alpha * self.target.scale**2 * surprise
        velocity = (r * (c.d_alpha * x_1 + c.d_beta * x_0)).sum(-1, keepdim=True)
        return velocity, -(r * surprise).sum(-1, keepdim=True)

    def __call__(self, x, t):
        return self.with_score(x, t)[0]


@pytest.mark.parametrize("interpolant", [Linear(), VPCosine()], ids=repr)
@pytest.mark.parametrize("end", [0.5, 1.0])
def test_euler_maruyama_takes_the_score_of_any_source(interpolant, end):
    """
    Kolmogorov-Smirnov at level 1e-3, half way and at the end.

    The premise: the formula of a Gaussian source, which a plain function gets, is rejected.
    """
    source = Mixture(doubles(0.3, 0.7), doubles(-1.5, 0.8), doubles(0.3, 0.3))
    target = DiagonalGaussian(doubles(0.7), doubles(0.4))
    field = MixtureOfPaths(target, source.shares, source.means, source.scales, interpolant)
    x_0 = source.sample(4000, seed=0)

    def run(velocity):
        span = (0.0, end)
        return EulerMaruyama().solve(velocity, x_0, interpolant, 300, span, generator=seeded(1))

    law = field.law(end)
    assert law.kolmogorov_smirnov(run(field))[1] > 1e-3
    if end < 1:  # at the end every path is led to the target
        assert law.kolmogorov_smirnov(run(lambda x, t: field(x, t)))[1] < 1e-9
        assert law.kolmogorov_smirnov(run(field), sign=-1)[1] < 1e-9


@every_solver
@pytest.mark.parametrize("interpolant", [Linear(), VPCosine()], ids=repr)
def test_a_scored_field_of_a_gaussian_source_changes_nothing(solver, interpolant):
    class Scored(ScoredField):
        def __call__(self, x, t):
            return GAUSSIAN.velocity(interpolant(t), x)

        def with_score(self, x, t):
            c = interpolant(t)
            return self(x, t), -GAUSSIAN.ends(c, x)[0] / c.beta

    x = doubles(1.0, -0.7, 0.4)[None]
    plain, scored = (
        solver.solve(velocity, x, interpolant, 9, generator=seeded(0))
        for velocity in (field(GAUSSIAN, interpolant), Scored())
    )
    th.testing.assert_close(scored, plain)


def test_noise_that_replaces_noise_has_to_be_of_its_law():
    for solver in (Euler(), Heun(), DDIM(), EulerMaruyama()):
        assert solver.suits(Gaussian())
        assert solver.suits(Laplace())
    for solver in (DDIM(0.1), ancestral()):
        assert solver.suits(Gaussian())
        assert not solver.suits(Laplace())
        assert solver.deterministic().suits(Laplace())


@every_solver
def test_keeps_single_precision(solver):
    x = th.tensor([[1.0, -0.7]])
    end = solver.solve(lambda x, t: -x, x, VPCosine(), 3, generator=seeded(0))
    assert end.dtype == th.float32
    assert end.isfinite().all()


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_number_of_steps(steps, error):
    with pytest.raises(error, match="steps"):
        Euler().solve(lambda x, t: x, doubles(1.0)[None], Linear(), steps)


@pytest.mark.parametrize(
    "t_range", [(0.7, 0.2), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0), (0.0, 0.5, 1.0)]
)
def test_bad_t_range(t_range):
    with pytest.raises(ValueError, match=r"^t_range must satisfy: .*0 <= first < last <= 1; got"):
        Euler().solve(lambda x, t: x, doubles(1.0)[None], Linear(), 4, t_range)


@pytest.mark.parametrize(
    ("time_shift", "error"),
    [(0.0, ValueError), (-1.0, ValueError), (math.inf, ValueError), ("even", TypeError)],
)
def test_bad_time_shift(time_shift, error):
    with pytest.raises(error, match=r"^time_shift must"):
        Euler().solve(
            lambda x, t: x, doubles(1.0)[None], Linear(), 4, (0.0, 1.0), time_shift=time_shift
        )


@pytest.mark.parametrize(
    ("make", "stochasticity", "error"),
    [
        (DDIM, -0.1, ValueError),
        (DDIM, 1.1, ValueError),
        (DDIM, "1", TypeError),
        (EulerMaruyama, -0.1, ValueError),
        (EulerMaruyama, math.inf, ValueError),
        (EulerMaruyama, True, TypeError),
    ],
)
def test_bad_stochasticity(make, stochasticity, error):
    with pytest.raises(error, match="stochasticity"):
        make(stochasticity)


def test_registry_names():
    expected = {
        "euler": Euler(),
        "heun": Heun(),
        "ddim": DDIM(),
        "ancestral": DDIM(1.0),
        "euler_maruyama": EulerMaruyama(),
    }
    assert {name: SOLVERS.resolve(name, Solver) for name in SOLVERS.factories} == expected
