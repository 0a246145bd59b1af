"""A population's update is each member's own, and its training is Stable-Baselines3's."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch as th
from environments import Bandit
from rows import ROWS

import sb3_rfm
from sb3_rfm.common import critic_gradients, hidden_layers
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.population import stacking
from sb3_rfm.population.population import Population
from sb3_rfm.sampling.numerics import importance, least_squares, truncated_normals

N, BATCH = 3, 16  # what is drawn has no other size that is a multiple of N


def members(
    name: str = "RFMFlow",
    observation: str = "vector",
    own: Sequence[dict[str, Any]] = ({},) * N,
    **changes: Any,
) -> list[FlowActorCritic]:
    """Members that have stored transitions and made no update; ``own`` is what differs."""
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
        kinds = {"vector": "MlpPolicy", "image": "CnnPolicy", "dict": "MultiInputPolicy"}
        env = Bandit(observation=observation)
        arguments = {**settings, **changes, **own[seed]}
        model = getattr(sb3_rfm, name)(kinds[observation], env, seed=seed, **arguments)
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


NARROW = {"net_arch": [16, 16]}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("RFMFlow", {}),
    ("RFMFlow", {"estimator": {"n_times": 1, "n_particles": 8}, "temperature": 0.1}),
    ("RFMFlow", {"flow": {"one_step": True}, "actor_update": {"average": 0.1}}),
    ("RFMFlow", {"critic_update": {"entropy": "hutchinson"}, "flow": {"solver": "heun"}}),
    ("RFMFlow", {"estimator": {"q_aggregation": "mean"}, "candidates": {"noise": 0.1}}),
    ("RFMFlow", {"flow": {"support": "tanh"}, "estimator": "diagonal_centred"}),
    ("RFMFlow", {"policy_kwargs": {**NARROW, "critic_kwargs": {"network": "simba"}}}),
    ("RFMFlow", {"policy_kwargs": {**NARROW, "critic_kwargs": {"layer_norm": False}}}),
    ("RFMFlow", {"policy_kwargs": {**NARROW, "share_features_extractor": True, "n_critics": 1}}),
    ("RFMFlow", {"policy_kwargs": {**NARROW, "normalize_observations": False}}),
    *[(name, {}) for name in ROWS if name not in ("RFMFlow", "DQS")],
    ("DQS", {"estimator": {"n_particles": 50}}),
    ("RFMFlow", {"observation": "dict"}),
    ("RFMFlow", {"observation": "image"}),
    ("RFMFlow", {"own": [{"gamma": 0.9}, {"gamma": 0.95, "learning_rate": 0.01}, {}]}),
    ("RFMFlow", {"own": [{"temperature": value} for value in (0.1, 1.0, 10.0)]}),
    ("RFMFlow", {"on_nan": "skip"}),
]


@pytest.fixture(params=["one by one", "vmap"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the CPU and as on a GPU."""
    if request.param == "vmap":
        modules = (critic_gradients, hidden_layers, importance, least_squares, truncated_normals)
        for module in (stacking, *modules):
            monkeypatch.setattr(module, "on_host", lambda tensor: False)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(("name", "changes"), KINDS, ids=str)
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


def test_one_members_bad_numbers_are_its_own() -> None:
    models = members(on_nan="skip")
    population = Population(models)
    before = [deepcopy(model.policy.state_dict()) for model in models]
    for batches in batches_of(models, 2):  # the first moves what starts at zero alone
        batches[1] = batches[1]._replace(rewards=batches[1].rewards * float("nan"))
        population.update(batches, with_actor=False)
    for index, (model, state) in enumerate(zip(models, before, strict=True)):
        after = model.policy.state_dict()
        moved = [not th.equal(state[key], after[key]) for key in state if "critic.qf0.0." in key]
        assert all(moved) != (index == 1)
        assert all(value.isfinite().all() for value in after.values())


def test_an_update_alone_goes_on_from_the_populations() -> None:
    models = members()
    population = Population(models)
    (batches,) = batches_of(models, 1)
    population.update(batches, with_actor=True)
    first = population.critic.parameters().__next__()
    before = first.detach().clone()
    models[1]._update(batches[1], with_actor=True)
    assert [not th.equal(a, b) for a, b in zip(before, first, strict=True)] == [False, True, False]
    population.update(batches, with_actor=True)  # its gradients are the population's again
    assert all(not th.equal(a, b) for a, b in zip(before, first, strict=True))


@pytest.mark.parametrize(
    ("own", "what"),
    [
        ({"batch_size": 8}, "batch_size of member 1"),
        ({"flow": {"steps": 2}}, "settings of member 1"),
        ({"temperature": 0.1}, "settings of member 1"),
        ({"tau": 0.1}, "tau of member 1"),
        ({"policy_kwargs": {"net_arch": [8]}}, "policy_kwargs of member 1"),
    ],
)
def test_refuses_members_that_differ(own: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Population(members(own=[{}, own, {}]))


def test_refuses_another_class_and_other_updates() -> None:
    with pytest.raises(ValueError, match="member 1"):
        Population([*members()[:1], *members("RFMDiffusion")[:1]])
    with pytest.raises(TypeError, match="not SAC, whose are Stable-Baselines3's"):
        Population([sb3_rfm.SAC("MlpPolicy", Bandit(), device="cpu")])  # type: ignore[list-item]


def test_refuses_running_statistics() -> None:
    models = members()
    for model in models:
        model.critic.add_module("extra", th.nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"BatchNorm \(critic.extra.running_mean\)"):
        Population(models)
