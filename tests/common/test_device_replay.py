"""
Replay on the GPU: its batches are those that Stable-Baselines3's buffers give. Here the device is
the host, and what records a graph is a stand-in (:mod:`graph_stand_in`).
"""

from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from graph_stand_in import ON_HOST, STAND_IN
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_rfm import RFMFlow, train_population
from sb3_rfm.common.batches import HOST, tensors_of, together
from sb3_rfm.common.cuda_graphs import GraphedUpdate
from sb3_rfm.common.device_replay import (
    MOST_NEW,
    DeviceReplay,
    may_move,
    n_new_rows,
    newest,
)
from sb3_rfm.population import training
from sb3_rfm.population.population import Population
from sb3_rfm.utils.episodes import close_episode

BOX, ACTIONS = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
KINDS: dict[str, Any] = {
    "one step": lambda size, n_envs: ReplayBuffer(size, BOX, ACTIONS, "cpu", n_envs),
    "three steps": lambda size, n_envs: NStepReplayBuffer(size, BOX, ACTIONS, "cpu", n_envs),
    "five steps, gamma .9": lambda size, n_envs: NStepReplayBuffer(
        size, BOX, ACTIONS, "cpu", n_envs, n_steps=5, gamma=0.9
    ),
}


class Model:
    """A buffer, and how many rows it was given."""

    def __init__(self, buffer: ReplayBuffer, seed: int = 0) -> None:
        self.replay_buffer, self._n_stored = buffer, 0
        self.rng = np.random.default_rng(seed)

    def store(self, n: int = 1) -> None:
        buffer, rng = self.replay_buffer, self.rng
        for _ in range(n):
            shape = (buffer.n_envs,)
            ends, cut = rng.random(shape) < 0.15, rng.random(shape) < 0.5
            infos = [{"TimeLimit.truncated": bool(each)} for each in ends & cut]
            obs, later = rng.normal(size=(2, *shape, 3))
            buffer.add(
                obs, later, rng.normal(size=(*shape, 2)), rng.normal(size=shape), ends, infos
            )
            self._n_stored += 1


def check(replay: DeviceReplay, models: list[Model], n_rows: int = 2, seed: int = 0) -> None:
    """The batches are the buffers' own, of the same draws."""
    np.random.seed(seed)  # noqa: NPY002  (SB3's buffers draw from it)
    expected = [model.replay_buffer.sample(32) for model in models]
    np.random.seed(seed)  # noqa: NPY002
    news = [newest(model.replay_buffer, n_rows, 32) for model in models]
    replay.catch_up(n_rows)
    got, want = replay.batch(*news), together(*expected) if len(models) > 1 else expected[0]
    assert (got.discounts is None) == (want.discounts is None)
    for mine, theirs in zip(tensors_of(got), tensors_of(want), strict=True):
        th.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)  # sums of five rewards


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_buffers_own(kind: str, n_envs: int) -> None:
    models = [Model(KINDS[kind](40 * n_envs, n_envs), seed) for seed in range(2)]
    together_, alone = DeviceReplay(models, HOST), DeviceReplay(models[:1], HOST)
    for step in range(100):  # the buffers are full after forty
        for model in models:
            model.store()
        check(together_, models, seed=step)
        check(alone, models[:1], seed=step)


class Noting(DeviceReplay):
    """Notes each time that a whole buffer is sent."""

    times = 0

    def _send_whole(self, member: int, buffer: ReplayBuffer) -> None:
        self.times += 1
        super()._send_whole(member, buffer)


def test_it_catches_up() -> None:
    """With rows that no update was sent, another buffer, and an episode that is cut short later."""
    model = Model(KINDS["three steps"](30, 1))
    replay = Noting([model], HOST)
    model.store(5)
    check(replay, [model])
    model.store()
    close_episode(model.replay_buffer)  # the row is there already, or new
    check(replay, [model])
    close_episode(model.replay_buffer)
    check(replay, [model])
    assert replay.times == 1
    for n in (2, 7, 30, 61):  # a multiple of the buffer's size, too
        model.store(n)
        check(replay, [model])
    assert replay.times == 5
    model.replay_buffer = KINDS["three steps"](30, 1)
    model.store()
    check(replay, [model])
    assert replay.times == 6
    for n_rows in (3, 8):
        model.store(n_rows - 1)
        check(replay, [model], n_rows)
    assert replay.times == 6


