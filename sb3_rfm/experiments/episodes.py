"""Where an episode ends, and one that does not."""

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

Wrap = Callable[[gym.Env], gym.Env]
# steps of wrappers that hand on when an episode ends
PLAIN_STEPS = tuple(
    kind.step
    for kind in (gym.Wrapper, gym.ObservationWrapper, gym.ActionWrapper, gym.RewardWrapper)
)
MOST_STEPS = 10_000
"""Steps after which an episode of an evaluation is endless, if its environment says no more."""


class EpisodeEnds(gym.Wrapper):
    """
    Notes the return of an episode that a wrapper outside of ``Monitor`` ended (``TimeLimit``, say),
    which ``Monitor`` does not see: the sum of ``Monitor``'s rewards, as for its own episodes.

    :param env: with ``Monitor`` somewhere in it
    :param monitor: that one
    """

    def __init__(self, env: gym.Env, monitor: Monitor) -> None:
        super().__init__(env)
        self.monitor = monitor
        self.begun = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(**kwargs)
        self.begun = len(self.monitor.rewards)  # 0, unless a wrapper began without a reset
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if (terminated or truncated) and "episode" not in info:
            rewards = self.monitor.rewards[self.begun :]
            seconds = round(time.time() - self.monitor.t_start, 6)
            info["episode"] = {"r": round(sum(rewards), 6), "l": len(rewards), "t": seconds}
        return observation, reward, terminated, truncated, info


def with_episode_ends(wrap: Wrap | None) -> Wrap | None:
    """
    Wrappers that go outside of ``Monitor``, with :class:`EpisodeEnds` where one of them may end an
    episode.

    :param wrap: puts them around an environment, or None
    :return: puts all of it around a ``Monitor``, or None
    """
    if wrap is None:
        return None

    def wrapped(env: gym.Env) -> gym.Env:
        outer = wrap(env)
        monitor = unwrap_wrapper(outer, Monitor)
        if not isinstance(monitor, Monitor) or _only_plain(outer):
            return outer
        return EpisodeEnds(outer, monitor)

    return wrapped


def _only_plain(env: gym.Env) -> bool:
    """
    Whether no wrapper outside of ``Monitor`` has a step of its own.

    :param env: with ``Monitor`` somewhere in it
    :return: True when none has
    """
    while isinstance(env, gym.Wrapper) and not isinstance(env, Monitor):
        if type(env).step not in PLAIN_STEPS:
            return False
        env = env.env
    return True


class EndlessEpisode(ValueError):
    """An episode of an evaluation does not end; the message says whose."""


class BoundedEvaluation(EvalCallback):
    """
    Stable-Baselines3's ``EvalCallback``, which would wait for ever for an episode that does not
    end: after ``MOST_STEPS``, or the environment's own limit where that is later, it gives up.
    """

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        # evaluate_policy calls this at each step of the evaluation
        super()._log_success_callback(locals_, globals_)
        steps = int(locals_["current_lengths"][locals_["i"]])
        if not locals_["done"] and steps >= MOST_STEPS and steps >= _limit(self.eval_env):
            raise EndlessEpisode(
                f"an episode of {_name(self.eval_env)} did not end in the {steps} steps of an "
                "evaluation: give it an end, env_wrapper:{'gymnasium.wrappers.TimeLimit': "
                "{'max_episode_steps': 1000}} for example."
            )


def _limit(env: VecEnv) -> int:
    """
    The longest that an episode can be.

    :param env: of an evaluation
    :return: steps; 0 where the environment has no limit
    """
    return max(getattr(spec, "max_episode_steps", None) or 0 for spec in env.get_attr("spec"))


def _name(env: VecEnv) -> str:
    """
    An environment in words.

    :param env: of an evaluation
    :return: its id, or its class where it has none
    """
    (spec,) = env.get_attr("spec", 0)
    return spec.id if spec is not None else str(env.get_attr("unwrapped", 0)[0])
