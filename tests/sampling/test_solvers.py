"""Order of convergence, law and actions at the end of each solver."""

import pytest
import torch as th
from analytic import ALL_INTERPOLANTS, GAUSSIAN, MIXTURE, doubles, seeded
from solver_cases import every_interpolant, every_solver, field, orders

from sb3_rfm.sampling import (
    DDIM,
    Euler,
    EulerMaruyama,
    Heun,
    Linear,
    MeanStep,
    Midpoint,
    VPCosine,
    VPLinear,
    ancestral,
    posterior_mean,
)
from sb3_rfm.sampling.solvers import SOLVERS, Solver


@every_interpolant
@pytest.mark.parametrize(
    ("solver", "order"), [(Euler(), 1), (Heun(), 2), (Midpoint(), 2), (DDIM(), 1)], ids=repr
)
def test_order_of_convergence(solver, order, interpolant):
    x = doubles(1.0, -0.7, 0.4)[None]
    exact = GAUSSIAN.flow(interpolant(doubles(0.0)), interpolant(doubles(1.0)), x)
    velocity = field(GAUSSIAN, interpolant)
    errors = [
        float((solver.solve(velocity, x, interpolant, steps) - exact).norm())
        for steps in (64, 128, 256)
    ]
    if solver == Midpoint() and interpolant == Linear():
        order = 3  # of a normal law along the straight path
    assert orders(errors) == pytest.approx([order, order], abs=0.1)
    assert errors[-1] < 0.02


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


@every_solver
def test_keeps_single_precision(solver):
    x = th.tensor([[1.0, -0.7]])
    end = solver.solve(lambda x, t: -x, x, VPCosine(), 3, generator=seeded(0))
    assert end.dtype == th.float32
    assert end.isfinite().all()


def test_registry_names():
    expected = {
        "euler": Euler(),
        "heun": Heun(),
        "midpoint": Midpoint(),
        "mean_step": MeanStep(),
        "ddim": DDIM(),
        "ancestral": DDIM(1.0),
        "euler_maruyama": EulerMaruyama(),
    }
    assert {name: SOLVERS.resolve(name, Solver) for name in SOLVERS.factories} == expected
