"""
What each critic option costs, and what a choice among candidates costs SAC at each action.

    THP_MEM_ALLOC_ENABLE=1 .venv/bin/python benchmarks/speed/critics.py   # about half a minute

One thread, 17 observations, 6 actions, two critics; the minimum of interleaved repeats, in
milliseconds.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_rfm.algorithms.sac_policy import SACPolicy
from sb3_rfm.common.boltzmann import minimum_q
from sb3_rfm.common.critics import Critic
from sb3_rfm.common.policies import FlowPolicy

OBSERVATION, ACTION = spaces.Box(-1, 1, (17,), np.float32), spaces.Box(-1, 1, (6,), np.float32)
BATCH_SIZE, N_PARTICLES = 256, 16
CRITICS: dict[str, dict[str, Any]] = {
    "256, 256": {"critic_kwargs": {"layer_norm": False}},
    "layer_norm": {"critic_kwargs": {"layer_norm": True}},
    "GELU": {"critic_kwargs": {"layer_norm": False, "activation_fn": "GELU"}},
    "SimBa 128, 128": {"net_arch": [128, 128], "critic_kwargs": {"network": "simba"}},
    "SimBa 256, 256": {"critic_kwargs": {"network": "simba"}},
}
CANDIDATES = ((1, 1), (4, 32), (8, 32))


def fastest(work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Milliseconds of each piece of work, its quickest of interleaved repeats."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def particles(critic: Critic, obs: th.Tensor, actions: th.Tensor) -> None:
    with th.no_grad():
        minimum_q(critic, obs, actions)


def scores(critic: Critic, obs: th.Tensor, actions: th.Tensor) -> None:
    critic.value_and_action_gradient(obs, actions)


def gradient(critic: Critic, obs: th.Tensor, actions: th.Tensor) -> None:
    critic.zero_grad()
    sum(q.square().mean() for q in critic(obs, actions[0])).backward()


def main() -> None:
    th.set_num_threads(1)
    th.manual_seed(0)
    obs, actions = th.rand(BATCH_SIZE, 17), th.rand(N_PARTICLES, BATCH_SIZE, 6) * 2 - 1
    schedule = float
    work: dict[str, Callable[[], Any]] = {}
    for name, kwargs in CRITICS.items():
        critic = FlowPolicy(OBSERVATION, ACTION, schedule, **kwargs).critic
        work[f"{name}: {N_PARTICLES} particles"] = partial(particles, critic, obs, actions)
        work[f"{name}: their gradients"] = partial(scores, critic, obs, actions)
        work[f"{name}: gradient"] = partial(gradient, critic, obs, actions)
    times = fastest(work, 25)
    work = {}
    for explore, evaluate in CANDIDATES:
        counts = {"n_candidates": explore, "n_eval_candidates": evaluate}
        policy, one = SACPolicy(OBSERVATION, ACTION, schedule, **counts), OBSERVATION.sample()
        work[f"SAC {explore}: explore"] = partial(policy.predict, one)
        work[f"SAC {evaluate} (exploring {explore}): evaluate"] = partial(
            policy.predict, one, deterministic=True
        )
    for name, milliseconds in (times | fastest(work, 300)).items():
        print(f"{name:34}{milliseconds:8.2f}")


if __name__ == "__main__":
    main()
