"""Models of runs, for the benchmarks that look at trained policies."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_rfm.envs import FlatFloat32, register_dmc
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.hyperparams import algorithm_class


def command_line(doc: str) -> argparse.ArgumentParser:
    """
    The command line of a script that looks at runs, ready to load them: one thread, DeepMind
    Control registered.

    :param doc: the script's docstring
    :return: the parser; its ``folders`` are those of the runs
    """
    th.set_num_threads(1)
    register_dmc()
    parser = argparse.ArgumentParser(description=doc.strip().splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    return parser


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


def checkpoint_model(folder: Path) -> tuple[Any, dict[str, Any]]:
    """
    What the newest checkpoint of an ``sb3-rfm run`` of an algorithm of ours holds.

    :param folder: of the run
    :return: the model with its replay buffer, and the run's settings
    """
    run = RunFolder.open(folder)
    settings = run.read_config()["settings"]
    path = run.latest_checkpoint()
    model = algorithm_class(settings["algo"]).load(path / "model.zip", device="cpu")
    model.load_replay_buffer(path / "replay_buffer.pkl")
    return model, settings


def returns_of_best(model: Any, n_candidates: int, n_episodes: int, env_seed: int) -> np.ndarray:
    """
    Returns of the best of some candidates.

    :param model: the model, left with that number of candidates
    :param n_candidates: M of the deterministic policy
    :param n_episodes: how many episodes
    :param env_seed: of the first
    :return: one for each episode, (n_episodes)
    """
    model.actor.n_eval_candidates = n_candidates
    model.env.seed(env_seed)
    returns, _ = evaluate_policy(model, model.env, n_episodes, return_episode_rewards=True)
    return np.array(returns)


def visited(model: Any, n_states: int, every: int) -> th.Tensor:
    """
    States that a stochastic policy visits.

    :param model: the model
    :param n_states: B
    :param every: steps from one state to the next
    :return: (B, F)
    """
    obs, seen = model.env.reset(), []
    for _ in range(every * n_states):
        seen.append(th.as_tensor(obs))
        obs, *_ = model.env.step(model.predict(obs)[0])
    return th.cat(seen[::every])
