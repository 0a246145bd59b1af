"""
Replay on the GPU: what Stable-Baselines3's buffer holds lies there too, and batches are gathered
where they are used.

The buffer on the host stays what is written, saved and loaded. An update is sent what was stored
since the last one and which transitions are drawn, by the very draws of the buffer's own
``sample``: the batches are those that it would give.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples, TrainFreq, TrainFrequencyUnit
from torch import Tensor

from sb3_rfm.common.batches import mapped, together

COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""The arrays of a buffer, each (capacity, environments, ...)."""
SHARE = 1 / 32
"""Of the free memory that a buffer may take: populations have up to sixteen of them."""
MOST_NEW = 64
"""Rows that an update is sent at most; where more are new the whole buffer is sent before it."""


class News(NamedTuple):
    """
    The newest W rows of a buffer with E environments, and the B transitions that are drawn.

    :param observations: (W, E, ...)
    :param next_observations: (W, E, ...)
    :param actions: (W, E, D)
    :param rewards: (W, E)
    :param dones: (W, E)
    :param timeouts: (W, E)
    :param places: the rows' numbers, (W); the last one's is that of the newest row
    :param starts: rows that are drawn, (B)
    :param envs: of which environment, (B)
    """

    observations: Tensor
    next_observations: Tensor
    actions: Tensor
    rewards: Tensor
    dones: Tensor
    timeouts: Tensor
    places: Tensor
    starts: Tensor
    envs: Tensor


def may_move(buffer: Any, free_bytes: int) -> bool:
    """
    Whether a buffer can lie on the GPU: of Stable-Baselines3's own for arrays of observations,
    which know nothing but what they store, and small enough.

    :param buffer: any replay buffer
    :param free_bytes: memory that the GPU has left
    :return: True if so
    """
    if type(buffer) not in (ReplayBuffer, NStepReplayBuffer) or buffer.optimize_memory_usage:
        return False
    size = sum(getattr(buffer, name).nbytes for name in COLUMNS)
    return bool(size <= SHARE * free_bytes)


def n_new_rows(buffer: ReplayBuffer, train_freq: TrainFreq) -> int:
    """
    How many rows an update is sent: those that are stored between two, and the one before, which
    may have been marked as an episode's last one since.

    :param buffer: the buffer
    :param train_freq: how often there are updates
    :return: W
    """
    steps = train_freq.frequency if train_freq.unit == TrainFrequencyUnit.STEP else 1
    return min(steps + 1, MOST_NEW, buffer.buffer_size)


def newest(buffer: ReplayBuffer, n_rows: int, batch_size: int) -> News:
    """
    What an update has to be sent.

    :param buffer: of B transitions of which a batch is drawn, as its ``sample`` would
    :param n_rows: W
    :param batch_size: B
    :return: views and copies on the host
    """
    first = buffer.pos - n_rows
    places = np.arange(first, buffer.pos) % buffer.buffer_size
    rows: Any = slice(first, buffer.pos) if first >= 0 else places
    starts = np.random.randint(0, buffer.size(), size=batch_size)  # noqa: NPY002  (SB3's draws)
    envs = np.random.randint(0, buffer.n_envs, size=batch_size)  # noqa: NPY002
    newest_rows = [getattr(buffer, name)[rows] for name in COLUMNS]
    return News(*map(th.from_numpy, (*newest_rows, places, starts, envs)))


class Stores(Protocol):
    """A model, of which the buffer and the rows that it has ever stored are looked at."""

    replay_buffer: ReplayBuffer | None
    _n_stored: int


