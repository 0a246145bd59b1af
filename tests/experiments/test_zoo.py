"""The RL Zoo's commands with our algorithms."""

import argparse
import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import rl_zoo3
from gymnasium.error import DependencyNotInstalled
from rl_zoo3.utils import StoreDict
from stable_baselines3 import SAC

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments import rl_zoo
from sb3_rfm.experiments.hyperparams import algorithm_class, hyperparams_file
from sb3_rfm.results.curves import read_curves

pytestmark = pytest.mark.usefixtures("zoo")

TINY = ["learning_starts:30", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
WALKER = "dm_control/walker-walk-v0"


def test_models_are_played_without_a_replay_buffer(tmp_path):
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=1000).save(tmp_path / "model")
    model = rl_zoo.without_buffer(SAC).load(tmp_path / "model")
    assert model.buffer_size == model.replay_buffer.buffer_size == 1
    assert isinstance(model, SAC)


@pytest.fixture
def forwarded(monkeypatch):
    """What rl_zoo3 is called with."""
    calls: list[list[str]] = []
    monkeypatch.setattr("rl_zoo3.train.train", lambda: calls.append(list(sys.argv)))
    monkeypatch.setattr("rl_zoo3.enjoy.enjoy", lambda: calls.append(list(sys.argv)))

    def call(*arguments: str) -> list[str]:
        assert cli.main(list(arguments)) == 0
        return calls[-1]

    return call


def _value(arguments: list[str], *names: str) -> str:
    """Of an option, the last time it was given."""
    index = max(i for i, word in enumerate(arguments) if word in names)
    return arguments[index + 1]


def test_train_fills_in_what_was_left_out(forwarded):
    arguments = forwarded("train", "--env", "walker-walk")
    assert arguments[0] == "sb3-rfm train"
    assert _value(arguments, "--algo") == "rfm_flow"
    assert _value(arguments, "--env") == WALKER
    assert _value(arguments, "--num-threads") == "1"
    assert Path(_value(arguments, "--conf-file")) == hyperparams_file("rfm_flow")


def test_train_keeps_what_was_given(forwarded):
    arguments = forwarded(
        "train", "--algo=rfm_diffusion", "--env", WALKER, "-conf", "my.yml", "--num-threads", "2"
    )
    assert _value(arguments, "--algo") == "rfm_diffusion"
    assert "--conf-file" not in arguments
    assert _value(arguments, "-conf") == "my.yml"
    assert _value(arguments, "--num-threads") == "2"


