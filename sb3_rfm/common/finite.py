"""
Numbers that are not finite, or too large to be computed with, stopped where an environment gives
them: before anything that averages, stacks, stores or learns has seen them.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecNormalize

LARGEST = np.float64(1e15)
"""
What observations, rewards and actions may be in size. Losses square what is learnt from them, and a
return is up to thousands of rewards: float32 ends at 3.4e38.
"""
KINDS = (np.ndarray, np.generic, float, list, tuple)
ALLOWED = f"finite numbers of at most {LARGEST:g} in size are allowed"


class NonFiniteError(FloatingPointError, ValueError):
    """
    A number that should be finite is not, or is too large; the message names the first one and the
    step. A ``ValueError`` too, which a search for hyperparameters takes for a trial that failed.
    """


def not_finite(name: str, value: Any) -> Iterator[str]:
    """
    What is not finite or larger than ``LARGEST``, entry by entry.

    :param name: of the value
    :param value: an array, a number, a list or a dictionary of them; anything else is taken for
        finite
    :return: sentences such as "reward[0] is nan"
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from not_finite(f"{name}[{key!r}]", item)
    elif isinstance(value, KINDS):
        array = np.asarray(value)
        for index in np.argwhere(_wrong(array)):
            place = ", ".join(map(str, index))
            yield f"{name}[{place}] is {array[tuple(index)]:g}".replace("[] ", " ")


def is_fine(value: Any) -> bool:
    """
    Whether nothing is not finite or too large.

    :param value: an array, a number, a list or a dictionary of them
    :return: True if so, and for anything else
    """
    if isinstance(value, Mapping):
        return all(map(is_fine, value.values()))
    if not isinstance(value, KINDS):
        return True
    array = np.asarray(value)
    return array.dtype.kind != "f" or bool(np.abs(array).max(initial=0.0) <= LARGEST)


def wrong_rows(value: Any, n_rows: int) -> np.ndarray:
    """
    The rows in which something is not finite or too large.

    :param value: an array whose first axis are environments, or a dictionary of such arrays
    :param n_rows: number of environments, N
    :return: (N,)
    """
    if isinstance(value, Mapping):
        parts = [wrong_rows(part, n_rows) for part in value.values()]
        return np.logical_or.reduce(parts) if parts else np.zeros(n_rows, bool)
    return np.asarray(_wrong(np.asarray(value)).reshape(n_rows, -1).any(1))


def made_finite(value: Any) -> Any:
    """
    A value with zeros in the place of what is not finite or too large.

    :param value: an array, a number, a list or a dictionary of them
    :return: of the same kind and type, a list as an array; the value itself where nothing is wrong
    """
    if isinstance(value, Mapping):
        return {key: made_finite(part) for key, part in value.items()}
    array = np.asarray(value)
    wrong = _wrong(array)
    return np.where(wrong, np.zeros((), array.dtype), array) if wrong.any() else value


def _wrong(array: np.ndarray) -> np.ndarray:
    """Where an array is not finite or too large; only floating point numbers can be."""
    if array.dtype.kind != "f":
        return np.zeros(array.shape, bool)
    return ~(np.abs(array) <= LARGEST)  # NaN compares as False


class _Averages:
    """
    What a ``VecNormalize`` averaged before a step, to average anew without some environments.

    :param layer: the wrapper
    """

    def __init__(self, layer: VecNormalize) -> None:
        self.layer, self.returns = layer, layer.returns
        # each update of Stable-Baselines3's puts new arrays in the place of the old
        self.kept = [(rms, copy(vars(rms))) for rms in (*self._obs_rms().values(), layer.ret_rms)]

    def _obs_rms(self) -> dict[str | None, Any]:
        if not self.layer.norm_obs:
            return {}
        rms: Any = self.layer.obs_rms
        return rms if isinstance(rms, dict) else {None: rms}

    def without(self, obs: np.ndarray, rewards: np.ndarray | None) -> None:
        """
        Average the last step anew.

        :param obs: the environments whose observation does not count, (N,)
        :param rewards: those whose reward does not, (N,); None for a reset, which has no rewards
        """
        if not self.layer.training:
            return
        for rms, before in self.kept:
            vars(rms).update(before)
        for key, rms in self._obs_rms().items():
            seen: Any = self.layer.old_obs
            self._add(rms, seen if key is None else seen[key], obs)
        if rewards is not None:
            returns = self.returns * self.layer.gamma + self.layer.old_reward
            self._add(self.layer.ret_rms, returns, rewards)

    @staticmethod
    def _add(rms: Any, rows: np.ndarray, left_out: np.ndarray) -> None:
        if not left_out.all():
            rms.update(rows[~left_out])


