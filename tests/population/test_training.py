"""Members that learn side by side: each as by itself, whatever becomes of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from stable_baselines3.common.callbacks import BaseCallback

from sb3_rfm import RFMFlow, train_population
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.population import training
from sb3_rfm.population.population import Population
from sb3_rfm.population.training import MembersFailedError

STEPS = 60
SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16, 16]},
    "buffer_size": 200,
    "learning_starts": 20,
    "batch_size": 8,
    "device": "cpu",
}


def members(n: int = 3, envs: dict[int, Any] | None = None, **changes: Any) -> list[RFMFlow]:
    arguments = {**SMALL, **changes}
    envs = envs or {}
    return [
        RFMFlow("MlpPolicy", envs.get(seed, Bandit()), seed=seed, **arguments) for seed in range(n)
    ]


class Watch(BaseCallback):
    """Notes the steps, and does something at one of them."""

    def __init__(self, at: int = -1, act: Any = None) -> None:
        super().__init__()
        self.at, self.act, self.seen = at, act, list[int]()

    def _on_step(self) -> bool:
        self.seen.append(self.num_timesteps)
        if self.num_timesteps == self.at:
            return self.act(self.model) is not False
        return True


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the populations whose updates were made."""
    sizes: list[int] = []

    class Counted(Population):
        def update(self, batches: Any, with_actor: bool) -> Any:
            sizes.append(len(batches))
            return super().update(batches, with_actor)

    monkeypatch.setattr(training, "Population", Counted)
    return sizes


def test_each_is_trained_as_by_its_own_learn(counted: list[int], tmp_path: Path) -> None:
    models, watches = members(), [Watch() for _ in range(3)]
    before = [model.policy.state_dict()["actor.network.trunk.1.weight"].clone() for model in models]
    train_population(models, STEPS, callbacks=watches)
    alone = RFMFlow("MlpPolicy", Bandit(), seed=0, **SMALL).learn(STEPS)
    assert counted == [3] * alone._n_updates
    for index, model in enumerate(models):
        assert model.num_timesteps == alone.num_timesteps == STEPS
        assert model._n_updates == alone._n_updates
        assert watches[index].seen == list(range(1, STEPS + 1))
        assert model.replay_buffer.size() == STEPS
        assert model.logger.name_to_value.keys() == alone.logger.name_to_value.keys()
        weight = model.policy.state_dict()["actor.network.trunk.1.weight"]
        assert not th.equal(weight, before[index])
        model.save(tmp_path / str(index))
        loaded = RFMFlow.load(tmp_path / str(index), device="cpu")
        obs = np.full((4, 3), 0.1, np.float32)
        expected = model.predict(obs, deterministic=True)[0]
        assert np.array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    weights = [model.policy.state_dict()["actor.network.trunk.1.weight"] for model in models]
    assert not th.equal(weights[0], weights[1])


def test_it_goes_on_together_and_alone() -> None:
    models = members(2)
    train_population(models, 40)
    train_population(models, 20, reset_num_timesteps=False)
    assert [model.num_timesteps for model in models] == [60, 60]
    models[0].learn(20, reset_num_timesteps=False)
    assert models[0].num_timesteps == 80


def test_a_member_that_stops_leaves_the_others_alone(counted: list[int]) -> None:
    models = members()
    train_population(models, STEPS, callbacks=[None, Watch(40, lambda model: False), None])
    assert [model.num_timesteps for model in models] == [STEPS, 40, STEPS]
    assert set(counted) == {3, 2}


class Breaks(Bandit):
    """Fails at its thirtieth step."""

    def step(self, action: np.ndarray) -> Any:
        if len(self.actions) == 29:
            raise OSError("the simulator is gone")
        return super().step(action)


def test_a_member_that_fails_leaves_the_others_alone(counted: list[int]) -> None:
    models = members(envs={2: Breaks()})
    failed = "member 2: OSError: the simulator is gone"
    with pytest.raises(MembersFailedError, match=failed) as info:
        train_population(models, STEPS)
    assert list(info.value.errors) == [2]
    assert [model.num_timesteps for model in models][:2] == [STEPS, STEPS]
    assert set(counted) == {3, 2}


