"""The density of the points that a solver draws: closed forms, quadrature and inverses."""

import math
from itertools import pairwise

import pytest
import torch as th
from analytic import ALL_INTERPOLANTS, GAUSSIAN, MIXTURE, doubles, seeded, standard_error
from scipy import stats
from torch import nn

from sb3_rfm.sampling import Linear, VEGeometric, VPCosine, posterior_mean
from sb3_rfm.sampling.divergences import DIVERGENCES, Divergence, ExactDivergence, Hutchinson
from sb3_rfm.sampling.flow_density import FlowDensity
from sb3_rfm.sampling.sources import SOURCES, Source

DETERMINISTIC = ["euler", "heun", "ddim"]
every_interpolant = pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
MATRIX = doubles(0.6, -1.3, 0.2, 0.8, -0.5, 0.7, -0.4, 0.1, 0.9).view(3, 3)
SHIFT = doubles(0.3, -0.2, 0.5)


def noise(*shape, seed=0):
    return th.randn(*shape, dtype=th.float64, generator=seeded(seed))


def field(target, interpolant):
    return lambda x, t: target.velocity(interpolant(t), x)


def affine(x, t):
    return x @ MATRIX.T + SHIFT


def squashed(interpolant):
    """A network that predicts actions in (-1, 1), each coordinate from both."""

    def velocity(x, t):
        c = interpolant(t)
        action = th.tanh(0.8 * x + 0.5 * x.flip(-1).sin() + t)
        return c.d_alpha * action + c.d_beta * (x - c.alpha * action) / c.beta

    return velocity


def network(dim, seed):
    th.manual_seed(seed)
    net = nn.Sequential(nn.Linear(dim + 1, 16), nn.Tanh(), nn.Linear(16, dim)).double()
    return net, lambda x, t: 1.5 * net(th.cat([x, t.expand_as(x[..., :1])], -1))


def orders(errors):
    return [math.log2(a / b) for a, b in pairwise(errors)]


@every_interpolant
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("ddim", 1)])
def test_gaussian_target_has_the_normal_log_density(solver, order, interpolant):
    """The exact map of a normal target is affine: its density is that of the noise, rescaled."""
    x_0 = doubles(1.0, -0.7, 0.4)[None]
    start, end = interpolant(doubles(0.0)), interpolant(doubles(1.0))
    scale = (GAUSSIAN.variance_at(end) / GAUSSIAN.variance_at(start)).sqrt() * start.beta
    exact = stats.norm.logpdf(x_0).sum() - scale.log().sum()
    if isinstance(interpolant, Linear | VPCosine):  # the noise end is noise alone
        x_1 = GAUSSIAN.flow(start, end, x_0)
        normal = stats.norm.logpdf(x_1, GAUSSIAN.mean, GAUSSIAN.scale).sum()
        assert float(exact) == pytest.approx(normal)
    errors = []
    for steps in (64, 128, 256):
        law = FlowDensity(interpolant, steps, solver=solver)
        _, log_density = law.sample_and_log_prob(field(GAUSSIAN, interpolant), x_0)
        errors.append(float((log_density - exact).abs()))
    assert orders(errors) == pytest.approx([order, order], abs=0.1)
    assert errors[-1] < 0.1


@pytest.mark.parametrize("n_terms", [1, 2, 3])
def test_order_of_the_series(n_terms):
    """In one dimension random signs make no error: what is left is the next term of each step."""
    x_0, errors = doubles(0.3)[:, None], []
    for steps in (32, 64, 128):
        exact, series = (
            FlowDensity(steps=steps, divergence=rule).sample_and_log_prob(
                field(MIXTURE, Linear()), x_0
            )[1]
            for rule in (ExactDivergence(), Hutchinson(n_terms=n_terms))
        )
        errors.append(float((series - exact).abs()))
    assert orders(errors) == pytest.approx([n_terms, n_terms], abs=0.2)