def test_how_much_an_update_is_sent() -> None:
    buffer = KINDS["one step"](100, 1)
    steps, episodes = TrainFrequencyUnit.STEP, TrainFrequencyUnit.EPISODE
    assert n_new_rows(buffer, TrainFreq(1, steps)) == 2
    assert n_new_rows(buffer, TrainFreq(4, steps)) == 5
    assert n_new_rows(buffer, TrainFreq(1, episodes)) == 2
    assert n_new_rows(buffer, TrainFreq(1000, steps)) == MOST_NEW
    assert n_new_rows(KINDS["one step"](3, 1), TrainFreq(4, steps)) == 3


class Own(ReplayBuffer):
    """A buffer of a user's."""


def test_which_buffers_move() -> None:
    plenty = 10**12
    assert all(may_move(make(100, 1), plenty) for make in KINDS.values())
    assert not may_move(Own(100, BOX, ACTIONS, "cpu"), plenty)
    light = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    assert not may_move(ReplayBuffer(100, BOX, ACTIONS, "cpu", **light), plenty)
    assert not may_move(KINDS["one step"](100, 1), 0)
    bytes_ = 100 * 4 * (3 + 3 + 2 + 3)
    assert may_move(KINDS["one step"](100, 1), 32 * bytes_)
    assert not may_move(KINDS["one step"](100, 1), 32 * bytes_ - 1)


def model(seed: int = 0, **changes: Any) -> RFMFlow:
    small = {"buffer_size": 50, "learning_starts": 20, "batch_size": 8, "seed": seed}
    nets = {"net_arch": [16]}
    return RFMFlow("MlpPolicy", Bandit(), policy_kwargs=nets, device="cpu", **{**small, **changes})


def replay_there(one: RFMFlow) -> RFMFlow:
    """As on a GPU whose graphs are stand-ins."""
    one.updates = {
        key: GraphedUpdate(update, one._replay_there, place=ON_HOST, **STAND_IN)
        for key, update in one.updates.items()
    }
    one._judged = one.replay_buffer, True
    return one


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_steps": 1, "gradient_steps": 2},
        {"train_freq": (7, "step"), "gradient_steps": -1},
        {"train_freq": (1, "episode")},
    ],
    ids=str,
)
def test_training_is_the_same(changes: dict[str, Any]) -> None:
    plain, other = model(**changes), replay_there(model(**changes))
    for one in (plain, other):
        one.set_random_seed(0)
        one.learn(60)
        one.learn(40)  # which cuts an episode short, and acts at random at first
    assert plain._n_updates > 20
    states = zip(plain.policy.state_dict().items(), other.policy.state_dict().items(), strict=True)
    for (name, mine), (_, theirs) in states:
        th.testing.assert_close(theirs, mine, rtol=0, atol=0, msg=name)
    assert 0 < other.critic_watch.going_on + other.critic_watch.last < float("inf")


def test_the_watch_sees_all_rewards() -> None:
    one = replay_there(model())
    one.learn(30)
    buffer, seen = one.replay_buffer, one.critic_watch.last
    buffer.rewards[:20] *= 100
    one.learn(2, reset_num_timesteps=False)
    assert one.critic_watch.last < 10 * seen
    one._n_seen = -1  # as with a buffer that was loaded
    one.learn(1, reset_num_timesteps=False)
    assert one.critic_watch.last > 10 * seen > 0


def test_another_buffer_is_judged_anew() -> None:
    one = replay_there(model())
    one.learn(30)
    before = one.updates
    one.replay_buffer = KINDS["one step"](70, 1)
    one.replay_buffer = model(buffer_size=70).replay_buffer
    one.learn(10, reset_num_timesteps=False)
    assert one.updates is not before  # a graph reads the buffer's memory
    assert one._judged == (one.replay_buffer, False)  # there is no GPU


def test_a_population_is_trained_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Population] = []

    class Graphs(Population):
        def __init__(self, models: Any) -> None:
            super().__init__(models)
            made.append(self)
            if all(one._judged[1] for one in self.models):
                self._compute = {
                    key: GraphedUpdate(update, self.replay, place=ON_HOST, **STAND_IN)
                    for key, update in self._compute.items()
                }

    monkeypatch.setattr(training, "Population", Graphs)
    states = []
    for there in (False, True):
        members = [model(seed) for seed in range(3)]
        for one in members:
            one._judged = one.replay_buffer, there
        members[0].set_random_seed(0)
        train_population(members, 80)
        states.append([one.policy.state_dict() for one in members])
    assert len(made) == 2
    assert made[1].replay.columns["rewards"].shape == (3, 50, 1)
    for mine, theirs in zip(*states, strict=True):
        for name, value in mine.items():
            th.testing.assert_close(theirs[name], value, rtol=0, atol=0, msg=name)
