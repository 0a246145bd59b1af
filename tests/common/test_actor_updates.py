"""One update of the actor: what it evaluates, what it leaves alone and which error it squares."""

import math
from typing import Any

import pytest
import torch as th
from bandit_models import model
from updates import update_actor

from sb3_rfm.common.boltzmann import CriticLogDensity
from sb3_rfm.common.networks import FlowNetwork
from sb3_rfm.sampling import Data, Interpolant, Velocity


def test_estimation_leaves_gradients_alone() -> None:
    one = model(learning_starts=0, batch_size=4).learn(4)
    for parameter in one.critic.parameters():
        parameter.grad = th.full_like(parameter, 7.0)
    batch = one.replay_buffer.sample(4)
    one._update_actor(batch)
    assert all((parameter.grad == 7.0).all() for parameter in one.critic.parameters())


@pytest.mark.parametrize(
    ("changes", "critic", "target"),
    [
        ({}, 1, 0),
        ({"estimator": {"use_target_critic": True, "q_aggregation": "min"}}, 1, 1),
        (
            {
                "estimator": {
                    "use_target_critic": True,
                    "q_aggregation": "min",
                    "name": "noise_expectation",
                },
                "actor_update": {"x_t_from": "replay"},
                "temperature": 0.02,
            },
            0,
            1,
        ),
    ],
    ids=str,
)
def test_an_actors_update_extracts_features_once(
    changes: dict[str, Any], critic: int, target: int
) -> None:
    one = model(**changes)
    owners = {"actor": one.actor, "critic": one.critic, "target": one.critic_target}
    calls = dict.fromkeys(owners, 0)

    def counted(name: str) -> Any:
        def count(*_: Any) -> None:
            calls[name] += 1

        return count

    for name, owner in owners.items():
        owner.features_extractor.register_forward_hook(counted(name))
    update_actor(one, th.rand(8, 3), 2 * th.rand(8, 2) - 1)
    assert calls == {"actor": 1, "critic": critic, "target": target}


@pytest.mark.parametrize("estimator", ["bounded", "diagonal_centred", "noise_expectation"])
def test_times_of_a_state_share_evaluations(
    estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = "box" if estimator == "bounded" else "tanh"
    one = model(
        estimator={"name": estimator, "n_times": 4, "n_particles": 8}, flow={"support": support}
    )
    problems, points = [], []
    network, call = one.actor.network, CriticLogDensity.value_and_score

    def value_and_score(self: CriticLogDensity, x: th.Tensor) -> Any:
        points.append(x.shape[:-1])
        return call(self, x)

    monkeypatch.setattr(CriticLogDensity, "value_and_score", value_and_score)
    monkeypatch.setattr(CriticLogDensity, "__call__", lambda self, x: value_and_score(self, x)[0])
    network.register_forward_hook(lambda m, given, out: problems.append(given[1].shape))
    obs, actions = th.rand(32, 3), th.rand(32, 2)
    info = update_actor(one, obs, actions)
    assert problems[-1] == (4, 8, 2)  # as many points as transitions, of a quarter of the states
    assert all(value.isfinite().all() for value in info.values())
    # bounded: a gradient at the policy's mean, one for each time, and the particles of all times
    shared = [(1, 8), (1, 4, 8), (8, 8)]
    assert points == (shared if estimator == "bounded" else [(8, 4, 8)])


def test_loss_weighting_changes_the_error_that_is_squared() -> None:
    """
    A network that predicts data and is judged by velocity has the loss and the gradient of one that
    regresses velocity itself.
    """
    losses, gradients = [], []
    for parametrization, weighting in (("data", "velocity"), ("velocity", "uniform")):
        one = model(
            flow={"parametrization": parametrization},
            actor_update={"loss_weighting": weighting, "max_grad_norm": math.inf},
            learning_rate=0.0,
            bfloat16=False,
        )
        network = one.actor.network
        if parametrization == "velocity":
            one.actor.network = DataAsVelocity(network, one.actor.flow.interpolant)
        th.manual_seed(1)
        info = update_actor(one, th.rand(64, 3), th.zeros(64, 2))
        losses.append(info["train/actor_loss"])
        gradients.append(th.cat([p.grad.flatten() for p in network.parameters()]))
    plain = model(learning_rate=0.0, actor_update={"max_grad_norm": math.inf}, bfloat16=False)
    th.manual_seed(1)
    info = update_actor(plain, th.rand(64, 3), th.zeros(64, 2))
    assert info["train/actor_loss"] < 0.3 * losses[0]
    th.testing.assert_close(*losses, rtol=1e-3, atol=0)
    th.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3 * gradients[0].abs().max().item())


class DataAsVelocity(th.nn.Module):
    """A network that predicts data, its prediction carried to the velocity."""

    def __init__(self, network: FlowNetwork, interpolant: Interpolant) -> None:
        super().__init__()
        self.network, self.interpolant = network, interpolant
        self.condition = network.condition

    def forward(
        self, condition: th.Tensor, x: th.Tensor, t: th.Tensor, bfloat16: bool = False
    ) -> th.Tensor:
        c = self.interpolant(t.unsqueeze(-1))
        ends = Data().end_points(c, x, self.network(condition, x, t))
        return Velocity().target(c, ends)
