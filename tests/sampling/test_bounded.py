"""The bounded estimator's invariances, shapes, types and arguments."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch as th
from analytic import doubles, seeded
from boxed_targets import (
    BOX,
    bimodal,
    corner,
    every_guide,
    every_interpolant,
    quadratic,
    samples_of,
)
from torch import nn

from sb3_rfm.sampling import Bounded, Interpolant, Linear, posterior_mean
from sb3_rfm.sampling.numerics.sobol import sobol_points


def test_one_time_is_no_axis_of_times():
    c, x_t = Linear()(doubles(0.4)), 0.3 * th.ones(5, 2, dtype=th.float64)
    plain = Bounded(16)(bimodal, c, x_t, generator=seeded(0)).mean.x_1
    once = Bounded(16)(bimodal, c, x_t.unsqueeze(0), generator=seeded(0)).mean.x_1
    assert th.equal(once[0], plain)


def test_each_time_has_a_particle():
    with pytest.raises(ValueError, match=r"n_particles.*at least 3, one for each time.*got 2"):
        Bounded(2)(bimodal, Linear()(doubles(0.4)), th.zeros(3, 5, 2, dtype=th.float64))


@dataclass(frozen=True)
class InUnits(Interpolant):
    """A path whose action is measured in other units: the noise is divided by them."""

    path: Interpolant
    unit: float

    def __call__(self, t):
        c = self.path(t)
        return c._replace(beta=c.beta / self.unit, d_beta=c.d_beta / self.unit)


@every_interpolant
@every_guide
def test_general_bounds_are_the_unit_box_in_other_units(interpolant, guide):
    low, high = -0.4, 2.6
    centre, half = (low + high) / 2, (high - low) / 2
    t = doubles(0.1, 0.5, 0.9)
    alpha = interpolant(t[:, None]).alpha
    x_t = doubles(0.4, 1.3, 2.2)[:, None]
    samples = samples_of(["bimodal"], guide, 3)
    unit = posterior_mean(
        bimodal,
        (x_t - alpha * centre) / half,
        t,
        interpolant=InUnits(interpolant, half),
        estimator=Bounded(16),
        bounds=BOX,
        policy_samples=samples,
        generator=seeded(16),
    )
    general = posterior_mean(
        lambda x: bimodal((x - centre) / half),
        x_t,
        t,
        interpolant=interpolant,
        estimator="bounded",
        n_particles=16,
        bounds=(low, high),
        policy_samples=None if samples is None else centre + half * samples,
        generator=seeded(16),
    )
    th.testing.assert_close(general.x_1, centre + half * unit.x_1)
    th.testing.assert_close(general.x_0, unit.x_0)
    th.testing.assert_close(general.ess, unit.ess)
    th.testing.assert_close(general.coefficient, unit.coefficient)
    c = interpolant(t[:, None])
    velocity = c.d_alpha * general.x_1 + c.d_beta * general.x_0
    th.testing.assert_close(general.velocity, velocity)


@every_guide
def test_reflection(guide):
    """The mirror image of a problem has the mirror image of its estimate."""
    t, x_t = doubles(0.05, 0.5, 0.95), doubles(0.4, -0.6, 1.1)[:, None]
    samples = samples_of(["bimodal"], guide, 3)
    run = partial(posterior_mean, t=t, estimator=Bounded(16), bounds=BOX)
    one = run(bimodal, x_t, policy_samples=samples, generator=seeded(19))
    mirrored = None if samples is None else -samples
    two = run(lambda x: bimodal(-x), -x_t, policy_samples=mirrored, generator=seeded(19))
    th.testing.assert_close(two.x_1, -one.x_1, rtol=0, atol=1e-10)
    th.testing.assert_close(two.ess, one.ess)
    assert one.x_1.abs().min() > 0.01


@pytest.mark.parametrize("guide", [None, "right"])
def test_generator_decides_and_the_global_one_is_left_alone(guide):
    sobol_points.cache_clear()

    def run(seed):
        return posterior_mean(
            corner,
            doubles(0.3, -0.2)[:, None],
            0.5,
            estimator="bounded",
            n_particles=8,
            bounds=BOX,
            policy_samples=samples_of(["corner"], guide, 2),
            generator=None if seed is None else seeded(seed),
        ).x_1

    th.manual_seed(1)
    before = th.get_rng_state()
    first = run(7)
    assert th.equal(th.get_rng_state(), before)
    th.manual_seed(2)
    assert th.equal(run(7), first)
    assert not th.equal(run(8), first)
    with_global = run(None)
    assert not th.equal(run(None), with_global)
    th.manual_seed(2)
    assert th.equal(run(None), with_global)


@every_interpolant
@every_guide
def test_a_vector_of_times_equals_its_scalars(interpolant, guide):
    x_t = doubles(0.4, -0.6, 1.1)[:, None]
    run = partial(
        posterior_mean,
        bimodal,
        x_t,
        interpolant=interpolant,
        estimator=Bounded(8),
        bounds=BOX,
        policy_samples=samples_of(["bimodal"], guide, 3),
    )
    times = (0.001, 0.4, 0.97)
    together = run(doubles(*times), generator=seeded(22))
    for row, t in enumerate(times):
        alone = run(t, generator=seeded(22))  # the uniforms of a row do not depend on its time
        for name in ("x_0", "x_1", "velocity", "ess", "coefficient"):
            th.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[row])


@every_guide
@pytest.mark.parametrize("t", [0.001, 0.5, 0.999])
def test_single_precision_agrees_with_double_on_the_same_particles(guide, t):
    """The uniform numbers are drawn in float64 for both."""

    def run(dtype):
        samples = samples_of(["corner", "quadratic"], guide, 2)
        return posterior_mean(
            lambda x: corner(x[..., :1]) + quadratic(x[..., 1:]),
            th.tensor([[0.5, -0.25], [1.0, 0.375]], dtype=dtype),
            th.tensor(t, dtype=dtype),
            estimator=Bounded(16),
            bounds=BOX,
            policy_samples=None if samples is None else samples.to(dtype),
            generator=seeded(23),
        )

    single, double = run(th.float32), run(th.float64)
    for name in ("x_0", "x_1", "velocity", "ess", "coefficient"):
        part = getattr(single, name)
        assert part.dtype == th.float32
        assert part.isfinite().all()
        # x_0 and the velocity divide the rounding of x_1 by beta
        loose = 1e-3 if t < 0.9 or name in ("x_1", "ess") else 1e-2
        th.testing.assert_close(part.double(), getattr(double, name), rtol=loose, atol=loose)


def test_targets_are_data():
    """Nothing returned requires grad and the parameters' gradients stay as they were."""
    th.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(-2)).double()
    for parameter in network.parameters():
        parameter.grad = th.full_like(parameter, 3.0)
    x_t = doubles(0.4, -0.6).expand(3, 2).clone().requires_grad_()
    t = doubles(0.2, 0.5, 0.9).requires_grad_()
    samples = samples_of(["corner", "bimodal"], "right", 3).clone().requires_grad_()
    estimate = posterior_mean(
        network, x_t, t, estimator="bounded", bounds=BOX, policy_samples=samples
    )
    for name in ("x_0", "x_1", "velocity", "ess", "coefficient"):
        assert not getattr(estimate, name).requires_grad
    assert x_t.grad is None
    assert t.grad is None
    assert samples.grad is None
    for parameter in network.parameters():
        assert th.equal(parameter.grad, th.full_like(parameter, 3.0))


