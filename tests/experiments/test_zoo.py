"""The RL Zoo's commands with our algorithms, and the hyperparameter files they read."""

import argparse
import copy
import os
import re
import sys
from dataclasses import fields, replace
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
from sb3_rfm.common import config
from sb3_rfm.common.flat_names import FLAT_NAMES
from sb3_rfm.experiments import hyperparams, rl_zoo, search
from sb3_rfm.experiments.hyperparams import (
    ALGORITHMS,
    OWN_ALGORITHMS,
    algorithm_class,
    hyperparams_file,
    merged,
)
from sb3_rfm.experiments.settings import RunSettings, make_model
from sb3_rfm.results.curves import read_curves

FILES = {algo: yaml.safe_load(hyperparams_file(algo).read_text()) for algo in ALGORITHMS}
BASELINES = sorted(set(OWN_ALGORITHMS) - {"rfm_flow", "rfm_diffusion"})
WITHOUT_PARTICLES = ("dpmd", "qsm", "qvpo")
NO_HINDSIGHT = {"using_her_replay_buffer": False, "her_kwargs": {}}


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
        ("estimator.n_particles:8", 8),
        ("flow:dict(steps=4, solver='heun')", {"steps": 4, "solver": "heun"}),
        ("candidates:8", 8),
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
critic_update: {learning_rate: lin_1e-3, reward_scale: 5e-1, target_noise: temperature_0.1}
temperature: 1e-2
tau: '5e-3'
buffer_size: 1e3
batch_size: "64"
estimator: {n_particles: 1.2E1, n_times: "2"}
candidates: 2e0
flow: {t_range: [1e-2, "9e-1"]}
flow.steps: 1e1
train_freq: [2e0, step]
policy_kwargs: {optimizer_kwargs: {eps: 1e-5}, net_arch: [16]}
"""
NUMBERS = {
    "learning_rate": 3e-4, "temperature": 0.01, "tau": 5e-3, "buffer_size": 1000, "batch_size": 64,
    "estimator": {"n_particles": 12, "n_times": 2}, "candidates": 2,
    "flow": {"t_range": [0.01, 0.9], "steps": 10},
    "policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5}, "net_arch": [16]},
}  # fmt: skip


def test_numbers_that_yaml_takes_for_strings():
    plain = yaml.safe_load(YAML)
    assert isinstance(plain["learning_rate"], str)  # YAML 1.1 wants a dot
    assert isinstance(plain["flow"]["t_range"][0], str)
    arguments = hyperparams.constructor_arguments(algorithm_class("rfm_flow"), plain, 1)
    for name, number in NUMBERS.items():
        assert arguments[name] == number
        assert repr(arguments[name]) == repr(number)  # in the same types, within groups too
    critic = arguments["critic_update"]
    assert critic.pop("learning_rate")(0.25) == pytest.approx(2.5e-4)
    assert critic == {"reward_scale": 0.5, "target_noise": "temperature_0.1"}
    model = algorithm_class("rfm_flow")("MlpPolicy", "Pendulum-v1", **arguments)
    assert model.train_freq.frequency == 2
    assert (model.flow.steps, model.flow.t_range) == (10, (0.01, 0.9))


@pytest.mark.parametrize("algo", OWN_ALGORITHMS)
def test_numbers_of_a_group_that_yaml_takes_for_strings(algo):
    text = "{critic_update: {learning_rate: 3e-4}, flow: {steps: 1e1}, candidates: {train: 4e0}}"
    plain = yaml.safe_load(text)
    assert isinstance(plain["critic_update"]["learning_rate"], str)
    values = hyperparams.plain_values(algorithm_class(algo), plain)
    expected = {
        "critic_update": {"learning_rate": 3e-4},
        "flow": {"steps": 10},
        "candidates": {"train": 4},
    }
    assert repr(values) == repr(expected)
    settings = RunSettings(algo, "Pendulum-v1", hyperparams=plain).resolved()
    model, chosen = make_model(settings, "cpu")
    assert model.critic_update.learning_rate == chosen["critic_update"]["learning_rate"] == 3e-4
    assert (model.flow.steps, model.candidates.train) == (10, 4)


def test_numbers_of_an_estimator_where_the_class_has_none():
    changes = {"actor_update.objective": "posterior_mean", "estimator.n_particles": "1e1"}
    changes |= {"estimator.name": "noise_expectation"}
    settings = RunSettings("qvpo", "Pendulum-v1", hyperparams=changes).resolved()
    model, _ = make_model(settings, "cpu")
    assert repr(model.estimator.n_particles) == "10"


def test_a_learning_rate_of_the_critics_that_falls():
    changes = hyperparams.parse_overrides(["critic_update.learning_rate:lin_3e-4"])
    settings = RunSettings("rfm_flow", "Pendulum-v1", hyperparams=changes).resolved()
    assert settings.hyperparams["critic_update"] == {"learning_rate": "lin_3e-4"}
    model, chosen = make_model(settings, "cpu")
    for progress in (1.0, 0.5, 0.0):
        assert model.critic_lr_schedule(progress) == pytest.approx(3e-4 * progress)
    assert "LinearSchedule" in chosen["critic_update"]["learning_rate"]
    assert model.critic_update.reward_scale == chosen["critic_update"]["reward_scale"] == 1.0


HEUN = {"solver": "heun"}


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        # a setting over a bare value, which stands for the group's first setting
        (
            {"estimator": "diagonal"},
            {"estimator.n_particles": 4},
            {"estimator": {"name": "diagonal", "n_particles": 4}},
        ),
        (
            {"candidates": 8},
            {"candidates": {"evaluate": 1}},
            {"candidates": {"n": 8, "evaluate": 1}},
        ),
        ({"candidates": {"n": 8, "evaluate": 1}}, {"candidates": 4}, {"candidates": 4}),
        # a group over a group
        ({"flow": {"steps": 4, **HEUN}}, {"flow": {"steps": 9}}, {"flow": {"steps": 9, **HEUN}}),
        (
            {"flow": {"steps": 4}},
            {"flow.solver": "heun", "flow.steps": 9},
            {"flow": {"steps": 9, **HEUN}},
        ),
        ({"flow": None}, {"flow.steps": 9}, {"flow": {"steps": 9}}),
        ({}, {"flow.steps": 9}, {"flow": {"steps": 9}}),
        ({"flow.steps": 4}, {"flow": HEUN}, {"flow": {"steps": 4, **HEUN}}),
        (
            {"flow": HEUN, "flow.steps": 4},
            {"flow": {"steps": 9}},
            {"flow": {"steps": 9, **HEUN}},
        ),
        # a key of another dictionary, which a dictionary replaces as a whole
        (
            {"policy_kwargs": {"net_arch": [8], "n_critics": 1}},
            {"policy_kwargs.net_arch": [9]},
            {"policy_kwargs": {"net_arch": [9], "n_critics": 1}},
        ),
        (
            {"policy_kwargs": {"net_arch": [8]}},
            {"policy_kwargs": {"n_critics": 1}},
            {"policy_kwargs": {"n_critics": 1}},
        ),
        ({"gamma": 0.9, "tau": 1.0}, {"gamma": 0.5}, {"gamma": 0.5, "tau": 1.0}),
    ],
    ids=str,
)
def test_hyperparameters_are_merged_group_by_group(base, changes, expected):
    before = copy.deepcopy((base, changes))
    assert merged(base, changes) == expected
    assert (base, changes) == before


def test_a_name_that_yaml_reads_as_a_number_is_refused():
    with pytest.raises(ValueError, match="hyperparams: a name must be a string, got 1"):
        merged({}, {1: 2})


@pytest.mark.parametrize("name", ["flow", "actor_update", "critic_update"])
def test_a_bare_value_for_a_group_without_a_first_setting_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a dict of its settings; got 'fast'"):
        merged({name: "fast"}, {f"{name}.some": 4})
    for value in ("fast", 4):
        with pytest.raises(ValueError, match=f"{name} must be a dict of its settings"):
            hyperparams.constructor_arguments(algorithm_class("rfm_flow"), {name: value}, 1)


def test_the_command_line_and_the_classes_have_the_same_groups():
    firsts = {name: group.first for name, group in config.GROUPS.items()}
    assert firsts == hyperparams.GROUPS


@pytest.mark.parametrize(("name", "place"), FLAT_NAMES.items())
def test_a_name_of_before_there_were_groups_says_where_it_is_now(name, place):
    message = f"RFMFlow has no hyperparameter '{name}': it is {place} now"
    settings = RunSettings("rfm_flow", "Pendulum-v1", hyperparams={name: 1})  # a YAML file's
    with pytest.raises(ValueError, match=re.escape(message)):
        make_model(settings.resolved(), "cpu")
    group, _, setting = place.partition(" ")[0].partition(".")
    assert setting in {field.name for field in fields(config.GROUPS[group])}


@pytest.mark.parametrize("algo", OWN_ALGORITHMS)
def test_a_runs_hyperparameters_show_every_setting_and_are_read_back(algo):
    changes = {"flow.steps": 3, "candidates": 5, "critic_update": {"reward_scale": 0.5}}
    settings = RunSettings(algo, "Pendulum-v1", hyperparams=changes).resolved()
    model, chosen = make_model(settings, "cpu")
    written = yaml.safe_load(yaml.safe_dump(chosen, sort_keys=False))
    assert written == chosen
    for name, group in config.GROUPS.items():
        own = getattr(model.settings, name)
        if own is None:
            assert written[name] is None
            continue
        assert list(written[name]) == [field.name for field in fields(group)]
        for setting, value in written[name].items():
            kept = getattr(own, setting)
            is_plain = kept is None or isinstance(kept, (bool, int, float, str, tuple))
            assert value == (
                list(kept) if isinstance(kept, tuple) else kept if is_plain else repr(kept)
            )
            if not is_plain:  # YAML holds no object: those alone cannot be read back
                written[name][setting] = kept
    assert (written["flow"]["steps"], written["candidates"]["n"]) == (3, 5)
    assert written["temperature"] == model.settings.temperature
    assert written["target_entropy"] == model.settings.target_entropy
    arguments = hyperparams.constructor_arguments(type(model), written, 1)
    again = type(model)(env="Pendulum-v1", **arguments)
    assert again.settings == model.settings


def test_numbers_of_the_command_line_and_of_a_run():
    typed = hyperparams.parse_overrides(["buffer_size:1e3", "temperature:'1e-2'", "n_envs:2e0"])
    settings = RunSettings("rfm_flow", "Pendulum-v1", hyperparams={"n_timesteps": "2e3"} | typed)
    resolved = settings.resolved()
    assert resolved.steps == 2000
    expected = {"buffer_size": 1000, "temperature": 0.01, "n_envs": 2}
    assert resolved.hyperparams | expected == resolved.hyperparams
    model, _ = make_model(resolved, "cpu")
    assert model.temperature == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["learning_rate", "critic_update.learning_rate"])
def test_learning_rates_that_are_neither_number_nor_schedule(name):
    for wrong in ("lin_x", "linear", "lin_"):
        with pytest.raises(ValueError, match=f"^{name} must be a number or lin_<number>, got"):
            hyperparams.constructor_arguments(algorithm_class("qne"), {name: wrong}, n_actions=1)


def test_rl_zoo3_reads_the_same_numbers_and_schedules():
    rl_zoo.register()
    rl_zoo.register()  # a second time changes nothing
    values = yaml.safe_load(YAML)
    made = ExperimentManager._preprocess_schedules(dict(values))
    assert made["learning_rate"](0.5) == 3e-4
    assert made["critic_update"]["learning_rate"](0.5) == pytest.approx(5e-4)
    assert "flow.steps" not in made
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
    trial, arguments = _sampled(algo, {})
    model = rl_zoo3.ALGOS[algo]("MlpPolicy", "Pendulum-v1", buffer_size=9, **arguments)
    assert {name: getattr(model, name) for name in ("gamma", "tau", "batch_size")} == {
        name: arguments[name] for name in ("gamma", "tau", "batch_size")
    }
    assert model.flow.steps == trial.params["flow.steps"]
    assert model.candidates.n == trial.params["candidates.n"]
    assert model.critic_update.learning_rate == trial.params["critic_update.learning_rate"]
    # a stored trial, loaded with --trial-id, gives the same arguments
    assert _of_a_stored_trial(algo, trial) == arguments
    searched = "estimator.n_particles" in trial.params
    assert searched == (algo not in WITHOUT_PARTICLES) == ("estimator" in arguments)
    if searched:
        assert model.estimator.n_particles == trial.params["estimator.n_particles"]
    if model.temperature_rule.tuned:
        assert "temperature" not in arguments
        assert arguments["target_entropy"] in search.TARGET_ENTROPIES
    else:
        assert "target_entropy" not in arguments
        assert ("temperature" in arguments) == (algo != "qvpo")


@pytest.mark.parametrize("algo", OWN_ALGORITHMS)
def test_a_trial_keeps_what_the_study_says_of_a_group(algo):
    study = {
        "flow": {"solver": "heun", "steps": 3},
        "candidates.evaluate": 7,
        "candidates.n": "1e2",
        "critic_update": {"reward_scale": 0.5},
        "actor_update": {"every": 3},
    }
    trial, arguments = _sampled(algo, study)
    chosen = trial.params
    assert arguments["flow"] == {"solver": "heun", "steps": chosen["flow.steps"]}
    assert arguments["candidates"] == {"evaluate": 7, "n": chosen["candidates.n"]}
    rate = chosen["critic_update.learning_rate"]
    assert arguments["critic_update"] == {"reward_scale": 0.5, "learning_rate": rate}
    assert "actor_update" not in arguments  # rl_zoo3 keeps the others as they are
    assert study["flow"]["steps"] == 3
    loaded = _of_a_stored_trial(algo, trial, study)
    assert {name: loaded[name] for name in arguments} == arguments
    assert loaded["actor_update"] == {"every": 3}
    _, arguments = _sampled(algo, {})  # of another study
    assert set(arguments["candidates"]) == {"n"}


def test_a_study_without_an_estimator_or_a_tuned_temperature_is_not_given_them():
    trial, arguments = _sampled("rfm_flow", {"actor_update.objective": "exponential"})
    assert "estimator" not in arguments
    assert "estimator.n_particles" not in trial.params
    trial, arguments = _sampled("rfm_flow", {"temperature": 0.05, "estimator": "bounded"})
    assert "target_entropy" not in arguments
    assert arguments["temperature"] == trial.params["temperature"]
    particles = trial.params["estimator.n_particles"]
    assert arguments["estimator"] == {"name": "bounded", "n_particles": particles}


def _sampled(algo, study):
    """A trial of a study with these hyperparameters, and the arguments that it gives."""
    rl_zoo.register()
    ExperimentManager._preprocess_schedules(dict(study))
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    return trial, hyperparams_opt.HYPERPARAMS_SAMPLER[algo](trial, 1, 1, NO_HINDSIGHT)


def _of_a_stored_trial(algo, trial, study=None):
    """The arguments that ``--trial-id`` gives: rl_zoo3 puts the trial's over the study's."""
    values = {**(study or {}), **hyperparams_opt.HYPERPARAMS_CONVERTER[algo](trial.params)}
    rate = values.pop("learning_rate")
    return {**ExperimentManager._preprocess_schedules(values), "learning_rate": rate}


def _weights(algo, **changes):
    """Of all networks, after a few updates."""
    model = (algorithm_class(algo) if isinstance(algo, str) else algo)(
        "MlpPolicy",
        "Pendulum-v1",
        **{"flow": {"steps": 2}, "candidates": {"n": 3, "train": 3}} | changes,
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
@pytest.mark.parametrize(
    ("name", "values"),
    [("temperature", [0.3, 3.0]), ("estimator", [{"n_particles": 4}, {"n_particles": 9}])],
)
def test_the_search_leaves_out_what_training_does_not_depend_on(algo, name, values):
    _, arguments = _sampled(algo, {})
    if name in arguments or (name == "temperature" and "target_entropy" in arguments):
        one, other = (_weights(algo, **{name: value}) for value in values)
        assert not all(map(np.array_equal, one, other))
        return
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name}.* (is not used|has its own number)"):
            _weights(algo, **{name: value})
    if name == "temperature":
        own = algorithm_class(algo)
        settings = [replace(own.defaults, temperature=value) for value in values]
        one, other = (_weights(type(algo, (own,), {"defaults": each})) for each in settings)
        assert all(map(np.array_equal, one, other))


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


def test_what_draws_and_is_missing_brings_the_extra(monkeypatch, capsys):
    def fail():
        raise DependencyNotInstalled('pygame is not installed, run `pip install "gymnasium[...]"`')

    monkeypatch.setattr("rl_zoo3.enjoy.enjoy", fail)
    assert cli.main(["enjoy", "--env", "Pendulum-v1"]) == 1
    error = capsys.readouterr().err
    assert "needs pygame, not installed here: install the extra: pip install '.[zoo]'" in error


def test_optimize(tmp_path, monkeypatch, capsys):
    sample, flows = search.sample_rfm_params, []

    def tiny(*arguments, **study):
        sampled = sample(*arguments, **study)
        flows.append(sampled["flow"])
        return merged(sampled, {"batch_size": 8, "candidates.evaluate": 1})

    monkeypatch.setattr(rl_zoo, "sample_rfm_params", tiny)
    command = ["train", "--env", "Pendulum-v1", "-n", "40", "--optimize", "--n-trials", "2"]
    options = ["--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots", "--seed", "0"]
    params = ["learning_starts:30", "flow.solver:heun"]
    assert cli.main([*command, *options, "-params", *params]) == 0
    assert [set(flow) for flow in flows] == [{"solver", "steps"}] * 2
    assert {flow["solver"] for flow in flows} == {"heun"}
    assert "Number of finished trials:  2" in capsys.readouterr().out
    (report,) = (tmp_path / "logs" / "rfm_flow").glob("report_*.csv")
    states = [line.rsplit(",", 1)[-1] for line in report.read_text().splitlines()[1:]]
    assert states == ["COMPLETE", "COMPLETE"]
    for name in ("target_entropy", "candidates.n", "flow.steps", "estimator.n_particles"):
        assert f"params_{name}" in report.read_text()


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
    sample = search.sample_rfm_params

    def tiny(*arguments, **study):
        changes = {"batch_size": 8, "candidates.evaluate": 1}
        return merged(sample(*arguments, **study), changes)

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
