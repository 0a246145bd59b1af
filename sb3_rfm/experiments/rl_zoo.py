"""The RL Zoo (rl_zoo3) with this package's algorithms in it: its ``train``, ``enjoy`` and
``record_video`` commands, forwarded to with our hyperparameters.

rl_zoo3 has no plugin point and reads its choices before it imports anything, so the algorithms are
put into its tables in place.
"""

import argparse
import contextlib
import inspect
import re
import runpy
import shutil
import sys
import traceback
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_rfm.experiments.episodes import BoundedEvaluation, EndlessEpisode, with_episode_ends
from sb3_rfm.experiments.hyperparams import (
    OF_SAC,
    REGISTERED,
    action_noise,
    algorithm_class,
    hyperparams_file,
    plain_values,
    with_schedules,
)
from sb3_rfm.experiments.search import sample_rfm_params
from sb3_rfm.utils.preload import import_triton

if TYPE_CHECKING:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

DEFAULT_ALGORITHM = "rfm_flow"
DEFAULT_FOLDER = "logs"

PLAYING = ("enjoy", "record")
"""Commands to which a model is only to be played."""
OF_THE_USER = ("parse_args", "setup_experiment", "download_from_hub", "validate_repo_id")
"""Functions of rl_zoo3 and of the hub whose errors are about what the user asked for."""

WORD = re.compile(r"[A-Za-z]+(_[A-Za-z]+)*(_[-+.\deE]+)?")


def without_buffer(algorithm: "type[OffPolicyAlgorithm]") -> "type[OffPolicyAlgorithm]":
    """
    The same algorithm, loading with a replay buffer of one transition.

    rl_zoo3 does so for the algorithms it knows; for others it would allocate the whole buffer to
    play a few episodes.

    :param algorithm: the class
    :return: a subclass of the same name
    """

    class WithoutBuffer(algorithm):  # type: ignore[valid-type,misc]
        @classmethod
        def load(cls, *args: Any, **kwargs: Any) -> "OffPolicyAlgorithm":
            kwargs.update(buffer_size=1, optimize_memory_usage=False)
            return super().load(*args, **kwargs)

    WithoutBuffer.__name__ = WithoutBuffer.__qualname__ = algorithm.__name__
    return WithoutBuffer


def register(playing: bool = False) -> None:
    """
    Put our algorithms into rl_zoo3's tables, and DeepMind Control's ids into Gymnasium's.

    :param playing: the models will be loaded and played, not trained
    """
    import rl_zoo3
    from rl_zoo3 import callbacks, exp_manager, hyperparams_opt, utils
    from rl_zoo3.exp_manager import ExperimentManager

    import sb3_rfm.envs  # noqa: F401  (registers the ids)

    wrappers = _with_episode_ends(inspect.unwrap(utils.get_wrapper_class))
    bounded = (callbacks.TrialEvalCallback, BoundedEvaluation)
    for place, name, value in (
        (utils, "get_wrapper_class", wrappers),
        (exp_manager, "get_wrapper_class", wrappers),
        (exp_manager, "EvalCallback", BoundedEvaluation),
        (exp_manager, "TrialEvalCallback", type("TrialEvalCallback", bounded, {})),
        (exp_manager.ExperimentManager, "_preprocess_action_noise", _preprocess_action_noise),
    ):
        setattr(place, name, value)
    theirs: Any = ExperimentManager._preprocess_schedules
    preprocessed = theirs if isinstance(theirs, _Preprocessed) else _Preprocessed(theirs)
    ExperimentManager._preprocess_schedules = preprocessed  # type: ignore[method-assign]
    for name in REGISTERED:
        algorithm = algorithm_class(name)
        rl_zoo3.ALGOS[name] = without_buffer(algorithm) if playing else algorithm
        sampler: Any = partial(sample_rfm_params, name, given=preprocessed.latest)
        if name in OF_SAC:
            sampler = hyperparams_opt.sample_sac_params
        hyperparams_opt.HYPERPARAMS_SAMPLER[name] = sampler
        hyperparams_opt.HYPERPARAMS_CONVERTER[name] = hyperparams_opt.convert_offpolicy_params


