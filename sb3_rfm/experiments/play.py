"""Plays what ``sb3-rfm run``, ``make train`` and ``sb3-rfm compare`` left: ``sb3-rfm enjoy`` with a
run's folder.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sb3_rfm.checkpoints.callback import MODEL
from sb3_rfm.checkpoints.manifest import latest_checkpoint
from sb3_rfm.envs import NAMESPACE, naming_what_is_missing
from sb3_rfm.experiments.drawing import check_drawing
from sb3_rfm.experiments.episodes import MOST_STEPS
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.hyperparams import algorithm_class
from sb3_rfm.experiments.rl_zoo import without_buffer
from sb3_rfm.experiments.settings import RunSettings, make_vector
from sb3_rfm.utils.graphics import has_display
from sb3_rfm.utils.preload import import_triton

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


def enjoy(
    path: Path,
    n_timesteps: int = 1000,
    deterministic: bool = True,
    render: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> list[float]:
    """
    Play a run's agent, in a window where there is a display, and print the returns.

    :param path: the run's folder
    :param n_timesteps: environment steps to play
    :param deterministic: whether actions are drawn as in evaluations, or as in training
    :param render: whether to open a window, where there is a display
    :param seed: of the environment
    :param device: of PyTorch
    :return: the returns of the episodes that ended
    :raises FileNotFoundError: when ``path`` is not a run, or there is no agent in it yet
    :raises ValueError: when the agent does not load, or there is nothing to draw with
    """
    settings, file = find_agent(path)
    mode = "human" if render and has_display() else None
    model = load_agent(settings, file, device)
    with environment(settings, seed, mode) as env:
        return play(model, env, n_timesteps, deterministic)


def find_agent(path: Path) -> tuple[RunSettings, Path]:
    """
    What a run's folder has to be played.

    :param path: the run's folder
    :return: its settings, and the file of the final model, or of the newest checkpoint's
    :raises FileNotFoundError: when it is not the folder of a run, or has neither
    """
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        runs = sorted(config.parent for config in path.glob("*/config.yml"))
        which = f": name one of its runs, {runs[0]} for example" if runs else ""
        what = "has no config.yml" if path.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{path} is not the folder of a run ({what}){which}.")
    settings = RunSettings.stored(folder.read_config(), folder.config_file)
    if folder.model_file.is_file():
        return settings, folder.model_file
    if not folder.checkpoints.is_dir():
        raise FileNotFoundError(f"{path} has no agent yet: neither a final model nor a checkpoint.")
    return settings, latest_checkpoint(folder.checkpoints) / MODEL


def load_agent(settings: RunSettings, file: Path, device: str) -> "OffPolicyAlgorithm":
    """
    The agent, without a replay buffer; says which it is.

    :param settings: of its run
    :param file: that it was saved in
    :param device: of PyTorch
    :return: the model
    :raises ValueError: when the file is damaged
    """
    model = without_buffer(algorithm_class(settings.algo)).load(file, device=device)
    print(f"{settings.algo} on {settings.env}, step {model.num_timesteps}: {file}", flush=True)
    return model


@contextlib.contextmanager
def environment(settings: RunSettings, seed: int, mode: str | None) -> "Iterator[VecEnv]":
    """
    One environment as the run's, which draws frames.

    :param settings: of the run
    :param seed: of the environment
    :param mode: how it draws; None for not at all
    :return: the environment, closed in the end
    :raises ValueError: when there is nothing to draw with
    :raises ImportError: when the package that draws is missing
    """
    with contextlib.closing(make_vector(settings, 1, seed)) as env:
        modes = env.get_attr("metadata")[0].get("render_modes") or ()
        if mode == "rgb_array" and mode not in modes:
            raise ValueError(f"{settings.env} draws no frames: its render_modes are {list(modes)}.")
        if mode is None or not {mode, "rgb_array"} & set(modes):
            yield env
            return
        raw = env.get_attr("unwrapped")[0]
    import_triton()
    if mode == "rgb_array" or settings.env.startswith(NAMESPACE):
        check_drawing(raw, settings.env)
    with naming_what_is_missing():
        env = make_vector(settings, 1, seed, mode)
        with contextlib.closing(env):
            yield env


def play(
    model: "BaseAlgorithm",
    env: "VecEnv",
    n_timesteps: int | None,
    deterministic: bool,
    before_step: Callable[[], None] | None = None,
) -> list[float]:
    """
    Act, and print what comes of it. Ctrl-C ends the playing, and no more than that where nobody
    watches.

    :param model: the agent
    :param env: one environment
    :param n_timesteps: environment steps; None for one episode, or its first 10,000 steps
    :param deterministic: whether actions are drawn as in evaluations
    :param before_step: called before each step, by whoever watches
    :return: the returns of the episodes that ended
    """
    returns: list[float] = []
    so_far = 0.0
    observations = env.reset()
    watched = before_step is not None
    with contextlib.nullcontext() if watched else contextlib.suppress(KeyboardInterrupt):
        for _ in range(MOST_STEPS if n_timesteps is None else n_timesteps):
            if before_step is not None:
                before_step()
            actions, _ = model.predict(observations, deterministic=deterministic)  # type: ignore[arg-type]
            observations, rewards, dones, infos = env.step(actions)
            so_far += float(rewards[0])
            if dones[0]:
                episode = infos[0].get("episode", {"r": so_far})
                returns.append(float(episode["r"]))
                print(f"episode {len(returns)}: return {returns[-1]:.1f}", flush=True)
                so_far = 0.0
                if n_timesteps is None:
                    break
    if returns:
        spread = f"{np.mean(returns):.1f} ± {np.std(returns):.1f}"
        print(f"{len(returns)} episodes: return {spread}")
    else:
        print(f"No episode ended; return so far {so_far:.1f}")
    return returns
