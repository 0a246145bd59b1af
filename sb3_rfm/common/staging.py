"""Places on a device, where the arguments of CUDA graphs lie."""

import math
from collections.abc import Callable
from typing import Any

import torch as th
from torch import Tensor

from sb3_rfm.common.batches import mapped, tensors_of

ALIGNMENT = 16
"""Bytes at whose multiples each tensor begins, so that it may be of any dtype."""


def pinned_bytes(n_bytes: int) -> Tensor:
    """
    Memory of the host that a GPU reads by itself.

    :param n_bytes: how much
    :return: (n_bytes), uint8
    """
    return th.empty(n_bytes, dtype=th.uint8, pin_memory=True)


class Kept:
    """
    A place for tensors that are on the device already.

    :param like: a tuple or dictionary of tensors
    """

    def __init__(self, like: Any) -> None:
        self.data = mapped(like, Tensor.clone)

    def send(self, new: Any) -> None:
        """
        Put tensors in their place.

        :param new: of the shapes and dtypes of ``like``
        """
        for place, tensor in zip(tensors_of(self.data), tensors_of(new), strict=True):
            place.copy_(tensor)


class Staging:
    """
    A place on a device for tensors that are sent anew again and again, by one copy each time.

    :param like: a batch, or a tuple or dictionary of tensors, on the host
    :param device: where they go
    :param pinned_bytes: :func:`pinned_bytes`
    """

    def __init__(
        self,
        like: Any,
        device: th.device,
        pinned_bytes: Callable[[int], Tensor] = pinned_bytes,
    ) -> None:
        starts = [0]
        for tensor in tensors_of(like):
            size = tensor.numel() * tensor.element_size()
            starts.append(starts[-1] + math.ceil(size / ALIGNMENT) * ALIGNMENT)
        self.there = th.empty(starts[-1], dtype=th.uint8, device=device)
        self.here = pinned_bytes(starts[-1])
        self.staged = [*_views(self.here, starts, like)]
        views = _views(self.there, starts, like)
        self.data = mapped(like, lambda tensor: next(views))
        self.sent: Any = th.cuda.Event() if device.type == "cuda" else None

    def send(self, new: Any) -> None:
        """
        Put tensors in their place; nothing waits but for the copy before to be under way no more.

        :param new: of the shapes and dtypes of ``like``, on the host
        """
        if self.sent is not None:
            self.sent.synchronize()
        for place, tensor in zip(self.staged, tensors_of(new), strict=True):
            place.copy_(tensor)
        self.there.copy_(self.here, non_blocking=True)
        if self.sent is not None:
            self.sent.record()


def _views(memory: Tensor, starts: list[int], like: Any) -> Any:
    """A part of memory for each of some tensors, of its shape and dtype."""
    for start, tensor in zip(starts[:-1], tensors_of(like), strict=True):
        size = tensor.numel() * tensor.element_size()
        yield memory[start : start + size].view(tensor.dtype).view(tensor.shape)