def test_what_members_do_at_different_times_is_done_alone(counted: list[int]) -> None:
    def act(model: FlowActorCritic) -> None:
        assert model.predict(np.zeros((1, 3), np.float32))[0].shape == (1, 2)

    def reload(model: FlowActorCritic) -> None:
        model.set_parameters(model.get_parameters())

    models = members(2)
    train_population(models, STEPS, callbacks=[Watch(30, act), Watch(45, reload)])
    assert [model.num_timesteps for model in models] == [STEPS, STEPS]
    assert [model._n_updates for model in models] == [40, 40]
    assert 20 < counted.count(2) < 40  # member 1 has made its own since it was loaded


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_breaking_off_ends_all(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(Population):
        def update(self, batches: Any, with_actor: bool) -> Any:
            if self.models[0].num_timesteps == 30:
                raise error
            return super().update(batches, with_actor)

    monkeypatch.setattr(training, "Population", Breaking)
    models = members(2)
    with pytest.raises(error):
        train_population(models, STEPS)
    assert [model.num_timesteps for model in models] == [30, 30]
    models[1].learn(10, reset_num_timesteps=False)
    assert models[1].num_timesteps == 40


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_member_can_break_off_all(error: type[BaseException]) -> None:
    def leave(model: FlowActorCritic) -> None:
        raise error

    models = members(2)
    with pytest.raises(error):
        train_population(models, STEPS, callbacks=[None, Watch(30, leave)])
    assert [model.num_timesteps for model in models] == [30, 30]
    assert models[0].learn(10).num_timesteps == 10


def test_gradients_are_as_they_were() -> None:
    def check(model: FlowActorCritic) -> None:
        assert th.is_grad_enabled()
        with th.no_grad():
            model.predict(np.zeros((1, 3), np.float32))
            assert not th.is_grad_enabled()

    train_population(members(2), STEPS, callbacks=[Watch(30, check), Watch(31, check)])
    assert th.is_grad_enabled()


def test_several_environments_each() -> None:
    def envs(seed: int) -> Any:
        from stable_baselines3.common.env_util import make_vec_env

        return make_vec_env(Bandit, 2, seed=seed)

    models = members(2, envs={seed: envs(seed) for seed in range(2)})
    train_population(models, STEPS)
    assert [model.num_timesteps for model in models] == [STEPS, STEPS]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"models": []}, "models must satisfy: at least one"),
        ({"callbacks": [None]}, "callbacks must satisfy: one for each of the 2 models"),
        ({"tb_log_names": ["a"]}, "tb_log_names must satisfy: one for each of the 2 models"),
    ],
)
def test_refuses(arguments: dict[str, Any], what: str) -> None:
    given = {"models": members(2), "total_timesteps": 10, **arguments}
    with pytest.raises(ValueError, match=what):
        train_population(**given)


def test_refuses_the_same_model_twice() -> None:
    (model,) = members(1)
    with pytest.raises(ValueError, match="models must satisfy: different ones"):
        train_population([model, model], 10)


def test_the_log_is_each_members_own(tmp_path: Path) -> None:
    models = members(2, tensorboard_log=str(tmp_path), verbose=0)
    train_population(models, STEPS, tb_log_names=["first", "second"], log_interval=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first_1", "second_1"]
    for model in models:
        assert model.logger.name_to_value["train/n_updates"] == 40


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_trains_on_a_gpu(cuda_graph: bool) -> None:
    models = members(device="cuda", cuda_graph=cuda_graph)
    train_population(models, STEPS)
    for model in models:
        assert model._n_updates == 40
        assert all(value.isfinite().all() for value in model.policy.state_dict().values())
        action, _ = model.predict(np.zeros((1, 3), np.float32), deterministic=True)
        assert np.isfinite(action).all()


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_of_before_are_captured_anew_on_a_gpu() -> None:
    """The weights have moved: graphs that were captured before would read what lay there."""
    models = members(device="cuda")
    obs = np.full((4, 3), 0.1, np.float32)

    def same(model: RFMFlow) -> None:
        with th.no_grad():
            expected = model.policy.predict(obs, deterministic=True)[0]
        for _ in range(5):
            np.testing.assert_allclose(
                model.predict(obs, deterministic=True)[0], expected, atol=1e-5
            )

    for model in models:
        model.learn(40)
        same(model)
    train_population(models, 40, reset_num_timesteps=False)
    for model in models:
        same(model)
        model.learn(20, reset_num_timesteps=False)
        same(model)
        assert model._judged == (model.replay_buffer, True)
    train_population(models[:2], 40, reset_num_timesteps=False)
    for model in models:
        same(model)
