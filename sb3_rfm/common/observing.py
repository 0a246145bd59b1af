"""What training passes on to the normaliser of a policy's observations."""

from typing import Any

import numpy as np
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_rfm.common.guards import FiniteChecks
from sb3_rfm.common.observations import ObservationNormalizer


class Observing(FiniteChecks):
    """
    An algorithm whose policy may normalise observations: each one that training acts on, at random
    or not, is taken into the statistics once, before the action is chosen.

    Zeros that stand in the place of what was not finite are not taken (see :class:`FiniteChecks`).
    """

    @property
    def _normalizer(self) -> ObservationNormalizer | None:
        """The policy's; none before there is a policy, or in one of another package."""
        return getattr(getattr(self, "policy", None), "normalizer", None)

    def _setup_model(self) -> None:
        super()._setup_model()
        self._refuse_to_normalize_twice(self._vec_normalize_env)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Go on in another environment, as any Stable-Baselines3 algorithm does.

        :param env: the environment
        :param force_reset: whether it is reset before training
        :raises ValueError: it normalises observations, and so does the policy
        """
        self._refuse_to_normalize_twice(env)
        super().set_env(env, force_reset)

    def _refuse_to_normalize_twice(self, env: GymEnv | None) -> None:
        outer = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
        if self._normalizer is not None and outer is not None and outer.norm_obs:
            raise ValueError(
                "normalize_observations=True and VecNormalize(norm_obs=True) would normalise "
                "observations twice; use VecNormalize(env, norm_obs=False), which normalises "
                "rewards alone, or policy_kwargs=dict(normalize_observations=False)"
            )

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._normalizer is not None:
            obs: Any = self._last_obs
            self._normalizer.update(obs, True if self._blind is None else self._blind == 0)
        return super()._sample_action(learning_starts, action_noise, n_envs)
