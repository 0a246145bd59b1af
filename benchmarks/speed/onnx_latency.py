"""
Time of one deterministic action: ``model.predict`` beside the exported ONNX graph.

    .venv/bin/python benchmarks/speed/onnx_latency.py            # about two minutes

Both run on one thread of the processor, with untrained weights (the time does not depend on them),
a network of [256, 256], 17 observations and 6 actions (cheetah-run's), and each algorithm's own
defaults. Prints a Markdown table: the median over many calls, in milliseconds, and the largest
difference of the two actions.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import onnxruntime
import torch as th
from gymnasium import spaces

import sb3_rfm
from sb3_rfm.export.onnx import export_onnx

BATCHES = (1, 64)


class Shapes(gym.Env):
    """Spaces of cheetah-run's size; it is never stepped."""

    observation_space = spaces.Box(-np.inf, np.inf, (17,), np.float32)
    action_space = spaces.Box(-1, 1, (6,), np.float32)


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Median time of a call, over about so many seconds."""
    call()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


def measure(name: str, seconds: float) -> str:
    """One row of the table."""
    model = getattr(sb3_rfm, name)("MlpPolicy", Shapes(), buffer_size=1, device="cpu", seed=0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(model.policy, Path(folder) / "policy")
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    cells, difference = [], 0.0
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        obs = rng.standard_normal((batch, 17)).astype(np.float32)
        calls = (
            lambda obs=obs: model.predict(obs, deterministic=True)[0],
            lambda obs=obs: session.run(None, {"observation": obs})[0],
        )
        difference = max(difference, float(np.abs(calls[0]() - calls[1]()).max()))
        cells += [f"{milliseconds(call, seconds):.2f}" for call in calls]
    return f"| {name} | {' | '.join(cells)} | {difference:.0e} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("names", nargs="*", default=["RFMFlow", "RFMDiffusion", "QNE", "SAC"])
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on each number")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    columns = [f"{what}, {b} obs" for b in BATCHES for what in ("PyTorch", "ONNX")]
    print(f"| algorithm | {' | '.join(columns)} | difference |", flush=True)
    print("|---" + "|--:" * 5 + "|", flush=True)
    for name in arguments.names:
        print(measure(name, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
