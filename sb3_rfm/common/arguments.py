"""Stable-Baselines3's own constructor arguments, checked before anything is built from them."""

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise

from sb3_rfm.sampling.registry import require, require_float, require_int

INTEGERS = {
    "buffer_size": 1,
    "learning_starts": 0,
    "batch_size": 1,
    "gradient_steps": -1,
    "n_steps": 1,
    "stats_window_size": 1,
    "verbose": 0,
}
SHARES = ("tau", "gamma")
KINDS: dict[str, tuple[type, ...]] = {
    "action_noise": (ActionNoise,),
    "replay_buffer_kwargs": (dict,),
    "optimize_memory_usage": (bool,),
    "tensorboard_log": (str, PathLike),
    "policy_kwargs": (dict,),
    "device": (str, th.device),
}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """
    Refuse what Stable-Baselines3 would take and fail on later, or misunderstand.

    :param arguments: of the constructor, by name; those that are not Stable-Baselines3's are left
        alone
    :raises ValueError: a number or name that is not allowed
    :raises TypeError: an argument of the wrong type
    """
    for name, least in INTEGERS.items():
        require_int(name, arguments[name], least)
    for name in SHARES:
        require_float(name, arguments[name], 0.0, 1.0)
    check_rate("learning_rate", arguments["learning_rate"])
    if arguments["critic_learning_rate"] is not None:
        check_rate("critic_learning_rate", arguments["critic_learning_rate"])
    check_device(arguments["device"])
    for name, kinds in KINDS.items():
        got = arguments[name]
        missing = got is None and name not in ("device", "optimize_memory_usage")
        if not missing and not isinstance(got, kinds):
            allowed = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"{name} must be of type {allowed}; got {got!r}")
    if arguments["seed"] is not None:
        require_int("seed", arguments["seed"], 0)
    buffer = arguments["replay_buffer_class"]
    if buffer is not None and not (isinstance(buffer, type) and issubclass(buffer, ReplayBuffer)):
        raise TypeError(f"replay_buffer_class must be a subclass of ReplayBuffer; got {buffer!r}")
    check_train_freq(arguments["train_freq"])


def check_rate(name: str, rate: float | Callable[[float], float]) -> None:
    """
    Refuse what is no learning rate.

    :param name: of the argument
    :param rate: a number of at least 0, or a schedule
    """
    first = rate
    if callable(rate):
        try:
            first = rate(1.0)
        except Exception as error:
            raise ValueError(
                f"{name} must be a number or a function of the remaining progress (1 to 0); got "
                f"{rate!r}, which raises {type(error).__name__} at 1"
            ) from error
    require_float(name, first, 0.0)


def check_device(device: str | th.device) -> None:
    """
    Refuse what is no device of PyTorch's.

    :param device: its name, or "auto"
    """
    if device == "auto":
        return
    try:
        th.device(device)
    except RuntimeError as error:
        allowed = "'auto' or a device of PyTorch, such as 'cpu' or 'cuda:0'"
        raise ValueError(f"device must be {allowed}; got {device!r}") from error


def check_noise(action_noise: ActionNoise | None, shape: tuple[int, ...]) -> None:
    """
    Refuse the noise that NumPy draws as a plain number, which Stable-Baselines3 fails on later.

    :param action_noise: of exploration
    :param shape: of an action
    """
    if type(action_noise) is NormalActionNoise and shape == ():
        raise ValueError(
            "action_noise must be sb3_rfm.common.noise.NormalNoise for actions of shape (); got "
            "Stable-Baselines3's NormalActionNoise"
        )


def check_episodes(train_freq: Any, n_envs: int) -> None:
    """
    Refuse episodes as the unit of training with several environments, whose episodes end apart.

    :param train_freq: that :func:`check_train_freq` takes
    :param n_envs: environments that are trained on at once
    """
    unit = train_freq[1] if isinstance(train_freq, tuple | list) else "step"
    require(
        n_envs == 1 or getattr(unit, "value", unit) != "episode",
        "train_freq",
        train_freq,
        f"in steps with several environments (n_envs is {n_envs})",
    )


def check_train_freq(train_freq: Any) -> None:
    """
    Refuse what is no frequency of training.

    :param train_freq: steps, or ``(frequency, "step" or "episode")``
    """
    pair = train_freq if isinstance(train_freq, tuple | list) else (train_freq, "step")
    allowed = "an int of at least 1, or (frequency, 'step' or 'episode')"
    unit = getattr(pair[-1], "value", pair[-1]) if len(pair) == 2 else None
    known = unit in ("step", "episode") and isinstance(pair[0], int)
    require(known, "train_freq", train_freq, allowed)
    require_int("train_freq", pair[0])
