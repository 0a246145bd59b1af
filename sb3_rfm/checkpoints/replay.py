"""The replay buffer of a run that goes on to a later target."""

from typing import Any

import numpy as np


def grow(buffer: Any, size: int) -> None:
    """
    Make room in a replay buffer of Stable-Baselines3 and keep what is in it, oldest first, as if it
    had had the room from the start.

    :param buffer: a ``ReplayBuffer`` or ``DictReplayBuffer``, not ``optimize_memory_usage``
    :param size: transitions of each environment to hold; one that holds them already stays
    """
    old = buffer.buffer_size
    if size <= old:
        return
    # full, the oldest stands where the next would be written
    shift = -buffer.pos if buffer.full else 0

    def longer(array: np.ndarray) -> np.ndarray:
        whole = np.zeros((size, *array.shape[1:]), array.dtype)
        whole[:old] = np.roll(array, shift, axis=0)
        return whole

    for name, value in vars(buffer).items():
        if isinstance(value, np.ndarray) and value.shape[:1] == (old,):
            setattr(buffer, name, longer(value))
        elif isinstance(value, dict) and all(isinstance(v, np.ndarray) for v in value.values()):
            setattr(buffer, name, {key: longer(array) for key, array in value.items()})
    if buffer.full:
        buffer.pos, buffer.full = old, False
    buffer.buffer_size = size
