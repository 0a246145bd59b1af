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
PIXELS = 240
"""Sides of a frame."""
GROUND, ROAD, GOAL, TRAIL, AGENT = np.array(
    [(255, 255, 255), (215, 215, 215), (150, 205, 150), (250, 190, 120), (220, 90, 20)], np.uint8
)


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

    :param render_mode: "rgb_array" for frames that show roads, goals, the agent and where it was;
        None for none
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 2,
    }

    goals: ClassVar[np.ndarray] = np.array([[1.5, 0.0], [0.0, 1.5], [-1.5, 0.0], [0.0, -1.5]])
    half_width = 2.5
    radius = 0.75

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-self.half_width, self.half_width, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.place = np.zeros(2)
        self.path = [self.place]

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
        self.path = [self.place]
        return place, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Move.

        :param action: the move, (2,)
        :return: the place, the reward, whether a goal is reached, False, and ``{"goal": index}``
        """
        self.place = np.clip(self.place + action, -self.half_width, self.half_width)
        self.path.append(self.place)
        distances = np.linalg.norm(self.goals - self.place, axis=1)
        reached = bool(distances.min() < self.radius)
        reward = -(distances.min() + np.abs(self.place).min()) / 1.5
        info = {"goal": int(distances.argmin()) if reached else -1}
        return self.place.astype(np.float32), float(reward), reached, False, info

    def render(self) -> np.ndarray | None:
        """
        Draw the episode so far, seen from above.

        :return: bytes of shape (240, 240, 3), north at the top; None without a ``render_mode``
        """
        if self.render_mode is None:
            return None
        across = np.linspace(-self.half_width, self.half_width, PIXELS)
        ground = np.stack(np.meshgrid(across, -across), -1)

        def within(places: Any, radius: float) -> np.ndarray:
            """Which pixels lie near one of the places."""
            offsets = ground[:, :, None] - np.asarray(places)
            return (np.square(offsets).sum(-1) < radius**2).any(-1)

        frame = np.where(np.abs(ground).min(-1, keepdims=True) < 0.25, ROAD, GROUND)
        frame[within(self.goals, self.radius)] = GOAL
        frame[within(self.path, 0.06)] = TRAIL
        frame[within([self.place], 0.12)] = AGENT
        return frame


if ENV_ID not in gym.registry:
    entry_point = f"{FourGoals.__module__}:{FourGoals.__name__}"
    gym.register(ENV_ID, entry_point=entry_point, max_episode_steps=EPISODE_STEPS)