class _Preprocessed:
    """
    In the place of the function with which rl_zoo3 makes schedules of strings: groups of settings,
    numbers that YAML takes for strings, and the schedules of other learning rates than the first,
    are made before.

    ``latest`` holds the hyperparameters of the latest call, which an Optuna trial changes.

    :param theirs: rl_zoo3's
    """

    def __init__(self, theirs: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.theirs = theirs
        self.latest: dict[str, Any] = {}

    def __call__(self, hyperparams: dict[str, Any]) -> dict[str, Any]:
        values = plain_values(algorithm_class(DEFAULT_ALGORITHM), hyperparams)
        own = {name: value for name, value in values.items() if name != "learning_rate"}
        made = self.theirs(values | with_schedules(own))
        self.latest.clear()
        self.latest.update(made)
        return made


def _preprocess_action_noise(
    manager: Any, hyperparams: dict[str, Any], saved: dict[str, Any], env: "VecEnv"
) -> dict[str, Any]:
    """
    What rl_zoo3's method of this name does, for actions of any shape: it takes vectors alone.

    :param manager: rl_zoo3's, whose ``n_actions`` is set
    :param hyperparams: ``noise_type`` and ``noise_std`` become ``action_noise``
    :param saved: unused
    :param env: of the training
    :return: the hyperparameters
    """
    noise = hyperparams.pop("noise_type", None), hyperparams.pop("noise_std", 0.1)
    if isinstance(env.action_space, spaces.Box):
        manager.n_actions = get_action_dim(env.action_space)
    if noise[0] is not None:
        hyperparams["action_noise"] = action_noise(*noise, env.action_space.shape or ())
    return hyperparams


def _with_episode_ends(get_wrapper_class: Callable[..., Any]) -> Callable[..., Any]:
    """
    rl_zoo3's wrappers, with the ends of episodes that its evaluations would wait for in vain.

    :param get_wrapper_class: rl_zoo3's function of hyperparameters
    :return: one to take its place
    """

    @wraps(get_wrapper_class)
    def with_ends(hyperparams: dict[str, Any], key: str = "env_wrapper") -> Any:
        wrap = get_wrapper_class(hyperparams, key)
        return with_episode_ends(wrap) if key == "env_wrapper" else wrap

    return with_ends


def _given(arguments: list[str]) -> argparse.Namespace:
    """
    The options that this module looks at; None where the user has not given one.

    :param arguments: what follows the command's name
    :return: ``algo``, ``env``, ``conf_file``, ``folder``, ``num_threads``, ``gym_packages``
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo")
    parser.add_argument("--env")
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("-f", "--folder", "--log-folder")
    parser.add_argument("--num-threads")
    parser.add_argument("--gym-packages", nargs="+")
    return parser.parse_known_args(arguments)[0]


def given_algorithm(arguments: list[str]) -> str:
    """
    The algorithm that is asked for.

    :param arguments: what follows the command's name
    :return: its name, ours where none is given
    """
    return _given(arguments).algo or DEFAULT_ALGORITHM


def _quoted(arguments: list[str]) -> list[str]:
    """
    Words such as ``auto`` and ``lin_3e-4`` in quotes, where rl_zoo3 evaluates them as Python.

    :param arguments: what follows the command's name
    :return: the same, but for values of ``--hyperparams``
    """
    quoted, evaluated = [], False
    for argument in arguments:
        if argument.startswith("-"):
            evaluated = argument in ("-params", "--hyperparams")
        key, _, value = argument.partition(":")
        if evaluated and WORD.fullmatch(value) and value not in ("True", "False", "None"):
            argument = f"{key}:{value!r}"
        quoted.append(argument)
    return quoted


def _with_defaults(command: str, arguments: list[str]) -> list[str]:
    """
    What the user gave, and our own choices for what was left out.

    :param command: ``train``, ``enjoy``, ``record``, ``push-to-hub`` or ``load-from-hub``
    :param arguments: what follows it
    :return: arguments for rl_zoo3
    :raises ValueError: when the environment is missing or unknown, or cannot be recorded
    """
    from sb3_rfm.envs import NAMESPACE, any_env_id, check_render_mode, split_env_id
    from sb3_rfm.utils.graphics import has_display

    given = _given(arguments)
    if given.env is None:
        raise ValueError("--env is required, for example --env dm_control/cheetah-run-v0.")
    algo = given_algorithm(arguments)
    # imported by now: rl_zoo3 knows ids without a module
    env_id = given.env if given.gym_packages else split_env_id(any_env_id(given.env))[1]
    pushed = command == "push-to-hub" and "--no-render" not in arguments
    if (pushed or command == "record") and env_id.startswith(NAMESPACE):
        try:
            check_render_mode("rgb_array")
        except ValueError as error:
            without = " Without a video, it is --no-render." if pushed else ""
            raise ValueError(f"{error}{without}") from error
    added = ["--algo", algo, "--env", env_id]  # argparse takes the last
    if command not in ("record", "load-from-hub") and given.num_threads is None:
        added += ["--num-threads", "1"]  # small networks: more threads only wait for each other
    if command == "train":
        path = hyperparams_file(algo)
        ours = algo in REGISTERED or env_id.startswith(NAMESPACE)
        if given.conf_file is None and ours and path is not None:
            added += ["--conf-file", str(path)]
    else:
        if given.folder is None:
            added += ["--folder", DEFAULT_FOLDER]
        if command == "enjoy" and not has_display() and "--no-render" not in arguments:
            added += ["--no-render"]
    return [*_quoted(arguments), *added]


def forward(command: str, arguments: list[str], call: Callable[[], None] | None = None) -> int:
    """
    Run a command of rl_zoo3.

    :param command: ``train``, ``enjoy`` or ``record``, or what ``call`` does
    :param arguments: what follows it
    :param call: runs it with the process's arguments, where it is another
    :return: the exit code
    :raises ValueError: when the environment is missing or unknown, or an option or a hyperparameter
        is not allowed
    :raises FileNotFoundError: when there is no trained model to play
    :raises RuntimeError: when rl_zoo3 fails for another reason
    """
    from sb3_rfm.envs import naming_what_is_missing

    asks_for_help = "-h" in arguments or "--help" in arguments
    register(playing=command in PLAYING)  # else a replay buffer of one transition would be kept
    if not asks_for_help:
        arguments = _with_defaults(command, arguments)
    sys.argv = [f"sb3-rfm {command}", *arguments]
    if command != "train":
        import_triton()  # before what draws
    try:
        with naming_what_is_missing():
            (call or partial(_call, command))()
    except EndlessEpisode:
        raise
    except Exception as error:
        if command != "train" and _is_about_a_missing_model(str(error)):
            by_itself = f"; the folder of a run is given by itself: sb3-rfm {command} runs/..."
            more = by_itself if command in PLAYING else ""
            raise FileNotFoundError(f"{error} (the folder is set with -f{more})") from error
        if _is_about_the_options(error):
            _discard_folder(error)
            raise ValueError(str(error)) from error
        if str(error).startswith("No trials are completed yet"):
            raise ValueError(
                "no trial was completed: each was pruned or failed, as said above; a trial is "
                "pruned where a number is not finite"
            ) from error
        if isinstance(error, (AssertionError, ValueError)):
            raise RuntimeError(f"rl_zoo3's {command} failed: {error}") from error
        raise
    return 0


def _call(command: str) -> None:
    """
    Run a command of rl_zoo3 with the process's arguments.

    :param command: ``train``, ``enjoy`` or ``record``
    """
    if command == "train":
        from rl_zoo3.train import train

        train()
    elif command == "enjoy":
        from rl_zoo3.enjoy import enjoy

        enjoy()
    else:
        runpy.run_module("rl_zoo3.record_video", run_name="__main__")


def _is_about_the_options(error: BaseException) -> bool:
    """
    Whether rl_zoo3 failed while it read its options or made the model from them.

    :param error: of its
    :return: True if so; False when it was training
    """
    frames = traceback.extract_tb(error.__traceback__)
    functions = {frame.name for frame in frames}
    if "learn" in functions or not functions & set(OF_THE_USER):
        return False
    if isinstance(error, (AssertionError, ValueError, TypeError, SyntaxError)):
        return True
    evaluated = frames[-1].filename == "<string>"
    return evaluated or bool(functions & {"get_wrapper_class", "get_class_by_name"})


def _discard_folder(error: BaseException) -> None:
    """
    Remove the folder that rl_zoo3 made for a run before it failed.

    :param error: of its
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        path = getattr(frame.f_locals.get("self"), "save_path", None)
        if frame.f_code.co_name == "setup_experiment" and path:
            shutil.rmtree(path, ignore_errors=True)
            for parent in list(Path(path).parents)[:2]:  # of the algorithm, of all logs
                with contextlib.suppress(OSError):  # there are others in it
                    parent.rmdir()


def _is_about_a_missing_model(message: str) -> bool:
    """
    Whether rl_zoo3 could not find what to play, which it reports in three ways.

    :param message: of an exception of ``get_model_path``
    :return: True if so
    """
    return "folder was not found" in message or message.startswith(
        ("No model found", "No checkpoint found")
    )
