"""The actor learns the Boltzmann law of its critic."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch as th
from bandit_models import fit_critic, one_dimensional, trained
from updates import draw

from sb3_rfm import RFMDiffusion, RFMFlow
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.boltzmann import minimum_q
from sb3_rfm.common.critic_losses import next_value
from sb3_rfm.common.groups import ENTROPY_FLOOR
from sb3_rfm.common.networks import FlowNetwork
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.sampling import Heun
from sb3_rfm.sampling.divergences import ExactDivergence


def slow_case(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


# The defaults save both: two steps draw a quarter of this law's spread, and mix x_t from it.
LEARN_THE_LAW = {
    "estimator": {"n_particles": 32},
    "candidates": {"n": 4},
    "flow": {"steps": 8, "time_shift": 4.0},
}


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        (RFMFlow, LEARN_THE_LAW),
        slow_case(RFMFlow, merged(LEARN_THE_LAW, {"flow.parametrization": "velocity"})),
        # long first steps would amplify the errors at small t that this weighting leaves
        slow_case(
            RFMFlow,
            merged(
                LEARN_THE_LAW,
                {"actor_update.loss_weighting": "velocity", "flow.time_shift": 1.0},
            ),
        ),
        slow_case(
            RFMFlow,
            merged(
                LEARN_THE_LAW,
                {"estimator": {"name": "bounded", "n_times": 1, "n_particles": 16}},
            ),
        ),
        slow_case(
            RFMFlow,
            {
                "flow": {"support": "tanh", "parametrization": "velocity", "steps": 4},
                "estimator": {"name": "noise_expectation", "n_particles": 256, "n_times": 1},
            },
        ),
        (RFMDiffusion, {}),
        slow_case(RFMDiffusion, {"flow": {"parametrization": "noise"}}),
    ],
    ids=str,
)
def test_actor_learns_the_boltzmann_law(
    algorithm: type[FlowActorCritic], changes: dict[str, Any]
) -> None:
    """
    Mean and spread of the flow's samples are those of exp(Q / lambda) by quadrature, for a tilted
    bowl of a critic.
    """
    one = one_dimensional(algorithm, **changes)
    fit_critic(one)
    trained(one, 900)
    one.actor.network = averaged(one, 200)
    grid = th.linspace(-1, 1, 2001)
    q = minimum_q(one.critic, th.zeros(1, 3), grid.view(-1, 1, 1))[:, 0].detach()
    weights = th.softmax(q / 0.1, 0)
    mean = (weights * grid).sum()
    std = (weights * (grid - mean).square()).sum().sqrt()
    assert abs(mean) > 0.15  # premises: off centre,
    assert 0.1 < std < 0.4  # and neither a point nor uniform (.58)
    one.actor.flow = dataclasses.replace(
        one.actor.flow, solver=Heun(), steps=20, time_shift=1.0
    )  # no error of few steps
    with th.no_grad():
        points = draw(one, th.zeros(1, 3), 4096)
    actions = one.actor.flow.support.to_action(points).flatten()
    # the rest is the network's own error; twice the temperature would widen the law by 1.4
    assert actions.mean() == pytest.approx(mean.item(), abs=0.25 * std.item())
    assert actions.std() == pytest.approx(std.item(), rel=0.25)
    # the soft value of the Boltzmann law is the largest there is
    one.critic_target.load_state_dict(one.critic.state_dict())
    with th.no_grad():
        soft = dataclasses.replace(one.method, divergence=ExactDivergence(ENTROPY_FLOOR))
        value, info = next_value(one.policy, soft, th.zeros(512, 3))
    largest = 0.1 * (th.logsumexp(q / 0.1, 0) + math.log(2 / 2000))
    assert -0.3 < info["rfm/policy_entropy"] < 0.3
    assert largest - 0.02 < value.mean() < largest + 0.004


def averaged(one: FlowActorCritic, updates: int) -> FlowNetwork:
    """
    The network averaged over more updates: single iterates wander with the noise of their targets.
    """
    mean = copy.deepcopy(one.actor.network)
    for count in range(1, updates + 1):
        trained(one, 1)
        for total, parameter in zip(mean.parameters(), one.actor.network.parameters(), strict=True):
            total.data.lerp_(parameter.data, 1 / count)
    return mean
