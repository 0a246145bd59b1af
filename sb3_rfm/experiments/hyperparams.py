"""Hyperparameters: the YAML files of ``zoo_hyperparams/``, ``key:value`` overrides, and the
constructor's arguments that come of them.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml

from sb3_rfm.utils.names import near

if TYPE_CHECKING:
    import gymnasium as gym
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

# name on the command line: where its class is. Classes are imported when they are asked for.
OWN_ALGORITHMS = {
    "rfm_flow": "sb3_rfm:RFMFlow",
    "rfm_diffusion": "sb3_rfm:RFMDiffusion",
    "dpmd": "sb3_rfm:DPMD",
    "dqs": "sb3_rfm:DQS",
    "idem": "sb3_rfm:IDEM",
    "qne": "sb3_rfm:QNE",
    "qsm": "sb3_rfm:QSM",
    "qvpo": "sb3_rfm:QVPO",
    "sdac": "sb3_rfm:SDAC",
}
ALGORITHMS = OWN_ALGORITHMS | {
    "sac": "sb3_rfm:SAC",
    "td3": "stable_baselines3:TD3",
}

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
"""A number that YAML 1.1 takes for a string: ``3e-4``, ``1e6``, or one in quotes."""


def _import_name(name: str) -> Any:
    """
    What a dotted or coloned name means.

    :param name: ``sb3_rfm.envs.FlatFloat32`` or ``sb3_rfm:RFMFlow``
    :return: the object
    """
    module, _, attribute = name.replace(":", ".").rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def algorithm_class(name: str) -> "type[OffPolicyAlgorithm]":
    """
    The class of an algorithm.

    :param name: a key of ``ALGORITHMS``
    :return: its class, imported now
    :raises ValueError: when there is no such algorithm
    """
    if name not in ALGORITHMS:
        raise ValueError(f"algo must be one of {', '.join(ALGORITHMS)}, got {name!r}.")
    return _import_name(ALGORITHMS[name])


def hyperparams_file(algo: str) -> Path | None:
    """
    The YAML file of an algorithm: beside this module in an installed package, in the repository's
    root in an editable install.

    :param algo: its name on the command line
    :return: the path, or None when this package has none for it
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package, package.parent):
        path = folder / "zoo_hyperparams" / f"{algo}.yml"
        if path.is_file():
            return path
    return None


def read_hyperparams(algo: str, env_id: str) -> dict[str, Any]:
    """
    The entry of an environment, or the file's ``default`` entry.

    :param algo: a key of ``ALGORITHMS``
    :param env_id: a Gymnasium id
    :return: a new dictionary, with ``n_timesteps`` and ``env_wrapper`` besides the arguments
    :raises FileNotFoundError: when this package has no file for the algorithm
    """
    path = hyperparams_file(algo)
    if path is None:
        raise FileNotFoundError(f"There is no zoo_hyperparams/{algo}.yml in this package.")
    entries = yaml.safe_load(path.read_text("utf-8"))
    return dict(entries.get(env_id, entries["default"]))


