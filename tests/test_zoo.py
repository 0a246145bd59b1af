"""The RL Zoo's commands with our algorithms, and the hyperparameter files they read."""

import argparse
import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest
import rl_zoo3
import yaml
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from rl_zoo3 import hyperparams_opt
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import StoreDict
from stable_baselines3 import SAC, TD3
from test_envs import PROTOCOL

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments import hyperparams, rl_zoo
from sb3_rfm.experiments.hyperparams import (
    ALGORITHMS,
    OWN_ALGORITHMS,
    algorithm_class,
    hyperparams_file,
)
from sb3_rfm.experiments.settings import RunSettings, make_model
from sb3_rfm.results.curves import read_curves

FILES = {algo: yaml.safe_load(hyperparams_file(algo).read_text()) for algo in ALGORITHMS}
BASELINES = sorted(set(OWN_ALGORITHMS) - {"rfm_flow", "rfm_diffusion"})


def _distinct(entries):
    """One environment for each of a file's different entries."""
    return list({yaml.dump(entry): env_id for env_id, entry in entries.items()}.values())


# the baselines' files hold the same environments, as a test below asserts
ENTRIES = [
    (algo, env_id)
    for algo, entries in FILES.items()
    for env_id in (_distinct(entries) if algo in BASELINES else entries)
]
TINY = ["learning_starts:30", "batch_size:8", "policy_kwargs:dict(net_arch=[8])"]
WALKER = "dm_control/walker-walk-v0"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)  # the zoo reads it: put it back
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.mark.parametrize(("algo", "env_id"), ENTRIES)
def test_every_entry_makes_a_model(algo, env_id):
    env = "dm_control/hopper-hop-v0" if env_id == "default" else env_id
    entry = FILES[algo][env_id]
    settings = RunSettings(algo, env).resolved()
    assert settings.steps == entry["n_timesteps"]
    model, chosen = make_model(settings, "cpu")
    assert isinstance(model, algorithm_class(algo))
    assert model.learning_starts == chosen["learning_starts"]
    if "learning_starts" in entry:
        assert model.learning_starts == entry["learning_starts"]
    assert model.observation_space.dtype == np.float32
    assert len(model.observation_space.shape) == 1


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_follows_one_protocol(algo):
    ids = {f"dm_control/{task}-v0" for task in PROTOCOL}
    assert set(FILES[algo]) == ids | {"default", "Pendulum-v1"}
    for env_id in ids:
        assert FILES[algo][env_id]["n_timesteps"] == 250_000
        starts = FILES[algo][env_id]["learning_starts"]
        assert starts == FILES["sac"][env_id]["learning_starts"]  # a fair comparison


@pytest.mark.parametrize("algo", BASELINES)
def test_a_baselines_critic_and_protocol_are_those_of_rfm_flow(algo):
    for env_id, entry in FILES["rfm_flow"].items():
        given = dict(FILES[algo][env_id])
        given.pop("temperature", None)  # of the paper, where it has one for the task
        assert given == entry


def test_files_are_found_in_the_package_first_and_in_the_repository_else(tmp_path, monkeypatch):
    package = tmp_path / "somewhere" / "sb3_rfm"
    in_package = package / "zoo_hyperparams" / "sac.yml"
    in_root = package.parent / "zoo_hyperparams" / "sac.yml"
    monkeypatch.setattr(hyperparams, "__file__", str(package / "experiments" / "hyperparams.py"))
    assert hyperparams_file("sac") is None
    for path in (in_root, in_package):
        path.parent.mkdir(parents=True)
        path.touch()
        assert hyperparams_file("sac") == path.resolve()


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("learning_rate:3e-4", 3e-4),
        ("learning_rate:lin_3e-4", "lin_3e-4"),
        ("n_particles:8", 8),
        ("temperature:auto", "auto"),
        ("optimize_memory_usage:True", True),
        ("train_freq:(1, 'episode')", (1, "episode")),
        ("policy_kwargs:dict(net_arch=dict(pi=[8], qf=[9]))", {"net_arch": {"pi": [8], "qf": [9]}}),
        ("policy_kwargs:{'net_arch': [8]}", {"net_arch": [8]}),
        ("policy_kwargs:dict(open('x'))", "dict(open('x'))"),  # never run
    ],
)
def test_overrides(pair, value):
    assert hyperparams.parse_overrides([pair]) == {pair.partition(":")[0]: value}


