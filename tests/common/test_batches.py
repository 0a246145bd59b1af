"""Batches of every kind, and their way to a device. A GPU's part is tested on one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples

from sb3_rfm import RFMFlow
from sb3_rfm.common.batches import HOST, mapped, sample_on_host, tensors_of, uploaded

META = th.device("meta")
needs_gpu = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")


def batch(discounts: th.Tensor | None = None) -> DictReplayBufferSamples:
    obs, later = ({"b": th.rand(2, 1), "a": th.rand(2, 3)} for _ in range(2))
    action, done, reward = (th.rand(2, 1) for _ in range(3))
    return DictReplayBufferSamples(obs, action, later, done, reward, discounts)


def model(**changes: Any) -> RFMFlow:
    small = {
        "learning_starts": 20,
        "batch_size": 8,
        "buffer_size": 100,
        "estimator": {"n_particles": 4},
        "seed": 0,
    }
    return RFMFlow("MlpPolicy", Bandit(), policy_kwargs={"net_arch": [16]}, **{**small, **changes})


@pytest.mark.parametrize("discounts", [None, th.full((2, 1), 0.9)])
def test_tensors_of_a_changed_batch_are_in_the_same_order(discounts: th.Tensor | None) -> None:
    data = batch(discounts)
    doubled = mapped(data, lambda tensor: 2 * tensor)
    assert type(doubled) is DictReplayBufferSamples
    assert (doubled.discounts is None) == (discounts is None)
    pairs = list(zip(tensors_of(data), tensors_of(doubled), strict=True))
    assert len(pairs) == 7 + (discounts is not None)
    assert all(th.equal(2 * before, after) for before, after in pairs)


def test_what_is_there_already_stays() -> None:
    data = batch()
    stayed = uploaded(data, HOST)
    assert all(a is b for a, b in zip(tensors_of(data), tensors_of(stayed), strict=True))


def test_all_of_a_batch_goes_by_pinned_memory() -> None:
    pinned: list[th.Tensor] = []

    def pin(tensor: th.Tensor) -> th.Tensor:
        pinned.append(tensor)
        return tensor

    data = batch()
    sent = uploaded(data, META, pin)
    assert {tensor.device for tensor in tensors_of(sent)} == {META}
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in tensors_of(data)}


def test_batches_are_made_on_the_host() -> None:
    box = Bandit().action_space
    buffer = ReplayBuffer(10, box, box, device="meta")
    buffer.add(*np.zeros((3, 1, 2)), np.zeros(1), np.zeros(1), [{}])  # type: ignore[arg-type]
    assert buffer.sample(2).rewards.device == META  # the premise
    sample_on_host(buffer)
    assert buffer.sample(2).rewards.device == HOST


def test_a_buffer_that_makes_its_own_tensors_is_left_alone() -> None:
    class Own(ReplayBuffer):
        def to_torch(self, array: np.ndarray, copy: bool = True) -> th.Tensor:
            return th.ones(1, device=self.device)

    box = Bandit().action_space
    buffer = Own(10, box, box, device="meta")
    sample_on_host(buffer)
    assert buffer.device == META


@needs_gpu
def test_a_gpu_is_sent_what_was_sampled(tmp_path: Path) -> None:
    one = model(device="cuda", cuda_graph=False).learn(60)
    one.save_replay_buffer(tmp_path / "buffer")
    one.load_replay_buffer(tmp_path / "buffer")  # which gives it the device of the model
    one.learn(20, reset_num_timesteps=False)
    np.random.seed(0)  # noqa: NPY002  (SB3's buffers draw from it)
    sent = uploaded(one._sample(8), one.device)
    np.random.seed(0)  # noqa: NPY002  (SB3's buffers draw from it)
    kept = one.replay_buffer.sample(8)
    for there, here in zip(tensors_of(sent), tensors_of(kept), strict=True):
        assert there.device.type == "cuda"
        assert here.device == HOST
        assert th.equal(there.cpu(), here)
