"""
Seed-steps a second of populations against the number of members, beside the same models one after
another and Stable-Baselines3's SAC (``speed.py --population``): cheetah-run, one thread.

Each round times every size in turn; a ratio is to the models one after another in the same round.
The first steps of each are not timed: weights are stacked then, and graphs captured.
"""

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common_models import WARM_UP, make
from stable_baselines3.common.callbacks import BaseCallback

from sb3_rfm import train_population

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed_population.csv"
PICTURE = ROOT / "docs" / "images" / "population.png"
UNTIMED = 20
COLUMNS = ["device", "members", "rate", "ratio", "low", "high", "over_sac"]


class Clock(BaseCallback):
    """Notes when the first and the last of the timed steps are over."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.times = steps, list[float]()

    def _on_training_start(self) -> None:
        self.first = self.num_timesteps + UNTIMED

    def _on_step(self) -> bool:
        if self.num_timesteps in (self.first, self.first + self.steps):
            self.times.append(time.perf_counter())
        return True

    def rate(self, models: list[Any]) -> float:
        """Seed-steps a second of models that learn together; of one by itself."""
        self.times, n = (
            [],
            UNTIMED + self.steps + 2,
        )  # and an even number: members' actors keep pace
        if len(models) == 1:
            models[0].learn(n, callback=self, reset_num_timesteps=False)
        else:
            others = [None] * (len(models) - 1)
            train_population(models, n, [self, *others], reset_num_timesteps=False)
        first, last = self.times
        return len(models) * self.steps / (last - first)


def measure(sizes: list[int], rounds: int, steps: int, device: str) -> list[dict[str, Any]]:
    """Seed-steps a second of each size, its ratio to one model after another, and to SAC."""
    sac = make("SAC", device=device)
    settings = {"device": device, "learning_starts": WARM_UP}  # no updates before they are timed
    solo, *models = [make("RFMFlow", seed=seed, **settings) for seed in range(1 + max(sizes))]
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    alone, of_sac, clock = list[float](), list[float](), Clock(steps)
    for _ in range(rounds):
        of_sac.append(clock.rate([sac]))
        alone.append(clock.rate([solo]))
        for size in sizes:
            rates[size].append(clock.rate(models[:size]))
    rows = []
    for size in sizes:
        ratios = np.divide(rates[size], alone)
        rows.append(
            {
                "device": device,
                "members": size,
                "rate": np.median(rates[size]),
                "ratio": np.median(ratios),
                "low": ratios.min(),
                "high": ratios.max(),
                "over_sac": np.median(np.divide(rates[size], of_sac)),
            }
        )
    return rows


def draw(rows: list[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), constrained_layout=True)
    for device in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == device]
        sizes, ratios = ([row[key] for row in own] for key in ("members", "ratio"))
        spread = [
            [r["ratio"] - r["low"] for r in own],
            [r["high"] - r["ratio"] for r in own],
        ]
        axes.errorbar(sizes, ratios, yerr=spread, marker="o", capsize=3, label=device)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("members")
    axes.set_ylabel("seed-steps a second\nover one model after another")
    axes.legend()
    figure.savefig(PICTURE, dpi=120)


def run(sizes: list[int], rounds: int, steps: int) -> None:
    """
    Measure on a GPU where there is one, else on the CPU; write the CSV, with the other's rows of
    before, and the picture.
    """
    device = "cuda" if th.cuda.is_available() else "cpu"
    with RESULTS.open(newline="") as file:
        rows: list[dict[str, Any]] = [
            row for row in csv.DictReader(file) if row["device"] != device
        ]
    for row in rows:
        row.update({key: float(row[key]) for key in COLUMNS if key != "device"})
    rows += measure(sizes, rounds, steps, device)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    draw(rows)
    for row in rows:
        print(*(f"{row[key]:>9.4g}" if key != "device" else row[key] for key in COLUMNS))