def test_plain_values_become_arguments():
    plain = {"learning_rate": "lin_1e-3", "train_freq": [1, "episode"]}
    noise = {"noise_type": "normal", "noise_std": 0.3}
    arguments = hyperparams.constructor_arguments(TD3, plain | noise, n_actions=2)
    assert arguments["learning_rate"](0.5) == pytest.approx(5e-4)
    assert arguments["train_freq"] == (1, "episode")
    np.testing.assert_array_equal(arguments["action_noise"]._sigma, [0.3, 0.3])
    assert set(arguments) == {"learning_rate", "train_freq", "action_noise"}


YAML = """
learning_rate: 3e-4
critic_learning_rate: lin_1e-3
temperature: 1e-2
tau: '5e-3'
buffer_size: 1e3
batch_size: "64"
n_particles: 1.2E1
train_freq: [2e0, step]
policy_kwargs: {optimizer_kwargs: {eps: 1e-5}, net_arch: [16]}
"""
NUMBERS = {
    "learning_rate": 3e-4, "temperature": 0.01, "tau": 5e-3, "buffer_size": 1000, "batch_size": 64,
    "n_particles": 12, "policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5}, "net_arch": [16]},
}  # fmt: skip


def test_numbers_that_yaml_takes_for_strings():
    plain = yaml.safe_load(YAML)
    assert isinstance(plain["learning_rate"], str)  # YAML 1.1 wants a dot
    arguments = hyperparams.constructor_arguments(algorithm_class("rfm_flow"), plain, 1)
    for name, number in NUMBERS.items():
        assert arguments[name] == number
        assert type(arguments[name]) is type(number)
    assert arguments["critic_learning_rate"](0.25) == pytest.approx(2.5e-4)
    model = algorithm_class("rfm_flow")("MlpPolicy", "Pendulum-v1", **arguments)
    assert model.train_freq.frequency == 2


def test_numbers_of_the_command_line_and_of_a_run():
    typed = hyperparams.parse_overrides(["buffer_size:1e3", "temperature:'1e-2'", "n_envs:2e0"])
    settings = RunSettings("rfm_flow", "Pendulum-v1", hyperparams={"n_timesteps": "2e3"} | typed)
    resolved = settings.resolved()
    assert resolved.steps == 2000
    expected = {"buffer_size": 1000, "temperature": 0.01, "n_envs": 2}
    assert resolved.hyperparams | expected == resolved.hyperparams
    model, _ = make_model(resolved, "cpu")
    assert model.temperature == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["learning_rate", "critic_learning_rate"])
def test_learning_rates_that_are_neither_number_nor_schedule(name):
    for wrong in ("lin_x", "linear", "lin_"):
        with pytest.raises(ValueError, match=f"{name} must be a number or lin_<number>, got"):
            hyperparams.constructor_arguments(algorithm_class("qne"), {name: wrong}, n_actions=1)


def test_rl_zoo3_reads_the_same_numbers_and_schedules():
    rl_zoo.register()
    rl_zoo.register()  # a second time changes nothing
    values = yaml.safe_load(YAML)
    made = ExperimentManager._preprocess_schedules(dict(values))
    assert made["learning_rate"](0.5) == 3e-4
    assert made["critic_learning_rate"](0.5) == pytest.approx(5e-4)
    assert {name: made[name] for name in NUMBERS if name != "learning_rate"} == {
        name: number for name, number in NUMBERS.items() if name != "learning_rate"
    }
    made = ExperimentManager._preprocess_schedules({"learning_rate": "lin_1e-3", "clip_range": 0.2})
    assert made["learning_rate"](0.5) == pytest.approx(5e-4)
    assert made["clip_range"](0.5) == 0.2