def test_words_among_hyperparameters_need_no_quotes(forwarded):
    words = ["temperature:auto", "estimator:diagonal_centred", "flow.solver:heun"]
    words.append("critic_update.learning_rate:lin_1e-3")
    others = ["gamma:0.9", "optimize_memory_usage:True", "policy_kwargs:dict(net_arch=[8])"]
    arguments = forwarded("train", "--env", WALKER, "-params", *words, *others, "--seed", "1")
    parser = argparse.ArgumentParser()
    parser.add_argument("-params", nargs="+", action=StoreDict)
    assert vars(parser.parse_known_args(arguments[1:])[0])["params"] == {
        "temperature": "auto", "estimator": "diagonal_centred", "flow.solver": "heun",
        "critic_update.learning_rate": "lin_1e-3",
        "gamma": 0.9, "optimize_memory_usage": True, "policy_kwargs": {"net_arch": [8]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("algo", "env", "ours"),
    [
        ("rfm_flow", "Pendulum-v1", True),
        ("lsac", "Pendulum-v1", True),
        ("sac", WALKER, True),
        ("sac", "Pendulum-v1", False),  # rl_zoo3 has its own
        ("ppo", WALKER, False),  # neither has one
    ],
)
def test_our_hyperparameters_are_used_where_they_belong(forwarded, algo, env, ours):
    assert ("--conf-file" in forwarded("train", "--algo", algo, "--env", env)) == ours


def test_enjoy_opens_a_window_only_where_there_is_a_display(forwarded, monkeypatch):
    arguments = forwarded("enjoy", "--env", WALKER)
    assert "--no-render" in arguments
    assert _value(arguments, "--folder") == "logs"
    monkeypatch.setenv("DISPLAY", ":0")
    arguments = forwarded("enjoy", "--env", WALKER, "-f", "other")
    assert "--no-render" not in arguments
    assert "--folder" not in arguments


@pytest.mark.parametrize("algo", ["rfm_flow", "rfm_diffusion", "qvpo"])
def test_train_then_enjoy_then_plot(algo, tmp_path, capsys):
    base = ["--algo", algo, "--env", WALKER]
    training = ["-n", "60", "--eval-freq", "30", "--eval-episodes", "1", "--seed", "5"]
    small = ["candidates.evaluate:1", "flow.steps:1"]
    assert cli.main(["train", *base, *training, "-params", *TINY, *small]) == 0
    run = tmp_path / "logs" / algo / "dm_control-walker-walk-v0_1"
    assert (run / "dm_control-walker-walk-v0.zip").is_file()

    assert rl_zoo3.ALGOS[algo] is algorithm_class(algo)

    capsys.readouterr()
    assert cli.main(["enjoy", *base, "-n", "1001"]) == 0
    assert "Episode Length 1000" in capsys.readouterr().out
    model = rl_zoo3.ALGOS[algo].load(run / "dm_control-walker-walk-v0.zip")
    assert model.buffer_size == 1
    assert (model.candidates.evaluate, model.flow.steps) == (1, 1)
    assert model.candidates.n == algorithm_class(algo).defaults.candidates.n

    assert cli.main(["plot", "logs"]) == 0
    assert f"{WALKER}  {algo}  1 seed, step 60: " in capsys.readouterr().out
    assert (tmp_path / "logs" / "learning_curves.png").stat().st_size > 10_000
    (curve,) = read_curves([tmp_path / "logs"])
    with np.load(run / "evaluations.npz") as data:
        np.testing.assert_allclose(curve.returns, data["results"].mean(axis=1))
    assert (curve.environment, curve.seed, curve.steps) == (WALKER, 5, (30, 60))


SMALL_TRAIN = ["-n", "40", "--eval-freq", "20", "--eval-episodes", "1", "--verbose", "0"]


@pytest.fixture
def mine(tmp_path):
    """A module beside the command, which registers environments without an end."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "from environments import Bandit\n"
        "from gymnasium import spaces\n"
        "gym.register('Endless-v0', lambda **kwargs: Bandit(length=10**9))\n"
        "scalar = spaces.Box(-1, 1, (), np.float32)\n"
        "gym.register('Scalar-v0', lambda **kwargs: Bandit(scalar, length=3))\n"
    )
    yield name
    for env_id in ("Endless-v0", "Scalar-v0"):
        gym.registry.pop(env_id, None)


def test_an_environment_of_ones_own_is_trained_on_and_played(mine, capsys):
    limit = "env_wrapper:{'gymnasium.wrappers.TimeLimit': {'max_episode_steps': 7}}"
    options = ["--env", f"{mine}:Endless-v0", "--algo", "sac", "-conf"]
    options.append(str(hyperparams_file("sac")))
    assert cli.main(["train", *options, *SMALL_TRAIN, "-params", *TINY, limit]) == 0
    with np.load("logs/sac/Endless-v0_1/evaluations.npz") as data:
        assert (data["ep_lengths"] == 7).all()
        assert np.isfinite(data["results"]).all()
    capsys.readouterr()
    assert cli.main(["enjoy", *options[:4], "-n", "15"]) == 0
    assert "Episode Length 7" in capsys.readouterr().out


def test_an_evaluation_without_an_end_is_one_sentence(mine, monkeypatch, capsys):
    monkeypatch.setattr("sb3_rfm.experiments.episodes.MOST_STEPS", 30)
    options = ["--env", f"{mine}:Endless-v0", "--algo", "sac"]
    assert cli.main(["train", *options, *SMALL_TRAIN, "-params", *TINY]) == 2
    assert "an episode of Endless-v0 did not end in the 30 steps" in capsys.readouterr().err


def test_actions_without_an_axis_are_trained_with_noise(mine):
    options = ["--env", f"{mine}:Scalar-v0", "--algo", "sac", *SMALL_TRAIN]
    noise = ["noise_type:'normal'", "noise_std:0.1"]
    assert cli.main(["train", *options, "-params", *TINY, *noise]) == 0


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["n_partcles:3"], "unexpected keyword argument 'n_partcles'"),
        (
            ["n_particles:3"],
            "n_particles is estimator.n_particles now: estimator=dict(n_particles=",
        ),
        (["flow.stpes:3"], "flow has no setting 'stpes': did you mean steps"),
        (["flow.steps:0"], "flow.steps must satisfy: an int of at least 1; got 0"),
        (["flow:fast"], "flow must be a dict of its settings or of type FlowSettings; got 'fast'"),
        (["buffer_size:30.5"], "buffer_size must be an int of at least 1; got 30.5"),
        (["gamma:high"], "gamma must be a number in [0.0, 1.0]; got 'high'"),
        (["policy_kwargs:'dict(activation_fn=nn.ReLUU)'"], "has no attribute 'ReLUU'"),
        (["train_freq:(1,'episode')", "n_envs:2"], "in steps with several environments"),
        (["env_wrapper:'no.such.Wrapper'"], "No module named 'no'"),
    ],
)
def test_a_wrong_hyperparameter_is_one_sentence_and_leaves_no_folder(
    pairs, message, tmp_path, capsys
):
    assert cli.main(["train", "--env", "Pendulum-v1", *SMALL_TRAIN, "-params", *pairs]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["pygame", "Box2D"])
def test_what_an_environment_misses_brings_the_extra(package, monkeypatch, capsys):
    def fail():
        said = f'{package} is not installed, run `pip install "gymnasium[...]"`'
        raise DependencyNotInstalled(said)

    monkeypatch.setattr("rl_zoo3.enjoy.enjoy", fail)
    assert cli.main(["enjoy", "--env", "Pendulum-v1"]) == 1
    error = capsys.readouterr().err
    missing = f"needs {package.lower()}, not installed here"
    assert f"{missing}: install the extra: pip install '.[zoo]'" in error


def test_a_model_that_is_not_there_is_an_error_of_one_line(tmp_path, capsys):
    assert cli.main(["enjoy", "--env", WALKER]) == 2
    assert "The logs/rfm_flow folder was not found" in capsys.readouterr().err
    (tmp_path / "logs" / "rfm_flow").mkdir(parents=True)
    assert cli.main(["enjoy", "--env", WALKER]) == 2
    assert "No model found for rfm_flow" in capsys.readouterr().err


def test_a_failure_in_the_midst_of_training_keeps_its_traceback(forwarded, monkeypatch):
    def fail():
        raise ValueError("not a number")

    monkeypatch.setattr("rl_zoo3.train.train", fail)
    with pytest.raises(RuntimeError, match="rl_zoo3's train failed: not a number"):
        cli.main(["train", "--env", WALKER])


@pytest.mark.skipif(os.environ.get("MUJOCO_GL") != "disable", reason="OpenGL was asked for")
def test_record_says_why_it_cannot(capsys):
    assert cli.main(["record", "--env", WALKER]) == 2
    assert "needs OpenGL" in capsys.readouterr().err


def test_lsac_is_trained_and_played(tmp_path, capsys):
    base = ["--algo", "lsac", "--env", "Pendulum-v1"]
    policy_kwargs = "policy_kwargs:dict(net_arch=[8], critic_optimizer_kwargs=dict(noise=0.1))"
    own = ["critic_learning_rate:lin_1e-3", policy_kwargs]
    assert cli.main(["train", *base, *SMALL_TRAIN, "-params", *TINY[:2], *own]) == 0
    capsys.readouterr()
    assert cli.main(["enjoy", *base, "-n", "201"]) == 0
    assert "Episode Length 200" in capsys.readouterr().out
    saved = tmp_path / "logs" / "lsac" / "Pendulum-v1_1" / "Pendulum-v1.zip"
    model = rl_zoo3.ALGOS["lsac"].load(saved)
    assert model.critic_lr_schedule(0.5) == pytest.approx(5e-4)
    assert model.critic.optimizer.param_groups[0]["noise"] == 0.1
