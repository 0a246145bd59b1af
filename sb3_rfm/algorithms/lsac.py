"""LSAC: soft actor-critic whose critics are trained by Langevin dynamics."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_rfm.algorithms.sac import SAC, with_arguments_of
from sb3_rfm.common.arguments import check_rate, plain_number
from sb3_rfm.common.langevin import AdaptiveLangevin
from sb3_rfm.common.optimization import set_learning_rate


class LSAC(SAC):
    """
    Langevin soft actor-critic (Ishfaq et al., ICLR 2025, arXiv 2501.17827): SAC whose critics are
    trained by adaptive Langevin dynamics (:class:`sb3_rfm.common.langevin.AdaptiveLangevin`).

    Actor and entropy coefficient keep ``optimizer_class``, Adam. The Langevin step's other
    arguments than its rate are ``policy_kwargs=dict(critic_optimizer_kwargs=dict(noise=1e-3))``.

    Where it differs from the paper: one pair of critics instead of ten, so that no other critics
    judge the actor; they are SAC's instead of distributional; no transitions are synthesised by a
    diffusion model, nor moved up Q; gradients are shortened by the norm of both critics together;
    the actor is updated at each step instead of every second; networks, and the actor's learning
    rate of 3e-4 (the paper's: 1e-4), are SAC's; the critics' rate stays.

    :param args: arguments of :class:`sb3_rfm.SAC`, in its order; ``learning_rate`` is that of the
        actor and of the entropy coefficient
    :param critic_learning_rate: of the critics, a number of at least 0 or a schedule (paper: .001,
        halved between 1e5 and 1e6)
    :param kwargs: arguments of :class:`sb3_rfm.SAC`
    :raises ValueError: a learning rate that is not allowed, or what :class:`sb3_rfm.SAC` refuses
    """

    policy_defaults: ClassVar[dict[str, Any]] = {"critic_optimizer_class": AdaptiveLangevin}

    @with_arguments_of(SAC)
    def __init__(
        self, *args: Any, critic_learning_rate: float | Schedule = 1e-3, **kwargs: Any
    ) -> None:
        self.critic_learning_rate = plain_number(critic_learning_rate)
        super().__init__(*args, **kwargs)

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        check_rate("critic_learning_rate", self.critic_learning_rate)
        self.critic_lr_schedule = FloatSchedule(self.critic_learning_rate)

    def _update_learning_rate(
        self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        rate = self.critic_lr_schedule(self._current_progress_remaining)
        set_learning_rate(self.critic.optimizer, rate)
