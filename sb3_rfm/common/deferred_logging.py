"""What updates report, read from the device as rarely as can be and given to the logger."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from sb3_rfm.common.config import Settings
from sb3_rfm.common.critic_watch import CriticWatch
from sb3_rfm.common.observing import Observing
from sb3_rfm.common.optimization import Report

READ_EVERY = 100
"""Updates between two readings on a GPU, each of which waits for all the work before it."""


class DeferredLogging(Observing):
    """
    An algorithm that logs the mean of what its updates report.

    On the CPU it is read after each ``train()``; on a GPU every ``READ_EVERY`` updates and before a
    log is written, so that a loss that is not finite is noticed up to as many updates late.
    """

    settings: Settings
    actor: Any
    critic: Any
    critic_watch: CriticWatch
    _unread: list[Mapping[str, Tensor]]

    def _record(self, infos: Sequence[Mapping[str, Tensor]]) -> None:
        """
        Keep what updates report, and read it where that costs nothing or is due.

        :param infos: of each update
        """
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self._unread += infos
        if self.device.type == "cpu" or len(self._unread) >= READ_EVERY:
            self._read()

    def _read(self) -> None:
        """Record the mean of each quantity over the updates that had it."""
        reports, self._unread = [Report.of(info) for info in self._unread if info], []
        names = [name for report in reports for name in report]
        read = th.cat([report.row for report in reports]).tolist() if reports else []  # one wait
        values: dict[str, list[float]] = {}
        for name, number in zip(names, read, strict=True):
            values.setdefault(name, []).append(number)
        for key in sorted(values):
            value = sum(values[key]) / len(values[key])
            self._check_update(key, value)
            self.logger.record(key, value)
        if "rfm/q_target" in values:
            self._check_critics(values)
        self.logger.record("rfm/n_skipped", self.n_skipped)

    def _horizon(self) -> int:
        """Steps that an episode may have had so far."""
        buffer = self.replay_buffer
        stored = buffer.size() if isinstance(buffer, ReplayBuffer) else 0
        return max(self.num_timesteps // self.n_envs, stored, 1)

    def _check_critics(self, values: dict[str, list[float]]) -> None:
        """
        Record the critics' values over the largest that anything explains; warn each time they
        begin to be impossible.

        :param values: what updates reported, by key
        """
        watch, scale = self.critic_watch, self.settings.critic_update.reward_scale
        targets, losses = values["rfm/q_target"], values["train/critic_loss"]
        errors = [math.sqrt(2 * loss / self.critic.n_critics) for loss in losses]
        watch.see_first(targets[0], errors[0])
        if "rfm/policy_entropy" in values:
            bonuses = [
                self.actor.temperature().item() * entropy
                for entropy in values["rfm/policy_entropy"]
            ]
            for bonus in bonuses:
                watch.see_entropy(bonus, self.gamma, self._horizon())
        else:
            bonuses = [None] * len(targets)
        several = zip(targets, errors, bonuses, strict=True)
        ratios = [watch.ratio(target, error, scale, bonus) for target, error, bonus in several]
        ratio = sum(ratios) / len(ratios)
        self.logger.record("rfm/q_over_bound", ratio)
        if watch.diverges_anew(ratio):
            warnings.warn(
                f"The critics diverge: their values or errors are {ratio:.3g} times the largest "
                "that the rewards so far, the entropy and untrained critics explain (step "
                f"{self.num_timesteps}).",
                stacklevel=2,
            )

    def dump_logs(self) -> None:
        """Write the log, as Stable-Baselines3 does every ``log_interval`` episodes."""
        self._read()
        super().dump_logs()
