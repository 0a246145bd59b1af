"""What ``load`` is given arrives, or is refused in plain words."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from sb3_rfm import DPMD, SAC, SDAC, RFMDiffusion, RFMFlow
from sb3_rfm.common.config import GROUPS, CandidateSettings
from sb3_rfm.common.loading import algorithm_name

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    "buffer_size": 200,
    "learning_starts": 10,
    "batch_size": 8,
    "seed": 0,
    "device": "cpu",
}
each_class = pytest.mark.parametrize("algorithm", [RFMFlow, SAC])


def small(algorithm: Any = RFMFlow, env: Any = None, **changes: Any) -> Any:
    return algorithm("MlpPolicy", Bandit(length=9) if env is None else env, **SMALL | changes)


@each_class
@pytest.mark.parametrize("saved", [1, 3])
@pytest.mark.parametrize("given", [1, 2])
def test_steps_and_discount_reach_the_buffer(
    algorithm: Any, saved: int, given: int, tmp_path: Path
) -> None:
    model = small(algorithm, n_steps=saved).learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = Bandit(length=9)
        settings = {"n_steps": given, "gamma": 0.5}
        loaded = algorithm.load(tmp_path / "model", env=env, device="cpu", **settings)
    for load in (False, True):
        if load:
            loaded.load_replay_buffer(tmp_path / "buffer")
        buffer = loaded.replay_buffer
        assert getattr(buffer, "n_steps", 1) == given
        assert getattr(buffer, "gamma", 0.5) == loaded.gamma == 0.5
        assert type(buffer) is (ReplayBuffer if given == saved == 1 else NStepReplayBuffer)
    # a reward alone, or two of them: where an episode goes on
    rewards = buffer.rewards[:40, 0]
    data = buffer._get_samples(np.arange(8))
    expected = rewards[:8] + (0.5 * rewards[1:9] if given == 2 else 0.0)
    np.testing.assert_allclose(data.rewards.numpy()[:, 0], expected, rtol=1e-5)
    loaded.learn(10, reset_num_timesteps=False)
    loaded.save(tmp_path / "again")
    assert algorithm.load(tmp_path / "again").n_steps == given


def test_a_buffer_of_the_users_own_stays(tmp_path: Path) -> None:
    kwargs = {"n_steps": 3, "gamma": 0.9}
    given: dict[str, Any] = {
        "replay_buffer_class": NStepReplayBuffer, "replay_buffer_kwargs": kwargs,
    }  # fmt: skip
    model = small(**given).learn(20)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = RFMFlow.load(tmp_path / "model", env=Bandit(length=9))
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert (loaded.replay_buffer.n_steps, loaded.replay_buffer.gamma) == (3, 0.9)


@each_class
def test_names_and_values_are_checked(algorithm: Any, tmp_path: Path) -> None:
    small(algorithm).save(tmp_path / "model")
    with pytest.raises(TypeError, match=r"load has no argument 'leraning_rate': did you mean"):
        algorithm.load(tmp_path / "model", leraning_rate=1e-3)
    with pytest.raises(ValueError, match="gamma must satisfy"):
        algorithm.load(tmp_path / "model", gamma=1.5)
    with pytest.raises(TypeError, match="batch_size must be an int"):
        algorithm.load(tmp_path / "model", batch_size=8.5)
    loaded = algorithm.load(
        tmp_path / "model", env=Bandit(), stats_window_size=7, batch_size=np.int64(4),
        train_freq=[2, "step"], learning_rate=np.float32(0.01),
    )  # fmt: skip
    loaded.learn(20)
    assert loaded.ep_info_buffer.maxlen == 7
    assert (loaded.batch_size, loaded.train_freq.frequency) == (4, 2)
    assert type(loaded.batch_size) is int


def test_networks_that_are_others_are_named(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"with actor_update=\{'average': 0.01\} the networks are not those of"
    ):
        RFMFlow.load(tmp_path / "model", actor_update={"average": 0.01})


def test_another_algorithms_file_is_refused(tmp_path: Path) -> None:
    class Mine(RFMFlow):
        """A user's own."""

    for kind in (RFMFlow, SDAC, SAC, Mine, SB3SAC):
        small(kind).save(tmp_path / kind.__name__)
    for kind, file in ((RFMDiffusion, "RFMFlow"), (DPMD, "SDAC"), (SDAC, "Mine")):
        saved = "RFMFlow" if file == "Mine" else file
        with pytest.raises(
            ValueError, match=f"file that {kind.__name__} saved; got one of {saved}"
        ):
            kind.load(tmp_path / file)
    for kind, file in ((SAC, "RFMFlow"), (RFMFlow, "SAC"), (RFMFlow, "SB3SAC"), (SAC, "SB3SAC")):
        file = "SAC" if file == "SB3SAC" else file
        if kind.__name__ != file:
            with pytest.raises(ValueError, match="policy must be a name or a subclass of"):
                kind.load(tmp_path / file)
    assert Mine.load(tmp_path / "RFMFlow").load(tmp_path / "Mine")
    assert algorithm_name(Mine) == "RFMFlow"