def test_a_runs_file_has_numpys_numbers_as_plain_ones():
    values = hyperparams.complete(SAC, {"gamma": np.float64(0.5), "batch_size": np.array(8)})
    assert yaml.safe_load(yaml.safe_dump(values))["batch_size"] == 8
    assert yaml.safe_load(yaml.safe_dump(values))["gamma"] == 0.5


def test_an_unknown_hyperparameter_brings_the_one_meant():
    with pytest.raises(ValueError, match=r"SAC has no hyperparameter 'gama': did you mean gamma"):
        hyperparams.constructor_arguments(SAC, {"gama": 0.9}, n_actions=1)
    with pytest.raises(ValueError, match=r"noise_type must be one of normal, .*got 'loud'"):
        hyperparams.constructor_arguments(TD3, {"noise_type": "loud"}, n_actions=1)


@pytest.mark.parametrize("algo", OWN_ALGORITHMS)
def test_the_search_samples_arguments_of_the_class(algo):
    rl_zoo.register()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    sample = hyperparams_opt.HYPERPARAMS_SAMPLER[algo]
    arguments = sample(trial, 1, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
    model = rl_zoo3.ALGOS[algo]("MlpPolicy", "Pendulum-v1", buffer_size=9, **arguments)
    assert {name: getattr(model, name) for name in ("gamma", "tau", "batch_size")} == {
        name: arguments[name] for name in ("gamma", "tau", "batch_size")
    }
    # a stored trial, loaded with --trial-id, gives the same arguments
    assert hyperparams_opt.HYPERPARAMS_CONVERTER[algo](trial.params) == arguments
    assert ("n_particles" in arguments) == ("n_particles" not in rl_zoo.UNUSED.get(algo, ()))
    if model.temperature_rule.tuned:
        assert "temperature" not in arguments
        assert arguments["target_entropy"] in rl_zoo.TARGET_ENTROPIES
    else:
        assert "target_entropy" not in arguments
        assert ("temperature" in arguments) == ("temperature" not in rl_zoo.UNUSED.get(algo, ()))


def _weights(algo, **changes):
    """Of all networks, after a few updates."""
    small = {"n_particles": 4, "sampling_steps": 2, "n_candidates": 3, "n_training_candidates": 3}
    model = algorithm_class(algo)(
        "MlpPolicy",
        "Pendulum-v1",
        **small | {"temperature": 0.3} | changes,
        learning_starts=8,
        batch_size=8,
        buffer_size=20,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
    ).learn(14)
    values = model.policy.state_dict().items()
    return [value.numpy() for name, value in values if "temperature" not in name]


@pytest.mark.parametrize("algo", OWN_ALGORITHMS)
@pytest.mark.parametrize("change", [{"temperature": 3.0}, {"n_particles": 9}], ids=str)
def test_the_search_leaves_out_what_training_does_not_depend_on(algo, change):
    same = all(map(np.array_equal, _weights(algo), _weights(algo, **change)))
    assert same == (set(change) <= rl_zoo.UNUSED.get(algo, set()))


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
    words = ["temperature:auto", "critic_learning_rate:lin_1e-3", "estimator:diagonal_centred"]
    others = ["gamma:0.9", "optimize_memory_usage:True", "policy_kwargs:dict(net_arch=[8])"]
    arguments = forwarded("train", "--env", WALKER, "-params", *words, *others, "--seed", "1")
    parser = argparse.ArgumentParser()
    parser.add_argument("-params", nargs="+", action=StoreDict)
    assert vars(parser.parse_known_args(arguments[1:])[0])["params"] == {
        "temperature": "auto", "critic_learning_rate": "lin_1e-3", "estimator": "diagonal_centred",
        "gamma": 0.9, "optimize_memory_usage": True, "policy_kwargs": {"net_arch": [8]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("algo", "env", "ours"),
    [
        ("rfm_flow", "Pendulum-v1", True),
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
    small = ["n_eval_candidates:1", "sampling_steps:1"]
    assert cli.main(["train", *base, *training, "-params", *TINY, *small]) == 0
    run = tmp_path / "logs" / algo / "dm_control-walker-walk-v0_1"
    assert (run / "dm_control-walker-walk-v0.zip").is_file()

    assert rl_zoo3.ALGOS[algo] is algorithm_class(algo)

    capsys.readouterr()
    assert cli.main(["enjoy", *base, "-n", "1001"]) == 0
    assert "Episode Length 1000" in capsys.readouterr().out
    assert rl_zoo3.ALGOS[algo].load(run / "dm_control-walker-walk-v0.zip").buffer_size == 1

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


def test_what_draws_and_is_missing_brings_the_extra(monkeypatch, capsys):
    def fail():
        raise DependencyNotInstalled('pygame is not installed, run `pip install "gymnasium[...]"`')

    monkeypatch.setattr("rl_zoo3.enjoy.enjoy", fail)
    assert cli.main(["enjoy", "--env", "Pendulum-v1"]) == 1
    error = capsys.readouterr().err
    assert "needs pygame, not installed here: install the extra: pip install '.[zoo]'" in error


def test_optimize(tmp_path, monkeypatch, capsys):
    sample = rl_zoo.sample_rfm_params

    def tiny(trial, *arguments):
        return sample(trial, *arguments) | {"batch_size": 8, "n_eval_candidates": 1}

    monkeypatch.setattr(rl_zoo, "sample_rfm_params", tiny)
    command = ["train", "--env", "Pendulum-v1", "-n", "40", "--optimize", "--n-trials", "2"]
    options = ["--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots", "--seed", "0"]
    assert cli.main([*command, *options, "-params", "learning_starts:30"]) == 0
    assert "Number of finished trials:  2" in capsys.readouterr().out
    (report,) = (tmp_path / "logs" / "rfm_flow").glob("report_*.csv")
    states = [line.rsplit(",", 1)[-1] for line in report.read_text().splitlines()[1:]]
    assert states == ["COMPLETE", "COMPLETE"]
    assert "params_target_entropy" in report.read_text()


class NaNs(gym.Env):
    """Of the environments that are trained on, each second one's reward is NaN after 20 steps."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    trained = 0

    def __init__(self, always=False):
        self.always, self.total, self.bad = always, 0, always

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.total += 1
        if self.total == 5:  # evaluations are shorter
            NaNs.trained += 1
            self.bad = self.always or NaNs.trained % 2 == 1
        reward = np.nan if self.bad and self.total > 20 else 0.0
        return np.zeros(2, np.float32), reward, self.total % 4 == 0, False, {}


gym.register("NaNs-v0", NaNs)
gym.register("NaNs-v1", NaNs, kwargs={"always": True})


@pytest.mark.parametrize("algo", ["rfm_flow", "qsm"])
def test_a_trial_with_a_number_that_is_not_finite_is_pruned(algo, tmp_path, monkeypatch, capsys):
    sample = rl_zoo.sample_rfm_params

    def tiny(name, trial, *arguments):
        return sample(name, trial, *arguments) | {"batch_size": 8, "n_eval_candidates": 1}

    monkeypatch.setattr(rl_zoo, "sample_rfm_params", tiny)
    NaNs.trained = 0
    (tmp_path / "conf.yml").write_text("{default: {n_timesteps: 30, policy: MlpPolicy}}")
    command = ["train", "--algo", algo, "-n", "30", "--optimize", "--n-trials", "4", "-conf"]
    options = ["--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots", "--seed", "0"]
    command += [str(tmp_path / "conf.yml"), *options, "-params", "learning_starts:15", "--env"]
    assert cli.main([*command, "NaNs-v0"]) == 0
    (report,) = (tmp_path / "logs" / algo).glob("report_*.csv")
    states = [line.rsplit(",", 1)[-1] for line in report.read_text().splitlines()[1:]]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert "reward[0] is nan at step 21" in capsys.readouterr().out
    assert cli.main([*command, "NaNs-v1"]) == 2
    assert "no trial was completed: each was pruned or failed" in capsys.readouterr().err


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
