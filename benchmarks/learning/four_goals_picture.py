"""
Why not a Gaussian: RFMFlow and SAC at a crossing with four equally good ways, and a learnt law.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/learning/four_goals_picture.py  # a few minutes

Trains both on ``sb3_rfm/FourGoals-v0``, by its entries in ``zoo_hyperparams/``, with the seeds 0, 1
and 2, and then RFMFlow on a bandit at three temperatures. Writes ``docs/images/four_goals.png``
(the first seed), ``docs/images/temperatures.png`` and ``benchmarks/results/four_goals.csv``.
"""

import csv
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_rfm.experiments.hyperparams import algorithm_class, read_hyperparams
from sb3_rfm.four_goals import ENV_ID, EPISODE_STEPS, FourGoals

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
N_EPISODES = 200
NAMES = {"SAC": "sac", "RFMFlow": "rfm_flow"}
"""Of the algorithms on the command line."""
OF_THE_RUN = ("policy", "n_timesteps", "n_envs", "env_wrapper")
"""What an entry of zoo_hyperparams/ holds besides a class's arguments."""
TEMPERATURES = (0.03, 0.1, 0.5)


def trained(algorithm: str, seed: int) -> BaseAlgorithm:
    """
    A model of the crossing.

    :param algorithm: "RFMFlow" or "SAC"
    :param seed: of networks and draws
    :return: the model after training
    """
    entry = read_hyperparams(NAMES[algorithm], ENV_ID)
    env = make_vec_env(ENV_ID, entry["n_envs"], seed=seed)
    model = made(algorithm, env, entry, seed=seed)
    return model.learn(entry["n_timesteps"])


def made(algorithm: str, env: VecEnv, entry: dict[str, Any], **changes: Any) -> BaseAlgorithm:
    """
    A model by an entry of ``zoo_hyperparams/``.

    :param algorithm: "RFMFlow" or "SAC"
    :param env: what it is trained on
    :param entry: of the file
    :param changes: other arguments, and those that take the place of the entry's
    :return: the model before training
    """
    arguments = {name: value for name, value in entry.items() if name not in OF_THE_RUN}
    return algorithm_class(NAMES[algorithm])(entry["policy"], env, **{**arguments, **changes})


def episodes(
    model: BaseAlgorithm, deterministic: bool = False, count: int = N_EPISODES
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """
    Episodes from the crossing, all at once.

    :param model: what acts
    :param deterministic: whether it draws nothing
    :param count: how many
    :return: the goal reached (-1 for none) and the return of each, (count,), and the places of
        each, (steps + 1, 2)
    """
    envs = [FourGoals() for _ in range(count)]
    places = [[env.reset()[0]] for env in envs]
    goals, returns = np.full(count, -1), np.zeros(count)
    for _ in range(EPISODE_STEPS):
        going = np.flatnonzero(goals < 0)
        if not len(going):
            break
        actions, _ = model.predict(
            np.stack([places[i][-1] for i in going]), None, None, deterministic
        )
        for i, action in zip(going, actions, strict=True):
            place, reward, _, _, info = envs[i].step(action)
            places[i].append(place)
            returns[i] += reward
            goals[i] = info["goal"]
    return goals, returns, [np.array(path) for path in places]


def shares(goals: np.ndarray) -> np.ndarray:
    """
    How often each goal is reached.

    :param goals: of each episode, -1 for none
    :return: east, north, west and south, each as a share of all episodes, (4,)
    """
    return np.bincount(goals[goals >= 0], minlength=4) / len(goals)


def row(algorithm: str, seed: int, model: BaseAlgorithm, seconds: float) -> dict[str, Any]:
    """A line of the CSV file."""
    goals, returns, _ = episodes(model)
    _, best, _ = episodes(model, deterministic=True, count=1)
    names = ("none", "east", "north", "west", "south")
    return {
        "algorithm": algorithm,
        "seed": seed,
        "steps": model.num_timesteps,
        **dict(zip(names, np.bincount(goals + 1, minlength=5).tolist(), strict=True)),
        "return": round(float(returns.mean()), 3),
        "return_deterministic": round(float(best.mean()), 3),
        "seconds": round(seconds),
    }


def draw_paths(ax: Axes, model: BaseAlgorithm, title: str) -> None:
    """Sixty episodes from the crossing."""
    goals, _, paths = episodes(model)
    for road in (ax.axhspan, ax.axvspan):
        road(-0.25, 0.25, color="0.92", zorder=0)
    for path in paths[:60]:
        ax.plot(*path.T, color="tab:orange", lw=0.8, alpha=0.5, marker=".", ms=3)
    for goal, share in zip(FourGoals.goals, shares(goals), strict=True):
        ax.add_patch(Circle((goal[0], goal[1]), FourGoals.radius, color="tab:green", alpha=0.25))
        ax.annotate(f"{share:.0%}", goal, ha="center", va="center", zorder=5)
    reach = FourGoals.half_width
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)


