"""Trained models on the Hugging Face hub: rl_zoo3's ``push_to_hub`` and ``load_from_hub`` with this
package's algorithms.

rl_zoo3 2.9 was written for earlier versions of huggingface_sb3 and huggingface_hub than come with
it: what differs is put in place while a command runs.
"""

import contextlib
import importlib
import os
import runpy
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sb3_rfm.experiments import rl_zoo
from sb3_rfm.experiments.drawing import drawing_arguments
from sb3_rfm.experiments.hyperparams import REGISTERED
from sb3_rfm.experiments.play import play
from sb3_rfm.experiments.recording import film_of
from sb3_rfm.utils.files import write_whole

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

MODULES = {"push-to-hub": "rl_zoo3.push_to_hub", "load-from-hub": "rl_zoo3.load_from_hub"}
CONSENT = "TRUST_REMOTE_CODE"
"""The variable by which huggingface_sb3 is told that a file may run code."""
YES = ("y", "yes", "t", "true", "on", "1")
COMMANDS = {
    "python -m rl_zoo3.load_from_hub": f"{CONSENT}=True sb3-rfm load-from-hub",
    "python -m rl_zoo3.push_to_hub": "sb3-rfm push-to-hub",
    "python -m rl_zoo3.enjoy": "sb3-rfm enjoy",
    "python -m rl_zoo3.train": "sb3-rfm train",
}
"""What of rl_zoo3's model card knows no algorithm of this package, and what does."""
NOTE = """
The algorithm is [sb3_rfm](https://arxiv.org/abs/2601.08136)'s, an extension of Stable-Baselines3:
the commands below need it installed. Loading unpickles, which can run code of whoever wrote the
files: load only what you trust.

## Usage"""
REPLAY = "replay.mp4"


def forward(command: str, arguments: list[str]) -> int:
    """
    Run one of the two commands.

    :param command: ``push-to-hub`` or ``load-from-hub``
    :param arguments: what follows it
    :return: the exit code
    :raises ValueError: when an option is not allowed, or what is to be loaded was not said to be
        trusted
    :raises FileNotFoundError: when there is no trained model to push
    :raises OSError: when the hub refuses, or cannot be reached
    """
    if command == "load-from-hub" and not {"-h", "--help"} & set(arguments):
        _check_consent()
    call = partial(_call, MODULES[command], rl_zoo.given_algorithm(arguments))
    return rl_zoo.forward(command, arguments, call)


def _call(module: str, algorithm: str) -> None:
    """
    Run a module of rl_zoo3 with the process's arguments.

    :param module: its name
    :param algorithm: the name of what is pushed or loaded
    :raises ConnectionError: when the hub cannot be reached
    """
    with _agreeing(algorithm):
        try:
            runpy.run_module(module, run_name="__main__")
        except Exception as error:
            library = type(error).__module__.partition(".")[0]
            if isinstance(error, OSError) or not library.startswith(("httpx", "requests")):
                raise
            raise ConnectionError(f"the hub cannot be reached: {error}") from error


def _check_consent() -> None:
    """
    Loading a model runs what is in its file, so that somebody has to say that it may.

    :raises ValueError: when nobody has
    """
    if os.environ.get(CONSENT, "").lower() not in YES:
        raise ValueError(
            "loading unpickles the model, and reads YAML that may make any object, which can run "
            f"code of whoever wrote the files: set {CONSENT}=True for an organization that you "
            "trust; weights in safetensors (save_weights, load_weights) run none."
        )


@contextlib.contextmanager
def _agreeing(algorithm: str) -> Iterator[None]:
    """
    Have rl_zoo3's two modules find what they expect, for a while.

    :param algorithm: the name of what is pushed or loaded
    """
    import huggingface_sb3
    from huggingface_hub import repocard

    pushing = importlib.import_module("huggingface_sb3.push_to_hub")  # the name is a function's
    metadata = vars(pushing).get("generate_metadata") or vars(pushing)["_generate_metadata"]
    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (pushing, "generate_metadata", metadata),
            (pushing, "_generate_replay", _write_replay),
            (repocard, "metadata_save", _saving_card(repocard.metadata_save, algorithm)),
            (huggingface_sb3, "load_from_hub", _loading(huggingface_sb3.load_from_hub)),
        ):
            stack.enter_context(_in_its_place(place, name, value))
        yield


@contextlib.contextmanager
def _in_its_place(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """
    Have another value under a name of a module, for a while.

    :param module: that has the name, or has not
    :param name: of it
    :param value: of that while
    """
    before = dict(vars(module))
    setattr(module, name, value)
    try:
        yield
    finally:
        if name in before:
            setattr(module, name, before[name])
        else:
            delattr(module, name)


def _saving_card(save: Callable[..., None], algorithm: str) -> Callable[[Path, Any], None]:
    """
    What adds the metadata to a model card: as a dict, and with commands that know the algorithm.

    :param save: huggingface_hub's
    :param algorithm: the name of what is pushed
    :return: one to take its place
    """

    @wraps(save)
    def save_card(path: Path, metadata: Any) -> None:
        if algorithm in REGISTERED:
            path.write_text(model_card(path.read_text("utf-8")), encoding="utf-8")
        save(path, metadata if isinstance(metadata, dict) else metadata.to_dict())

    return save_card


def model_card(text: str) -> str:
    """
    A model card for an algorithm of this package.

    :param text: rl_zoo3's
    :return: with our commands in the place of its own, and what the reader has to know
    """
    for theirs, ours in COMMANDS.items():
        text = text.replace(theirs, ours)
    return text.replace("\n## Usage", NOTE, 1)


def _loading(load: Callable[[str, str], str]) -> Callable[[str, str], str]:
    """
    What fetches a file of a model, and says in rl_zoo3's words that there is none.

    :param load: huggingface_sb3's
    :return: one to take its place
    """
    from huggingface_hub import errors
    from requests.exceptions import HTTPError

    absent = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)

    @wraps(load)
    def loading(repo_id: str, filename: str) -> str:
        try:
            return load(repo_id, filename)
        except absent as error:
            raise HTTPError(str(error)) from error

    return loading


def _write_replay(
    model: "BaseAlgorithm", env: "VecEnv", n_timesteps: int, deterministic: bool, folder: Path
) -> None:
    """
    Add a video of the model to what is pushed; needs no ffmpeg of the system's, as the original
    does.

    :param model: the agent
    :param env: made to draw frames
    :param n_timesteps: environment steps
    :param deterministic: whether actions are drawn as in evaluations
    :param folder: that is pushed
    """
    raw = env.get_attr("unwrapped")[0]
    env_id = raw.spec.id
    for name, value in drawing_arguments(env_id).items():
        getattr(raw, name).update(value)
    with film_of(env, env_id) as film:
        play(model, env, n_timesteps, deterministic, film.step)
        write_whole(folder / REPLAY, film.mp4())
