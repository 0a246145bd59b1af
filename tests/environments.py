"""Small environments with known answers, for tests."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Bandit(gym.Env):
    """
    One step an episode: the reward is minus the squared distance of the action from the
    observation's first entry.

    :param action_space: the box of actions
    :param observation_space: "vector", "dict" or "image"
    """

    SPACES: ClassVar[dict[str, spaces.Space]] = {
        "vector": spaces.Box(-1, 1, (3,), np.float32),
        "float64": spaces.Box(-1, 1, (3,), np.float64),
        "dict": spaces.Dict(
            {"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Box(-1, 1, (1,), np.float32)}
        ),
        "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    }

    def __init__(
        self, action_space: spaces.Space | None = None, observation: str = "vector", length: int = 1
    ) -> None:
        self.observation_space = self.SPACES[observation]
        self.action_space = (
            spaces.Box(-1, 1, (2,), np.float32) if action_space is None else action_space
        )
        self.length = length
        self.actions: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = 0
        return self._observation(), {}

    def _observation(self) -> Any:
        if isinstance(self.observation_space, spaces.Dict):
            shapes = {key: box.shape for key, box in self.observation_space.items()}
            return {
                key: self.np_random.uniform(-1, 1, shape).astype(np.float32)
                for key, shape in shapes.items()
            }
        low, high = self.observation_space.low.min(), self.observation_space.high.max()
        return self.np_random.uniform(low, high, self.observation_space.shape).astype(
            self.observation_space.dtype
        )

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.actions.append(action)
        self.step_count += 1
        reward = -float(np.square(action).mean())
        return self._observation(), reward, self.step_count >= self.length, False, {}


class Reach(gym.Env):
    """
    A goal on a line, for hindsight replay: sparse reward, Dict observation with achieved and
    desired goals.
    """

    def __init__(self) -> None:
        box = spaces.Box(-2, 2, (1,), np.float32)
        self.observation_space = spaces.Dict(
            {"observation": box, "achieved_goal": box, "desired_goal": box}
        )
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def _observation(self) -> dict[str, np.ndarray]:
        return {
            "observation": self.x.copy(),
            "achieved_goal": self.x.copy(),
            "desired_goal": self.goal.copy(),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.step_count = np.zeros(1, np.float32), 0
        self.goal = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self._observation(), {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        return -(np.abs(achieved - desired).sum(-1) > 0.1).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x = np.clip(self.x + 0.2 * action, -2, 2).astype(np.float32)
        self.step_count += 1
        reward = float(self.compute_reward(self.x, self.goal, {}))
        return self._observation(), reward, False, self.step_count >= 20, {}


def observations(model: Any, count: int = 32) -> Any:
    """Draws of a model's observation space, the same at every call, stacked as a batch."""
    space = model.observation_space
    space.seed(0)
    draws = [space.sample() for _ in range(count)]
    if isinstance(draws[0], dict):
        return {key: np.stack([draw[key] for draw in draws]) for key in draws[0]}
    return np.stack(draws)


def draw_values(*critics: Any) -> None:
    """Last layers as PyTorch draws them, where critics would give zero before the first update."""
    for critic in critics:
        for network in critic.q_networks:
            network[-1].reset_parameters()
            network[-1].bias.data.zero_()
