"""Small models on one-step environments, their critics fitted or drawn."""

from typing import Any

import numpy as np
import torch as th
from environments import Bandit, draw_values
from gymnasium import spaces
from updates import update_actor

from sb3_rfm import RFMFlow
from sb3_rfm.common.algorithm import FlowActorCritic


def model(algorithm: type[FlowActorCritic] = RFMFlow, **changes: Any) -> FlowActorCritic:
    """A model of two actions whose critics differ between actions."""
    arguments: dict[str, Any] = {
        "buffer_size": 10,
        "device": "cpu",
        "seed": 0,
        "policy_kwargs": {"net_arch": [32, 32]},
    }
    one = algorithm("MlpPolicy", Bandit(), **{**arguments, **changes})
    draw_values(one.critic, one.critic_target)
    return one


def one_dimensional(algorithm: type[FlowActorCritic] = RFMFlow, **changes: Any) -> FlowActorCritic:
    """A model of one action in [-1, 1] that learns fast."""
    settings = {"learning_rate": 3e-3, "temperature": 0.1, "bfloat16": False, "seed": 0, **changes}
    env = Bandit(spaces.Box(-1, 1, (1,), np.float32))
    return algorithm(
        "MlpPolicy",
        env,
        buffer_size=10,
        device="cpu",
        policy_kwargs={"net_arch": [32, 32]},
        **settings,
    )


def trained(one: FlowActorCritic, updates: int) -> dict[str, th.Tensor]:
    """Actor updates at one state, the critic as it is."""
    obs = th.zeros(64, 3)
    for _ in range(updates):
        info = update_actor(one, obs, th.zeros(64, 1))
    return info


def fit_critic(one: FlowActorCritic) -> None:
    """Regress the critics on an asymmetric Q at the zero observation."""
    optimizer = th.optim.Adam(one.critic.parameters(), 3e-3)
    actions = th.linspace(-1, 1, 256).view(-1, 1)
    target = -1.2 * (actions - 0.4).square() + 0.3 * actions.pow(3)
    for _ in range(300):
        loss = sum((q - target).square().mean() for q in one.critic(th.zeros(256, 3), actions))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