class WatchedEnv:
    """
    Stands in the place of the vectorised environment at the bottom of a stack of wrappers, and puts
    zeros where observations and rewards are not finite or too large. What it does not do itself the
    environment does, whose class ``isinstance`` sees.

    :param env: the environment
    :param wrappers: those around it, the outermost first
    :param blind: number of observations to come, this one included, that hold what was made up, of
        each environment, (N,); written to
    :param complain: called with the name of the first number that is wrong, before any wrapper has
        seen it; may raise
    """

    def __init__(
        self,
        env: VecEnv,
        wrappers: list[VecEnvWrapper],
        blind: np.ndarray,
        complain: Callable[[str], None],
    ) -> None:
        self._env, self._blind, self._complain = env, blind, complain
        self._normalizers = [layer for layer in wrappers if isinstance(layer, VecNormalize)]
        stacks = [layer for layer in wrappers if isinstance(layer, VecFrameStack)]
        self._memory = 1 + sum(layer.stacked_obs.n_stack - 1 for layer in stacks)
        self._before: list[_Averages] = []
        self._wrong_rewards: np.ndarray | None = None
        self.left_out = np.zeros(env.num_envs, bool)
        """The environments whose last transition holds something that was made up, (N,)."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._env)

    def reset(self) -> Any:
        """:return: the first observations, all finite"""
        self._before = [_Averages(layer) for layer in self._normalizers]
        obs = self._env.reset()
        self._blind[:] = self._memory * wrong_rows(obs, self._env.num_envs)
        if self._blind.any():
            self._name_first({"observation": obs})
        self._wrong_rewards = None
        return made_finite(obs)

    def step(self, actions: np.ndarray) -> Any:
        """
        :param actions: (N, ...)
        :return: observations, rewards, dones, infos
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: np.ndarray) -> None:
        """:param actions: (N, ...)"""
        self._before = [_Averages(layer) for layer in self._normalizers]
        self._env.step_async(actions)

    def step_wait(self) -> Any:
        """:return: observations, rewards, dones, infos, all finite"""
        obs, rewards, dones, infos = self._env.step_wait()
        ended = np.flatnonzero(dones)
        ends = {
            f"terminal observation of environment {i}": infos[i].get("terminal_observation")
            for i in ended
        }
        self.left_out, self._wrong_rewards = self._blind > 0, None
        if is_fine(obs) and is_fine(rewards) and is_fine(ends):
            if self.left_out.any():
                self._hold(np.zeros(len(dones), bool), dones)
            return obs, rewards, dones, infos
        self._name_first({"observation": obs, "reward": rewards, **ends})
        wrong_obs, self._wrong_rewards = (wrong_rows(part, len(dones)) for part in (obs, rewards))
        self._hold(wrong_obs, dones)
        # a new episode's first observation is none of the transition's that ended the old one
        wrong_next = wrong_obs & ~dones
        infos = [dict(info) for info in infos]
        for i, end in zip(ended, ends.values(), strict=True):
            wrong_next[i] = not is_fine(end)
            infos[i]["terminal_observation"] = made_finite(end)
        self.left_out = self.left_out | self._wrong_rewards | wrong_next
        return made_finite(obs), made_finite(rewards), dones, infos

    def _hold(self, wrong_obs: np.ndarray, dones: np.ndarray) -> None:
        """Count the observations to come that hold what was made up, after a step."""
        later = np.where(dones, 0, np.maximum(self._blind - 1, 0))
        self._blind[:] = np.where(wrong_obs, self._memory, later)

    def _name_first(self, parts: dict[str, Any]) -> None:
        """Complain of the first number that is wrong."""
        self._complain(next(c for name, part in parts.items() for c in not_finite(name, part)))

    def correct_averages(self) -> None:
        """Have ``VecNormalize`` count nothing of the last step or reset that was made up."""
        blind = self._blind > 0
        rewards = self._wrong_rewards
        if blind.any() or (rewards is not None and rewards.any()):
            for averages in self._before:
                averages.without(blind, rewards)
