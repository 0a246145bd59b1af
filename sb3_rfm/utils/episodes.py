"""Where episodes end in a replay buffer, and transitions that are left out of it."""

from typing import Any

import numpy as np
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer


def close_episode(buffer: Any, envs: np.ndarray | None = None) -> None:
    """
    Mark the last transitions as cut short where their episodes go on no further: returns over
    several steps and hindsight goals would else run into what comes next.

    :param buffer: a replay buffer of Stable-Baselines3
    :param envs: which environments, (N,); all by default
    """
    if buffer.size() == 0:
        return
    last = (buffer.pos - 1) % buffer.buffer_size
    cut = np.ones(buffer.n_envs, bool) if envs is None else envs
    if isinstance(buffer, HerReplayBuffer):
        for env in np.flatnonzero(cut & (buffer._current_ep_start != buffer.pos)):
            buffer._compute_episode_length(int(env))
    # without stored next observations, as SB3 itself does before a second learn()
    marks = buffer.dones if buffer.optimize_memory_usage else buffer.timeouts
    marks[last, cut & (buffer.dones[last] == 0)] = True


class WithoutSome:
    """
    A replay buffer, for one step of which some environments' transitions are left out.

    A buffer stores one transition of each environment at a time. The place of one that is left out
    is taken by a copy of another environment's; where all are left out nothing is stored. Episodes
    end before the gap and after the copy.

    :param buffer: the replay buffer
    :param left_out: which environments, (N,)
    """

    def __init__(self, buffer: Any, left_out: np.ndarray) -> None:
        self.buffer, self.left_out = buffer, left_out

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store what is not left out.

        :param obs: observations, (N, ...), or a dictionary of them
        :param next_obs: those that follow
        :param action: (N, ...)
        :param reward: (N,)
        :param done: whether an episode ended, (N,)
        :param infos: of each environment
        """
        close_episode(self.buffer, self.left_out)
        kept = np.flatnonzero(~self.left_out)
        if len(kept) == 0:
            return
        every = np.arange(len(self.left_out))
        source = np.where(self.left_out, kept[every % len(kept)], every)
        self.buffer.add(
            _rows(obs, source),
            _rows(next_obs, source),
            action[source],
            reward[source],
            done[source],
            [infos[i] for i in source],
        )
        close_episode(self.buffer, self.left_out)


def _rows(value: Any, index: np.ndarray) -> Any:
    """Rows of an array, or of each array of a dictionary."""
    if isinstance(value, dict):
        return {key: part[index] for key, part in value.items()}
    return value[index]
