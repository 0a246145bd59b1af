"""Solvers that add noise: their weak order, their share of it, its law and its score."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch as th
from analytic import GAUSSIAN, MIXTURE, DiagonalGaussian, Mixture, doubles, seeded
from solver_cases import STOCHASTIC, every_solver, field, orders

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
    ancestral,
)


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
