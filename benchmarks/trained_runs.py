"""Final models of finished runs, for the benchmarks that look at trained policies."""

from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.env_util import make_vec_env

from sb3_rfm.envs import FlatFloat32
from sb3_rfm.hyperparams import algorithm_class


def final_model(folder: Path, env_seed: int) -> tuple[Any, dict[str, Any]]:
    """
    What one ``sb3-rfm run`` of an algorithm of ours ended with.

    :param folder: of the run
    :param env_seed: seed of the environment that the model gets
    :return: the model, and the run's settings
    """
    settings = yaml.safe_load((folder / "config.yml").read_text())["settings"]
    env = make_vec_env(settings["env"], 1, seed=env_seed, wrapper_class=FlatFloat32)
    algorithm = algorithm_class(settings["algo"])
    return algorithm.load(folder / "final_model.zip", env=env, device="cpu"), settings