@pytest.mark.parametrize("steps", [1, 4])
def test_affine_field_draws_a_normal_law(steps):
    """Few long steps, coordinates coupled: the law of the drawn points, not the ODE's."""
    x_1, log_density = FlowDensity(steps=steps, solver="euler").sample_and_log_prob(
        affine, noise(2, 5, 3)
    )
    step = th.eye(3, dtype=th.float64) + MATRIX / steps
    whole = th.linalg.matrix_power(step, steps)
    shift = sum(th.linalg.matrix_power(step, k) for k in range(steps)) @ SHIFT / steps
    normal = th.distributions.MultivariateNormal(shift, whole @ whole.T)
    th.testing.assert_close(log_density, normal.log_prob(x_1))
    assert th.det(whole).log() != pytest.approx(float(MATRIX.trace()), abs=0.05)  # the ODE's


@pytest.mark.parametrize("steps", [4, 16])
def test_entropy_is_that_of_the_drawn_points(steps):
    """
    Against an estimate from the spacings of the points alone (Vasicek; its error here is .02 for
    the target's own samples). The premise: the target's entropy is far away.
    """
    x_0 = noise(20_000, 1)
    x_1, log_density = FlowDensity(steps=steps, solver="euler").sample_and_log_prob(
        field(MIXTURE, Linear()), x_0
    )
    own = MIXTURE.sample(20_000, seed=1)
    target = -float(MIXTURE(own).mean())
    assert stats.differential_entropy(own.flatten()) == pytest.approx(target, abs=0.03)
    assert -float(log_density.mean()) == pytest.approx(
        stats.differential_entropy(x_1.flatten()), abs=0.03
    )
    assert -float(log_density.mean()) < target - (0.2 if steps == 4 else 0.05)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("solver", "steps"), [("euler", 4), ("heun", 3), ("ddim", 4)])
def test_density_integrates_to_one(dim, solver, steps):
    axis = th.linspace(-9, 9, 181 if dim == 2 else 2001, dtype=th.float64)
    grid = th.cartesian_prod(*[axis] * dim).view(-1, dim)
    law = FlowDensity("vp_cosine", steps, (0.1, 0.9), solver)
    log_density = law.log_prob(network(dim, seed=1)[1], grid)[1]
    assert log_density.exp().sum() * (axis[1] - axis[0]) ** dim == pytest.approx(1.0, abs=2e-4)


@every_interpolant
@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_backward_inverts_forward(interpolant, solver, divergence):
    stiff = isinstance(interpolant, VEGeometric)  # eight times the speed: long steps fold
    law = FlowDensity(interpolant, 16 if stiff else 4, (0.01, 1.0), solver, divergence)
    x_0 = noise(3, 20, 2)
    there = law.sample_and_log_prob(squashed(interpolant), x_0, seeded(1))
    back = law.log_prob(squashed(interpolant), there[0], seeded(1))
    th.testing.assert_close(back, (x_0, there[1]), rtol=1e-6, atol=1e-6)
    assert (there[0] - x_0).abs().mean() > 0.2


def test_a_point_that_cannot_be_drawn_is_nan():
    points = doubles(0.2, -0.3, 1.5, 0.1).view(2, 2)
    x_0, log_density = FlowDensity(steps=4, t_range=(0.01, 1.0), solver="euler").log_prob(
        squashed(Linear()), points
    )
    assert log_density.isnan().tolist() == [False, True]
    assert x_0.isnan().all(-1).tolist() == [False, True]


@pytest.mark.parametrize("rademacher", [True, False])
@pytest.mark.parametrize("n_probes", [1, 3])
@pytest.mark.parametrize("n_terms", [1, 2])
def test_hutchinson_is_unbiased_for_its_series(rademacher, n_probes, n_terms):
    n, steps = 20_000, 2
    law = FlowDensity(
        steps=steps, solver="euler", divergence=Hutchinson(n_probes, rademacher, n_terms)
    )
    x_0 = noise(1, 3).expand(n, 3)
    loss = gaussian_log_prob(x_0) - law.sample_and_log_prob(affine, x_0, seeded(0))[1]
    move = MATRIX / steps
    expected = steps * (move.trace() - (n_terms - 1) * (move @ move).trace() / 2)
    error = float(standard_error(loss))
    assert 0 < error < 0.05
    assert float(loss.mean()) == pytest.approx(float(expected), abs=4 * error)


