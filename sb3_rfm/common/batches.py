"""Batches of a replay buffer: their tensors, and their way to the device of the networks."""

from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from torch import Tensor

HOST = th.device("cpu")


def tensors_of(data: Any) -> list[Tensor]:
    """
    The tensors of a batch, those of a dictionary of observations by name.

    :param data: a batch, a tensor, None, or a tuple or dictionary of such
    :return: the tensors, in an order that depends on nothing but the batch's kind
    """
    if isinstance(data, Tensor):
        return [data]
    parts = [data[key] for key in sorted(data)] if isinstance(data, dict) else data or ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def mapped(data: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """
    A batch of the same kind with other tensors.

    :param data: see :func:`tensors_of`
    :param change: a tensor -> what stands in its place
    :return: a batch whose :func:`tensors_of` are in the same order
    """
    if data is None or isinstance(data, Tensor):
        return None if data is None else change(data)
    if isinstance(data, dict):
        return {key: mapped(data[key], change) for key in sorted(data)}
    parts = [mapped(part, change) for part in data]
    return type(data)(*parts) if hasattr(data, "_fields") else tuple(parts)


def together(*parts: Any) -> Any:
    """
    Tensors of the members in one, or dictionaries or batches of such.

    :param parts: of each member, of one shape
    :return: (N, ...)
    """
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return th.stack(parts)
    if isinstance(first, dict):
        return {key: together(*(part[key] for part in parts)) for key in first}
    return type(first)(*(together(*each) for each in zip(*parts, strict=True)))


def sample_on_host(buffer: ReplayBuffer) -> None:
    """
    Have a buffer that makes tensors as Stable-Baselines3's do make them in the host's memory, where
    its arrays are: :func:`uploaded` sends them on, while ``sample`` would wait for the GPU.

    :param buffer: any replay buffer; one with a ``to_torch`` of its own is left as it is
    """
    if getattr(type(buffer), "to_torch", None) is BaseBuffer.to_torch:
        buffer.device = HOST


def uploaded(
    data: Any, device: th.device, pinned: Callable[[Tensor], Tensor] = Tensor.pin_memory
) -> Any:
    """
    A batch on the device of the networks. Nothing waits: it goes by pinned memory, so that the next
    batch is sampled and sent while the GPU is still at work on this one.

    :param data: the batch, or a tuple or dictionary of tensors
    :param device: where it goes
    :param pinned: copies a tensor into memory that a GPU reads by itself
    :return: the batch; its tensors are as they were where they are on a device of that kind already
    """

    def moved(tensor: Tensor) -> Tensor:
        if tensor.device.type == device.type:
            return tensor
        return pinned(tensor).to(device, non_blocking=True)

    return mapped(data, moved)
