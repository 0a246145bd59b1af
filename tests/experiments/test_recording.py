"""``sb3-rfm run --video``, and ``record`` with the folder of a run."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from drawn_bandit import DrawnBandit
from PIL import Image
from small_runs import QUIET, TINY, rows_of
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments import drawing, recording
from sb3_rfm.experiments.drawing import drawing_arguments, steps_per_second
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.run import INTERRUPTED, start
from sb3_rfm.experiments.settings import RunSettings, make_vector

pytestmark = pytest.mark.usefixtures("here")

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["learning_starts:10", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
RUN = Path("runs/sac__DrawnBandit-v0__seed0")
VIDEO, GIF = RUN / "final_model.mp4", RUN / "final_model.gif"
WITH_VIDEO = Resources("cpu", progress=False, video=True)
NUMBERS = ("steps", "mean_return", "std_return", "n_episodes")  # all but the times
no_opengl = pytest.mark.skipif(
    os.environ.get("MUJOCO_GL") != "disable", reason="OpenGL was asked for"
)


def _run(*arguments, env="DrawnBandit-v0"):
    short = ["--env", env, "--steps", "30", "--eval-episodes", "1", "--no-progress"]
    return cli.main(["run", "--algo", "sac", *short, *arguments, "--hyperparams", *OPTIONS])


def _brightness(video):
    """Of each frame of an MP4, far from the dot."""
    reader = imageio_ffmpeg.read_frames(str(video))
    next(reader)
    return [round(float(np.frombuffer(f, np.uint8)[-300:].mean()), -1) for f in reader]


def _numbers(folder):
    """What came out of a run: its evaluations, and each weight of its model."""
    model = SAC.load(folder / "final_model.zip")
    weights = {name: value.numpy() for name, value in model.policy.state_dict().items()}
    return [rows_of(folder, column) for column in NUMBERS], weights


def _assert_equal(first, second):
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    for name in first[1]:
        np.testing.assert_array_equal(first[1][name], second[1][name], err_msg=name)


def test_a_run_leaves_one_episode_beside_its_model(capsys):
    DrawnBandit.made.clear()
    assert _run("--video") == 0
    # a try before training, the episode after it; what is trained and evaluated in draws nothing
    assert DrawnBandit.made.count("rgb_array") == 2
    tried = DrawnBandit.made.index("rgb_array")
    assert DrawnBandit.made[tried + 1 :].count(None) == 3  # training, evaluation, its render modes
    assert DrawnBandit.made[-1] == "rgb_array"
    assert _brightness(VIDEO) == [0, 40, 80, 120, 160]  # nothing of the next episode
    with Image.open(GIF) as image:
        assert (image.n_frames, image.size) == (5, (32, 24))
    printed = capsys.readouterr().out
    assert f"  video        {VIDEO}\n  GIF          {GIF}\n" in printed
    left = {path.name for path in RUN.iterdir()}
    assert left == {
        "config.yml", "evaluations.csv", "final_model.gif", "final_model.mp4", "final_model.zip",
        "learning_curve.png", "tensorboard",
    }  # fmt: skip


def test_the_episode_is_that_of_the_deterministic_policy(capsys):
    assert _run("--video") == 0
    printed = capsys.readouterr().out
    env = make_vector(RunSettings("sac", "DrawnBandit-v0").resolved(), 1, 0)
    model, observations, returned = SAC.load(RUN / "final_model.zip"), env.reset(), 0.0
    for _ in range(5):
        actions, _ = model.predict(observations, deterministic=True)
        observations, rewards, _, _ = env.step(actions)
        returned += float(rewards[0])
    assert f"1 episodes: return {returned:.1f} ± 0.0" in printed


def test_numbers_are_the_same_with_a_video_and_without():
    assert _run() == 0
    assert _run("--video") == 0
    _assert_equal(_numbers(RUN), _numbers(Path(f"{RUN}_2")))


def test_numbers_of_a_run_that_goes_on_are_the_same_with_a_video():
    options = ["--checkpoint-freq", "15"]
    assert _run(*options) == _run(*options) == 0
    longer = ["--steps", "45", "--no-progress"]
    assert cli.main(["run", "--resume", str(RUN), *longer]) == 0
    assert cli.main(["run", "--resume", f"{RUN}_2", *longer, "--video"]) == 0
    _assert_equal(_numbers(RUN), _numbers(Path(f"{RUN}_2")))
    assert _brightness(f"{RUN}_2/final_model.mp4") == [0, 40, 80, 120, 160]


BOTH = """
import sys
from sb3_rfm.cli import main as cli
limit = "{'gymnasium.wrappers.TimeLimit': {'max_episode_steps': 24}}"
wrappers = f"['sb3_rfm.envs.FlatFloat32', {limit}]"
tiny = ["learning_starts:10", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
short = ["--steps", "20", "--eval-episodes", "1", "--no-progress", "--eval-freq", "10"]
for video in [["--video"]] if "--video" in sys.argv else [[], ["--video"]]:
    command = ["run", "--algo", "sac", "--env", sys.argv[1], *short, *video]
    code = cli.main([*command, "--hyperparams", *tiny, f"env_wrapper:{wrappers}"])
    if code:
        sys.exit(code)
"""


def _in_a_new_process(script, *arguments, **variables):
    unset = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("env", "seconds", "size"),
    [
        ("cheetah-run", 0.24, (480, 360)),
        pytest.param("HalfCheetah-v5", 1.2, (480, 480), marks=pytest.mark.slow),
    ],
)
def test_mujoco_is_filmed_without_a_display_and_without_another_number(env, seconds, size):
    done = _in_a_new_process(BOTH, env)
    if "needs OpenGL" in done.stderr and "as 'egl' does not load" in done.stderr:
        pytest.skip("EGL does not load here")
    assert done.returncode == 0, done.stderr
    without, with_video = sorted(Path("runs").iterdir())
    _assert_equal(_numbers(without), _numbers(with_video))
    assert not (without / "final_model.mp4").exists()
    video = str(with_video / "final_model.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(video)[1] == pytest.approx(seconds, abs=0.03)
    reader = imageio_ffmpeg.read_frames(video)
    assert next(reader)["size"] == size
    first, *_, last = (np.frombuffer(frame, np.uint8).astype(int) for frame in reader)
    assert first.std() > 5  # something is to be seen
    assert np.abs(first - last).mean() > 0.1  # and it moves
    with Image.open(with_video / "final_model.gif") as image:
        assert max(image.size) == 320


def test_a_run_can_be_given_its_video_later(capsys):
    assert _run("--video") == 0
    contents = [file.read_bytes() for file in (VIDEO, GIF)]
    for again in (["record", str(RUN), "--gif"], ["run", "--resume", str(RUN), "--video"]):
        VIDEO.unlink()
        GIF.unlink()
        assert cli.main(again) == 0
        assert [file.read_bytes() for file in (VIDEO, GIF)] == contents
    assert f"Written to {VIDEO} and {GIF}" in capsys.readouterr().out
    DrawnBandit.made.clear()
    assert cli.main(["run", "--resume", str(RUN), "--video"]) == 0
    assert DrawnBandit.made == []  # it is there


def test_a_longer_run_keeps_no_video_of_an_earlier_model():
    assert _run("--video", "--checkpoint-freq", "15") == 0
    assert cli.main(["run", "--resume", str(RUN), "--steps", "40", "--no-progress"]) == 0
    assert (RUN / "final_model.zip").exists()
    assert not VIDEO.exists()
    assert not GIF.exists()


class Interrupts(BaseCallback):
    """Ctrl-C at the 20th step."""

    def _on_step(self):
        if self.num_timesteps == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return True


def test_a_run_that_was_stopped_says_how_to_have_the_video_in_the_end(capsys):
    settings = RunSettings("sac", "DrawnBandit-v0", 30, eval_episodes=1, hyperparams=TINY)
    folder, code = start(settings, resources=WITH_VIDEO, callbacks=[Interrupts()])
    assert code == INTERRUPTED
    assert not VIDEO.exists()
    printed = capsys.readouterr().out
    assert f"sb3-rfm run --resume {folder.path} --video\n" in printed
    assert f"make train RESUME={folder.path} ARGS=--video\n" in printed
    assert cli.main(["run", "--resume", str(folder.path), "--video", "--no-progress"]) == 0
    assert _brightness(VIDEO) == [0, 40, 80, 120, 160]


def test_record_makes_an_mp4_of_an_episode_or_of_so_many_steps(capsys):
    assert _run("--checkpoint-freq", "20") == 0
    capsys.readouterr()
    assert cli.main(["record", str(RUN)]) == 0
    assert f"Written to {VIDEO}\n" in capsys.readouterr().out
    assert _brightness(VIDEO) == [0, 40, 80, 120, 160]
    assert not GIF.exists()
    assert cli.main(["record", "-n", "7", "--stochastic", str(RUN), "-o", "deep/videos"]) == 0
    assert _brightness("deep/videos/final_model.mp4") == [0, 40, 80, 120, 160, 0, 40]
    (RUN / "final_model.zip").unlink()
    assert cli.main(["record", str(RUN)]) == 0
    assert _brightness(RUN / "step_20.mp4") == [0, 40, 80, 120, 160]
    assert cli.main(["record", str(RUN), "-n", "0"]) == 2
    assert "n_timesteps must be an integer of at least 1, got 0" in capsys.readouterr().err


def test_an_episode_that_does_not_end_is_cut(monkeypatch):
    assert _run() == 0
    monkeypatch.setattr("sb3_rfm.experiments.play.MOST_STEPS", 3)
    assert cli.main(["record", str(RUN)]) == 0
    assert _brightness(VIDEO) == [0, 40, 80]


def test_ctrl_c_leaves_nothing_half_written(monkeypatch, capsys, tmp_path):
    assert _run() == 0
    before = set(RUN.iterdir())
    steps = iter(range(3))

    def interrupted(self):
        if next(steps) == 2:
            raise KeyboardInterrupt
        return np.zeros((16, 16, 3), np.uint8)

    monkeypatch.setattr(DrawnBandit, "render", interrupted)
    assert cli.main(["record", str(RUN), "--gif"]) == 130
    assert capsys.readouterr().err == "sb3-rfm: stopped\n"
    assert set(RUN.iterdir()) == before


def test_a_video_that_cannot_be_written_costs_nothing_else(monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(recording, "write_whole", full)
        with pytest.warns(UserWarning, match=r"final_model\.mp4 is not written"):
            assert _run("--video") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"sb3-rfm: not written: {VIDEO}: No space left on device"
    assert (RUN / "final_model.zip").exists()
    assert not VIDEO.exists()
    assert cli.main(["run", "--resume", str(RUN), "--video"]) == 0
    assert VIDEO.exists()


def _assert_refused(code, message, capsys, folder):
    """One sentence, before anything was trained or written."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert not list(folder.iterdir())
    assert code in (1, 2)


def test_an_environment_that_draws_nothing_is_refused_before_training(capsys, tmp_path):
    code = _run("--video", env="UndrawnBandit-v0")
    _assert_refused(code, "UndrawnBandit-v0 draws no frames", capsys, tmp_path)
    assert _run(env="UndrawnBandit-v0") == 0
    capsys.readouterr()
    assert cli.main(["record", "runs/sac__UndrawnBandit-v0__seed0"]) == 2
    assert "UndrawnBandit-v0 draws no frames" in capsys.readouterr().err


@no_opengl
@pytest.mark.parametrize("env", ["cheetah-run", "HalfCheetah-v5"])
def test_without_opengl_it_is_one_sentence_before_training(env, capsys, tmp_path):
    code = _run("--video", env=env)
    message = "needs OpenGL, which does not load with MUJOCO_GL='disable'. Set MUJOCO_GL to 'egl'"
    _assert_refused(code, message, capsys, tmp_path)


@pytest.mark.parametrize("env", ["cheetah-run", "HalfCheetah-v5"])
def test_why_egl_does_not_load_is_said(env, tmp_path):
    done = _in_a_new_process(BOTH, env, "--video", PYOPENGL_PLATFORM="osmesa")
    assert done.returncode == 2
    assert "MUJOCO_GL='disable' (as 'egl' does not load: Cannot use EGL" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@no_opengl
def test_a_driver_that_fails_at_the_first_frame_is_one_sentence(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "load_renderer", lambda: "egl")
    code = _run("--video", env="cheetah-run")
    message = "drawing dm_control/cheetah-run-v0 needs OpenGL, which does not load with MUJOCO_GL="
    _assert_refused(code, message, capsys, tmp_path)


@pytest.mark.parametrize(
    ("package", "env"),
    [("imageio_ffmpeg", "DrawnBandit-v0"), ("PIL", "DrawnBandit-v0"), ("pygame", "Pendulum-v1")],
)
def test_a_package_that_is_missing_is_named_before_training(
    package, env, capsys, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    message = f"run: needs {package}, not installed here: install the extra: pip install '.[zoo]'"
    _assert_refused(_run("--video", env=env), message, capsys, tmp_path)


def test_an_encoder_that_is_missing_is_one_sentence_before_training(capsys, tmp_path, monkeypatch):
    def missing(*arguments, **options):
        raise RuntimeError("No ffmpeg exe could be found. Install ffmpeg on your system")
        yield

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", missing)
    message = "no MP4 can be written: No ffmpeg exe could be found"
    _assert_refused(_run("--video"), message, capsys, tmp_path)


def test_a_fault_of_the_environments_own_keeps_its_traceback(tmp_path):
    with pytest.raises(KeyError, match="a fault of the environment"):
        _run("--video", env="Unseen-v0")
    assert not list(tmp_path.iterdir())


def test_a_longer_run_that_cannot_be_filmed_keeps_its_model(capsys):
    assert _run("--checkpoint-freq", "15", env="UndrawnBandit-v0") == 0
    path = "runs/sac__UndrawnBandit-v0__seed0"
    assert cli.main(["run", "--resume", path, "--steps", "40", "--video"]) == 2
    assert "draws no frames" in capsys.readouterr().err
    assert (Path(path) / "final_model.zip").exists()
    assert rows_of(path, "steps")[-1] == 30


def test_no_video_is_made_unless_it_is_asked_for():
    settings = RunSettings("sac", "DrawnBandit-v0", 30, eval_episodes=1, hyperparams=TINY)
    DrawnBandit.made.clear()
    start(settings, resources=QUIET)
    assert set(DrawnBandit.made) == {None}
    assert not VIDEO.exists()


@pytest.mark.parametrize(
    ("env_id", "rate"),
    [("dm_control/cheetah-run-v0", 100), ("dm_control/walker-walk-v0", 40), ("Pendulum-v1", 30)],
)
def test_a_films_pace_is_that_of_the_environments_clock(env_id, rate):
    assert steps_per_second(gym.make(env_id).unwrapped, env_id) == pytest.approx(rate)


def test_an_environment_that_does_not_say_has_gymnasiums_pace():
    assert steps_per_second(gym.make("UndrawnBandit-v0").unwrapped, "UndrawnBandit-v0") == 30


def test_what_runs_away_stays_in_the_picture():
    arguments = drawing_arguments("dm_control/cheetah-run-v0")
    assert arguments["render_kwargs"]["camera_id"] == 0
    env = gym.make("dm_control/cheetah-run-v0")
    env.reset()
    physics = env.unwrapped.physics
    seen_from = []
    for position in (0.0, 7.0):  # the same posture in two places
        physics.named.data.qpos["rootx"] = position
        physics.forward()
        seen_from.append(physics.data.cam_xpos[0, 0])
    assert seen_from[1] - seen_from[0] == pytest.approx(7.0)
    for env_id in ("Pendulum-v1", "dm_control/stack_2_bricks_features-v0", "mine:cheetah-run-v0"):
        assert drawing_arguments(env_id) == {}


@pytest.mark.slow
def test_each_task_of_the_suite_has_a_camera():
    tasks = [name for name in gym.registry if drawing_arguments(name)]
    domains = {name.split("-")[0]: name for name in tasks if "compatibility" not in name}
    assert len(domains) >= 19
    for env_id in domains.values():
        assert gym.make(env_id).unwrapped.physics.model.ncam > 0, env_id
