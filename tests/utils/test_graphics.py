"""No graphics driver is loaded before a frame is asked for, and triton comes before it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")
DRIVERS = """
import os, re, sys

def drivers():
    maps = open("/proc/self/maps").read()
    found = set(re.findall(r"lib(?:EGL|GL|OSMesa|LLVM|gallium)|_dri\\.so", maps))
    return sorted(found | ({"OpenGL"} & set(sys.modules)))
"""
TRAIN = (
    DRIVERS
    + """
import sb3_rfm
from sb3_rfm import make_dmc
from sb3_rfm.cli import main as cli
tiny = ["learning_starts:4", "batch_size:4", "policy_kwargs:dict(net_arch=[4])"]
short = ["--steps", "8", "--eval-episodes", "1", "--no-progress", "--hyperparams", *tiny]
assert cli.main(["run", "--algo", "sac", "--env", "Pendulum-v1", *short]) == 0
env = make_dmc("cartpole-swingup")
env.reset()
env.step(env.action_space.sample())
print("loaded", drivers(), os.environ.get("MUJOCO_GL"))
"""
)
RENDER = (
    DRIVERS
    + """
import gymnasium as gym
from sb3_rfm.envs import make_dmc
size = {"width": 32, "height": 24}
if sys.argv[1] == "make_dmc":
    env = make_dmc("cartpole-swingup", render_mode="rgb_array", render_kwargs=size)
else:
    env = gym.make("dm_control/cartpole-swingup-v0", render_mode="rgb_array", render_kwargs=size)
env.reset(seed=0)
print("drawn", env.render().shape)
"""
)
TRITON = DRIVERS + "print('triton', drivers())\n"  # stands for it, and says what came before it


def _run(script, folder, *arguments, **variables):
    if script != TRAIN:  # torch would use it
        (folder / "triton.py").write_text(TRITON)
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    env |= {"PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("variables", [{}, {"MUJOCO_GL": "egl"}], ids=str)
def test_training_loads_no_driver(variables, tmp_path):
    done = _run(TRAIN, tmp_path, **variables)
    assert f"loaded [] {variables.get('MUJOCO_GL')}" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("way", ["make_dmc", "gymnasium.make"])
def test_triton_is_imported_before_the_driver(way, tmp_path):
    done = _run(RENDER, tmp_path, way)
    if "OpenGL" in done.stderr:
        pytest.skip("EGL does not load here")
    assert done.stdout.splitlines() == ["triton []", "drawn (24, 32, 3)"], done.stderr


def test_the_algorithms_import_it_for_drivers_that_others_load(tmp_path):
    done = _run(DRIVERS + "import sb3_rfm.common.optimization\nprint('there')", tmp_path)
    assert done.stdout.splitlines() == ["triton []", "there"], done.stderr


def test_a_renderer_that_does_not_load_is_named_with_its_reason(tmp_path):
    done = _run(RENDER, tmp_path, "make_dmc", MUJOCO_GL="egl", PYOPENGL_PLATFORM="osmesa")
    assert "does not load with MUJOCO_GL='egl' (Cannot use EGL" in done.stderr
    done = _run(RENDER, tmp_path, "make_dmc", MUJOCO_GL="gl")
    assert "MUJOCO_GL='gl' (Environment variable MUJOCO_GL must be one of" in done.stderr


def test_mujocos_own_contexts_are_made_as_ever(tmp_path):
    script = """
import sb3_rfm.envs
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
print(mujoco.Renderer(model, 24, 32).render().shape)
"""
    done = _run(script, tmp_path)
    if "(24, 32, 3)" not in done.stdout and "OpenGL" in done.stderr:
        pytest.skip("EGL does not load here")
    assert done.stdout.splitlines() == ["triton []", "(24, 32, 3)"], done.stderr
    done = _run(script, tmp_path, MUJOCO_GL="disable")
    assert "No frames can be drawn with MUJOCO_GL='disable'" in done.stderr
