"""What keeps numbers that are not finite, and critics that diverge, from going unnoticed."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rfm.sampling.registry import require

IMPOSSIBLE = 2.0  # times the largest discounted return: no longer an error of a young critic


class NonFiniteError(FloatingPointError):
    """A number that should be finite is not; the message names the first one and the step."""


def not_finite(name: str, value: Any) -> Iterator[str]:
    """
    What is not finite, entry by entry.

    :param name: of the value
    :param value: an array, a dictionary of arrays, or anything else, which is taken for finite
    :return: sentences such as "reward[0] is nan"
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from not_finite(f"{name}[{key!r}]", item)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        for index in np.argwhere(~np.isfinite(value)):
            place = ", ".join(map(str, index))
            yield f"{name}[{place}] is {value[tuple(index)]}"


class Guarded(OffPolicyAlgorithm):
    """
    An algorithm that refuses observations, rewards and actions that are not finite, or leaves them
    out, and watches its critics.

    ``on_nan`` is "raise", or "skip": transitions and updates with such numbers are left out and
    counted. Where an observation was not finite the policy acts on zeros in its place, once, and
    that transition is left out too.
    """

    on_nan: str = "raise"
    skips_updates = True
    """False where updates are Stable-Baselines3's own: one that is not finite is then an error."""
    n_skipped = 0
    largest_reward = 0.0
    _acted_blindly = False
    _warned_of_divergence = False

    def _check_on_nan(self) -> None:
        require(self.on_nan in ("raise", "skip"), "on_nan", self.on_nan, "'raise' or 'skip'")

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        parts: dict[str, Any] = {"observation": new_obs, "reward": reward, "action": buffer_action}
        for i, info in enumerate(infos):
            if dones[i]:
                parts[f"terminal observation of environment {i}"] = info.get("terminal_observation")
        culprit = next((c for name, part in parts.items() for c in not_finite(name, part)), None)
        if culprit is None and not self._acted_blindly:
            self.largest_reward = max(self.largest_reward, float(np.abs(reward).max()))
            super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
            return
        if culprit is not None and self.on_nan == "raise":
            raise NonFiniteError(
                f"{culprit} at step {self.num_timesteps} (first index: environment); on_nan='skip' "
                "leaves such transitions out"
            )
        self._leave_out(replay_buffer, new_obs)

    def _leave_out(
        self, replay_buffer: ReplayBuffer, new_obs: np.ndarray | dict[str, np.ndarray]
    ) -> None:
        """Go on from the next observation, zeros where it is not finite, without storing."""
        self.n_skipped += 1
        self._acted_blindly = next(not_finite("observation", new_obs), None) is not None
        if isinstance(new_obs, dict):
            self._last_obs = {key: _finite(part) for key, part in new_obs.items()}
        else:
            self._last_obs = _finite(new_obs)
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        if replay_buffer.size() > 0 and hasattr(replay_buffer, "timeouts"):
            # returns over several steps must not run across the gap
            replay_buffer.timeouts[(replay_buffer.pos - 1) % replay_buffer.buffer_size] = True

    def _check_update(self, key: str, value: float) -> None:
        """Raise if a logged quantity is not finite and updates are not skipped."""
        skipped = self.on_nan == "skip" and self.skips_updates
        if not math.isfinite(value) and not skipped:
            raise NonFiniteError(
                f"{key} is {value} at update {self._n_updates}, step {self.num_timesteps}: the "
                "weights are lost from here on; go on from the last checkpoint, with a smaller "
                "learning rate, or see rfm/q_over_bound for a critic that diverged before"
            )

    def _check_critics(self, q_target: float, reward_scale: float) -> None:
        """
        Record the critics' mean target over the largest return that rewards so far allow; warn once
        of one that is impossible.

        :param q_target: mean target
        :param reward_scale: what rewards are multiplied by
        """
        if self.gamma >= 1 or self.largest_reward == 0:
            return
        largest = abs(reward_scale) * self.largest_reward / (1 - self.gamma)
        ratio = abs(q_target) / largest
        self.logger.record("rfm/q_over_bound", ratio)
        if ratio > IMPOSSIBLE and not self._warned_of_divergence:
            self._warned_of_divergence = True
            warnings.warn(
                f"The critics diverge: their mean target is {ratio:.3g} times {largest:.3g}, the "
                f"largest return that the rewards so far allow (step {self.num_timesteps}).",
                stacklevel=2,
            )


def _finite(part: np.ndarray) -> np.ndarray:
    """A copy with zeros in the place of what is not finite."""
    return np.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) if part.dtype.kind == "f" else part
