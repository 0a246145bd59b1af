"""Numbers and schedules of hyperparameters, from YAML, a command line and rl_zoo3."""

import numpy as np
import pytest
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3 import SAC

from sb3_rfm.experiments import hyperparams, rl_zoo
from sb3_rfm.experiments.hyperparams import OWN_ALGORITHMS, algorithm_class
from sb3_rfm.experiments.settings import RunSettings, make_model

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
