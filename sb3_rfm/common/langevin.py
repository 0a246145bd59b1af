"""Adaptive stochastic gradient Langevin dynamics, an optimizer whose steps carry noise."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch as th
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sb3_rfm.sampling.registry import require, require_float


class AdaptiveLangevin(th.optim.Optimizer):
    """
    Adaptive stochastic gradient Langevin dynamics, aSGLD (Ishfaq et al., ICLR 2025,
    arXiv 2501.17827).

    With g the gradient, shortened to the norm ``max_grad_norm``, plus ``weight_decay theta``, and n
    standard normal,

    ``m <- beta_1 m + (1 - beta_1) g,   s <- beta_2 s + (1 - beta_2) g²,``

    ``theta <- theta - lr (g + drift m / (sqrt(s) + eps)) + noise sqrt(2 lr) n.``

    The moments are not corrected for starting at zero: of a gradient that stays, ``m / sqrt(s)`` is
    sqrt(10) at the first step, 6.6 at the twelfth and 1.3 after a thousand (with the default
    betas). With ``drift=0`` and ``noise=0`` it is stochastic gradient descent. With ``drift=0``
    alone, on ``½ b theta²``, parameters are stationary with variance
    ``noise² / (b (1 - lr b / 2))``: that of ``exp(-½ b theta² / noise²)`` as lr goes to zero.

    The gradients in ``.grad`` stay as they are. Noise is drawn from PyTorch's global generator of
    the parameters' device. Every argument but ``params`` can be one of a group of parameters, and
    each group is shortened by the norm of its own gradients.

    :param params: what is optimized: tensors, or groups of them
    :param lr: learning rate eta, a finite number of at least 0 (paper: .001)
    :param drift: weight a of the adaptive drift, at least 0
    :param noise: scale sigma of the noise, at least 0; its square is a temperature, in units of the
        loss (released code: 1e-8)
    :param betas: rates at which both moments forget, each in [0, 1)
    :param eps: added to the root of the second moment, above 0
    :param max_grad_norm: largest norm of a group's gradients, above 0; None for no limit
    :param weight_decay: factor of theta that is added to its gradient, at least 0
    :raises TypeError: an argument that is not of its kind
    :raises ValueError: a number that is not allowed
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        drift: float = 1.0,
        noise: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = 0.7,
        weight_decay: float = 1e-4,
    ) -> None:
        defaults = {
            "lr": lr,
            "drift": drift,
            "noise": noise,
            "betas": betas,
            "eps": eps,
            "max_grad_norm": max_grad_norm,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """
        Add a group of parameters, as any optimizer of PyTorch does.

        :param param_group: ``params`` and what is to differ from the optimizer's own arguments
        :raises TypeError: an argument that is not of its kind
        :raises ValueError: a number that is not allowed
        """
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @th.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """
        One step of all parameters that have a gradient.

        :param closure: evaluates the loss and its gradients anew
        :return: what it returned, or None
        """
        loss = None
        if closure is not None:
            with th.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step_of_group(parameters, group)
        return loss

    def _step_of_group(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        gradients = clipped(gradients, group["max_grad_norm"])
        gradients = list(th._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["exp_avg"] = th.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = th.zeros_like(parameter)
        means = [self.state[p]["exp_avg"] for p in parameters]
        squares = [self.state[p]["exp_avg_sq"] for p in parameters]
        beta_1, beta_2 = group["betas"]
        th._foreach_lerp_(means, gradients, 1 - beta_1)
        th._foreach_mul_(squares, beta_2)
        th._foreach_addcmul_(squares, gradients, gradients, 1 - beta_2)
        scales = th._foreach_sqrt(squares)
        th._foreach_add_(scales, group["eps"])
        th._foreach_addcdiv_(gradients, means, scales, group["drift"])
        th._foreach_add_(parameters, gradients, alpha=-group["lr"])
        if group["noise"]:
            draws = [th.randn_like(parameter) for parameter in parameters]
            deviation = group["noise"] * math.sqrt(2 * group["lr"])
            th._foreach_add_(parameters, draws, alpha=deviation)


def clipped(gradients: list[Tensor], max_norm: float | None) -> list[Tensor]:
    """
    Gradients shortened by one factor, so that their norm together is at most ``max_norm``.

    :param gradients: on one device
    :param max_norm: above 0; None for no limit
    :return: new tensors; without a limit, the gradients themselves
    """
    if max_norm is None:
        return gradients
    factor = (max_norm / th.nn.utils.get_total_norm(gradients)).clamp_max(1.0)
    return list(th._foreach_mul(gradients, factor))


def _check(arguments: Mapping[str, Any]) -> None:
    """Refuse what the update cannot be made with."""
    for name in ("lr", "drift", "noise", "weight_decay"):
        require_float(name, arguments[name], 0.0)
    for name in ("eps", "max_grad_norm"):
        value = arguments[name]
        if not (name == "max_grad_norm" and value is None):
            require_float(name, value, 0.0)
            require(value > 0, name, value, "above 0")
    betas = arguments["betas"]
    if not (isinstance(betas, tuple | list) and len(betas) == 2):
        raise TypeError(f"betas must be a pair of numbers in [0, 1); got {betas!r}")
    for beta in betas:
        require_float("betas", beta, 0.0, 1.0)
        require(beta < 1, "betas", betas, "two numbers in [0, 1)")
