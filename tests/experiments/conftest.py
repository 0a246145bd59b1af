"""Where commands find themselves, and an environment that ends or stops its process."""

import os
import sys
from pathlib import Path

import gymnasium as gym
import pytest

ROOT = Path(__file__).resolve().parents[2]

MORTAL = """
import os, signal
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv

class Mortal(PendulumEnv):
    \"\"\"Signals its process at its 250th step, which no evaluation reaches before; once.\"\"\"

    taken = 0

    def step(self, action):
        self.taken += 1
        if self.taken == 250 and not os.path.exists("killed"):
            open("killed", "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)

gym.register("Mortal-v0", Mortal, max_episode_steps=200)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The test's own folder is the working directory; ``sys.path`` is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def zoo(here, monkeypatch):
    """For rl_zoo3's commands, which read ``sys.argv``: it is put back, and there is no display."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.fixture(params=["SIGKILL"])
def mortal(request, tmp_path, monkeypatch):
    """The id of an environment that sends a signal to one process once: SIGKILL unless told."""
    name = f"mortal_{tmp_path.name}"  # new each time
    (tmp_path / f"{name}.py").write_text(MORTAL.replace("SIGKILL", request.param))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")  # of Ray's workers
    yield f"{name}:Mortal-v0"
    gym.registry.pop("Mortal-v0", None)
