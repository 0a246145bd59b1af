"""DeepMind Control tasks, through Shimmy, as plain Gymnasium environments.

Importing this module registers the ids (``dm_control/cheetah-run-v0``, ...) where Shimmy and
dm_control are installed, and the package's own task (:mod:`sb3_rfm.four_goals`).
"""

import contextlib
import difflib
import importlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import DtypeObservation, FlattenObservation

import sb3_rfm.four_goals  # noqa: F401  (registers its id)
from sb3_rfm.utils.extras import missing_extra
from sb3_rfm.utils.graphics import check_driver, import_without_driver, load_renderer

NAMESPACE = "dm_control/"
# dm_control's domains, to know their tasks where it is not installed
SUITE = (
    "acrobot",
    "ball_in_cup",
    "cartpole",
    "cheetah",
    "dog",
    "finger",
    "fish",
    "hopper",
    "humanoid",
    "humanoid_CMU",
    "lqr",
    "manipulator",
    "pendulum",
    "point_mass",
    "quadruped",
    "reacher",
    "stacker",
    "swimmer",
    "walker",
)
RENDER_MODES = ("rgb_array", "depth_array", "multi_camera", "human")


class FlatFloat32(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Observations as one flat float32 vector, whatever the environment observes.

    DeepMind Control observes a dict of float64 arrays, some of them without an axis (a height, a
    distance), which Stable-Baselines3 cannot take as they are. A flat float32 observation stays as
    it is, so wrapping twice is harmless. Usable as ``wrapper_class`` of ``make_vec_env`` and as
    ``env_wrapper`` of the RL Zoo.

    :param env: the environment to wrap
    """

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        with warnings.catch_warnings():
            # the bounds of float64 observations lose precision in float32: that is what is wanted
            warnings.filterwarnings("ignore", message=".*precision lowered by casting to float32.*")
            super().__init__(DtypeObservation(FlattenObservation(env), np.float32))


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """
    Drop the note about a deprecated attribute in dm_control's own XML, printed at each load.

    :param record: a record of absl's logger
    :return: whether to keep it
    """
    return not record.getMessage().startswith("compiler attribute 'settotalmass' is deprecated")


def register_dmc() -> None:
    """
    Make the DeepMind Control ids available to ``gymnasium.make``; a second call does nothing.

    :raises ImportError: when Shimmy or dm_control is missing
    """
    missing = [p for p in ("shimmy", "dm_control") if importlib.util.find_spec(p) is None]
    if missing:
        raise ImportError(missing_extra("DeepMind Control tasks need", missing, "dmc"))
    logger = logging.getLogger("absl")
    if _is_worth_logging not in logger.filters:
        logger.addFilter(_is_worth_logging)
    importlib.import_module("shimmy")  # registers when it is imported


def _short(env_id: str) -> str:
    """
    :param env_id: ``dm_control/cheetah-run-v0``, or any other id
    :return: ``cheetah-run``; any other id as it is
    """
    if not env_id.startswith(NAMESPACE):
        return env_id
    return env_id.removeprefix(NAMESPACE).removesuffix("-v0")


def _suggestion(name: str, env_ids: list[str], otherwise: str = "") -> str:
    """
    The end of an error message about an unknown name.

    :param name: what was asked for
    :param env_ids: what there is
    :param otherwise: to be said when nothing looks like ``name``; all there is unless given
    :return: ``did you mean ...?``, or that
    """
    known = [_short(env_id) for env_id in env_ids]
    close = difflib.get_close_matches(_short(name), known, n=5, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return otherwise or f"there are {', '.join(sorted(known))}."


def dmc_id(task: str) -> str:
    """
    The Gymnasium id of a DeepMind Control task.

    :param task: ``cheetah-run``, ``cheetah-run-v0`` or ``dm_control/cheetah-run-v0``
    :return: ``dm_control/cheetah-run-v0``
    :raises ValueError: when there is no such task; the message names those that look like it
    """
    register_dmc()
    env_id = f"{NAMESPACE}{task.removeprefix(NAMESPACE).removesuffix('-v0')}-v0"
    if env_id in gym.registry:
        return env_id
    known = [name for name in gym.registry if name.startswith(NAMESPACE)]
    raise ValueError(f"Unknown DeepMind Control task {task!r}: {_suggestion(env_id, known)}")


def any_env_id(name: str) -> str:
    """
    The Gymnasium id of any environment; DeepMind Control tasks go by their short name too.

    :param name: ``Pendulum-v1``, ``cheetah-run``, ``dm_control/cheetah-run-v0``, ``module:Name-v0``
        (the module is imported: it registers the environment)
    :return: an id that ``gymnasium.make`` takes, ``module:`` included
    :raises ValueError: when there is none; the message names those that look like it
    :raises ImportError: when it is a task of DeepMind Control, which is not installed
    """
    if name.startswith(NAMESPACE):
        return dmc_id(name)
    module, env_id = split_env_id(name)
    if module:
        _import_module(module, name)
    with contextlib.suppress(gym.error.Error):
        gym.spec(env_id)
        return name
    if not module:
        no_task = (ValueError,) if _looks_like_dmc(name) else (ValueError, ImportError)
        with contextlib.suppress(*no_task):
            return dmc_id(name)
    known = [known_id for known_id in gym.registry if not known_id.startswith("GymV2")]
    otherwise = "Gymnasium knows no such id. An environment of your own is MODULE:Name-v0."
    raise ValueError(f"Unknown environment {name!r}: {_suggestion(env_id, known, otherwise)}")


def split_env_id(name: str) -> tuple[str, str]:
    """
    The two parts of an id with its module.

    :param name: ``module:Name-v0`` or ``Name-v0``
    :return: the module, empty where there is none, and the id
    """
    module, _, env_id = name.rpartition(":")
    return module, env_id


def _import_module(module: str, name: str) -> None:
    """
    Import the module that registers an environment.

    :param module: its name
    :param name: of the environment, with the module
    :raises ValueError: when it cannot be found; an error of its own stays what it is
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Unknown environment {name!r}: {error}. A module is looked for in this folder, among "
            "the packages installed and in the folders of PYTHONPATH."
        ) from error


