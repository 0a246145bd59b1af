"""The temperature: its rules, its estimate of the entropy, and how it is tuned."""

import math

import numpy as np
import pytest
import torch as th
from bandit_models import fit_critic, one_dimensional, trained
from environments import Bandit

from sb3_rfm import RFMFlow
from sb3_rfm.common.optimization import gradient_step, set_learning_rate
from sb3_rfm.common.temperature import DUAL_RATE, Temperature, gaussian_entropy, parse_temperature


def test_temperature_rules() -> None:
    assert parse_temperature(0.3)(0.5) == 0.3
    assert parse_temperature("lin_0.4")(0.25) == pytest.approx(0.1)
    assert parse_temperature("lin_0.4")(0.0) > 0
    assert parse_temperature(lambda progress: 1 + progress)(0.5) == 1.5
    assert parse_temperature("auto").tuned
    assert parse_temperature("auto_0.7").value == 0.7
    for wrong in (
        "auto_x",
        "auto_-1",
        "lin",
        "lin_0",
        "none",
        0,
        -1.0,
        math.inf,
        True,
        None,
    ):
        with pytest.raises((ValueError, TypeError), match="temperature"):
            parse_temperature(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_samples", [2, 5, 50])
def test_gaussian_entropy_is_unbiased_for_normal_samples(n_samples: int) -> None:
    th.manual_seed(0)
    scale, batch = th.tensor([0.05, 0.4]), 20_000
    estimate = gaussian_entropy(scale * th.randn(n_samples, batch, 2))
    exact = (0.5 * math.log(2 * math.pi * math.e) + scale.log()).sum()
    # variance of log chi² with n - 1 degrees of freedom: trigamma((n - 1) / 2); halved;
    # two coordinates
    error = math.sqrt(
        2 * 0.25 * th.special.polygamma(1, th.tensor((n_samples - 1) / 2)).item() / batch
    )
    assert abs(estimate - exact) < 4 * error < 0.1


def test_tuning_moves_the_temperature_in_proportion_and_never_far() -> None:
    temperature = Temperature(0.1)
    for excess, factor in (
        (1.0, 0.999),
        (-1.0, 1.001),
        (0.1, 0.9999),
        (1e6, 0.997),
        (-1e6, 1.003),
        (math.nan, 1.0),
        (math.inf, 1.0),
    ):
        temperature.assign(0.1)
        optimizer = th.optim.SGD(temperature.parameters(), DUAL_RATE)
        gradient_step(optimizer, temperature.dual_loss(th.tensor(excess - 2.0), -2.0))
        assert temperature().item() == pytest.approx(0.1 * factor, rel=1e-5)


@pytest.mark.parametrize("unit", [1e-3, pytest.param(1e2, marks=pytest.mark.slow)])
def test_auto_temperature_reaches_its_entropy_in_every_unit_of_return(unit: float) -> None:
    """With a fixed critic it makes the candidates' entropy the target."""
    one = one_dimensional(temperature="auto", target_entropy=-1.0, candidates={"n": 8})
    set_learning_rate(one.temperature_optimizer, 20 * DUAL_RATE)
    fit_critic(one)
    with th.no_grad():
        for net in one.critic.q_networks:
            net[-1].weight.mul_(unit)
            net[-1].bias.mul_(unit)
    trained(one, 900)
    entropy = np.mean([trained(one, 1)["rfm/entropy"].item() for _ in range(50)])
    assert entropy == pytest.approx(-1.0, abs=0.15)


def test_a_tuned_temperature_needs_two_candidates_of_the_actors_update_alone() -> None:
    one = RFMFlow("MlpPolicy", Bandit(), buffer_size=10, candidates={"n": 1})
    assert (one.actor.candidates.n, one.settings.n_training_candidates) == (1, 2)
    with pytest.raises(ValueError, match=r"candidates\.train must .*at least 2.*; got 1"):
        RFMFlow("MlpPolicy", Bandit(), candidates={"train": 1})
    constant = RFMFlow("MlpPolicy", Bandit(), buffer_size=10, candidates={"n": 1}, temperature=0.1)
    assert constant.method.n_training_candidates == 1


def test_a_tuned_temperature_moves_with_the_unit_of_values() -> None:
    for temperature, moves in (("auto", True), (0.5, False)):
        one = RFMFlow("MlpPolicy", Bandit(), learning_starts=5, temperature=temperature).learn(10)
        before, unit = one.temperature, one.critic.unit.item()
        batch = one.replay_buffer.sample(8)
        one._update_critic(batch._replace(rewards=1e6 + batch.rewards))
        factor = one.critic.unit.item() / unit
        assert factor > 1.1
        assert one.temperature == pytest.approx(before * (factor if moves else 1.0), rel=1e-4)
