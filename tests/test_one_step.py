"""The one-step policy: a network distilled from the flow, which acts in its place."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit

from sb3_rfm import SDAC, RFMDiffusion, RFMFlow
from sb3_rfm.common.algorithm import BoltzmannAlgorithm

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [32]},
    "buffer_size": 500,
    "learning_starts": 20,
    "batch_size": 64,
    "n_particles": 4,
    "n_candidates": 3,
    "n_training_candidates": 4,
    "n_eval_candidates": 4,
    "one_step_policy": True,
    "bfloat16": False,
    "seed": 0,
    "device": "cpu",
}


def small(algorithm: type[BoltzmannAlgorithm] = RFMFlow, **changes: Any) -> BoltzmannAlgorithm:
    return algorithm("MlpPolicy", Bandit(), **{**SMALL, **changes})


def calls(model: BoltzmannAlgorithm) -> Counter[str]:
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
        (RFMFlow, {"sampling_steps": 8}),
        (RFMFlow, {"solver": "heun", "parametrization": "velocity"}),
        (RFMDiffusion, {"sampling_steps": 8}),  # an ancestral solver: its noise is left out
    ],
)
def test_it_lands_where_the_flow_does(
    algorithm: type[BoltzmannAlgorithm], changes: dict[str, Any]
) -> None:
    model = small(algorithm, learning_rate=3e-3, temperature=1.0, **changes)
    obs, actions = th.rand(64, 3), 2 * th.rand(64, 2) - 1
    for _ in range(400):
        info = model.learner.update_actor(obs, actions)
    with th.no_grad():
        field, drawing = model.actor.field(obs), model.actor.drawing_field(obs)
        starts = model.actor.starts(field, 200)
        flow_ends = model.actor.ends(field, starts, model.actor.flow.solver.deterministic())
        ends = model.actor.ends(drawing, starts, drawing.flow.solver)
    spread = flow_ends.var(0).mean()
    assert spread > 0.02  # a premise: there is more to learn than a mean
    error = (ends.clamp(-1, 1) - flow_ends.clamp(-1, 1)).square().mean()
    assert error < 0.1 * spread
    assert info["rfm/distillation_loss"] < 0.2 * spread


def test_it_acts_and_draws_the_critics_target_in_one_evaluation() -> None:
    model = small(sampling_steps=5)
    counter, obs = calls(model), th.rand(6, 3)
    model.predict(np.zeros(3, np.float32), deterministic=True)
    model.predict(np.zeros(3, np.float32))
    assert counter == {"one_step_network": 2}
    with th.no_grad():
        model.learner.next_value(obs)
    assert counter == {"one_step_network": 3}
    model.learner.update_actor(obs, th.rand(6, 2))
    # the flow: five steps for the candidates, and the regression; the other: the distillation
    assert counter == {"one_step_network": 4, "network": 6}


def test_an_averaged_policy_follows_it() -> None:
    model = small(SDAC, policy_tau=0.25)
    with th.no_grad():
        for parameter in model.actor.drawing_network.parameters():
            parameter.add_(1.0)
    averaged, one_step = model.actor.averaged_network, model.actor.one_step_network
    assert averaged is not None
    assert one_step is not None
    model._average_policy()
    for slow, fast in zip(averaged.parameters(), one_step.parameters(), strict=True):
        th.testing.assert_close(slow, fast - 0.75)
    counter = calls(model)
    with th.no_grad():
        model.learner.next_value(th.rand(6, 3))
    assert counter == {"averaged_network": 1}


def test_it_is_trained_and_saved(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"examples": "replay", "estimator": "noise", "policy_delay": 1}
    model = small(**choices)  # nothing else needs candidates here
    before = {name: p.clone() for name, p in model.actor.one_step_network.named_parameters()}
    model.learn(40)
    assert all(
        not th.equal(before[name], p) for name, p in model.actor.one_step_network.named_parameters()
    )
    assert "rfm/distillation_loss" in model.logger.name_to_value
    model.save(tmp_path / "model")
    loaded = RFMFlow.load(tmp_path / "model")
    other = small(seed=3, **choices)
    other.load_weights(model.save_weights(tmp_path / "weights"))
    obs = np.random.default_rng(0).random((5, 3), dtype=np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    for copy in (loaded, other):
        assert np.array_equal(copy.predict(obs, deterministic=True)[0], expected)


def test_without_it_nothing_is_there() -> None:
    model = small(one_step_policy=False)
    assert model.actor.one_step_network is None
    assert model.actor.drawing_network is model.actor.network
    assert not any("one_step" in name for name in model.policy.state_dict())


@pytest.mark.parametrize("changes", [{"one_step_policy": 1}, {"entropy_backup": True}], ids=str)
def test_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one_step_policy must satisfy"):
        small(**changes)
