"""The wrappers that a hyperparameter ``env_wrapper`` names."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from sb3_rfm.utils.names import import_name

if TYPE_CHECKING:
    import gymnasium as gym


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
        kind = import_name(name)
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
