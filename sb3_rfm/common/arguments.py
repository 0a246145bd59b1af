"""Stable-Baselines3's own constructor arguments, checked before anything is built from them."""

from collections.abc import Callable, Mapping
from numbers import Integral
from os import PathLike
from typing import Any

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise

from sb3_rfm.sampling.registry import require, require_float, require_int

SHARED = (
    "learning_rate",
    "buffer_size",
    "learning_starts",
    "batch_size",
    "tau",
    "gamma",
    "train_freq",
    "gradient_steps",
    "action_noise",
    "replay_buffer_class",
    "replay_buffer_kwargs",
    "optimize_memory_usage",
    "n_steps",
    "stats_window_size",
    "tensorboard_log",
    "policy_kwargs",
    "verbose",
    "seed",
    "device",
)
"""What Stable-Baselines3's off-policy algorithms take, besides policy and environment."""
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
PAIRS = ("train_freq", "t_range")
KINDS: dict[str, tuple[type, ...]] = {
    "action_noise": (ActionNoise,),
    "replay_buffer_kwargs": (dict,),
    "optimize_memory_usage": (bool,),
    "tensorboard_log": (str, PathLike),
    "policy_kwargs": (dict,),
    "device": (str, th.device),
}


def plain_number(got: Any) -> Any:
    """
    NumPy's and PyTorch's numbers as Python's.

    :param got: anything
    :return: the number in a scalar or an array without dimensions; anything else as it is
    """
    return got.item() if getattr(got, "ndim", None) == 0 and hasattr(got, "item") else got


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments whose numbers are Python's, pairs of them too, which are tuples also where a list was
    given (YAML and JSON have no other).

    :param arguments: by name
    :return: the same names
    """
    plain: dict[str, Any] = {}
    for name, got in arguments.items():
        is_pair = isinstance(got, tuple) or (name in PAIRS and isinstance(got, list))
        # a named tuple, such as SB3's TrainFreq, holds what was checked
        if is_pair and not hasattr(got, "_fields"):
            plain[name] = tuple(plain_number(part) for part in got)
        else:
            plain[name] = plain_number(got)
    return plain


def without_sde(policy_kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """
    Arguments of the policy without ``use_sde=False``, which Stable-Baselines3's own algorithms
    write into the dictionary that they are given, so that two algorithms can be given the same.

    :param policy_kwargs: the user's
    :return: a copy; None stays None
    """
    if policy_kwargs is None:
        return None
    return {k: v for k, v in policy_kwargs.items() if not (k == "use_sde" and v is False)}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """
    Refuse what Stable-Baselines3 would take and fail on later, or misunderstand.

    :param arguments: of the constructor, some or all, by name; those that are not
        Stable-Baselines3's are left alone
    :raises ValueError: a number or name that is not allowed
    :raises TypeError: an argument of the wrong type
    """
    for name, got in arguments.items():
        if name in INTEGERS and not (name == "n_steps" and got is None):
            require_int(name, got, INTEGERS[name])
        elif name in SHARES:
            require_float(name, got, 0.0, 1.0)
        elif name == "learning_rate":
            check_rate(name, got)
        elif name == "bfloat16":
            check_bfloat16(got)
        elif name == "device":
            check_device(got)
        elif name == "train_freq":
            check_train_freq(got)
        elif name == "seed" and got is not None:
            require_int(name, got, 0)
        elif name == "replay_buffer_class":
            check_buffer_class(got)
        if name in KINDS:
            check_kind(name, got, KINDS[name])


def check_kind(name: str, got: Any, kinds: tuple[type, ...]) -> None:
    """
    Refuse what is of no kind that is allowed.

    :param name: of the argument
    :param got: its value; None is allowed where the argument has it for a default
    :param kinds: what is allowed
    """
    missing = got is None and name not in ("device", "optimize_memory_usage")
    if not missing and not isinstance(got, kinds):
        allowed = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be of type {allowed}; got {got!r}")


def check_buffer_class(buffer: Any) -> None:
    """
    Refuse what is no class of replay buffers.

    :param buffer: a subclass of Stable-Baselines3's, or None
    """
    if buffer is not None and not (isinstance(buffer, type) and issubclass(buffer, ReplayBuffer)):
        raise TypeError(f"replay_buffer_class must be a subclass of ReplayBuffer; got {buffer!r}")


def check_policy(policy: Any, base: type) -> None:
    """
    Refuse another algorithm's policy, such as the one in its file.

    :param policy: a name, which Stable-Baselines3 checks, or a class
    :param base: what a class has to be a subclass of
    """
    if isinstance(policy, type) and not issubclass(policy, base):
        raise ValueError(
            f"policy must be a name or a subclass of {base.__module__}.{base.__name__}; got "
            f"{policy.__module__}.{policy.__name__} (of another algorithm's file?)"
        )


def check_rate(name: str, rate: float | Callable[[float], float]) -> None:
    """
    Refuse what is no learning rate.

    :param name: of the argument
    :param rate: a number of at least 0, or a schedule
    """
    first = rate
    if callable(rate):
        try:
            first = plain_number(rate(1.0))
        except Exception as error:
            raise ValueError(
                f"{name} must be a number or a function of the remaining progress (1 to 0); got "
                f"{rate!r}, which raises {type(error).__name__} at 1"
            ) from error
    require_float(name, first, 0.0)


def check_bfloat16(bfloat16: bool | str) -> None:
    """
    Refuse what is no switch.

    :param bfloat16: True, False or "auto"
    """
    switch = "True, False or 'auto'"
    require(bfloat16 in (True, False, "auto"), "bfloat16", bfloat16, switch)


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
    known = unit in ("step", "episode") and isinstance(pair[0], Integral)
    require(known, "train_freq", train_freq, allowed)
    require_int("train_freq", pair[0])
