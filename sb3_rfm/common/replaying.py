"""What an algorithm draws of its replay buffer for an update, on the host or on the GPU."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_rfm.common.batches import sample_on_host
from sb3_rfm.common.cuda_graphs import Graphed
from sb3_rfm.common.deferred_logging import DeferredLogging
from sb3_rfm.common.device_replay import DeviceReplay, News, may_move, n_new_rows, newest


class Replaying(DeferredLogging):
    """
    An algorithm whose updates are given batches; or, where they are captured as CUDA graphs and its
    buffer is one of Stable-Baselines3's that fits, what :class:`DeviceReplay` makes batches of.
    """

    _graphs: Sequence[Graphed] = ()
    _replay_there: DeviceReplay
    _judged: tuple[Any, bool] = (None, False)
    _n_stored, _n_seen = 0, -1
    _sees_stored = False

    def _store_transition(self, replay_buffer: ReplayBuffer, *transition: Any) -> None:
        super()._store_transition(replay_buffer, *transition)
        self._n_stored += 1

    def _drawn(self, batch_size: int) -> ReplayBufferSamples | News:
        """
        What an update is given.

        :param batch_size: transitions
        :return: a batch on the host, or what makes one on the GPU
        """
        buffer = self.replay_buffer
        assert buffer is not None
        if buffer is not self._judged[0]:
            self._judge(buffer)
        if not self._judged[1]:
            return self._sample(batch_size)
        frequency: Any = self.train_freq
        self._sees_stored = True
        return newest(buffer, n_new_rows(buffer, frequency), batch_size)

    def _read(self) -> None:
        """Take note of what was stored since, and record what updates reported."""
        if self._sees_stored:
            self._see_stored(self.replay_buffer)
        super()._read()

    def _see_stored(self, buffer: Any) -> None:
        """Take note of the rewards that were stored since the last time; of all at first."""
        n = min(
            buffer.size(), self._n_stored - self._n_seen if self._n_seen >= 0 else buffer.size()
        )
        rows = np.arange(buffer.pos - n, buffer.pos) % buffer.buffer_size
        ends = buffer.dones[rows] * (1 - buffer.timeouts[rows])
        self._see_rewards(buffer.rewards[rows], ends, self.gamma)
        self._n_seen = self._n_stored

    def _judge(self, buffer: ReplayBuffer) -> None:
        """Decide where a buffer's batches are made."""
        if self._judged[0] is not None:
            self._make_updates()  # the graphs read the buffer of before
        free = th.cuda.mem_get_info(self.device)[0] if self._graphs else 0
        there = self._vec_normalize_env is None and may_move(buffer, free)
        self._judged, self._n_seen = (buffer, there), -1

    @abstractmethod
    def _make_updates(self) -> None:
        """Make the updates, captured where they can be."""

    def _sample(self, batch_size: int) -> ReplayBufferSamples:
        """A batch of transitions; of a GPU, on the host, so that nothing waits for it."""
        buffer = self.replay_buffer
        assert buffer is not None
        if self.device.type == "cuda":
            sample_on_host(buffer)  # here, because SB3 gives a loaded buffer its device
        data = buffer.sample(batch_size, env=self._vec_normalize_env)
        discounts = self.gamma if data.discounts is None else data.discounts.cpu().numpy()
        self._see_rewards(data.rewards.cpu().numpy(), data.dones.cpu().numpy(), discounts)
        return data

    def _see_rewards(
        self, rewards: np.ndarray, ends: np.ndarray, discounts: float | np.ndarray
    ) -> None:
        """Take note of what rewards allow the critics to say."""
        self.critic_watch.see_rewards(rewards, ends != 0, discounts, self._horizon())
