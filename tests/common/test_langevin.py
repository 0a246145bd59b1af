"""Adaptive Langevin dynamics: its limits, its stationary law, two steps by hand."""

import math
from copy import deepcopy
from typing import Any

import pytest
import torch as th

from sb3_rfm.common.langevin import AdaptiveLangevin, clipped

PLAIN: dict[str, Any] = {"drift": 0.0, "noise": 0.0, "max_grad_norm": None, "weight_decay": 0.0}


def optimizer(parameters: Any, **changes: Any) -> AdaptiveLangevin:
    return AdaptiveLangevin(parameters, **{**PLAIN, **changes})


def parameters(dtype: th.dtype = th.float32) -> list[th.Tensor]:
    generator = th.Generator().manual_seed(0)
    return [
        th.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in ((5, 3), (5,), (1, 5))
    ]


def descend(one: th.optim.Optimizer, thetas: list[th.Tensor], n_steps: int) -> list[th.Tensor]:
    """Steps along the gradient of a loss with hills and valleys."""
    for _ in range(n_steps):
        one.zero_grad()
        th.stack([theta.mul(3).sin().sum() for theta in thetas]).sum().backward()
        one.step()
    return thetas


@pytest.mark.parametrize(("curvature", "lr", "noise"), [(1.0, 0.5, 1.0), (4.0, 0.3, 0.7)])
def test_the_stationary_variance_on_a_parabola(curvature: float, lr: float, noise: float) -> None:
    """From the law's recursion: variance = (1 - lr b)² variance + 2 lr noise²."""
    th.manual_seed(0)
    n = 100_000
    theta = th.zeros(n, requires_grad=True)
    one = optimizer([theta], lr=lr, noise=noise)
    n_steps = 60
    assert abs(1 - lr * curvature) ** (2 * n_steps) < 1e-6  # a premise: the start is forgotten
    for _ in range(n_steps):
        theta.grad = curvature * theta.detach()
        one.step()
    variance = noise**2 / (curvature * (1 - lr * curvature / 2))
    assert abs(variance - noise**2 / curvature) > 0.2 * variance  # a premise: the step is seen
    theta = theta.detach()
    assert abs(theta.var().item() - variance) < 4 * variance * math.sqrt(2 / n)
    assert abs(theta.mean().item()) < 4 * math.sqrt(variance / n)
    assert (theta.abs() > 1.96 * math.sqrt(variance)).float().mean().item() == pytest.approx(
        0.05, abs=4 * math.sqrt(0.05 * 0.95 / n)
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_without_drift_and_noise_it_is_gradient_descent(weight_decay: float) -> None:
    own, theirs = parameters(), parameters()
    descend(optimizer(own, lr=0.1, weight_decay=weight_decay), own, 20)
    descend(th.optim.SGD(theirs, lr=0.1, weight_decay=weight_decay), theirs, 20)
    assert all(map(th.equal, own, theirs))
    assert not any(map(th.equal, own, parameters()))


def test_two_steps_by_hand() -> None:
    """Gradients 2 and -1 of theta = 1, with betas of 1/2 and 3/4 and eps of 1/2."""
    theta = th.ones(1, dtype=th.float64, requires_grad=True)
    one = optimizer([theta], lr=0.1, drift=1.0, betas=(0.5, 0.75), eps=0.5)
    theta.grad = th.full_like(theta, 2.0)
    one.step()  # m = 1, s = 1: the step is 2 + 1 / 1.5
    assert theta.item() == pytest.approx(1 - 0.1 * (2 + 2 / 3), abs=1e-14)
    theta.grad = th.full_like(theta, -1.0)
    one.step()  # m = 0, s = 1: no drift is left
    assert theta.item() == pytest.approx(1 - 0.1 * (2 + 2 / 3) + 0.1, abs=1e-14)
    assert one.state[theta]["exp_avg"].item() == 0
    assert one.state[theta]["exp_avg_sq"].item() == 1


def test_the_papers_first_steps_by_hand() -> None:
    """Drifts of g / sqrt(.001) / 10 and of 1.9 g / sqrt(.001 + .000999) / 10: no correction."""
    theta = th.zeros(1, dtype=th.float64, requires_grad=True)
    one = AdaptiveLangevin([theta], noise=0.0, eps=1e-30, weight_decay=0.0)
    theta.grad = th.full_like(theta, 0.5)
    one.step()
    first = -1e-3 * (0.5 + math.sqrt(10))
    assert theta.item() == pytest.approx(first, rel=1e-12)
    one.step()
    assert theta.item() == pytest.approx(
        first - 1e-3 * (0.5 + 0.19 / math.sqrt(0.001999)), rel=1e-12
    )


def test_weight_decay_is_a_gradient_and_enters_the_moments() -> None:
    theta = th.tensor([2.0, -1.0], dtype=th.float64, requires_grad=True)
    plain = theta.detach().clone().requires_grad_()
    one = optimizer([theta], drift=1.0, weight_decay=0.25)
    other = optimizer([plain], drift=1.0)
    theta.grad, plain.grad = th.zeros_like(theta), th.tensor([0.5, -0.25], dtype=th.float64)
    one.step()
    other.step()
    assert th.equal(theta, plain)


def test_gradients_are_shortened_to_the_norm_and_no_others_are() -> None:
    start = parameters(th.float64)
    for scale, is_shortened in ((0.5, False), (3.0, True)):
        thetas = parameters(th.float64)
        gradients = [th.ones_like(theta) * scale / 5 for theta in thetas]  # 25 numbers
        for theta, gradient in zip(thetas, gradients, strict=True):
            theta.grad = gradient.clone()
        optimizer(thetas, lr=0.1, max_grad_norm=0.7).step()
        moved = th.cat([(a - b).flatten() for a, b in zip(start, thetas, strict=True)])
        assert moved.norm().item() == pytest.approx(0.1 * (0.7 if is_shortened else scale))
        assert th.allclose(moved, moved[0].expand(25))  # by one factor
        assert all(th.equal(t.grad, g) for t, g in zip(thetas, gradients, strict=True))


def test_no_gradient_at_all_is_not_divided_by() -> None:
    assert th.equal(clipped([th.zeros(3)], 0.7)[0], th.zeros(3))


def test_each_group_is_shortened_by_itself_and_has_its_own_arguments() -> None:
    one, two, unused = (th.zeros(1, requires_grad=True) for _ in range(3))
    both = optimizer(
        [{"params": [one]}, {"params": [two, unused], "max_grad_norm": 2.0, "lr": 1.0}],
        lr=0.5,
        max_grad_norm=1.0,
    )
    one.grad, two.grad = th.full((1,), 4.0), th.full((1,), 4.0)
    both.step()
    assert (one.item(), two.item(), unused.item()) == (-0.5, -2.0, 0.0)
    assert unused not in both.state


def test_noise_is_of_the_global_generator() -> None:
    moved = []
    for seed in (0, 0, 1):
        theta = th.zeros(50_000, requires_grad=True)
        theta.grad = th.zeros_like(theta)
        th.manual_seed(seed)
        optimizer([theta], lr=0.02, noise=3.0).step()
        moved.append(theta.detach())
    assert th.equal(moved[0], moved[1])
    assert not th.equal(moved[0], moved[2])
    deviation = 3 * math.sqrt(2 * 0.02)
    assert moved[0].std().item() == pytest.approx(deviation, rel=4 / math.sqrt(2 * 50_000))


def test_it_goes_on_from_its_state() -> None:
    own, others = parameters(), parameters()
    changes: dict[str, Any] = {"drift": 0.7, "noise": 1e-3, "weight_decay": 0.01}
    one = optimizer(own, lr=0.01, **changes)
    descend(one, own, 5)
    saved, at = deepcopy(one.state_dict()), [theta.detach().clone() for theta in own]
    two = AdaptiveLangevin(others)  # which has other arguments, until it is given these
    with th.no_grad():
        for theta, value in zip(others, at, strict=True):
            theta.copy_(value)
    two.load_state_dict(saved)
    assert two.param_groups[0]["drift"] == 0.7
    for optimized, thetas in ((one, own), (two, others)):
        th.manual_seed(1)
        descend(optimized, thetas, 5)
    assert all(map(th.equal, own, others))


def test_a_closure_gives_the_loss() -> None:
    theta = th.ones(1, requires_grad=True)
    one = optimizer([theta], lr=0.5)

    def loss() -> th.Tensor:
        one.zero_grad()
        value = theta.square().sum()
        value.backward()
        return value

    assert one.step(loss).item() == 1
    assert theta.item() == 0


@pytest.mark.parametrize(
    ("name", "got", "error"),
    [
        ("lr", -1e-3, ValueError),
        ("lr", math.nan, ValueError),
        ("lr", "fast", TypeError),
        ("drift", -1.0, ValueError),
        ("drift", True, TypeError),
        ("noise", -1e-8, ValueError),
        ("noise", math.inf, ValueError),
        ("betas", (0.9, 1.0), ValueError),
        ("betas", (-0.1, 0.9), ValueError),
        ("betas", 0.9, TypeError),
        ("betas", (0.9,), TypeError),
        ("betas", ("a", 0.9), TypeError),
        ("eps", 0.0, ValueError),
        ("eps", None, TypeError),
        ("max_grad_norm", 0.0, ValueError),
        ("max_grad_norm", -0.7, ValueError),
        ("max_grad_norm", "0.7", TypeError),
        ("weight_decay", -1e-4, ValueError),
        ("weight_decay", [0.1], TypeError),
    ],
)
def test_refuses_arguments(name: str, got: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name} must .*; got "):
        AdaptiveLangevin(parameters(), **{name: got})
    with pytest.raises(error, match=rf"^{name} must .*; got "):
        AdaptiveLangevin([{"params": parameters(), name: got}])
