"""The front door: what it returns, what it leaves alone and what it refuses."""

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch as th
from analytic import ALL_INTERPOLANTS, ESTIMATOR_NAMES, GAUSSIAN, MIXTURE, doubles, seeded
from torch import nn

from sb3_rfm.sampling import (
    Bounded,
    Gaussian,
    LangevinStein,
    VPCosine,
    make_estimator,
    posterior_mean,
)
from sb3_rfm.sampling.estimators.control_variates import Diagonal, Fixed
from sb3_rfm.sampling.estimators.proposals import Prior
from sb3_rfm.sampling.posterior_mean import ESTIMATORS, PosteriorMean

X_T = doubles(0.4, -0.2, 1.3, 0.0, 0.7, -1.5).view(2, 3)


def parts(estimate: PosteriorMean) -> dict[str, th.Tensor]:
    return {field.name: getattr(estimate, field.name) for field in fields(estimate)}


def critic() -> nn.Module:
    th.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(-2)).double()


@pytest.mark.parametrize("estimator", ESTIMATOR_NAMES)
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_shapes_and_dtypes(estimator, dtype):
    def target(x):
        return -(x - 0.3).square().sum(-1)

    result = parts(posterior_mean(target, X_T.to(dtype), 0.5, estimator=estimator))
    shapes = {name: tuple(part.shape) for name, part in result.items()}
    assert shapes.pop("ess") == (2,)
    assert set(shapes.values()) == {(2, 3)}
    assert {part.dtype for part in result.values()} == {dtype}


@pytest.mark.parametrize("estimator", ESTIMATOR_NAMES)
def test_single_precision_agrees_with_double_on_the_same_particles(estimator):
    noise = th.randn(64, 2, 1, dtype=th.float64, generator=seeded(0))

    @dataclass(frozen=True)
    class Given(Gaussian):
        def sample(self, shape, like, generator=None):
            return noise.to(like.dtype)

    def target(x):
        return -(x - 0.3).square().sum(-1) / 0.2 + (3 * x).sin().sum(-1)

    estimator = replace(make_estimator(estimator, 64), proposal=Prior(Given()))
    x_t = doubles(0.4, -0.2).view(2, 1)
    double = parts(posterior_mean(target, x_t, 0.6, estimator=estimator))
    single = parts(posterior_mean(target, x_t.float(), 0.6, estimator=estimator))
    for name, part in double.items():
        th.testing.assert_close(single[name].double(), part, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATOR_NAMES)
@pytest.mark.parametrize("grad_mode", [th.enable_grad, th.no_grad])
def test_targets_are_data(estimator, grad_mode):
    """Nothing returned requires grad and the parameters' gradients stay as they were."""
    network = critic()
    for i, parameter in enumerate(network.parameters()):
        parameter.grad = None if i == 0 else th.full_like(parameter, float(i))
    t = doubles(0.4, 0.8).requires_grad_()
    x_t = X_T.clone().requires_grad_()
    with grad_mode():
        result = posterior_mean(
            network, x_t, t, interpolant=VPCosine(), estimator=estimator, n_particles=8
        )
    assert not any(part.requires_grad for part in parts(result).values())
    assert x_t.grad is None
    assert t.grad is None
    for i, parameter in enumerate(network.parameters()):
        assert parameter.requires_grad
        if i == 0:
            assert parameter.grad is None
        else:
            assert th.equal(parameter.grad, th.full_like(parameter, float(i)))


@pytest.mark.parametrize("estimator", [*ESTIMATOR_NAMES, "bounded"])
def test_a_posterior_is_data(estimator):
    """An estimator called by itself: all that it returns is cut off from the graph."""
    t = doubles(0.4, 0.8)[:, None].requires_grad_()
    x_t = X_T.clone().requires_grad_()
    posterior = make_estimator(estimator, 8)(critic(), VPCosine()(t), x_t, seeded(0))
    returned = [posterior.x_0, posterior.x_1, posterior.log_w, posterior.coefficient]
    returned += [*posterior.control, *posterior.mean, posterior.ess]
    assert not any(part.requires_grad for part in returned)


@pytest.mark.parametrize("estimator", ESTIMATOR_NAMES)
def test_grad_mode_does_not_change_the_numbers(estimator):
    def run():
        return parts(posterior_mean(critic(), X_T, 0.5, estimator=estimator, generator=seeded(1)))

    outside = run()
    with th.no_grad():
        inside = run()
    assert all(th.equal(outside[name], inside[name]) for name in outside)


