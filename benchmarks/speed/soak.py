"""
Endurance: a training run of many short episodes, with everything on, watched for leaks.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/speed/soak.py     # a trial: --steps 20000

A replay buffer of 50,000 transitions is written over many times, episodes have 50 steps, each is
logged to TensorBoard, every 5,000 steps the policy is evaluated and everything checkpointed. At
twenty points of the run the resident memory (after garbage collection), the open files and the
steps a second since the last point are noted; growth is the slope of a line through the second half
of them, over the half's length. Writes ``results/soak.csv`` and prints the figures.

1.15 million steps is what six hours of training make at 53 steps a second (``speed.py``).
"""

import argparse
import csv
import gc
import os
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor

from sb3_rfm import CheckpointEverything, RFMFlow

RESULTS = Path(__file__).parents[1] / "results" / "soak.csv"
COLUMNS = ("steps", "episodes", "resident_mb", "open_files", "steps_per_second")
POINTS = 20


class Watch(BaseCallback):
    """
    Notes memory, open files and speed.

    :param every: environment steps between two points
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.rows: list[dict[str, float]] = []
        self.lap = time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            elapsed = time.perf_counter() - self.lap
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            row = (
                self.num_timesteps,
                self.model._episode_num,  # type: ignore[attr-defined]
                pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                len(os.listdir("/proc/self/fd")),
                self.every / elapsed,
            )
            self.rows.append(dict(zip(COLUMNS, row, strict=True)))
            print(" ".join(f"{name} {value:.6g}" for name, value in self.rows[-1].items()))
            self.lap = time.perf_counter()
        return True


def growth(rows: list[dict[str, float]], column: str) -> float:
    """What a line through the second half of the points rises by over that half."""
    half = rows[len(rows) // 2 :]
    steps, values = ([row[name] for row in half] for name in ("steps", column))
    return float(np.polyfit(steps, values, 1)[0] * (steps[-1] - steps[0]))


def main() -> None:
    """Train, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_150_000)
    steps = parser.parse_args().steps
    th.set_num_threads(1)
    watch = Watch(max(1, steps // POINTS))
    with tempfile.TemporaryDirectory() as folder:
        envs = [Monitor(gym.make("Pendulum-v1", max_episode_steps=50)) for _ in range(2)]
        model = RFMFlow(
            "MlpPolicy",
            envs[0],
            buffer_size=50_000,
            train_freq=8,
            batch_size=64,
            estimator={"n_particles": 8},
            flow={"steps": 2},
            policy_kwargs={"net_arch": [32, 32]},
            tensorboard_log=folder,
            seed=0,
        )
        callbacks = [
            EvalCallback(envs[1], n_eval_episodes=2, eval_freq=5_000, log_path=folder, verbose=0),
            CheckpointEverything(5_000, Path(folder) / "checkpoints"),
            watch,
        ]
        model.learn(steps, callbacks, log_interval=1)
    if RESULTS.parent.is_dir() and len(watch.rows) == POINTS:
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({k: round(v, 2) for k, v in row.items()} for row in watch.rows)
    for column in COLUMNS[2:]:
        first, last = watch.rows[len(watch.rows) // 2][column], watch.rows[-1][column]
        print(
            f"{column}: {first:.1f} halfway, {last:.1f} at the end, "
            f"{growth(watch.rows, column):+.2g} over the second half"
        )


if __name__ == "__main__":
    main()
