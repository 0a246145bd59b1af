"""What stands in the place of CUDA graphs where there is no GPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th

from sb3_rfm.common.batches import HOST
from sb3_rfm.common.cuda_graphs import Work
from sb3_rfm.common.staging import Staging


def record(work: Work) -> tuple[th.Tensor, Callable[[], None]]:
    """What a graph does: nothing when it is recorded; the work, in place, at each replay."""
    result = th.empty(0)

    def replay() -> None:
        value = work()
        result.resize_(value.shape).copy_(value)

    return result, replay


STAND_IN: dict[str, Any] = {
    "record": record,
    "aside": lambda work: work(),
    "waits": lambda work: (work(), False),
}
ON_HOST = partial(Staging, device=HOST, pinned_bytes=partial(th.empty, dtype=th.uint8))
