"""
How fast training is beside SAC, TD3, TQC and CrossQ, where an update's time goes, and its floor.

    export THP_MEM_ALLOC_ENABLE=1 OMP_NUM_THREADS=1 MUJOCO_GL=disable
    .venv/bin/python benchmarks/speed/speed.py

One thread, cheetah-run, batch 256, two hidden layers of 256 units for all, one update a step. Every
round trains each algorithm for some steps in turn; a ratio is taken within a round, so that a
machine whose speed changes does not matter. Writes ``results/speed.csv`` and a picture. With a GPU
the rates are measured on it, too (tables named "cuda"). ``--rates RFMFlow`` measures and prints one
algorithm's rate beside SAC's alone; ``--rates RFMFlow --over "SAC, same critic"`` beside
SAC's with the same critic, too.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import population
import torch as th
from common_floor import growth
from common_models import ALGORITHMS, SLOW, make, seconds

from sb3_rfm.common import actor_losses, updates
from sb3_rfm.common.flow import VelocityField

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed.csv"
PICTURE = ROOT / "docs" / "images" / "speed.png"
PARTS: dict[str, tuple[Any, str]] = {
    "candidates": (VelocityField, "integrate"),
    "critic": (updates.Updates, "_update_critic"),
    "particles": (actor_losses, "posterior_given"),
    "actor": (updates.Updates, "_update_actor"),
    "target networks": (updates, "move_towards"),
}


def rates(
    rounds: int, steps: int, device: str, names: list[str], over: str = "SAC"
) -> list[dict[str, Any]]:
    """Steps a second in training, and the ratios to SAC's, or another's, in the same round."""
    models = {name: make(name, device=device) for name in names}
    measured: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, model in models.items():
            n = max(4, steps // 20) if name in SLOW else steps
            spent = seconds(lambda m=model, n=n: m.learn(n, reset_num_timesteps=False))
            measured[name].append(n / spent)
    table, rows = "rate" if device == "cpu" else f"rate {device}", []
    for base, name in [("SAC", n) for n in names] + [(over, n) for n in names if over != "SAC"]:
        ratios = np.divide(measured[name], measured[base])
        rows.append(
            {
                "table": table if base == "SAC" else f"{table} over {base}",
                "name": name,
                "value": np.median(measured[name]),
                "ratio": np.median(ratios),
                "low": ratios.min(),
                "high": ratios.max(),
            }
        )
    return rows


@contextmanager
def clocks(spent: dict[str, float]) -> Iterator[None]:
    """Adds the time within each of the parts to ``spent``."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return wrapper

    with ExitStack() as stack:
        for name, (owner, attribute) in PARTS.items():
            function = getattr(owner, attribute)
            stack.enter_context(patch.object(owner, attribute, timed(name, function)))
        yield


def parts(steps: int) -> list[dict[str, Any]]:
    """Milliseconds a step of each part of RFMFlow's training; the actor's without its particles."""
    model, spent = make("RFMFlow"), {}
    assert model.env is not None
    PARTS["replay"] = (type(model.replay_buffer), "sample")
    PARTS["environment"] = (type(model.env), "step_wait")  # what watches it calls that alone
    with clocks(spent):
        spent["all"] = seconds(lambda: model.learn(steps, reset_num_timesteps=False))
    spent["actor"] -= spent["particles"]
    return [
        {"table": "part", "name": name, "value": 1e3 * spent[name] / steps}
        for name in [*PARTS, "all"]
    ]


def latencies(repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of ``predict(deterministic=True)``, for 1 and 64 observations."""
    models = {
        "SAC": make("SAC"),
        "RFMFlow": make("RFMFlow"),
        "RFMFlow, 1 candidate": make("RFMFlow", candidates={"evaluate": 1}),
    }
    rows = []
    for batch in (1, 64):
        obs = np.random.default_rng(0).normal(size=(batch, 17)).astype(np.float32)
        best = dict.fromkeys(models, np.inf)
        for _ in range(repeats):
            for name, model in models.items():
                spent = seconds(lambda m=model, o=obs: m.predict(o, deterministic=True))
                best[name] = min(best[name], 1e3 * spent)
        rows += [
            {
                "table": f"predict {batch}",
                "name": name,
                "value": value,
                "ratio": value / best["SAC"],
            }
            for name, value in best.items()
        ]
    return rows


def peak_mebibytes() -> float:
    """This process's largest resident size; ``ru_maxrss`` would begin at its parent's."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024


def memory() -> list[dict[str, Any]]:
    """Peak resident size in MiB, each algorithm in a process of its own."""
    rows = []
    for name in ("SAC", "RFMFlow", "RFMDiffusion"):
        command = [sys.executable, __file__, "--memory-of", name]
        peak = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        rows.append({"table": "memory", "name": name, "value": peak})
    for row in rows:
        row["ratio"] = row["value"] / rows[0]["value"]
    return rows


def draw(rows: list[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    rate = [row for row in rows if row["table"] == "rate"]
    part = [row for row in rows if row["table"] == "part" and row["name"] != "all"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    values = [row["ratio"] for row in rate]
    errors = [[v - r["low"] for v, r in zip(values, rate, strict=True)],
              [r["high"] - v for v, r in zip(values, rate, strict=True)]]  # fmt: skip
    left.barh([row["name"] for row in rate], values, xerr=errors)
    left.axvline(1, color="grey", linewidth=0.8)
    left.set_xlabel("steps a second over SAC's, same round (median, range)")
    right.barh([row["name"] for row in part], [row["value"] for row in part])
    right.set_xlabel("RFMFlow, milliseconds a step")
    for axes in (left, right):
        axes.invert_yaxis()
    figure.savefig(PICTURE, dpi=120)


def print_table(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        numbers = [f"{row[key]:10.3g}" for key in ("value", "ratio", "low", "high") if key in row]
        print(f"{row['table']:22} {row['name']:28}", *numbers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of each algorithm in a round")
    parser.add_argument("--memory-of", metavar="NAME", help="print one algorithm's peak, in MiB")
    parser.add_argument("--rates", nargs="+", metavar="NAME", help="print these beside SAC alone")
    parser.add_argument("--over", metavar="NAME", default="SAC", help="and beside this one")
    parser.add_argument(
        "--population",
        nargs="*",
        type=int,
        metavar="N",
        help="time populations of so many members alone (1 2 4 8 16 32)",
    )
    options = parser.parse_args()
    th.set_num_threads(1)
    if options.population is not None:
        sizes = sorted(options.population or [1, 2, 4, 8, 16, 32])
        population.run(sizes, options.rounds, options.steps)
        return
    if options.rates:
        names = list(dict.fromkeys(["SAC", options.over, *options.rates]))
        print_table(rates(options.rounds, options.steps, "cpu", names, options.over))
        return
    if options.memory_of:
        make(options.memory_of).learn(300, reset_num_timesteps=False)
        print(peak_mebibytes())
        return
    rows = [
        *[
            row
            for device in ("cpu", "cuda")
            if device == "cpu" or th.cuda.is_available()
            for row in rates(options.rounds, options.steps, device, [*ALGORITHMS, *SLOW])
        ],
        *parts(options.steps),
        *latencies(20 * options.rounds),
        *growth(2 * options.rounds),
        *memory(),
    ]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["table", "name", "value", "ratio", "low", "high"])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: v if isinstance(v, str) else f"{v:.4g}" for k, v in row.items()})
    draw(rows)
    print_table(rows)


if __name__ == "__main__":
    main()
