"""
What a GPU needs of an update, checked without one: fake tensors hold no values, so whatever asks
for one (a branch, ``item``, a shape that depends on values) raises. On a GPU that would wait for
all the work before it. What this cannot see is a library routine that waits by itself.
"""

from copy import deepcopy
from typing import Any

import pytest
import torch as th
from environments import Bandit
from rows import ROWS
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
)

import sb3_rfm
from sb3_rfm.common import critic_gradients, hidden_layers
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.sampling.numerics import importance, least_squares, truncated_normals
from sb3_rfm.sampling.numerics.importance import effective_sample_size

LAYER_NORM = {"net_arch": [16, 16], "critic_kwargs": {"layer_norm": True}}
ASKS = (DataDependentOutputException, DynamicOutputShapeException)


def off_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tensors computed with as on a GPU."""
    for module in (critic_gradients, hidden_layers, importance, least_squares, truncated_normals):
        monkeypatch.setattr(module, "on_host", lambda tensor: False)
    monkeypatch.delattr(th.linalg, "eigh")  # it waits for its own error code


def model(name: str = "RFMFlow", **changes: Any) -> FlowActorCritic:
    settings = {"policy_kwargs": {"net_arch": [16, 16]}, "device": "cpu", "buffer_size": 100}
    return getattr(sb3_rfm, name)("MlpPolicy", Bandit(), **{**settings, **changes})


def update(one: FlowActorCritic) -> None:
    """An update of critic and actor on a batch of 32."""
    obs, actions = th.rand(32, 3), 2 * th.rand(32, 2) - 1
    zeros = th.zeros(32, 1)
    data = ReplayBufferSamples(obs, actions, th.rand(32, 3), zeros, th.rand(32, 1), None)
    one._update_critic(data)
    one._update_actor(data)


def without_values(one: FlowActorCritic) -> None:
    """The same update on tensors that have shapes and no values."""
    update(one)  # what is computed once and kept is computed here
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        policy = deepcopy(one.policy)
    with mode:
        actor, critic = policy.actor, policy.critic
        actor.optimizer = th.optim.Adam(actor.flow_parameters(), fused=True)
        critic.optimizer = th.optim.Adam(critic.parameters(), fused=True)
        one.policy = policy
        one._create_aliases()
        one.temperature_optimizer = th.optim.SGD(actor.temperature.parameters(), 0.1)
        update(one)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("RFMFlow", {}),
        ("RFMFlow", {"estimator": {"n_times": 2, "n_particles": 8}, "candidates": {"train": 8}}),
        (
            "RFMFlow",
            {"flow": {"one_step": True}, "actor_update": {"average": 0.1}, "temperature": "auto"},
        ),
        (
            "RFMFlow",
            {
                "critic_update": {"entropy": "hutchinson"},
                "flow": {"solver": "heun"},
                "estimator": {"q_aggregation": "mean"},
            },
        ),
        ("RFMFlow", {"policy_kwargs": LAYER_NORM}),
        ("RFMFlow", {"flow": {"support": "tanh"}, "estimator": "diagonal_centred"}),
        ("RFMFlow", {"policy_kwargs": {"net_arch": [16], "normalize_observations": True}}),
        *((name, {}) for name in ROWS),
    ],
    ids=str,
)
def test_an_update_asks_for_no_value(
    name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    off_host(monkeypatch)
    without_values(model(name, **changes))


@pytest.mark.parametrize("module", [critic_gradients, truncated_normals])
def test_on_the_cpu_it_does(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test before can fail: each of the shortcuts that the CPU takes is seen by it."""
    off_host(monkeypatch)
    monkeypatch.setattr(module, "on_host", lambda tensor: True)
    monkeypatch.setattr(critic_gradients, "FEWEST_SORTED", 1)
    with pytest.raises(ASKS):
        without_values(model())


@pytest.mark.parametrize("bfloat16", [False, True])
def test_both_ways_give_the_same_gradient(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    one = model(policy_kwargs={**LAYER_NORM, "n_critics": 3})
    features, actions = th.rand(50, 3), 2 * th.rand(7, 50, 2) - 1
    arguments = (features, actions, False, bfloat16)
    monkeypatch.setattr(critic_gradients, "FEWEST_SORTED", 1)
    value, gradient = one.critic.value_and_action_gradient(*arguments)
    off_host(monkeypatch)
    again, other = one.critic.value_and_action_gradient(*arguments)
    # in bfloat16 a GPU's LayerNorm gives float32: its values and ranks differ by rounding
    tolerance = {"atol": 0.02, "rtol": 0.02} if bfloat16 else {"atol": 1e-6, "rtol": 1e-5}
    th.testing.assert_close(value, again, **tolerance)
    th.testing.assert_close(gradient, other, **tolerance)


@pytest.mark.parametrize("dim", [1, 3, 7])
@pytest.mark.parametrize("n_samples", [4, 50])
def test_both_ways_give_the_same_slopes(
    dim: int, n_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = th.Generator().manual_seed(dim)
    kwargs: dict[str, Any] = {"generator": generator, "dtype": th.float64}
    log_w = th.randn(n_samples, 5, **kwargs)
    regressors = th.randn(n_samples, 5, dim, **kwargs)
    responses = regressors @ th.randn(dim, 2, **kwargs) + th.randn(n_samples, 5, 2, **kwargs)
    sizes = effective_sample_size(log_w)
    arguments = (th.softmax(log_w, 0), regressors, responses, sizes)
    slopes = least_squares.cross_slopes(*arguments)
    off_host(monkeypatch)
    th.testing.assert_close(least_squares.cross_slopes(*arguments), slopes)
