"""What updates report, read from the device as rarely as can be and given to the logger."""

from typing import Any

import torch as th

from sb3_rfm.common.observing import Observing
from sb3_rfm.common.regression import Info

READ_EVERY = 100
"""Updates between two readings on a GPU, each of which waits for all the work before it."""


class Recorded(Observing):
    """
    An algorithm that logs the mean of what its updates report.

    On the CPU it is read after each ``train()``; on a GPU every ``READ_EVERY`` updates and before a
    log is written, so that a loss that is not finite is noticed up to as many updates late.
    """

    choices: Any
    _unread: list[Info]

    def _record(self, infos: list[Info]) -> None:
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
        infos, self._unread = self._unread, []
        pairs = [pair for info in infos for pair in info.items()]
        read = th.stack([value for _, value in pairs]).tolist() if pairs else []  # one wait
        values: dict[str, list[float]] = {}
        for (key, _), number in zip(pairs, read, strict=True):
            values.setdefault(key, []).append(number)
        for key in sorted(values):
            value = sum(values[key]) / len(values[key])
            self._check_update(key, value)
            self.logger.record(key, value)
            if key == "rfm/q_target":
                self._check_critics(value, self.choices.reward_scale)
        self.logger.record("rfm/n_skipped", self.n_skipped)

    def dump_logs(self) -> None:
        """Write the log, as Stable-Baselines3 does every ``log_interval`` episodes."""
        self._read()
        super().dump_logs()
