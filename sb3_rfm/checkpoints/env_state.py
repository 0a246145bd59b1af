"""The state of an environment between two steps, and putting it into a fresh one."""

import io
import pickle
from typing import Any

import cloudpickle
import gymnasium as gym
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

Layer = VecEnv | gym.Env
LINKS = ("venv", "envs", "env", "class_attributes")
"""Attributes of layers that are not state: other layers, and what belongs to the class."""


class EnvironmentNotSaved(RuntimeError):
    """The state of an environment could not be saved; the message says why."""


def capture(env: VecEnv, together: dict[str, Any]) -> bytes:
    """
    The state of all the layers of a vectorised environment, each wrapper one layer.

    :param env: with ``DummyVecEnv`` at its base
    :param together: what is to be saved with it; objects that both have stay the same object
    :return: for :func:`restore`
    :raises EnvironmentNotSaved: the environments run in other processes, or hold something that
        cannot be pickled, such as an open window
    """
    if not isinstance(env.unwrapped, DummyVecEnv):
        raise EnvironmentNotSaved(f"{type(env.unwrapped).__name__} keeps it in other processes")
    try:
        return _dump(_layers(env), together)
    except Exception as error:  # pickling runs code of the environment's author
        raise EnvironmentNotSaved(f"{type(error).__name__}: {error}") from error


def capture_wrappers(env: VecEnv, together: dict[str, Any]) -> bytes:
    """
    The state of a vectorised environment's wrappers alone, such as ``VecNormalize``'s averages.

    :param env: any
    :param together: see :func:`capture`
    :return: for :func:`restore`
    """
    return _dump(_wrappers(env), together)


def restore(env: VecEnv, state: bytes) -> dict[str, Any]:
    """
    Put a state into an environment that was built as the saved one was.

    The environment's own objects stay, with other attributes: whoever holds them holds the restored
    environment.

    :param env: a fresh one
    :param state: of :func:`capture` or :func:`capture_wrappers`; unpickled
    :return: what was saved together with it
    :raises ValueError: the environments are not made of the same layers; nothing is changed
    """
    layers = _layers(env)
    saved = _Unpickler(io.BytesIO(state), layers).load()
    before, here = saved["kinds"], _kinds(layers[: len(saved["kinds"])])
    related = [a[0] in b or b[0] in a for a, b in zip(before, here, strict=False)]
    if len(before) != len(here) or not all(related):
        wanted, got = (" of ".join(kinds[0] for kinds in each) for each in (before, here))
        raise ValueError(f"env must be built as the saved one: {wanted}; got {got}.")
    for layer, attributes in zip(layers, saved["attributes"], strict=False):
        vars(layer).update(attributes)
    return saved["together"]


def _wrappers(env: VecEnv) -> list[Layer]:
    """The wrappers of a vectorised environment, the outermost first."""
    layers: list[Layer] = []
    while isinstance(env, VecEnvWrapper):
        layers.append(env)
        env = env.venv
    return layers


def _layers(env: VecEnv) -> list[Layer]:
    """All that an environment is made of, from the outermost wrapper to the simulations."""
    layers = [*_wrappers(env), env.unwrapped]
    for single in getattr(env.unwrapped, "envs", ()):
        while isinstance(single, gym.Wrapper):
            layers.append(single)
            single = single.env
        layers.append(single)
    return layers


def _places(layers: list[Layer]) -> dict[Any, Any]:
    """The objects that are not pickled but found again in the fresh environment, by place."""
    places: dict[Any, Any] = dict(enumerate(layers))
    for index, layer in enumerate(layers):
        for name, value in vars(layer).items():
            if isinstance(value, ResultsWriter):  # an open file
                places[index, name] = value
    return places


def _kinds(layers: list[Layer]) -> list[list[str]]:
    """
    The names of each layer's class and its bases: rl_zoo3 puts a subclass in TimeLimit's place, so
    that one of the two may be the other's base.
    """
    return [[kind.__name__ for kind in type(layer).__mro__] for layer in layers]


def _dump(layers: list[Layer], together: dict[str, Any]) -> bytes:
    """Kinds and attributes of layers, and what goes with them, in one pickle."""
    attributes = [
        {name: value for name, value in vars(layer).items() if name not in LINKS}
        for layer in layers
    ]
    file = io.BytesIO()
    saved = {"kinds": _kinds(layers), "attributes": attributes, "together": together}
    _Pickler(file, layers).dump(saved)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):
    """Writes a layer's place where it is referred to: a wrapper's closure may hold the next one."""

    def __init__(self, file: io.BytesIO, layers: list[Layer]) -> None:
        super().__init__(file)
        self._place_of = {id(value): place for place, value in _places(layers).items()}

    def persistent_id(self, obj: Any) -> Any:
        return self._place_of.get(id(obj))


class _Unpickler(pickle.Unpickler):
    """Finds the fresh environment's object where a place was written."""

    def __init__(self, file: io.BytesIO, layers: list[Layer]) -> None:
        super().__init__(file)
        self._places = _places(layers)

    def persistent_load(self, pid: Any) -> Any:
        return self._places.get(pid)