@pytest.mark.parametrize("estimator", [*ESTIMATOR_NAMES, "bounded"])
def test_inference_mode_does_not_change_the_numbers(estimator):
    """Gradients of the target are taken, even where everything else is an inference tensor."""
    network = critic()
    bounds = (-1.0, 1.0) if estimator == "bounded" else None

    def run():
        x_t, generator = X_T * 1.0, seeded(1)
        return parts(
            posterior_mean(
                network, x_t, 0.5, estimator=estimator, bounds=bounds, generator=generator
            )
        )

    outside = run()
    with th.inference_mode():
        inside = run()
    assert all(th.equal(outside[name], inside[name]) for name in outside)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_noise_needs_no_gradient():
    posterior_mean(lambda x: x.detach().sum(-1), X_T, 0.5, estimator="noise_expectation")
    posterior_mean(lambda x: x.detach().sum(-1), X_T, 0.5, estimator=0)


def test_generator_decides_and_the_global_one_is_left_alone():
    def run(seed):
        return posterior_mean(GAUSSIAN, X_T, 0.5, n_particles=4, generator=seeded(seed)).x_1

    th.manual_seed(1)
    before = th.get_rng_state()
    first = run(7)
    assert th.equal(th.get_rng_state(), before)
    th.manual_seed(2)
    assert th.equal(run(7), first)
    assert not th.equal(run(8), first)


def test_without_a_generator_the_global_one_decides():
    def run(seed):
        th.manual_seed(seed)
        return posterior_mean(GAUSSIAN, X_T, 0.5, n_particles=4).x_1

    assert th.equal(run(7), run(7))
    assert not th.equal(run(7), run(8))


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
@pytest.mark.parametrize("estimator", ["noise_expectation", "diagonal"])
def test_a_vector_of_times_equals_its_scalars(interpolant, estimator):
    def run(t):
        return parts(
            posterior_mean(
                GAUSSIAN,
                X_T,
                t,
                interpolant=interpolant,
                estimator=estimator,
                n_particles=8,
                generator=seeded(2),
            )
        )

    both = run(doubles(0.3, 0.8))
    for row, t in enumerate((0.3, 0.8)):
        for scalar in (run(t), run(th.tensor(t, dtype=th.float64))):
            for name, part in both.items():
                th.testing.assert_close(part[row], scalar[name][row])


def test_an_additive_constant_of_the_log_density_is_ignored():
    def run(constant):
        return parts(
            posterior_mean(lambda x: GAUSSIAN(x) + constant, X_T, 0.5, generator=seeded(3))
        )

    for name, part in run(0.0).items():
        th.testing.assert_close(run(-4321.0)[name], part)


def test_at_the_action_the_mix_is_the_action():
    estimate = posterior_mean(GAUSSIAN, X_T, 1.0, estimator="diagonal", n_particles=8)
    th.testing.assert_close(estimate.x_1, X_T)


def test_make_estimator():
    assert {make_estimator(name, 5).n_particles for name in ESTIMATORS} == {5}
    assert make_estimator("noise_expectation", 5) == LangevinStein(Fixed(0.0), 5)
    assert make_estimator(1, 5) == make_estimator("gradient_expectation", 5)
    assert make_estimator("bounded", 5) == Bounded(5)
    assert make_estimator("bounded_uncoupled", 5) == Bounded(5, coupling=False)
    assert make_estimator(0.25, 5) == LangevinStein(Fixed(0.25), 5)
    assert make_estimator(Diagonal(clip=1.0), 5) == LangevinStein(Diagonal(clip=1.0), 5)
    own = LangevinStein(Fixed(0.5), 7)
    assert make_estimator(own, 5) is own


