"""DeepMind Control through Shimmy: what observations, episodes, seeds and errors look like."""

import importlib.util
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common import env_checker
from stable_baselines3.common.env_util import make_vec_env

from sb3_rfm.envs import SUITE, FlatFloat32, any_env_id, dmc_id, make_dmc, register_dmc
from sb3_rfm.utils import extras

PROTOCOL = (
    "cartpole-swingup",
    "cheetah-run",
    "finger-spin",
    "finger-turn_hard",
    "fish-swim",
    "fish-upright",
    "walker-run",
    "walker-walk",
)


@pytest.mark.parametrize("task", PROTOCOL)
def test_observations_are_flat_float32(task):
    raw, env = gym.make(dmc_id(task)), make_dmc(task)
    values, _ = raw.reset(seed=7)
    flat, _ = env.reset(seed=7)
    expected = np.concatenate([np.ravel(values[key]) for key in raw.observation_space])
    np.testing.assert_allclose(flat, expected, rtol=1e-6)
    assert flat.dtype == env.observation_space.dtype == np.float32
    assert env.observation_space.shape == flat.shape == (expected.size,)
    assert env.action_space == raw.action_space


def test_scalars_without_an_axis_are_part_of_the_observation():
    shapes = [space.shape for space in gym.make(dmc_id("walker-walk")).observation_space.values()]
    assert () in shapes
    assert make_dmc("walker-walk").observation_space.shape == (24,)


@pytest.mark.filterwarnings("ignore:.*We recommend:UserWarning", "ignore:.*not infinite")
def test_checkers_of_gymnasium_and_sb3_accept_it():
    env = make_dmc("fish-swim")
    check_env(env, skip_render_check=True)
    env_checker.check_env(env, skip_render_check=True)


def test_episodes_last_1000_steps_and_end_truncated():
    env = make_dmc("cartpole-swingup", seed=0)
    env.reset()
    for step in range(1, 1001):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert not terminated
        assert truncated == (step == 1000)


def _trajectory(env, seed=None):
    observations = [env.reset(seed=seed)[0]]
    for _ in range(3):
        observations.append(env.step(env.action_space.sample())[0])
    return np.stack(observations)


@pytest.mark.parametrize("task", ["walker-walk", "lqr-lqr_2_1"])  # lqr draws its physics, too
def test_a_seed_fixes_everything(task):
    first = _trajectory(make_dmc(task, seed=3))
    np.testing.assert_array_equal(first, _trajectory(make_dmc(task, seed=3)))
    assert not np.array_equal(first, _trajectory(make_dmc(task, seed=4)))


def test_the_seed_of_make_dmc_is_that_of_reset():
    seeded, unseeded = make_dmc("fish-swim", seed=3), make_dmc("fish-swim")
    np.testing.assert_array_equal(seeded.reset()[0], unseeded.reset(seed=3)[0])
    assert not np.array_equal(seeded.reset()[0], unseeded.reset(seed=3)[0])  # the second episode


@pytest.mark.parametrize("name", ["cheetah-run", "cheetah-run-v0", "dm_control/cheetah-run-v0"])
def test_ways_to_name_a_task(name):
    assert dmc_id(name) == any_env_id(name) == "dm_control/cheetah-run-v0"
    assert make_dmc(name).spec.id == "dm_control/cheetah-run-v0"


def test_other_environments_keep_their_id():
    assert any_env_id("Pendulum-v1") == "Pendulum-v1"


@pytest.mark.parametrize(
    ("function", "name", "close"),
    [
        (make_dmc, "cheeta-run", "did you mean cheetah-run"),
        (make_dmc, "dm_control/walker-wlak-v0", "did you mean walker-walk"),
        (make_dmc, "nothing like it", "there are .*cartpole-swingup.*walker-walk"),
        (any_env_id, "Pendulm-v1", "did you mean Pendulum-v1"),
        (any_env_id, "walker-rum", "did you mean walker-run"),
        (any_env_id, "no_such_module:Thing-v0", "Unknown environment 'no_such_module:Thing-v0'"),
    ],
)
def test_an_unknown_name_brings_those_that_look_like_it(function, name, close):
    with pytest.raises(ValueError, match=close):
        function(name)


def test_an_unknown_render_mode_brings_the_known_ones():
    with pytest.raises(ValueError, match=r"one of rgb_array, .*got 'ansi'"):
        make_dmc("cheetah-run", render_mode="ansi")


def test_the_missing_extra_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "shimmy" else find_spec(name)
    )
    with pytest.raises(
        ImportError, match=r"need shimmy, .*: install the extra: pip install '\.\[dmc\]'"
    ):
        make_dmc("cheetah-run")


def _without_dmc(monkeypatch, version=(3, 12)):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "dm_control" else find_spec(name)
    )
    python = namedtuple("Version", "major minor")(*version)
    monkeypatch.setattr(extras, "sys", SimpleNamespace(version_info=python))


@pytest.mark.parametrize("name", ["cheetah-run", "cheeta-run-v0", "walker", "cartpole_swingup"])
def test_a_short_name_without_the_extra_says_install_it(name, monkeypatch):
    _without_dmc(monkeypatch)
    with pytest.raises(ImportError, match=r"need dm_control, .*install the extra: .*'\.\[dmc\]'"):
        any_env_id(name)


