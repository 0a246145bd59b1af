"""Environments that draw frames, and one that does not."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from environments import Bandit
from gymnasium.envs.registration import register, registry


class DrawnBandit(Bandit):
    """
    Five steps an episode. A frame is as bright as the step, with a dot by random numbers of
    everybody's, which training draws from, too.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    made: ClassVar[list[str | None]] = []

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(length=5)
        self.render_mode = render_mode
        self.made.append(render_mode)

    def render(self) -> np.ndarray:
        frame = np.full((24, 32, 3), 40 * self.step_count, np.uint8)
        frame[np.random.randint(4), int(th.randint(4, ()))] = 255  # noqa: NPY002
        return frame


class Unseen(DrawnBandit):
    """Has a fault where it draws."""

    def render(self) -> np.ndarray:
        raise KeyError("a fault of the environment")


if "DrawnBandit-v0" not in registry:
    register("DrawnBandit-v0", DrawnBandit)
    register("UndrawnBandit-v0", lambda: Bandit(length=5))
    register("Unseen-v0", Unseen)
