"""How an update's time grows with its settings, beside the least that the machine could take."""

from functools import partial
from typing import Any

import torch as th
from common_models import make, seconds
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

GROWTH: dict[str, tuple[Any, ...]] = {
    "estimator.n_particles": (8, 16, 32, 64),
    "candidates.n": (2, 4, 8, 16),
    "action_dim": (2, 4, 8, 16),
    "flow.steps": (2, 4, 8, 16),
    "batch_size": (64, 128, 256, 512),
    "width": (128, 256, 512),
}


def matrix_rate() -> float:
    """Floating-point operations a second of the largest product in an update."""
    x, w = th.randn(4096, 256), th.randn(256, 256)
    return 2 * 4096 * 256 * 256 / min(seconds(lambda: F.linear(x, w)) for _ in range(30))


def memory_rate() -> float:
    """Bytes a second of a copy that no cache holds; each is read and written."""
    source = th.ones(2**25)
    target = th.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(10))


def least_bytes(model: Any) -> float:
    """
    What ``actor_update.every`` updates (one of the actor) have to move of their parameters alone:
    weights forward and backward, gradients written and read, and Adam's three arrays in and out;
    the targets' average.
    """
    critic = sum(p.nbytes for p in model.critic.parameters())
    actor = sum(p.nbytes for p in model.actor.flow_parameters())
    return model.settings.actor_update.every * (10 + 3) * critic + 10 * actor


def growth(updates: int) -> list[dict[str, Any]]:
    """
    Milliseconds of ``actor_update.every`` updates (one of the actor) beside the floor: their
    operations at the rate of matrix products in float32 ("low") or their bytes at the rate of
    memory ("high"), whichever is longer; and how many times as fast as the floor the time grows.
    """
    operations, bytes_ = matrix_rate(), memory_rate()
    rows = []
    for argument, values in GROWTH.items():
        times, floors = [], []
        for value in values:
            model: Any = make("RFMFlow", **{argument: value})
            work = partial(model.train, model.settings.actor_update.every, model.batch_size)
            with FlopCounterMode(display=False) as counter:
                work()
            times.append(min(seconds(work) for _ in range(updates)))
            low, high = counter.get_total_flops() / operations, least_bytes(model) / bytes_
            floors.append(max(low, high))
            rows.append(
                {
                    "table": f"growth {argument}",
                    "name": str(value),
                    "value": 1e3 * times[-1],
                    "ratio": times[-1] / floors[-1],
                    "low": 1e3 * low,
                    "high": 1e3 * high,
                }
            )
        slope = (times[-1] - times[0]) / (floors[-1] - floors[0])
        rows.append({"table": f"growth {argument}", "name": "slope over floor's", "ratio": slope})
    return rows