def _looks_like_dmc(name: str) -> bool:
    """
    Whether a name can only mean a task of DeepMind Control, installed or not.

    :param name: an unknown one
    :return: True for ``cheetah-run``, and for what is nearly it
    """
    task = name.removesuffix("-v0")
    if re.search(r"-v\d+$", task):
        return False
    close = difflib.get_close_matches(task.partition("-")[0], SUITE, n=1, cutoff=0.8)
    return task.startswith(SUITE) or ("-" in task and bool(close))


@contextlib.contextmanager
def naming_what_is_missing() -> Iterator[None]:
    """
    Have the name of a package that an environment needs in Python's own error, from Gymnasium's.

    :raises ImportError: in the place of ``DependencyNotInstalled``
    """
    try:
        yield
    except gym.error.DependencyNotInstalled as error:
        name = str(error).partition(" ")[0].strip("`'\"").lower()
        raise ImportError(str(error), name=name) from error


def check_render_mode(render_mode: str | None) -> None:
    """
    Fail now, with a reason, rather than at the first frame.

    :param render_mode: as given to ``make_dmc``
    :raises ValueError: when it is not one of Shimmy's, or OpenGL does not load
    """
    if render_mode is None:
        return
    if render_mode not in RENDER_MODES:
        raise ValueError(
            f"render_mode must be None or one of {', '.join(RENDER_MODES)}, got {render_mode!r}."
        )
    check_driver(f"render_mode={render_mode!r}", load_renderer)


def make_dmc(
    task: str, seed: int | None = None, render_mode: str | None = None, **kwargs: Any
) -> gym.Env:
    """
    A DeepMind Control task with flat float32 observations: ``make_dmc("cheetah-run")``.

    Episodes of the suite last 1000 steps and end truncated, never terminated (the two lqr tasks
    excepted). OpenGL is loaded with a render mode only, as MUJOCO_GL says; where that is not set
    and there is no display, it becomes ``egl``, or ``disable`` where that does not load.

    :param task: ``cheetah-run`` or ``dm_control/cheetah-run-v0``
    :param seed: seed of the task and of its action space; ``make_dmc(task, seed=s).reset()`` is
        ``make_dmc(task).reset(seed=s)``
    :param render_mode: None, ``rgb_array``, ``depth_array``, ``multi_camera`` or ``human``
    :param kwargs: passed on to ``gymnasium.make``: ``task_kwargs``, ``environment_kwargs``,
        ``render_kwargs`` (``width``, ``height``, ``camera_id``), ``visualize_reward``
    :return: the environment
    :raises ValueError: when there is no such task or render mode, or rendering is not possible
    """
    env_id = dmc_id(task)
    check_render_mode(render_mode)
    if seed is not None and "-" in _short(env_id):  # the suite, not locomotion or manipulation
        # lqr draws its physics when it is built, not when it is reset
        kwargs["task_kwargs"] = {"random": seed, **(kwargs.get("task_kwargs") or {})}
    env = FlatFloat32(gym.make(env_id, render_mode=render_mode, disable_env_checker=True, **kwargs))
    if seed is not None:
        env.action_space.seed(seed)
        # dm_control draws from NumPy's older generator
        env.unwrapped.np_random = np.random.RandomState(seed)  # type: ignore[assignment]
    return env


import_without_driver()
with contextlib.suppress(ImportError):  # make_dmc says what is missing, when it is needed
    register_dmc()
