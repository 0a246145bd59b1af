"""A population's update is each member's own, and its training is Stable-Baselines3's."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch as th
from environments import Bandit

import sb3_rfm
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.population.population import Population

N, BATCH = 3, 16  # no other size below is a multiple of N


def members(name: str = "RFMFlow", **changes: Any) -> list[FlowActorCritic]:
    """Members that have stored transitions and made no update."""
    settings = {
        "policy_kwargs": {"net_arch": [16, 16]},
        "buffer_size": 200,
        "learning_starts": 40,
        "batch_size": BATCH,
        "device": "cpu",
        "bfloat16": False,
    }
    made = []
    for seed in range(N):
        model = getattr(sb3_rfm, name)("MlpPolicy", Bandit(), seed=seed, **{**settings, **changes})
        made.append(model.learn(40))
    return made


@contextmanager
def same_draws() -> Iterator[None]:
    """Random numbers that depend on the number of the call alone, the same for each member."""
    calls = itertools.count()

    def uniform(*shape: Any, **kwargs: Any) -> th.Tensor:
        sizes = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        axes = [axis for axis, size in enumerate(sizes) if size % N == 0 and size > 0]
        own = [max(1, size // N) if axis in axes else size for axis, size in enumerate(sizes)]
        drawn = np.random.default_rng(next(calls)).random(own)
        for axis in axes:
            drawn = np.concatenate([drawn] * N, axis)
        return th.as_tensor(drawn, dtype=kwargs.get("dtype") or th.float32)

    def normal(*shape: Any, **kwargs: Any) -> th.Tensor:
        return th.special.ndtri(uniform(*shape, **kwargs).clamp(1e-6, 1 - 1e-6))

    def exponential(tensor: th.Tensor) -> th.Tensor:
        return tensor.copy_(-uniform(tensor.shape).log())

    with (
        patch.object(th, "rand", uniform),
        patch.object(th, "randn", normal),
        patch.object(th, "rand_like", lambda x, **kw: uniform(x.shape, **{"dtype": x.dtype, **kw})),
        patch.object(th, "randn_like", lambda x, **kw: normal(x.shape, **{"dtype": x.dtype, **kw})),
        patch.object(th.Tensor, "exponential_", exponential),
    ):
        yield


def batches_of(models: list[FlowActorCritic], n: int) -> list[list[Any]]:
    return [[model.replay_buffer.sample(BATCH) for model in models] for _ in range(n)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "changes"),
    [("RFMFlow", {})],
    ids=str,
)
def test_an_update_is_each_members_own(name: str, changes: dict[str, Any]) -> None:
    models = members(name, **changes)
    alone = deepcopy([model.policy for model in models])
    batches = batches_of(models, 4)
    expected = []
    for index, model in enumerate(models):
        infos = []
        with same_draws():
            for step, each in enumerate(batches):
                infos.append(model._update(each[index], with_actor=step % 2 == 0))
        expected.append(infos)
    trained = [deepcopy(model.policy.state_dict()) for model in models]
    for model, policy in zip(models, alone, strict=True):
        model.policy = policy
        model._create_aliases()
    population = Population(models)
    with same_draws():
        got = [population.update(each, step % 2 == 0) for step, each in enumerate(batches)]
    for index, model in enumerate(models):
        for step, infos in enumerate(got):
            assert infos[index].keys() == expected[index][step].keys()
            for key, value in infos[index].items():
                own = expected[index][step][key]
                th.testing.assert_close(value, own, atol=1e-4, rtol=1e-3, msg=f"{step} {key}")
        for key, value in model.policy.state_dict().items():
            th.testing.assert_close(value, trained[index][key], atol=1e-4, rtol=1e-3, msg=key)
