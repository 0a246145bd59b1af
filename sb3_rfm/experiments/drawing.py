"""How an environment is drawn: by which driver, from where, and at which pace."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_rfm.envs import NAMESPACE
from sb3_rfm.utils.graphics import check_driver, load_context, load_renderer, missing_driver

SUITES_VIEW = {"camera_id": 0, "width": 480, "height": 360}
"""The first camera of a task goes along with what moves away; MuJoCo's free one stays behind."""
USUAL_RATE = 30.0
"""Steps a second where an environment does not say, as Gymnasium's recorder has it."""


def drawing_arguments(env_id: str) -> dict[str, Any]:
    """
    What to make an environment with, besides its render mode, to draw it.

    :param env_id: in full
    :return: arguments of ``gymnasium.make``: camera and size for the suite of DeepMind Control
    """
    task = env_id.removeprefix(NAMESPACE).removesuffix("-v0")
    of_the_suite = env_id.startswith(NAMESPACE) and "-" in task  # cheetah-run
    return {"render_kwargs": dict(SUITES_VIEW)} if of_the_suite else {}


def check_drawing(env: gym.Env, env_id: str) -> None:
    """
    Load the driver that draws an environment, where it needs one: fails now, with a reason, rather
    than at the first frame.

    :param env: without its wrappers
    :param env_id: in full
    :raises ValueError: when OpenGL does not load
    """
    if env_id.startswith(NAMESPACE):
        check_driver(f"drawing {env_id}", load_renderer)
    elif _draws_by_mujoco(env):
        check_driver(f"drawing {env_id}", load_context)


def steps_per_second(env: gym.Env, env_id: str) -> float:
    """
    The pace of an environment's own time.

    :param env: without its wrappers
    :param env_id: in full
    :return: steps in a second
    """
    if env_id.startswith(NAMESPACE):
        return 1 / float(env.dt)  # type: ignore[attr-defined]  # Shimmy's render_fps is 1000 dt
    return float(env.metadata.get("render_fps") or USUAL_RATE)


def drawn(draw: Callable[[], np.ndarray | None], env: gym.Env, env_id: str) -> np.ndarray | None:
    """
    A frame.

    :param draw: gives it
    :param env: that is drawn, without its wrappers
    :param env_id: in full
    :return: what ``draw`` gives
    :raises ValueError: when OpenGL fails, which raises errors of every kind
    """
    try:
        return draw()
    except Exception as error:
        if not (env_id.startswith(NAMESPACE) or _draws_by_mujoco(env)):
            raise  # a package that is missing, or a fault of the environment's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(missing_driver(f"drawing {env_id}", reason)) from error


def _draws_by_mujoco(env: gym.Env) -> bool:
    """
    Whether an environment is one of Gymnasium's that MuJoCo draws.

    :param env: without its wrappers
    :return: True if so
    """
    return hasattr(env, "mujoco_renderer")