def gaussian_log_prob(x):
    return SOURCES.resolve("gaussian", Source).log_prob(x)


def test_more_probes_spread_less():
    x_0 = noise(1, 3).expand(4000, 3)
    spread = [
        FlowDensity(steps=2, divergence=rule).sample_and_log_prob(affine, x_0, seeded(0))[1].std()
        for rule in (Hutchinson(), Hutchinson(4), Hutchinson(1, rademacher=False))
    ]
    assert spread[1] / spread[0] == pytest.approx(0.5, abs=0.05)
    assert spread[2] > 1.2 * spread[0]


def test_a_path_keeps_its_probes():
    """Fresh probes at each step would average out over many steps."""
    th.manual_seed(0)
    x_0 = noise(1, 3).expand(2000, 3)
    spread = [
        float(
            FlowDensity(steps=steps, divergence="hutchinson")
            .sample_and_log_prob(affine, x_0)[1]
            .std()
        )
        for steps in (8, 64)
    ]
    assert spread[1] == pytest.approx(spread[0], rel=0.2)


def test_no_graph_is_left_and_no_gradient_touched():
    net, velocity = network(2, seed=0)
    for parameter in net.parameters():
        parameter.grad = th.full_like(parameter, 7.0)
    x_0 = noise(5, 2).requires_grad_()
    results = [*FlowDensity(steps=3).sample_and_log_prob(velocity, x_0)]
    results += FlowDensity(steps=3, divergence="hutchinson").log_prob(velocity, x_0)
    assert not any(result.requires_grad for result in results)
    assert x_0.grad is None
    assert all((parameter.grad == 7.0).all() for parameter in net.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("mode", [th.no_grad, th.inference_mode])
def test_gradients_are_found_where_they_are_switched_off(mode):
    law = FlowDensity(steps=3)
    expected = law.sample_and_log_prob(affine, noise(5, 3))
    with mode():
        there = law.sample_and_log_prob(affine, noise(5, 3))
        back = law.log_prob(affine, there[0])
    th.testing.assert_close(there, expected)
    th.testing.assert_close(back[1], expected[1])


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_keeps_single_precision(divergence):
    law = FlowDensity("linear", 4, (0.01, 1.0), "euler", divergence)
    x_0 = noise(50, 2)
    single, double = (
        law.sample_and_log_prob(squashed(Linear()), x.to(dtype), seeded(1))
        for x, dtype in ((x_0, th.float32), (x_0, th.float64))
    )
    assert {part.dtype for part in single} == {th.float32}
    back = law.log_prob(squashed(Linear()), single[0], seeded(1))
    assert {part.dtype for part in back} == {th.float32}
    assert back[1].isfinite().all()
    if divergence == "exact":  # the other's probes differ
        assert (single[1] - double[1]).abs().max() < 1e-3
    assert (back[1] - single[1]).abs().max() < 1e-2


@pytest.mark.parametrize("name", sorted(SOURCES.factories))
def test_every_source(name):
    """At rest nothing changes but the scale of the start."""
    source = SOURCES.resolve(name, Source)
    x_0 = source.sample((6, 2), like=doubles(0.0), generator=seeded(0))
    law = FlowDensity("linear", 2, (0.2, 0.7), source=name)
    x, log_density = law.sample_and_log_prob(lambda x, t: 0 * x, x_0)
    th.testing.assert_close(x, 0.8 * x_0)
    th.testing.assert_close(log_density, source.log_prob(x_0) - 2 * math.log(0.8))


def test_a_stochastic_solver_is_taken_without_its_noise():
    ends = [
        FlowDensity("vp_cosine", 5, solver=solver).sample_and_log_prob(
            field(GAUSSIAN, VPCosine()), noise(4, 3)
        )
        for solver in ("ancestral", "ddim")
    ]
    th.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_a_floor_keeps_a_step_onto_a_wall_finite():
    """A prediction clamped at the wall lands on it from everywhere: S' = 0 in the last step."""

    def clamped(x, t):
        return ((9 + x).clamp(max=1.0) - x) / (1 - t)

    x_0 = noise(4, 2)
    values = {}
    for floor in (0.0, 0.05):
        law = FlowDensity(steps=1, solver="euler", divergence=ExactDivergence(floor))
        values[floor] = law.sample_and_log_prob(clamped, x_0)[1] - gaussian_log_prob(x_0)
    assert (values[0.0] == th.inf).all()
    assert values[0.05].tolist() == pytest.approx([2 * math.log(20)] * 4, abs=0.01)
    for divergence in (ExactDivergence(), ExactDivergence(0.05)):
        still = FlowDensity(steps=3, divergence=divergence).sample_and_log_prob(
            lambda x, t: 0 * x, x_0
        )[1]
        th.testing.assert_close(still, gaussian_log_prob(x_0))


def test_registry_names():
    pieces = {name: DIVERGENCES.resolve(name, Divergence) for name in DIVERGENCES.factories}
    assert pieces == {"exact": ExactDivergence(), "hutchinson": Hutchinson()}


@pytest.mark.parametrize(
    ("law", "velocity", "points", "error", "message"),
    [
        (FlowDensity(steps=0), affine, noise(2, 3), ValueError, "steps"),
        (FlowDensity(t_range=(0.5, 0.5)), affine, noise(2, 3), ValueError, "t_range"),
        (FlowDensity("cubic"), affine, noise(2, 3), ValueError, "interpolant .*linear"),
        (FlowDensity(solver="rk"), affine, noise(2, 3), ValueError, "solver .*heun"),
        (FlowDensity(divergence="trace"), affine, noise(2, 3), ValueError, "divergence .*exact"),
        (FlowDensity(divergence=ExactDivergence), affine, noise(2, 3), TypeError, "divergence"),
        (FlowDensity(source="cauchy"), affine, noise(2, 3), ValueError, "source .*gaussian"),
        (FlowDensity(), affine, [0.0], TypeError, "points must be a tensor"),
        (FlowDensity(), affine, th.zeros(2, 3, dtype=th.int64), ValueError, "points .*floating"),
        (FlowDensity(), affine, doubles(1.0)[0], ValueError, r"points .*\(\*S, D\)"),
        (FlowDensity(), lambda x, t: x[..., :1], noise(2, 3), ValueError, r"velocity .*\(2, 3\)"),
        (FlowDensity(), lambda x, t: x.float(), noise(2, 3), ValueError, "velocity .*float64"),
        (FlowDensity(), lambda x, t: th.ones_like(x), noise(2, 3), ValueError, "velocity .*graph"),
        (
            FlowDensity(t_range=(0.1, 1.0)),
            lambda x, t: posterior_mean(GAUSSIAN, x, t, n_particles=4).velocity,
            noise(2, 3),
            ValueError,
            "velocity .*autograd can differentiate",
        ),
    ],
)
def test_bad_arguments(law, velocity, points, error, message):
    for method in (law.sample_and_log_prob, law.log_prob):
        with pytest.raises(error, match=message):
            method(velocity, points)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (ExactDivergence, {"floor": -0.1}, "floor"),
        (ExactDivergence, {"floor": "low"}, "floor"),
        (Hutchinson, {"n_probes": 0}, "n_probes"),
        (Hutchinson, {"n_terms": 1.5}, "n_terms"),
    ],
)
def test_bad_divergences(make, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**arguments)