def _literal(node: ast.expr) -> Any:
    """
    The value of a literal, ``dict(a=1)`` included, which the RL Zoo's users write.

    :param node: a parsed expression
    :return: its value
    :raises ValueError: when it is anything else
    """
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return ast.literal_eval(node)
    if node.func.id != "dict" or node.args or not all(item.arg for item in node.keywords):
        raise ValueError(f"not a literal: {ast.unparse(node)}")
    return {str(item.arg): _literal(item.value) for item in node.keywords}


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """
    ``["learning_rate:3e-4", "policy_kwargs:dict(net_arch=[64, 64])"]`` as a dictionary.

    :param pairs: ``key:value`` each; a value that is no Python literal is a string
    :return: the values by key
    :raises ValueError: when a pair has no key or no value
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition(":")
        if not (key and separator and text):
            raise ValueError(f"hyperparams must be key:value, got {pair!r}.")
        try:
            overrides[key] = _literal(ast.parse(text.strip(), mode="eval").body)
        except (ValueError, SyntaxError):
            overrides[key] = text
    return overrides


def wrapper_class(
    choice: str | list[Any] | dict[str, Any] | None,
) -> "Callable[[gym.Env], gym.Env] | None":
    """
    The wrappers that ``env_wrapper`` names, innermost first.

    :param choice: ``module.Class``, ``{module.Class: {argument: value}}``, a list of these, or None
    :return: a function that wraps an environment, or None
    """
    if choice is None:
        return None
    choices = choice if isinstance(choice, list) else [choice]

    def wrap(env: "gym.Env") -> "gym.Env":
        for item in choices:
            named = item if isinstance(item, dict) else {item: {}}
            for name, arguments in named.items():
                env = _wrapper(str(name), arguments or {})(env)
        return env

    return wrap


def _numbers(value: Any) -> Any:
    """
    Numbers that were read as strings, made numbers, however deep they lie.

    :param value: a plain value
    :return: the same, but for strings that are numbers
    """
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_numbers(item) for item in value)
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        return int(value) if value.strip().lstrip("+-").isdigit() else float(value)
    return value


def plain_values(
    algorithm: "type[OffPolicyAlgorithm]", hyperparams: dict[str, Any]
) -> dict[str, Any]:
    """
    Plain values in the types that they are meant to have: ``3e-4``, which YAML takes for a string,
    is a number, and ``1e6`` a whole one where the algorithm takes nothing else.

    :param algorithm: the class
    :param hyperparams: plain values by name
    :return: the same names
    """
    parameters = inspect.signature(algorithm).parameters
    values = {name: _numbers(value) for name, value in hyperparams.items()}
    for name, value in values.items():
        kinds = get_args(parameters[name].annotation) if name in parameters else ()
        if name in parameters and not kinds:
            kinds = (parameters[name].annotation,)
        whole = name in ("n_timesteps", "n_envs") or (int in kinds and float not in kinds)
        if whole:
            values[name] = _whole(value)
    return values


def _whole(value: Any) -> Any:
    """A number that happens to be whole as an int, in a pair too; anything else as it is."""
    if isinstance(value, list | tuple):
        return type(value)(_whole(item) for item in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """
    Learning rates such as ``lin_3e-4`` made schedules that fall linearly to zero.

    :param hyperparams: values by name
    :return: the same names
    :raises ValueError: a learning rate that is another string
    """
    from stable_baselines3.common.utils import LinearSchedule

    values = dict(hyperparams)
    for name, rate in values.items():
        if name.endswith("learning_rate") and isinstance(rate, str):
            number = rate.removeprefix("lin_")
            if number == rate or not NUMBER.fullmatch(number):
                raise ValueError(f"{name} must be a number or lin_<number>, got {rate!r}.")
            values[name] = LinearSchedule(float(number), 0.0, 1.0)
    return values


def _wrapper(name: str, arguments: dict[str, Any]) -> "Callable[[gym.Env], gym.Env]":
    """
    One wrapper with its arguments.

    :param name: ``module.Class``
    :param arguments: of the class, by name, besides the environment
    :return: a function that wraps an environment
    :raises ValueError: when there is no such class, or it has no such argument
    """
    module = name.replace(":", ".").rpartition(".")[0]
    try:
        kind = _import_name(name)
        inspect.signature(kind).bind(None, **arguments)
    except (ModuleNotFoundError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not _is_within(error.name, module):
            raise  # a fault of that module's
        raise ValueError(
            f"env_wrapper must be module.Class, or {{module.Class: {{argument: value}}}}; got "
            f"{name!r} with {arguments!r}: {error}"
        ) from error
    return partial(kind, **arguments)


def _is_within(name: str | None, module: str) -> bool:
    """
    Whether a module that is missing is the one that was asked for, or a package around it.

    :param name: of the one that is missing
    :param module: that was asked for
    :return: True if so
    """
    return not module or f"{module}.".startswith(f"{name}.")


def constructor_arguments(
    algorithm: "type[OffPolicyAlgorithm]",
    hyperparams: dict[str, Any],
    n_actions: int | tuple[int, ...],
) -> dict[str, Any]:
    """
    Plain values made into what a constructor takes: a learning rate ``lin_3e-4`` is a linear
    schedule, a list a tuple for ``train_freq``, ``noise_type`` and ``noise_std`` the action noise.

    :param algorithm: the class
    :param hyperparams: plain values by name
    :param n_actions: dimension of the action, or its shape
    :return: arguments of ``algorithm``
    :raises ValueError: when ``algorithm`` has no such argument, or a value is no plain one
    """
    arguments = with_schedules(plain_values(algorithm, hyperparams))
    if isinstance(arguments.get("policy_kwargs"), str):
        raise ValueError(
            "policy_kwargs must be a dict of plain values, as dict(net_arch=[256, 256]): classes "
            f"can be given in Python alone; got {arguments['policy_kwargs']!r}."
        )
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    noise = arguments.pop("noise_type", None), arguments.pop("noise_std", 0.1)
    if noise[0] is not None:
        arguments["action_noise"] = action_noise(*noise, n_actions)
    allowed = [name for name in inspect.signature(algorithm).parameters if name[0] != "_"]
    for name in arguments:
        if name not in allowed:
            raise ValueError(
                f"{algorithm.__name__} has no hyperparameter {name!r}: {near(name, allowed)}"
            )
    return arguments


def action_noise(noise_type: str, noise_std: float, n_actions: int | tuple[int, ...]) -> Any:
    """
    Exploration noise in the RL Zoo's words.

    :param noise_type: ``normal`` or ``ornstein-uhlenbeck``
    :param noise_std: its standard deviation, for actions scaled to [-1, 1]
    :param n_actions: dimension of the action, or its shape
    :return: Stable-Baselines3's action noise
    :raises ValueError: when there is no such noise
    """
    import numpy as np
    from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

    from sb3_rfm.common.noise import NormalNoise

    kinds = {"normal": NormalNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
    if noise_type not in kinds:
        raise ValueError(f"noise_type must be one of {', '.join(kinds)}, got {noise_type!r}.")
    if isinstance(noise_std, bool) or not isinstance(noise_std, (int, float)) or noise_std < 0:
        raise ValueError(f"noise_std must be a number of at least 0, got {noise_std!r}.")
    return kinds[noise_type](np.zeros(n_actions), noise_std * np.ones(n_actions))


def complete(algorithm: "type[OffPolicyAlgorithm]", arguments: dict[str, Any]) -> dict[str, Any]:
    """
    Every hyperparameter, the defaults of the class included, as plain values for a YAML file.

    :param algorithm: the class
    :param arguments: those that were given
    :return: value by name; an object that YAML cannot hold becomes its ``repr``
    """
    parameters = inspect.signature(algorithm).parameters.values()
    values = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    skipped = ("env", "tensorboard_log", "_init_setup_model")
    values = {name: value for name, value in values.items() if name not in skipped}
    return {name: _plain(value) for name, value in (values | arguments).items()}


def _plain(value: Any) -> Any:
    """
    What YAML's safe loader can read back.

    :param value: anything
    :return: numbers, strings, lists and dictionaries of these; else ``repr(value)``
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return _plain(value.item())  # NumPy's
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return repr(value)
