"""Hyperparameters: the YAML files of ``zoo_hyperparams/``, ``key:value`` overrides, and the
constructor's arguments that come of them.
"""

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml

from sb3_rfm.utils.names import import_name, near

if TYPE_CHECKING:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

# name on the command line: where its class is. Classes are imported when they are asked for.
OWN_ALGORITHMS = {
    "rfm_flow": "sb3_rfm:RFMFlow",
    "rfm_diffusion": "sb3_rfm:RFMDiffusion",
    "dacer": "sb3_rfm:DACER",
    "dacerv2": "sb3_rfm:DACERv2",
    "dpmd": "sb3_rfm:DPMD",
    "dqs": "sb3_rfm:DQS",
    "flame": "sb3_rfm:FLAME",
    "flame_m": "sb3_rfm:FLAME_M",
    "flowrl": "sb3_rfm:FlowRL",
    "fpmd": "sb3_rfm:FPMD",
    "fpmd_m": "sb3_rfm:FPMD_M",
    "idem": "sb3_rfm:IDEM",
    "orwcfm": "sb3_rfm:ORWCFM",
    "qne": "sb3_rfm:QNE",
    "qsm": "sb3_rfm:QSM",
    "qvpo": "sb3_rfm:QVPO",
    "sdac": "sb3_rfm:SDAC",
}
# likewise, of those with SAC's arguments in the place of groups of settings
OF_SAC = {"lsac": "sb3_rfm:LSAC"}
# this package's, which rl_zoo3 does not know
REGISTERED = OWN_ALGORITHMS | OF_SAC
OTHERS = {
    "sac": "sb3_rfm:SAC",
    "td3": "stable_baselines3:TD3",
}
ALGORITHMS = REGISTERED | OTHERS

GROUPS: dict[str, str | None] = {
    "flow": None,
    "estimator": "name",
    "candidates": "n",
    "actor_update": None,
    "critic_update": None,
}
"""Groups of settings, and the one that a bare value in a group's place stands for."""

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
"""A number that YAML 1.1 takes for a string: ``3e-4``, ``1e6``, or one in quotes."""


def algorithm_class(name: str) -> "type[OffPolicyAlgorithm]":
    """
    The class of an algorithm.

    :param name: a key of ``ALGORITHMS``
    :return: its class, imported now
    :raises ValueError: when there is no such algorithm
    """
    if name not in ALGORITHMS:
        raise ValueError(f"algo must be one of {', '.join(ALGORITHMS)}, got {name!r}.")
    return import_name(ALGORITHMS[name])


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
    ``["learning_rate:3e-4", "flow.steps:4", "policy_kwargs:dict(net_arch=[64, 64])"]`` as a
    dictionary, for :func:`merged`.

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


def merged(hyperparams: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """
    Hyperparameters with changes: ``flow.steps`` is one setting of a group (or one key of another
    dictionary, ``policy_kwargs.net_arch``), and a group's dictionary changes what it names.

    :param hyperparams: plain values by name
    :param changes: likewise; they come last
    :return: a new dictionary, groups nested
    :raises ValueError: a name that is no string (a number, as YAML reads ``1: 2``)
    """
    result: dict[str, Any] = {}
    for path, value in (*hyperparams.items(), *changes.items()):
        if not isinstance(path, str):
            raise ValueError(f"hyperparams: a name must be a string, got {path!r}.")
        name, _, key = path.partition(".")
        new = {key: value} if key else value
        if isinstance(new, dict) and (key or name in GROUPS):
            result[name] = {**_as_dict(name, result.get(name)), **new}
        else:
            result[name] = new
    return result


def _as_dict(name: str, value: Any) -> dict[str, Any]:
    """What stands for a group, as the dictionary that it means."""
    if value is None or isinstance(value, dict):
        return value or {}
    first = GROUPS.get(name)
    if first is None:
        raise ValueError(f"{name} must be a dict of its settings; got {value!r}.")
    return {first: value}


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
    kinds = {name: p.annotation for name, p in parameters.items()}
    kinds |= dict.fromkeys(("n_timesteps", "n_envs"), int)
    values = _of_kinds(kinds, _numbers(merged({}, hyperparams)))
    if hasattr(algorithm, "defaults"):
        from sb3_rfm.common import config

        for name, group in config.GROUPS.items():
            if isinstance(values.get(name), dict):
                values[name] = _of_kinds({f.name: f.type for f in fields(group)}, values[name])
    return values


def _of_kinds(kinds: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Values by name, those that are whole by the kinds of their names as ints."""
    result = dict(values)
    for name, value in values.items():
        kind = kinds.get(name)
        allowed = get_args(kind) or (kind,)
        if int in allowed and float not in allowed:
            result[name] = _whole(value)
    return result


def _whole(value: Any) -> Any:
    """A number that happens to be whole as an int, in a pair too; anything else as it is."""
    if isinstance(value, list | tuple):
        return type(value)(_whole(item) for item in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_schedules(hyperparams: dict[str, Any], group: str = "") -> dict[str, Any]:
    """
    Learning rates such as ``lin_3e-4`` made schedules that fall linearly to zero.

    :param hyperparams: values by name
    :param group: what stands before the names, ``critic_update.``
    :return: the same names
    :raises ValueError: a learning rate that is another string
    """
    from stable_baselines3.common.utils import LinearSchedule

    values = dict(hyperparams)
    for name, rate in values.items():
        if name in GROUPS and isinstance(rate, dict):
            values[name] = with_schedules(rate, f"{name}.")
        elif name.endswith("learning_rate") and isinstance(rate, str):
            number = rate.removeprefix("lin_")
            if number == rate or not NUMBER.fullmatch(number):
                raise ValueError(f"{group}{name} must be a number or lin_<number>, got {rate!r}.")
            values[name] = LinearSchedule(float(number), 0.0, 1.0)
    return values


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
                f"{algorithm.__name__} has no hyperparameter {name!r}: "
                f"{_place_of_flat_name(algorithm, name) or near(name, allowed)}"
            )
    if hasattr(algorithm, "defaults"):
        try:
            algorithm.defaults.changed(arguments)  # which refuses what is not allowed in a group
        except TypeError as error:
            raise ValueError(str(error)) from error
    return arguments


def _place_of_flat_name(algorithm: "type[OffPolicyAlgorithm]", name: str) -> str | None:
    """Where a setting is, by its name before there were groups."""
    if not hasattr(algorithm, "defaults"):
        return None
    from sb3_rfm.common.flat_names import FLAT_NAMES

    return f"it is {FLAT_NAMES[name]} now" if name in FLAT_NAMES else None


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
    values = {name: value for name, value in values.items() if name not in skipped} | arguments
    if hasattr(algorithm, "defaults"):
        values |= vars(algorithm.defaults.changed(arguments))
    return {name: _plain(value) for name, value in values.items()}


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
    if hasattr(value, "group") and is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return repr(value)