@pytest.mark.parametrize(
    ("argument", "changes", "error"),
    [
        ("x_t", {"x_t": X_T[0]}, ValueError),
        ("x_t", {"x_t": X_T[None]}, ValueError),
        ("x_t", {"x_t": X_T.long()}, ValueError),
        ("x_t", {"x_t": X_T.numpy()}, TypeError),
        ("t", {"t": 0.0}, ValueError),
        ("t", {"t": 0.0, "interpolant": "vp_cosine"}, ValueError),
        ("t", {"t": doubles(0.5, 0.0)}, ValueError),
        ("t", {"t": -0.1}, ValueError),
        ("t", {"t": 1.1}, ValueError),
        ("t", {"t": math.nan}, ValueError),
        ("t", {"t": doubles(0.5, math.nan)}, ValueError),
        ("t", {"t": doubles(0.5, -0.1), "interpolant": "ve"}, ValueError),
        ("t", {"t": doubles(0.5, 1.1)}, ValueError),
        ("t", {"t": doubles(0.5, 0.5, 0.5)}, ValueError),
        ("t", {"t": doubles(0.5, 0.5)[:, None]}, ValueError),
        ("t", {"t": "0.5"}, TypeError),
        ("t", {"t": True}, TypeError),
        ("interpolant", {"interpolant": "cosine"}, ValueError),
        ("interpolant", {"interpolant": VPCosine}, TypeError),
        ("estimator", {"estimator": "diag"}, ValueError),
        ("estimator", {"estimator": math.nan}, ValueError),
        ("estimator", {"estimator": True}, TypeError),
        ("estimator", {"estimator": None}, TypeError),
        ("n_particles", {"n_particles": 0}, ValueError),
        ("n_particles", {"n_particles": -3}, ValueError),
        ("n_particles", {"n_particles": 8.0}, TypeError),
        ("n_particles", {"n_particles": True}, TypeError),
        ("n_particles", {"n_particles": "8"}, TypeError),
        ("bounds", {"estimator": "noise_expectation", "bounds": (1.0, -1.0)}, ValueError),
        ("bounds", {"estimator": "noise_expectation", "bounds": (1.0, 1.0)}, ValueError),
        ("bounds", {"estimator": "noise_expectation", "bounds": (math.nan, 1.0)}, ValueError),
        ("bounds", {"estimator": "noise_expectation", "bounds": (-1.0, 0.0, 1.0)}, ValueError),
        ("estimator", {"estimator": "diagonal", "bounds": (-1.0, 1.0)}, ValueError),
        ("estimator", {"estimator": 0.1, "bounds": (-1.0, 1.0)}, ValueError),
        ("estimator", {"estimator": "bounded"}, ValueError),
        ("t", {"estimator": "bounded", "bounds": (-2.0, 2.0), "t": 1.0}, ValueError),
        ("bounds", {"estimator": "bounded", "bounds": (1.0, -1.0)}, ValueError),
        ("policy_samples", {"policy_samples": X_T}, ValueError),
        ("policy_samples", {"policy_samples": X_T[:, None, :2]}, ValueError),
        ("policy_samples", {"policy_samples": X_T[:1, None]}, ValueError),
        ("log_density", {"log_density": lambda x: x.detach().sum(-1)}, ValueError),
        ("log_density", {"log_density": lambda x: x.sum(-1, keepdim=True)}, ValueError),
        ("log_density", {"log_density": lambda x: x.sum()}, ValueError),
    ],
)
def test_bad_arguments_are_named(argument, changes, error):
    arguments = {"log_density": GAUSSIAN, "x_t": X_T, "t": 0.5} | changes
    with pytest.raises(error, match=rf"^{argument} must"):
        posterior_mean(**arguments)


@pytest.mark.parametrize("estimator", ["noise_expectation", "gradient_expectation", "bounded"])
def test_a_log_density_of_another_dtype_is_refused(estimator):
    """Weights in half of the digits, or a network in float32 behind float64 points."""
    bounds = None if estimator == "gradient_expectation" else (-1.0, 1.0)
    message = r"^log_density must satisfy: a result of dtype torch\.float64.*; got torch\.float32"
    with pytest.raises(ValueError, match=message):
        posterior_mean(lambda x: GAUSSIAN(x).float(), X_T, 0.5, estimator=estimator, bounds=bounds)


@pytest.mark.parametrize("estimator", ["noise_expectation", "gradient_expectation"])
def test_a_critic_that_keeps_its_last_axis_is_refused(estimator):
    """(K, B, 1) + (K, B) would broadcast without a word."""
    with pytest.raises(ValueError, match="log_density must"):
        posterior_mean(
            lambda x: GAUSSIAN(x)[..., None], X_T, 0.5, estimator=estimator, n_particles=2
        )


def test_a_log_density_that_depends_on_parameters_only_is_refused():
    weight = nn.Parameter(th.ones((), dtype=th.float64))
    with pytest.raises(ValueError, match="log_density must be differentiable in its argument"):
        posterior_mean(
            lambda x: weight * x.detach().sum(-1), X_T, 0.5, estimator="gradient_expectation"
        )


def test_messages_list_what_is_allowed():
    with pytest.raises(
        ValueError, match=r"bounded, bounded_uncoupled, clipped_gradient, diagonal, .*, noise"
    ):
        posterior_mean(MIXTURE, X_T[:, :1], 0.5, estimator="best")
    with pytest.raises(ValueError, match="linear, ve, vp_cosine, vp_linear"):
        posterior_mean(MIXTURE, X_T[:, :1], 0.5, interpolant="best")
