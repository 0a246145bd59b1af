"""Arguments that make SAC, and what is built on it, small."""

from typing import Any

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16]},
    "buffer_size": 500,
    "learning_starts": 20,
    "batch_size": 8,
    "seed": 0,
    "device": "cpu",
}
