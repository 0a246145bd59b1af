"""Updates of a model on given states and actions, and what it draws there."""

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.optimization import Info


def transitions(obs: th.Tensor, actions: th.Tensor) -> ReplayBufferSamples:
    """Transitions without reward that end where they begin."""
    zeros = th.zeros(len(actions), 1)
    return ReplayBufferSamples(obs, actions, obs, zeros, zeros)


def update_actor(model: FlowActorCritic, obs: th.Tensor, actions: th.Tensor) -> Info:
    """One update of the actor, as ``train`` makes it."""
    return model._update_actor(transitions(obs, actions))


def draw(model: FlowActorCritic, obs: th.Tensor, n: int, target: bool = False) -> th.Tensor:
    """Points of the policy that acts, or of the one that draws the critics' target: (n, B, D)."""
    actor = model.actor
    return actor.sample(actor.acting_velocity(actor.features(obs), target), n)
