"""The one-step policy: a network distilled from the flow, which acts in its place."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from updates import update_actor

from sb3_rfm import SDAC, RFMDiffusion, RFMFlow
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.critic_losses import next_value
from sb3_rfm.experiments.hyperparams import merged

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [32]},
    "buffer_size": 500,
    "learning_starts": 20,
    "batch_size": 64,
    "estimator": {"n_particles": 4},
    "candidates": {"n": 3, "train": 4, "evaluate": 4},
    "flow": {"one_step": True},
    "bfloat16": False,
    "seed": 0,
    "device": "cpu",
}


def small(algorithm: type[FlowActorCritic] = RFMFlow, **changes: Any) -> FlowActorCritic:
    return algorithm("MlpPolicy", Bandit(), **merged(SMALL, changes))


def calls(model: FlowActorCritic) -> Counter[str]:
    """Counts how often each of the actor's networks is evaluated from here on."""
    counter: Counter[str] = Counter()
    for name in ("network", "one_step_network", "averaged_network"):
        network = getattr(model.actor, name)
        if network is not None:
            network.register_forward_hook(lambda *_, name=name: counter.update([name]))
    return counter


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        (RFMFlow, {"flow": {"steps": 8}}),
        (RFMFlow, {"flow": {"solver": "heun", "parametrization": "velocity"}}),
        (RFMDiffusion, {"flow": {"steps": 8}}),  # an ancestral solver: its noise is left out
    ],
)
def test_it_lands_where_the_flow_does(
    algorithm: type[FlowActorCritic], changes: dict[str, Any]
) -> None:
    model = small(algorithm, learning_rate=3e-3, temperature=1.0, **changes)
    obs, actions = th.rand(64, 3), 2 * th.rand(64, 2) - 1
    for _ in range(400):
        info = update_actor(model, obs, actions)
    with th.no_grad():
        features = model.actor.features(obs)
        velocity, acting = model.actor.velocity(features), model.actor.acting_velocity(features)
        noise = model.actor.sample_noise(velocity.condition, 200)
        flow_ends = velocity.integrate(noise, velocity.flow.solver.deterministic())
        ends = acting.integrate(noise)
    spread = flow_ends.var(0).mean()
    assert spread > 0.02  # a premise: there is more to learn than a mean
    error = (ends.clamp(-1, 1) - flow_ends.clamp(-1, 1)).square().mean()
    assert error < 0.1 * spread
    assert info["rfm/distillation_loss"] < 0.2 * spread


def test_it_acts_and_draws_the_critics_target_in_one_evaluation() -> None:
    model = small(flow={"steps": 5})
    counter, obs = calls(model), th.rand(6, 3)
    model.predict(np.zeros(3, np.float32), deterministic=True)
    model.predict(np.zeros(3, np.float32))
    assert counter == {"one_step_network": 2}
    with th.no_grad():
        next_value(model.policy, model.method, obs)
    assert counter == {"one_step_network": 3}
    update_actor(model, obs, th.rand(6, 2))
    # the flow: five steps for the candidates, and the regression; the other: the distillation
    assert counter == {"one_step_network": 4, "network": 6}


def test_an_averaged_policy_follows_it() -> None:
    model = small(SDAC, actor_update={"average": 0.25})
    with th.no_grad():
        for parameter in model.actor.acting_network.parameters():
            parameter.add_(1.0)
    averaged, one_step = model.actor.averaged_network, model.actor.one_step_network
    assert averaged is not None
    assert one_step is not None
    model._average_policy()
    for slow, fast in zip(averaged.parameters(), one_step.parameters(), strict=True):
        th.testing.assert_close(slow, fast - 0.75)
    counter = calls(model)
    with th.no_grad():
        next_value(model.policy, model.method, th.rand(6, 3))
    assert counter == {"averaged_network": 1}


def test_it_is_trained_and_saved(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "actor_update": {"x_t_from": "replay", "every": 1},
        "estimator": "noise_expectation",
    }
    model = small(**settings)  # nothing else needs candidates here
    before = {name: p.clone() for name, p in model.actor.one_step_network.named_parameters()}
    model.learn(40)
    assert all(
        not th.equal(before[name], p) for name, p in model.actor.one_step_network.named_parameters()
    )
    assert "rfm/distillation_loss" in model.logger.name_to_value
    model.save(tmp_path / "model")
    loaded = RFMFlow.load(tmp_path / "model")
    other = small(seed=3, **settings)
    other.load_weights(model.save_weights(tmp_path / "weights"))
    obs = np.random.default_rng(0).random((5, 3), dtype=np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    for copy in (loaded, other):
        assert np.array_equal(copy.predict(obs, deterministic=True)[0], expected)


def test_without_it_nothing_is_there() -> None:
    model = small(flow={"one_step": False})
    assert model.actor.one_step_network is None
    assert model.actor.acting_network is model.actor.network
    assert not any("one_step" in name for name in model.policy.state_dict())


@pytest.mark.parametrize(
    "changes", [{"flow": {"one_step": 1}}, {"critic_update": {"entropy": True}}], ids=str
)
def test_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"flow\.one_step must satisfy"):
        small(**changes)
