"""Videos of a run's agent: ``sb3-rfm record`` with a run's folder, and ``run --video``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_rfm.checkpoints.callback import MODEL
from sb3_rfm.experiments.drawing import drawn, steps_per_second
from sb3_rfm.experiments.film import Film
from sb3_rfm.experiments.folder import GIF, VIDEO, RunFolder
from sb3_rfm.experiments.play import environment, find_agent, load_agent, play
from sb3_rfm.experiments.settings import RunSettings
from sb3_rfm.utils.files import write_whole

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def record(
    path: Path,
    output: Path | None = None,
    n_timesteps: int | None = None,
    deterministic: bool = True,
    seed: int = 0,
    device: str = "auto",
    gif: bool = False,
) -> list[Path]:
    """
    Record a video of a run's agent. Files are written whole, or not at all.

    :param path: the run's folder
    :param output: folder of the video; the run's unless given
    :param n_timesteps: environment steps to record; None for one episode, or its first 10,000 steps
    :param deterministic: whether actions are drawn as in evaluations, or as in training
    :param seed: of the environment
    :param device: of PyTorch
    :param gif: whether to make a GIF, too
    :return: what was written, called as the model is: an MP4, and the GIF
    :raises FileNotFoundError: when ``path`` is not a run, or there is no agent in it yet
    :raises ValueError: when the agent does not load, or there is nothing to draw with
    :raises ImportError: when a package is missing that draws, or that makes videos
    :raises OSError: when the video cannot be written
    """
    if n_timesteps is not None and n_timesteps < 1:
        raise ValueError(f"n_timesteps must be an integer of at least 1, got {n_timesteps}.")
    settings, file = find_agent(path)
    name = file.parent.name if file.name == MODEL else file.stem
    model = load_agent(settings, file, device)
    with environment(settings, seed, "rgb_array") as env, film_of(env, settings.env) as film:
        play(model, env, n_timesteps, deterministic, film.step)
        files = {VIDEO: film.mp4()} | ({GIF: film.gif()} if gif else {})
    written = []
    for suffix, content in files.items():
        written.append((output or path) / f"{name}{suffix}")
        write_whole(written[-1], content)
    return written


def check_recording(settings: RunSettings) -> None:
    """
    Record one frame for nothing: fails now, with a reason, rather than when training is over.

    :param settings: of a run, resolved
    :raises ValueError: when there is nothing to draw with
    :raises ImportError: when a package is missing that draws, or that makes videos
    :raises OSError: when the encoder does not work
    """
    with environment(settings, 0, "rgb_array") as env, film_of(env, settings.env) as film:
        env.reset()
        film.step()
        film.mp4()
        film.gif()


def record_once(folder: RunFolder, device: str) -> None:
    """
    Leave MP4 and GIF of the final model beside it, where they are not there yet.

    :param folder: of a finished run; ``folder.unwritten`` notes what cannot be written
    :param device: of PyTorch
    """
    if all(file.exists() for file in folder.video_files):
        return
    with folder.lock, folder.unwritten.noting(folder.video_files[0]):
        video, gif = record(folder.path, device=device, gif=True)
        print(f"  video        {video}")
        print(f"  GIF          {gif}", flush=True)


def film_of(env: "VecEnv", env_id: str) -> Film:
    """
    A film of an environment.

    :param env: made to draw frames; the first is filmed where there are several
    :param env_id: of it
    :return: the film, empty
    """
    raw = env.get_attr("unwrapped")[0]
    draw = partial(drawn, lambda: env.get_images()[0], raw, env_id)
    return Film(draw, steps_per_second(raw, env_id))
