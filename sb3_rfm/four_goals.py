"""
A task with four equally good ways: an agent at a crossing, a goal at the end of each road.

Importing this module, or :mod:`sb3_rfm.envs`, registers ``sb3_rfm/FourGoals-v0``.
"""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ENV_ID = "sb3_rfm/FourGoals-v0"
EPISODE_STEPS = 8


class FourGoals(gym.Env[np.ndarray, np.ndarray]):
    """
    An agent in the plane, at the crossing of two roads, with a goal 1.5 away on each of the four
    ways.

    The observation is its place, ``(x, y)`` in [-2.5, 2.5]², the action its move, in [-1, 1]². An
    episode starts at the crossing, exactly, and terminates less than .75 from a goal; the index of
    that goal (east, north, west, south) is ``info["goal"]``, -1 while none is reached. The reward
    of a step is minus the distance from the place reached to the nearest goal, minus that to the
    nearer road, ``min(|x|, |y|)``, in units of 1.5: the four goals are equally good, and to go
    between them is worse. One good move reaches a goal. Nothing is random.
    """

    goals: ClassVar[np.ndarray] = np.array([[1.5, 0.0], [0.0, 1.5], [-1.5, 0.0], [0.0, -1.5]])
    half_width = 2.5
    radius = 0.75

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-self.half_width, self.half_width, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.place = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start an episode.

        :param seed: as Gymnasium's
        :param options: ``{"place": (x, y)}`` starts there, and not at the crossing
        :return: the place, (2,), and an empty info
        :raises ValueError: a place that is not in the observation space
        """
        super().reset(seed=seed)
        place = np.asarray((options or {}).get("place", (0.0, 0.0)), np.float32)
        if not self.observation_space.contains(place):
            raise ValueError(
                f"place must be two numbers within {self.half_width} of 0; got {place.tolist()}."
            )
        self.place = place.astype(float)
        return place, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Move.

        :param action: the move, (2,)
        :return: the place, the reward, whether a goal is reached, False, and ``{"goal": index}``
        """
        self.place = np.clip(self.place + action, -self.half_width, self.half_width)
        distances = np.linalg.norm(self.goals - self.place, axis=1)
        reached = bool(distances.min() < self.radius)
        reward = -(distances.min() + np.abs(self.place).min()) / 1.5
        info = {"goal": int(distances.argmin()) if reached else -1}
        return self.place.astype(np.float32), float(reward), reached, False, info


if ENV_ID not in gym.registry:
    entry_point = f"{FourGoals.__module__}:{FourGoals.__name__}"
    gym.register(ENV_ID, entry_point=entry_point, max_episode_steps=EPISODE_STEPS)
