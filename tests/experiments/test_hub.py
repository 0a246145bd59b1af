"""``sb3-rfm push-to-hub`` and ``load-from-hub``, with a folder in the hub's place."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_sb3
import imageio_ffmpeg
import numpy as np
import pytest
import yaml
from huggingface_hub import errors
from huggingface_hub.utils import validate_repo_id
from huggingface_sb3 import EnvironmentName, ModelName
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rfm.cli import main as cli
from sb3_rfm.envs import FlatFloat32
from sb3_rfm.experiments import hub
from sb3_rfm.experiments.hyperparams import OWN_ALGORITHMS, algorithm_class

pytestmark = pytest.mark.usefixtures("zoo")

PENDULUM, WALKER = "Pendulum-v1", "dm_control/walker-walk-v0"
TINY = ["learning_starts:30", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
STORED = {
    "args.yml",
    "config.yml",
    "env_kwargs.yml",
    "results.json",
    "train_eval_metrics.zip",
    "README.md",
}
LIMIT = "{'gymnasium.wrappers.TimeLimit': {'max_episode_steps': 20}}"
LIMITS = {PENDULUM: LIMIT, WALKER: f"['sb3_rfm.envs.FlatFloat32', {LIMIT}]"}
SHORT = ["-n", "40", "--eval-freq", "20", "--eval-episodes", "1", "--verbose", "0"]


class Hub:
    """A folder in the place of the hub, with the part of ``HfApi`` that is called."""

    folder: Path

    def create_repo(self, repo_id, token=None, private=False, exist_ok=False):
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub.example/{repo_id}"

    def snapshot_download(self, repo_id, local_dir):
        shutil.copytree(self.folder / repo_id, local_dir, dirs_exist_ok=True)

    def upload_folder(self, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


@pytest.fixture
def repositories(tmp_path, tmp_path_factory, monkeypatch):
    """The folder; what is not in it is answered as the hub does."""
    folder = tmp_path_factory.mktemp("repositories")

    def download(repo_id, filename, **options):
        validate_repo_id(repo_id)
        path = folder / repo_id / filename
        if not path.exists():
            raise errors.RemoteEntryNotFoundError(
                f"404: {filename}", response=SimpleNamespace(headers={}, request=None)
            )
        return str(path)

    monkeypatch.setattr(Hub, "folder", folder, raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setenv(hub.CONSENT, "True")
    return folder


def _trained(algo, env, *pairs):
    """The folder of an agent of ``train``."""
    arguments = ["train", "--algo", algo, "--env", env, *SHORT, "-params", *TINY, *pairs]
    assert cli.main([*arguments, f"env_wrapper:{LIMITS[env]}"]) == 0
    return Path("logs") / algo / f"{EnvironmentName(env)}_1"


def _push(algo, env, *options):
    return cli.main(["push-to-hub", "--algo", algo, "--env", env, "-orga", "me", *options])


def _load(algo, env, *options):
    arguments = ["load-from-hub", "--algo", algo, "--env", env, "-orga", "me", *options]
    return cli.main(arguments)


@pytest.mark.parametrize(
    ("algo", "env", "pairs"),
    [
        ("rfm_flow", WALKER, ["candidates.evaluate:2", "flow.steps:3", "buffer_size:777"]),
        ("qsm", PENDULUM, ["candidates.evaluate:2", "buffer_size:777"]),
        ("sac", PENDULUM, []),
    ],
)
def test_what_is_pushed_loads_again_and_predicts_the_same(algo, env, pairs, repositories, capsys):
    path = _trained(algo, env, *pairs)
    assert _push(algo, env, "--no-render") == 0
    name = EnvironmentName(env)
    repository = repositories / "me" / ModelName(algo, name)
    stored = {p.name for p in repository.iterdir()}
    assert stored >= STORED | {f"{algo}-{name}.zip"}
    assert not (repository / hub.REPLAY).exists()

    assert _load(algo, env, "-f", "fetched") == 0
    fetched = Path("fetched") / algo / f"{name}_1"
    assert (fetched / "evaluations.npz").read_bytes() == (path / "evaluations.npz").read_bytes()
    kind = algorithm_class(algo) if algo in OWN_ALGORITHMS else SAC
    trained, loaded = (kind.load(folder / f"{name}.zip") for folder in (path, fetched))
    observations = np.random.default_rng(0).normal(size=(16, *trained.observation_space.shape))
    actions = [m.predict(observations, deterministic=True)[0] for m in (trained, loaded)]
    np.testing.assert_array_equal(*actions)
    assert np.ptp(actions[0], axis=0).max() > 0
    assert loaded.num_timesteps == trained.num_timesteps == 40
    if algo in OWN_ALGORITHMS:
        assert loaded.settings == trained.settings
        assert loaded.buffer_size == trained.buffer_size == 777  # training can go on

    capsys.readouterr()
    assert cli.main(["enjoy", "--algo", algo, "--env", env, "-f", "fetched", "-n", "21"]) == 0
    assert "Episode Length 20" in capsys.readouterr().out


@pytest.mark.parametrize(("algo", "name"), [("rfm_flow", "RFMFlow"), ("lsac", "LSAC")])
def test_the_model_card_has_commands_that_know_the_algorithm(algo, name, repositories):
    _trained(algo, PENDULUM)
    assert _push(algo, PENDULUM, "--no-render") == 0
    text = (repositories / "me" / f"{algo}-Pendulum-v1" / "README.md").read_text()
    _, metadata, card = text.split("---\n", 2)
    assert name in card
    assert f"sb3-rfm load-from-hub --algo {algo} --env Pendulum-v1 -orga me" in card
    assert f"sb3-rfm enjoy --algo {algo} --env Pendulum-v1" in card
    assert "python -m rl_zoo3" not in card
    assert card.count("load only what you trust") == 1
    described = yaml.safe_load(metadata)
    assert "reinforcement-learning" in described["tags"]
    (index,) = described["model-index"]
    assert index["name"] == name
    assert index["results"][0]["dataset"]["name"] == PENDULUM


def test_averages_of_observations_are_pushed_and_loaded(repositories):
    path = _trained("sac", PENDULUM, "normalize:True")
    assert _push("sac", PENDULUM, "--no-render") == 0
    assert _load("sac", PENDULUM, "-f", "fetched") == 0
    venv = [SAC("MlpPolicy", PENDULUM, buffer_size=1).get_env() for _ in range(2)]
    files = [
        folder / PENDULUM / "vecnormalize.pkl"
        for folder in (path, Path("fetched/sac/Pendulum-v1_1"))
    ]
    first, second = (VecNormalize.load(str(f), v) for f, v in zip(files, venv, strict=True))
    assert first.obs_rms.count == second.obs_rms.count > 40
    np.testing.assert_array_equal(first.obs_rms.mean, second.obs_rms.mean)


def test_a_video_goes_along(repositories):
    _trained("rfm_flow", PENDULUM)
    assert _push("rfm_flow", PENDULUM, "-n", "45") == 0
    video = repositories / "me" / "rfm_flow-Pendulum-v1" / hub.REPLAY
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(video))
    assert (frames, seconds) == (45, pytest.approx(1.5, abs=0.01))
    assert not list(Path().glob("*.mp4"))


def test_the_video_of_a_task_follows_what_runs(tmp_path, monkeypatch):
    drawn = []

    def render(self, **options):
        drawn.append(options)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("dm_control.mujoco.engine.Physics.render", render)
    env = make_vec_env(
        WALKER, wrapper_class=FlatFloat32, env_kwargs={"render_mode": "rgb_array"}, seed=0
    )
    model = SAC("MlpPolicy", env, buffer_size=1)
    hub._write_replay(model, env, 4, True, tmp_path)
    assert [options["camera_id"] for options in drawn] == [0] * 4
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / hub.REPLAY))[1] == 0.1  # 40 a second


@pytest.mark.skipif(os.environ.get("MUJOCO_GL") != "disable", reason="OpenGL was asked for")
def test_a_video_that_cannot_be_drawn_is_said_before_anything_is_pushed(repositories, capsys):
    assert _push("rfm_flow", WALKER) == 2
    error = capsys.readouterr().err
    assert "needs OpenGL" in error
    assert "--no-render" in error
    assert not list(repositories.iterdir())


def test_loading_has_to_be_trusted(repositories, monkeypatch, capsys):
    for value in (None, "", "False", "no"):
        monkeypatch.delenv(hub.CONSENT) if value is None else monkeypatch.setenv(hub.CONSENT, value)
        assert _load("rfm_flow", PENDULUM) == 2
        error = capsys.readouterr().err
        assert "can run code of whoever wrote the files: set TRUST_REMOTE_CODE=True" in error
        assert error.count("\n") == 1
    assert not Path("logs").exists()


def test_mistakes_are_one_sentence(repositories, capsys):
    assert _push("rfm_flow", PENDULUM) == 2
    assert "The logs/rfm_flow folder was not found (the folder is set with -f)" in (
        capsys.readouterr().err
    )
    assert _load("rfm_flow", PENDULUM) == 1
    assert "404: rfm_flow-Pendulum-v1.zip" in capsys.readouterr().err
    _trained("rfm_flow", PENDULUM)
    assert _push("rfm_flow", PENDULUM, "--no-render") == 0
    assert _load("rfm_flow", PENDULUM, "-f", "fetched") == 0
    capsys.readouterr()
    assert _load("rfm_flow", PENDULUM, "-f", "fetched", "--exp-id", "1") == 2
    assert "already exists, use --force" in capsys.readouterr().err
    assert _load("rfm_flow", PENDULUM, "-orga", "no good") == 2
    assert "Repo id must use" in capsys.readouterr().err
    assert cli.main(["push-to-hub", "-orga", "me"]) == 2
    assert "--env is required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalTokenNotFoundError("Token is required: hf auth login"), "hf auth login"),
        (errors.HTTPError("no route"), "the hub cannot be reached: no route"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(error, message, repositories, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    assert _load("rfm_flow", PENDULUM) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("package", ["huggingface_sb3", "requests"])
def test_a_package_that_is_missing_brings_the_extra(package, repositories, monkeypatch, capsys):
    for name in [package, f"{package}.exceptions"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert _load("rfm_flow", PENDULUM) == 1
    expected = f"load-from-hub: needs {package}, not installed here: install the extra: pip install"
    assert expected in capsys.readouterr().err


def test_everything_is_as_before_afterwards(repositories):
    before = huggingface_sb3.load_from_hub, set(vars(sys.modules["huggingface_sb3.push_to_hub"]))
    with hub._agreeing("rfm_flow"):
        assert huggingface_sb3.load_from_hub is not before[0]
        assert "generate_metadata" in vars(sys.modules["huggingface_sb3.push_to_hub"])
    assert huggingface_sb3.load_from_hub is before[0]
    assert set(vars(sys.modules["huggingface_sb3.push_to_hub"])) == before[1]
