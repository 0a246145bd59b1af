"""Batches of a replay buffer: their tensors, and their way to the device of the networks."""

from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

HOST = th.device("cpu")


def tensors_of(data: ReplayBufferSamples) -> list[Tensor]:
    """
    The tensors of a batch, those of a dictionary of observations by name.

    :param data: the batch
    :return: the tensors, in an order that depends on nothing but the batch's kind
    """
    parts: list[Any] = [p for p in data if p is not None]
    groups = [[p[k] for k in sorted(p)] if isinstance(p, dict) else [p] for p in parts]
    return [tensor for group in groups for tensor in group]


def mapped(data: ReplayBufferSamples, change: Callable[[Tensor], Tensor]) -> ReplayBufferSamples:
    """
    A batch of the same kind with other tensors.

    :param data: the batch
    :param change: a tensor -> what stands in its place
    :return: a batch whose :func:`tensors_of` are in the same order
    """

    def changed(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: change(tensor) for key, tensor in part.items()}
        return None if part is None else change(part)

    return type(data)(*(changed(part) for part in data))


def sample_on_host(buffer: ReplayBuffer) -> None:
    """
    Have a buffer that makes tensors as Stable-Baselines3's do make them in the host's memory, where
    its arrays are: :func:`uploaded` sends them on, while ``sample`` would wait for the GPU.

    :param buffer: any replay buffer; one with a ``to_torch`` of its own is left as it is
    """
    if getattr(type(buffer), "to_torch", None) is BaseBuffer.to_torch:
        buffer.device = HOST


def uploaded(
    data: ReplayBufferSamples,
    device: th.device,
    pinned: Callable[[Tensor], Tensor] = Tensor.pin_memory,
) -> ReplayBufferSamples:
    """
    A batch on the device of the networks. Nothing waits: it goes by pinned memory, so that the next
    batch is sampled and sent while the GPU is still at work on this one.

    :param data: the batch
    :param device: where it goes
    :param pinned: copies a tensor into memory that a GPU reads by itself
    :return: the batch; its tensors are as they were where they are on a device of that kind already
    """

    def moved(tensor: Tensor) -> Tensor:
        if tensor.device.type == device.type:
            return tensor
        return pinned(tensor).to(device, non_blocking=True)

    return mapped(data, moved)
