"""
Seed-steps a second of populations against the number of members, beside the same models one after
another and Stable-Baselines3's SAC (``speed.py --population``): cheetah-run, one thread.

Each round times every size in turn; a ratio is to the models one after another in the same round.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common_models import make, seconds

from sb3_rfm import train_population

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed_population.csv"
PICTURE = ROOT / "docs" / "images" / "population.png"
COLUMNS = ["device", "members", "rate", "ratio", "low", "high", "over_sac"]


def measure(sizes: list[int], rounds: int, steps: int, device: str) -> list[dict[str, Any]]:
    """Seed-steps a second of each size, its ratio to one model after another, and to SAC."""
    sac = make("SAC", device=device)
    models = [make("RFMFlow", device=device, seed=seed) for seed in range(max(sizes))]
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    alone, of_sac = list[float](), list[float]()
    for _ in range(rounds):
        of_sac.append(steps / seconds(lambda: sac.learn(steps, reset_num_timesteps=False)))
        alone.append(steps / seconds(lambda: models[0].learn(steps, reset_num_timesteps=False)))
        for size in sizes:
            some = models[:size]
            spent = seconds(lambda s=some: train_population(s, steps, reset_num_timesteps=False))
            rates[size].append(size * steps / spent)
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
    """Measure on the CPU, and on a GPU where there is one; write the CSV and the picture."""
    devices = ["cpu", *(["cuda"] if th.cuda.is_available() else [])]
    rows = [row for device in devices for row in measure(sizes, rounds, steps, device)]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    draw(rows)
    for row in rows:
        print(*(f"{row[key]:>9.4g}" if key != "device" else row[key] for key in COLUMNS))
