"""Optimizers and averaged networks, and a step of each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch as th
from torch import Tensor

from sb3_rfm.utils.preload import import_triton

import_triton()  # an environment that is made later may load a graphics driver

Info = dict[str, Tensor]
"""What a loss or an update reports, by the names it is logged under."""


class Report(Mapping[str, Tensor]):
    """
    What an update reports, in one row.

    :param names: of the quantities
    :param row: each of them, (K, ...)
    """

    def __init__(self, names: Sequence[str], row: Tensor) -> None:
        self.names, self.row = names, row

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.row[self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, info: Mapping[str, Tensor]) -> "Report":
        """
        :param info: quantities of one shape
        :return: the same in one row
        """
        if isinstance(info, Report):
            return info
        return cls(list(info), th.stack([value.detach() for value in info.values()]))


IMPLEMENTATIONS = {"foreach", "fused", "capturable", "differentiable"}
"""Arguments of PyTorch's optimizers that choose how a step is computed."""


def make_optimizer(
    optimizer_class: type[th.optim.Optimizer],
    parameters: Iterable[Tensor],
    learning_rate: float,
    optimizer_kwargs: dict[str, Any],
) -> th.optim.Optimizer:
    """
    An optimizer; Adam's and AdamW's steps are fused unless another implementation is asked for.

    :param optimizer_class: its class
    :param parameters: what it optimizes
    :param learning_rate: its learning rate
    :param optimizer_kwargs: its other arguments
    :return: the optimizer
    """
    has_fused = optimizer_class in (th.optim.Adam, th.optim.AdamW)
    arguments = {"lr": learning_rate, **optimizer_kwargs}
    if has_fused and not IMPLEMENTATIONS & arguments.keys():
        arguments["fused"] = True
    return optimizer_class(parameters, **arguments)


def set_learning_rate(optimizer: th.optim.Optimizer, learning_rate: float) -> None:
    """
    Set the learning rate, in place where it is a tensor: a CUDA graph reads it there.

    :param optimizer: the optimizer
    :param learning_rate: the new rate
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def gradient_step(
    optimizer: th.optim.Optimizer,
    loss: Tensor,
    max_grad_norm: float | None = None,
    skips: bool = False,
) -> None:
    """
    One step of an optimizer.

    :param optimizer: of a network
    :param loss: ()
    :param max_grad_norm: largest norm of the gradient; None for no limit
    :param skips: whether a step whose gradient is not finite is left out
    """
    optimizer.zero_grad()
    loss.backward()
    step(optimizer, max_grad_norm, skips)


def step(
    optimizer: th.optim.Optimizer, max_grad_norm: float | None = None, skips: bool = False
) -> None:
    """
    One step of an optimizer along the gradients that there are.

    :param optimizer: of a network
    :param max_grad_norm: largest norm of the gradient; None for no limit
    :param skips: whether a step whose gradient is not finite is left out
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if max_grad_norm is not None:
        th.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    gradients = (p.grad for p in parameters if p.grad is not None)
    if not skips or all(bool(gradient.isfinite().all()) for gradient in gradients):
        optimizer.step()


@th.no_grad()
def move_towards(averages: Iterable[Tensor], tensors: Iterable[Tensor], tau: float) -> None:
    """
    Polyak averaging, ``average <- average + tau (tensor - average)`` in place.

    :param averages: of shapes and dtypes equal to the tensors', one after the other
    :param tensors: what they move towards
    :param tau: the step, in [0, 1]
    """
    averages, tensors = list(averages), list(tensors)
    assert len(averages) == len(tensors)
    if averages:
        th._foreach_lerp_(averages, tensors, tau)