@pytest.mark.parametrize("name", ["Pendulm-v1", "pendulum-v1", "Pendulum"])
def test_other_names_do_not_speak_of_the_extra(name, monkeypatch):
    _without_dmc(monkeypatch)
    with pytest.raises(ValueError, match=r"did you mean Pendulum-v1"):
        any_env_id(name)


def test_a_python_without_dm_control_is_told_which_have_it(monkeypatch):
    _without_dmc(monkeypatch, (3, 13))
    with pytest.raises(ImportError, match=r"no dm_control for Python 3.13; take Python 3.10, 3.11"):
        make_dmc("cheetah-run")


def test_the_domains_are_dm_controls():
    tasks = [name.removeprefix("dm_control/") for name in gym.registry if "dm_control/" in name]
    domains = {task.split("-")[0] for task in tasks if task.count("-") == 2}
    assert set(SUITE) == domains - {"compatibility"}


def test_extras_and_python_are_those_of_the_projects_file():
    tomllib = pytest.importorskip("tomllib")
    root = Path(__file__).resolve().parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    assert all(each.endswith("; python_version < '3.13'") for each in declared["dmc"])
    assert set(extras.PACKAGES) <= set(declared)
    assert "Programming Language :: Python :: 3.13" in project["classifiers"]  # without dmc


MY_ENVS = """
import gymnasium as gym
from environments import Bandit
gym.register("ns/Mine-v0", lambda: Bandit(length=3))
gym.register("Mine-v1", lambda: Bandit(length=3))
"""


@pytest.fixture
def my_envs(tmp_path, monkeypatch):
    """A module that registers two environments; its name is new each time."""
    name = f"my_envs_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MY_ENVS)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for env_id in ("ns/Mine-v0", "Mine-v1"):
        gym.registry.pop(env_id, None)


@pytest.mark.parametrize("env_id", ["ns/Mine-v0", "Mine-v1"])
def test_an_id_may_bring_its_module(env_id, my_envs):
    assert any_env_id(f"{my_envs}:{env_id}") == f"{my_envs}:{env_id}"
    assert gym.make(f"{my_envs}:{env_id}").spec.id == env_id


def test_what_an_id_with_a_module_lacks_is_named(my_envs, tmp_path):
    with pytest.raises(ValueError, match=rf"'{my_envs}:Mine-v2': did you mean Mine-v1"):
        any_env_id(f"{my_envs}:Mine-v2")
    with pytest.raises(ValueError, match=r"No module named 'not_there'.*looked for in this folder"):
        any_env_id("not_there:Mine-v1")
    (tmp_path / f"{my_envs}_broken.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):  # the module's own fault
        any_env_id(f"{my_envs}_broken:Mine-v1")


def test_the_wrapper_works_in_plain_gymnasium():
    register_dmc()
    env = FlatFloat32(gym.make("dm_control/finger-spin-v0"))
    assert env.reset(seed=0)[0].dtype == np.float32
    assert gym.make(env.spec).observation_space == env.observation_space


def test_the_wrapper_works_in_a_vectorised_environment():
    envs = make_vec_env("dm_control/fish-upright-v0", n_envs=2, seed=0, wrapper_class=FlatFloat32)
    assert envs.reset().shape == (2, *make_dmc("fish-upright").observation_space.shape)
    assert envs.reset().dtype == np.float32


def test_the_wrapper_changes_nothing_that_is_flat_already():
    plain, twice = gym.make("Pendulum-v1"), FlatFloat32(FlatFloat32(gym.make("Pendulum-v1")))
    assert twice.observation_space == plain.observation_space
    np.testing.assert_array_equal(twice.reset(seed=1)[0], plain.reset(seed=1)[0])


RENDER = """
import os
from sb3_rfm.envs import make_dmc
try:
    size = {"width": 32, "height": 24}
    env = make_dmc("cheetah-run", render_mode="rgb_array", render_kwargs=size)
    env.reset(seed=0)
    print(os.environ["MUJOCO_GL"], env.render().shape)
except ValueError as error:
    print(os.environ["MUJOCO_GL"], error)
"""


def _render(**variables):
    kept = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")
    env = {name: value for name, value in os.environ.items() if name not in kept} | variables
    done = subprocess.run(
        [sys.executable, "-c", RENDER], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a display")
def test_without_a_display_egl_renders_where_it_loads_and_nothing_is_printed():
    output, errors = _render()
    assert output == "egl (24, 32, 3)" or output.startswith("disable render_mode='rgb_array' needs")
    assert errors == ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a display")
def test_without_egl_it_still_trains_and_says_why_it_does_not_render():
    output, _ = _render(PYOPENGL_PLATFORM="osmesa")  # egl refuses to load
    assert output.startswith("disable render_mode='rgb_array' needs OpenGL")


def test_a_renderer_that_the_user_chose_is_kept():
    output, _ = _render(MUJOCO_GL="off")
    assert output.startswith("off render_mode='rgb_array' needs OpenGL")
    assert "does not load with MUJOCO_GL='off'" in output