class DeviceReplay:
    """
    The buffers of models on a device.

    :param models: one, or the members of a population; their buffers are of one shape and kind
    :param device: where the buffers are to lie, from the first :meth:`catch_up` on
    """

    def __init__(self, models: Sequence[Any], device: th.device) -> None:
        self.models: list[Stores] = list(models)
        self.device = device
        self.columns: dict[str, Tensor] = {}
        self.sent: list[tuple[ReplayBuffer | None, int]] = [(None, 0)] * len(models)

    def _take_place(self, buffers: Sequence[Any]) -> None:
        """Take memory for the buffers."""
        first = buffers[0]
        self.capacity, self.n_envs = first.buffer_size, first.n_envs
        self.n_steps = getattr(first, "n_steps", None)
        for name in COLUMNS:
            array = getattr(first, name)
            dtype = th.from_numpy(array[:0]).dtype
            shape = (len(buffers), *array.shape)
            self.columns[name] = th.empty(shape, dtype=dtype, device=self.device)
        exponents = np.arange((self.n_steps or 1) + 1, dtype=np.float32)
        powers = [getattr(buffer, "gamma", 1.0) ** exponents for buffer in buffers]
        self.powers = th.tensor(np.array(powers), device=self.device)
        self.members = th.arange(len(buffers), device=self.device).unsqueeze(-1)

    def catch_up(self, n_rows: int) -> None:
        """
        Send the whole of each buffer of which more is new than the next update is sent.

        :param n_rows: what that is, W
        """
        buffers: list[Any] = [model.replay_buffer for model in self.models]
        if not self.columns:
            self._take_place(buffers)
        for member, (model, buffer) in enumerate(zip(self.models, buffers, strict=True)):
            before, then = self.sent[member]
            if buffer is not before or model._n_stored - then >= n_rows:
                self._send_whole(member, buffer)
            self.sent[member] = buffer, model._n_stored

    def _send_whole(self, member: int, buffer: ReplayBuffer) -> None:
        for name, column in self.columns.items():
            column[member].copy_(th.from_numpy(getattr(buffer, name)))

    def batch(self, *news: News) -> ReplayBufferSamples:
        """
        Take in what is new, and make the batches that are drawn.

        :param news: of each model, on the device
        :return: (B, ...); of a population (N, B, ...)
        """
        data = self.drawn(together(*news))
        if len(self.models) > 1:
            return data
        solo: ReplayBufferSamples = mapped(data, lambda tensor: tensor.squeeze(0))
        return solo

    def drawn(self, news: News) -> ReplayBufferSamples:
        """
        Take in what is new and gather what is drawn.

        :param news: of all N models, on the device: each tensor with an axis of models before
        :return: the batch, (N, B, ...)
        """
        rows = self.members * self.capacity + news.places
        for name in COLUMNS:
            new = getattr(news, name)
            self.columns[name].flatten(0, 1)[rows.flatten()] = new.flatten(0, 1)

        def gathered(name: str, rows: Tensor) -> Tensor:
            """Of the drawn environments, at rows of shape (N, B, ...)."""
            like = (..., *[None] * (rows.dim() - 2))
            place = self.members[like] * self.capacity + rows
            return self.columns[name].flatten(0, 2)[place * self.n_envs + news.envs[like]]

        steps = th.arange(self.n_steps or 1, device=rows.device)
        several = (news.starts.unsqueeze(-1) + steps) % self.capacity
        done, timeout = gathered("dones", several), gathered("timeouts", several)
        ends = (done != 0) | (timeout != 0) | (several == news.places[:, -1:, None])
        # steps that are counted, up to the first end: those before which there is none
        counted = (ends.int().cumsum(-1) - ends.int()) == 0
        n_counted = counted.sum(-1, keepdim=True)
        last = several.gather(-1, n_counted - 1).squeeze(-1)
        powers = self.powers.unsqueeze(1).expand(*counted.shape[:2], -1)
        rewards = gathered("rewards", several) * powers[..., :-1] * counted
        going_on = 1.0 - gathered("timeouts", last)
        return ReplayBufferSamples(
            observations=gathered("observations", news.starts),
            actions=gathered("actions", news.starts),
            next_observations=gathered("next_observations", last),
            dones=(gathered("dones", last) * going_on).unsqueeze(-1),
            rewards=rewards.sum(-1, keepdim=True),
            discounts=None if self.n_steps is None else powers.gather(-1, n_counted),
        )