@each_class
def test_another_number_of_environments(algorithm: Any, tmp_path: Path) -> None:
    noise = NormalActionNoise(np.zeros(2), np.ones(2))
    model = small(algorithm, make_vec_env(Bandit, 2), action_noise=noise).learn(20)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    for n_envs, reset in ((1, True), (3, False)):
        env = make_vec_env(Bandit, n_envs)
        loaded = algorithm.load(tmp_path / "model", env=env, force_reset=reset)
        own = loaded.replay_buffer
        with pytest.raises(ValueError, match=rf"n_envs = {n_envs}, as .*; got 2 in"):
            loaded.load_replay_buffer(tmp_path / "buffer")
        assert loaded.replay_buffer is own
        loaded.learn(30, reset_num_timesteps=False)
        assert loaded.replay_buffer.actions.shape[1] == n_envs


def test_the_temperature_can_be_read(tmp_path: Path) -> None:
    model = small(temperature=0.3)
    assert model.temperature == pytest.approx(0.3)
    assert isinstance(model.temperature, float)
    with pytest.raises(AttributeError):
        model.temperature = 0.1
    model.actor.temperature.assign(0.7)
    assert model.temperature == pytest.approx(0.7)
    model.save(tmp_path / "model")
    assert RFMFlow.load(tmp_path / "model").temperature == pytest.approx(0.7)
    loaded = RFMFlow.load(tmp_path / "model", env=Bandit(), temperature=0.05).learn(20)
    assert loaded.temperature == pytest.approx(0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small(temperature="auto_0.5").temperature == pytest.approx(0.5)
    falling = small(temperature=lambda progress: np.float32(0.1 + progress)).learn(20)
    assert falling.temperature == pytest.approx(0.1)


def test_callbacks_see_plain_hyperparameters(tmp_path: Path) -> None:
    """Those that log what is in ``vars(model)``, as wandb's does, and those that ask for it."""
    model = small(estimator={"n_particles": np.int64(6)}, temperature="auto", tau=np.float32(0.25))
    model.save(tmp_path / "model")
    for one in (model, RFMFlow.load(tmp_path / "model")):
        seen = {name: v for name, v in vars(one).items() if type(v) in (int, float, str, bool)}
        expected = {"temperature": "auto", "tau": 0.25, "gamma": 0.99, "on_nan": "raise"}
        assert seen | expected == seen
        groups = {name: vars(vars(one)[name]) for name in GROUPS}
        kinds = (int, float, str, bool, tuple, type(None))
        assert all(type(v) in kinds for group in groups.values() for v in group.values())
        assert groups["estimator"]["n_particles"] == 6
        assert groups["estimator"]["name"] == "bounded_uncoupled"
        assert groups["critic_update"]["learning_rate"] == 1e-3
        assert "n_particles=6, " in str(vars(one)["estimator"])  # what wandb's writes of an object
        assert one.estimator.n_particles == 6
    loaded = RFMFlow.load(tmp_path / "model", estimator={"n_particles": 9})
    assert loaded.estimator.n_particles == loaded.settings.estimator.n_particles == 9


def test_a_dict_for_a_group_changes_what_it_names_alone(tmp_path: Path) -> None:
    model = small(
        candidates={"n": 3, "train": 5, "noise": 0.25}, flow={"steps": 7}, estimator="bounded",
        temperature=0.3,
    )  # fmt: skip
    model.save(tmp_path / "model")
    loaded = RFMFlow.load(tmp_path / "model", candidates={"evaluate": 1})
    assert loaded.candidates == replace(model.candidates, evaluate=1)
    assert loaded.settings == replace(model.settings, candidates=loaded.candidates)
    assert loaded.actor.candidates == loaded.policy.settings.candidates == loaded.candidates
    assert loaded.method == model.method
    loaded.save(tmp_path / "again")
    assert RFMFlow.load(tmp_path / "again").settings == loaded.settings
    bare = RFMFlow.load(tmp_path / "model", candidates=9, estimator={"n_times": 2})
    assert bare.candidates == replace(model.candidates, n=9)
    assert bare.estimator == replace(model.estimator, n_times=2)
    own = CandidateSettings(n=4)  # which takes the group's place
    assert RFMFlow.load(tmp_path / "model", candidates=own).candidates == own


def test_a_file_without_the_values_apart_loads(tmp_path: Path) -> None:
    """The settings alone, which hold all that the other attributes do."""
    model = small(estimator={"n_particles": 6})
    names = [*vars(model.settings), "critic_watch", "_saved_by", "_blind"]
    model.save(tmp_path / "model", exclude=names)
    loaded = RFMFlow.load(tmp_path / "model", device="cpu")
    assert loaded.settings == model.settings
    pairs = zip(model.policy.parameters(), loaded.policy.parameters(), strict=True)
    assert all(th.equal(a, b) for a, b in pairs)


def test_policy_kwargs_may_be_shared_with_stable_baselines3() -> None:
    """Whose algorithms write ``use_sde`` into them."""
    shared: dict[str, Any] = {"net_arch": [8]}
    SB3SAC("MlpPolicy", Bandit(), buffer_size=10, policy_kwargs=shared)
    assert "use_sde" in shared
    model = RFMFlow("MlpPolicy", Bandit(), buffer_size=10, policy_kwargs=shared)
    assert model.policy_kwargs == {"net_arch": [8]}
    with pytest.raises(TypeError, match="use_sde"):
        RFMFlow("MlpPolicy", Bandit(), buffer_size=10, policy_kwargs={"use_sde": True})