def draw_law(ax: Axes, model: BaseAlgorithm, title: str) -> None:
    """A thousand first actions."""
    actions, _ = model.predict(np.zeros((1_000, 2), np.float32))
    ax.scatter(actions[:, 0], actions[:, 1], s=4, color="tab:blue", alpha=0.4)
    ax.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", title=title)


def crossing_picture(models: dict[str, BaseAlgorithm]) -> None:
    """Trajectories and first actions, a row for each algorithm."""
    figure = Figure(figsize=(7, 7), layout="constrained")
    for axes, (name, model) in zip(figure.subplots(2, 2), models.items(), strict=True):
        draw_paths(axes[0], model, f"{name}: episodes from the crossing")
        draw_law(axes[1], model, f"{name}: the first action")
    figure.savefig(ROOT / "docs" / "images" / "four_goals.png", dpi=80)


def reward(a: Any) -> Any:
    """Two hills, near -.55 and .55, the right one higher; works for numbers and arrays."""
    return 0.1 * a - 4 * (a**2 - 0.3) ** 2


class Bandit(gym.Env[np.ndarray, np.ndarray]):
    """One state, one action, one step; it pays ``reward``."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), float(reward(action[0])), True, False, {}


def bandit_actions(temperature: float) -> np.ndarray:
    """
    What RFMFlow learns from the bandit's rewards.

    :param temperature: lambda
    :return: draws of the policy, (4000,)
    """
    entry = read_hyperparams("rfm_flow", ENV_ID)
    changes = {"temperature": temperature, "flow": {"steps": 10, "time_shift": 1.0}}
    env = make_vec_env(Bandit, entry["n_envs"])
    model = made("RFMFlow", env, entry, seed=0, **changes)
    model.learn(4_000)
    return model.predict(np.zeros((4_000, 1), np.float32))[0][:, 0]


def law(temperature: float, grid: np.ndarray) -> np.ndarray:
    """The density ``exp(reward / temperature)``, normalised on an even grid of [-1, 1]."""
    weights = np.exp((reward(grid) - reward(grid).max()) / temperature)
    return weights / weights.mean() / 2


def temperatures_picture() -> None:
    """The learnt law beside the exact one, at three temperatures."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    grid = np.linspace(-1, 1, 2001)
    for ax, temperature in zip(figure.subplots(1, 3), TEMPERATURES, strict=True):
        actions = bandit_actions(temperature)
        exact = law(temperature, grid)
        right = exact[grid > 0].sum() / exact.sum()
        print(
            f"temperature {temperature}: right {np.mean(actions > 0):.2f}, exact {right:.2f}",
            flush=True,
        )
        ax.hist(actions, bins=50, range=(-1, 1), density=True, color="tab:orange", alpha=0.6)
        ax.plot(grid, exact, color="black")
        ax.set(title=f"λ = {temperature}", xlabel="action", yticks=[])
    figure.savefig(ROOT / "docs" / "images" / "temperatures.png", dpi=80)


def main() -> None:
    th.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    first: dict[str, BaseAlgorithm] = {}
    for seed in SEEDS:
        for algorithm in ("SAC", "RFMFlow"):
            start = time.perf_counter()
            model = trained(algorithm, seed)
            rows.append(row(algorithm, seed, model, time.perf_counter() - start))
            print(rows[-1], flush=True)
            first.setdefault(algorithm, model)
        if seed == SEEDS[0]:
            crossing_picture(first)
    path = ROOT / "benchmarks" / "results" / "four_goals.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temperatures_picture()


if __name__ == "__main__":
    main()
