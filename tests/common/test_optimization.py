"""Optimizers and averaged networks."""

from typing import Any

import pytest
import torch as th
from stable_baselines3.common.utils import polyak_update

from sb3_rfm.common.optimization import make_optimizer, move_towards


def tensors(seed: int) -> list[th.Tensor]:
    generator = th.Generator().manual_seed(seed)
    return [th.randn(shape, generator=generator) for shape in ((5, 3), (5,), (1, 5))]


def after_steps(optimizer_class: type[th.optim.Optimizer], **arguments: Any) -> list[th.Tensor]:
    parameters = [t.requires_grad_() for t in tensors(0)]
    optimizer = make_optimizer(optimizer_class, parameters, 0.1, arguments)
    for seed in range(1, 6):
        for parameter, gradient in zip(parameters, tensors(seed), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return parameters


@pytest.mark.parametrize("optimizer_class", [th.optim.Adam, th.optim.AdamW])
def test_a_fused_step_is_the_plain_step(optimizer_class: type[th.optim.Optimizer]) -> None:
    arguments = {"betas": (0.7, 0.9), "weight_decay": 0.1}
    optimizer = make_optimizer(optimizer_class, tensors(0), 0.1, arguments)
    assert optimizer.defaults["fused"]
    plain = after_steps(optimizer_class, foreach=False, **arguments)
    th.testing.assert_close(after_steps(optimizer_class, **arguments), plain)


@pytest.mark.parametrize("implementation", ["foreach", "fused", "differentiable"])
@pytest.mark.parametrize("value", [True, False])
def test_an_implementation_that_is_asked_for_is_kept(implementation: str, value: bool) -> None:
    optimizer = make_optimizer(th.optim.Adam, tensors(0), 0.1, {implementation: value})
    assert optimizer.defaults[implementation] is value
    assert implementation == "fused" or not optimizer.defaults["fused"]


@pytest.mark.parametrize("optimizer_class", [th.optim.RMSprop, th.optim.SGD, th.optim.Adagrad])
def test_other_optimizers_get_their_own_arguments(
    optimizer_class: type[th.optim.Optimizer],
) -> None:
    optimizer = make_optimizer(optimizer_class, tensors(0), 0.3, {})
    assert optimizer.defaults == optimizer_class(tensors(0), lr=0.3).defaults


@pytest.mark.parametrize("tau", [0.0, 0.005, 0.7])
def test_polyak_averaging_is_stable_baselines3s(tau: float) -> None:
    averages, theirs = tensors(0), tensors(0)
    move_towards(averages, iter(tensors(1)), tau)
    polyak_update(tensors(1), theirs, tau)
    th.testing.assert_close(averages, theirs)


def test_a_step_of_one_copies_exactly() -> None:
    averages = tensors(0)
    move_towards(averages, tensors(1), 1.0)
    assert all(map(th.equal, averages, tensors(1)))


def test_averages_of_nothing() -> None:
    move_towards([], [], 0.1)
    with pytest.raises(AssertionError):
        move_towards(tensors(0), tensors(1)[:2], 0.1)
