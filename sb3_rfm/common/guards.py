"""What keeps numbers that are not finite from what is stored and learnt, and names where from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_rfm.common.finite import (
    ALLOWED,
    NonFiniteError,
    WatchedEnv,
    is_fine,
    made_finite,
    not_finite,
    wrong_rows,
)
from sb3_rfm.sampling.registry import require
from sb3_rfm.utils.episodes import WithoutSome, close_episode

STORED = ("observations", "actions", "rewards", "next_observations")


class FiniteChecks(OffPolicyAlgorithm):
    """
    An algorithm that refuses observations, rewards and actions that are not finite (or too large
    for float32 to compute with), or leaves them out; and whose replay buffer knows where episodes
    end, also where ``learn`` begins anew or is broken off.

    ``on_nan`` is "raise", or "skip": transitions and updates with such numbers are left out and
    counted. ``VecNormalize`` counts none of them. Where an observation was not finite the policy
    acts on zeros in its place, once (as long as ``VecFrameStack`` holds it), and that transition is
    left out too. Of several environments only the one concerned is left out.
    """

    on_nan: str = "raise"
    skips_updates = True
    """False where updates are Stable-Baselines3's own: one that is not finite is then an error."""
    n_skipped = 0
    _watch: WatchedEnv | None = None
    _blind: np.ndarray | None = None
    _wrong_actions: np.ndarray | bool = False

    def _check_on_nan(self) -> None:
        require(self.on_nan in ("raise", "skip"), "on_nan", self.on_nan, "'raise' or 'skip'")

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_watch"]

    def _refuse(self, culprit: str, step: int, cause: str = "") -> NoReturn:
        """Raise for a number of the environment's or the policy's."""
        raise NonFiniteError(
            f"{culprit} at step {step} (first index: environment; {ALLOWED}){cause}; on_nan='skip' "
            "leaves such transitions out"
        )

    @contextmanager
    def _watching(self, env: VecEnv, n_steps: int) -> Iterator[VecEnv]:
        """
        Watch an environment.

        :param env: the environment
        :param n_steps: environment steps that its next call makes
        :return: what to call in its place
        """
        base, wrappers = env, list[VecEnvWrapper]()
        while isinstance(base, VecEnvWrapper):
            wrappers.append(base)
            base = base.venv
        if self._blind is None or len(self._blind) != base.num_envs:
            self._blind = np.zeros(base.num_envs, int)

        def complain(culprit: str) -> None:
            if self.on_nan == "raise":
                self._refuse(culprit, self.num_timesteps + n_steps)

        self._watch = WatchedEnv(base, wrappers, self._blind, complain)
        watched, own = cast(VecEnv, self._watch), self.env
        try:
            if wrappers:
                wrappers[-1].venv = watched
                yield env
            else:
                self.env = watched if own is env else own
                yield watched
        finally:
            if wrappers:
                wrappers[-1].venv = base
            self.env = own if self.env is watched else self.env
            self._watch = None

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        begins = reset_num_timesteps or self._last_obs is None
        if begins and isinstance(self.replay_buffer, ReplayBuffer):
            close_episode(self.replay_buffer)  # the environment is reset
        arguments = (total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if self.env is None:
            return super()._setup_learn(*arguments)  # which says what is missing
        with self._watching(self.env, 0):
            prepared = super()._setup_learn(*arguments)
            if begins and self._watch is not None:
                self._watch.correct_averages()
        return prepared

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """
        Collect transitions as Stable-Baselines3 does, from a watched environment, and store the
        step at which a callback ends training too: the next ``learn`` goes on after it.

        :param env: the environment
        :param callback: called at each step
        :param train_freq: how much is collected
        :param replay_buffer: what it is stored in
        :param action_noise: added to the actions
        :param learning_starts: steps with random actions
        :param log_interval: episodes between two logs
        :return: what was collected
        """
        try:
            with self._watching(env, env.num_envs) as watched:
                rollout = super().collect_rollouts(
                    watched,
                    callback,
                    train_freq,
                    replay_buffer,
                    action_noise,
                    learning_starts,
                    log_interval,
                )
                if not rollout.continue_training:
                    self._finish_step(callback.locals, replay_buffer)
        except BaseException:
            self._last_obs = None  # the environment may be a step further: the next learn resets it
            raise
        return rollout

    def _finish_step(self, step: dict[str, Any], replay_buffer: ReplayBuffer) -> None:
        """What Stable-Baselines3 does after the callbacks, where one of them ended training."""
        names = ("buffer_actions", "new_obs", "rewards", "dones", "infos")
        self._update_info_buffer(step["infos"], step["dones"])
        self._store_transition(replay_buffer, *(step[name] for name in names))
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self._episode_num += int(np.sum(step["dones"]))

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        action, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        self._wrong_actions = False
        if not is_fine(scaled):
            self._wrong_actions = wrong_rows(scaled, n_envs)
            if self.on_nan == "raise":
                culprit = next(not_finite("action", scaled))
                self._refuse(culprit, self.num_timesteps + n_envs, self._cause_of_action())
            scaled = made_finite(scaled)
            action = self.policy.unscale_action(scaled)
            if action_noise is not None:
                action_noise.reset()
        return action, scaled

    def _cause_of_action(self) -> str:
        """Where an action that is not finite comes from."""
        wrong = self._wrong_weights()
        if wrong:
            return f": the policy's {wrong}"
        return ": the policy's weights are finite; look at action_noise and at layers of your own"

    def _wrong_weights(self) -> str | None:
        """The first weight that is not finite."""
        named = ((n, p.detach().cpu().numpy()) for n, p in self.policy.named_parameters())
        return next((c for n, p in named for c in not_finite(n, p)), None)

    def _update_info_buffer(
        self, infos: list[dict[str, Any]], dones: np.ndarray | None = None
    ) -> None:
        """Keep what the log averages of episodes, but for returns that are not finite."""
        for i, info in enumerate(infos):
            if not np.isfinite((info.get("episode") or {}).get("r", 0.0)).all():
                without = {key: value for key, value in info.items() if key != "episode"}
                infos = [*infos[:i], without, *infos[i + 1 :]]
        super()._update_info_buffer(infos, dones)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        if self._watch is not None:
            left_out = self._watch.left_out | self._wrong_actions
            self._watch.correct_averages()
            if left_out.any():
                self.n_skipped += int(left_out.sum())
                replay_buffer = cast(ReplayBuffer, WithoutSome(replay_buffer, left_out))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _has_nothing_to_learn(self) -> bool:
        """Whether all that was seen so far was left out."""
        return isinstance(self.replay_buffer, ReplayBuffer) and self.replay_buffer.size() == 0

    def _check_update(self, key: str, value: float) -> None:
        """Raise if a logged quantity is not finite and updates are not skipped."""
        skipped = self.on_nan == "skip" and self.skips_updates
        if not math.isfinite(value) and not skipped:
            raise NonFiniteError(
                f"{key} is {value} at update {self._n_updates}, step {self.num_timesteps}: "
                f"{self._cause_of_update()}"
            )

    def _cause_of_update(self) -> str:
        """Where an update that is not finite comes from, and what to do."""
        buffer: Any = self.replay_buffer
        rows = slice(0, buffer.size())
        for name in STORED:
            stored = getattr(buffer, name, {})
            parts = stored.items() if isinstance(stored, dict) else [(None, stored)]
            for key, part in parts:
                place = name if key is None else f"{name}[{key!r}]"
                for culprit in not_finite(place, part[rows]):
                    return f"the replay buffer's {culprit} ({ALLOWED})"
        rewards = buffer.sample(self.batch_size, env=self._vec_normalize_env).rewards
        for culprit in not_finite("reward", rewards.cpu().numpy()):
            return f"the replay buffer computes rewards that are wrong: {culprit} ({ALLOWED})"
        return (
            "the weights are lost from here on; go on from the last checkpoint, with a smaller "
            "learning rate, or see rfm/q_over_bound for a critic that diverged before"
        )
