"""The estimators of other methods: noise within the box, a clipped score, a plug-in score."""

import pytest
import torch as th
from analytic import GAUSSIAN, doubles, seeded

from sb3_rfm.sampling import LangevinStein, Laplace, Linear, VPCosine
from sb3_rfm.sampling.estimators.approximations import ClippedScore, PlugIn
from sb3_rfm.sampling.estimators.control_variates import Diagonal, Fixed
from sb3_rfm.sampling.estimators.proposals import Bridge, Prior
from sb3_rfm.sampling.estimators.refinements import MCMC
from sb3_rfm.sampling.posterior_mean import make_estimator, posterior_mean
from sb3_rfm.sampling.supports import Clipped

LOW, HIGH = -1.5, 2.0


def tilted(x):
    """Asymmetric, and far from zero at both walls."""
    return (1.3 * x - 0.4 * x.pow(3)).sum(-1)


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_truncated_noise_is_exact_on_a_box(t):
    x_t = doubles(-0.7, 0.2, 1.1).view(3, 1)
    c = Linear()(doubles(t))
    grid = th.linspace(LOW, HIGH, 20_001, dtype=th.float64)
    bridge = -0.5 * ((x_t - c.alpha * grid) / c.beta).square()
    mass = th.softmax(tilted(grid[:, None]) + bridge, -1)
    got = posterior_mean(
        tilted,
        x_t,
        t,
        estimator="truncated_noise",
        n_particles=40_000,
        bounds=(LOW, HIGH),
        generator=seeded(0),
    )
    spread = ((mass * grid.square()).sum(-1) - (mass * grid).sum(-1).square()).sqrt()
    error = (got.x_1[:, 0] - (mass * grid).sum(-1)).abs()
    assert (error < 4 * spread / got.ess.sqrt()).all()
    th.testing.assert_close(c.alpha * got.x_1 + c.beta * got.x_0, x_t)


def test_truncated_noise_loses_no_particle_where_plain_noise_loses_most():
    x_t, box = doubles(0.1, -0.2).view(1, 2), (LOW, HIGH)

    def uniform(x):
        return 0 * x.sum(-1)

    def ess(name):
        return posterior_mean(
            uniform, x_t, 0.1, estimator=name, n_particles=512, bounds=box, generator=seeded(1)
        ).ess

    assert float(ess("truncated_noise")) == pytest.approx(512)
    assert 1 < float(ess("noise_expectation")) < 50


def test_what_knows_no_walls_is_refused():
    with pytest.raises(ValueError, match="proposal"):
        LangevinStein(Diagonal(), 8, Bridge())
    with pytest.raises(ValueError, match="proposal"):
        LangevinStein(Fixed(), 8, Bridge(), MCMC())
    with pytest.raises(ValueError, match="estimator"):
        posterior_mean(tilted, doubles(0.0).view(1, 1), 0.5, estimator="truncated_noise")
    with pytest.raises(ValueError, match="estimator"):
        PlugIn().check_support(bounded=True)
    with pytest.raises(ValueError, match="base"):
        ClippedScore(LangevinStein(Fixed(1.0), 8, Prior(Laplace())))
    with pytest.raises(ValueError, match="max_norm"):
        ClippedScore(max_norm=0.0)
    for name in ("source", "refinement"):
        with pytest.raises(ValueError, match=name):
            make_estimator("truncated_noise", 8, **{name: {"source": "laplace"}.get(name, "smc")})


def test_the_score_is_clipped_in_norm_alone():
    c = VPCosine()(doubles(0.4, 0.4, 0.4)[:, None])
    x_t = 4 * th.randn(3, 3, generator=seeded(2), dtype=th.float64)
    base = LangevinStein(Fixed(1.0), 64)
    plain = base(GAUSSIAN, c, x_t, seeded(3))
    norms = plain.score(c).norm(dim=-1)
    limit = float(norms.sort().values[1]) * 0.999
    assert norms.min() < limit  # a premise: one is left as it is
    clipped = ClippedScore(base, limit)(GAUSSIAN, c, x_t, seeded(3))
    wanted = plain.score(c) * (limit / norms).clamp_max(1)[:, None]
    th.testing.assert_close(clipped.score(c), wanted)
    ends = clipped.mean
    th.testing.assert_close(c.alpha * ends.x_1 + c.beta * ends.x_0, x_t)


def test_the_plug_in_is_gradient_expectation_at_the_end_of_the_path():
    """One particle at ``x_t``: what gradient expectation tends to as beta tends to 0."""
    x_t = doubles(0.3, -1.2, 0.8).view(1, 3)
    c = Linear()(doubles(1 - 1e-6)[:, None])
    plug_in = PlugIn()(GAUSSIAN, c, x_t).mean.x_0
    gradient = LangevinStein(Fixed(1.0), 8)(GAUSSIAN, c, x_t, seeded(4)).mean.x_0
    th.testing.assert_close(c.beta * plug_in, gradient, rtol=1e-4, atol=1e-12)


def test_clipped_support_is_judged_where_it_says():
    x = doubles(-2.0, 0.3, 1.5).view(3, 1)
    assert Clipped().to_action(x).flatten().tolist() == [-1.0, 0.3, 1.0]
    assert th.equal(Clipped().critic_input(x), Clipped().to_action(x))
    assert th.equal(Clipped(extrapolate=True).critic_input(x), x)
    assert not Clipped().bounded
    assert th.equal(Clipped().log_det(x), doubles(0.0, 0.0, 0.0))