def test_an_additive_constant_of_the_log_density_is_ignored():
    def run(constant):
        return posterior_mean(
            lambda x: corner(x) + constant,
            doubles(0.3)[None],
            0.5,
            estimator="bounded",
            bounds=BOX,
            generator=seeded(24),
        )

    th.testing.assert_close(run(-4321.0).x_1, run(0.0).x_1, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("n_particles", 1, ValueError),
        ("n_particles", 8.0, TypeError),
        ("n_particles", True, TypeError),
        ("guided_share", -0.1, ValueError),
        ("guided_share", 1.1, ValueError),
        ("guided_share", math.nan, ValueError),
        ("guided_share", "0.5", TypeError),
        ("guided_share", 0.8, ValueError),  # with the local share it is more than all of them
        ("local_share", -0.1, ValueError),
        ("local_share", math.inf, ValueError),
        ("local_share", None, TypeError),
        ("widening", -1.0, ValueError),
        ("widening", math.inf, ValueError),
        ("floor", 0.0, ValueError),
        ("floor", None, TypeError),
        ("ridge", -1e-3, ValueError),
        ("ridge", math.nan, ValueError),
    ],
)
def test_bad_arguments_are_named(argument, value, error):
    with pytest.raises(error, match=rf"^{argument} must"):
        Bounded(**{argument: value})


def test_refuses_a_target_without_walls_or_without_a_gradient():
    Bounded().check_support(bounded=True)
    with pytest.raises(ValueError, match="no bounds"):
        Bounded().check_support(bounded=False)
    with pytest.raises(ValueError, match="log_density must be differentiable"):
        posterior_mean(
            lambda x: x.detach().sum(-1),
            doubles(0.3)[None],
            0.5,
            estimator="bounded",
            bounds=BOX,
        )
