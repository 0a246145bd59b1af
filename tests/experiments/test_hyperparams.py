"""Hyperparameters become arguments: overrides, groups, and names that there are not."""

import copy
import re
from dataclasses import fields

import numpy as np
import pytest
import yaml
from stable_baselines3 import SAC, TD3

from sb3_rfm.common import config
from sb3_rfm.common.flat_names import FLAT_NAMES
from sb3_rfm.experiments import hyperparams
from sb3_rfm.experiments.hyperparams import OWN_ALGORITHMS, algorithm_class, merged
from sb3_rfm.experiments.settings import RunSettings, make_model


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


def test_an_unknown_hyperparameter_brings_the_one_meant():
    with pytest.raises(ValueError, match=r"SAC has no hyperparameter 'gama': did you mean gamma"):
        hyperparams.constructor_arguments(SAC, {"gama": 0.9}, n_actions=1)
    with pytest.raises(ValueError, match=r"noise_type must be one of normal, .*got 'loud'"):
        hyperparams.constructor_arguments(TD3, {"noise_type": "loud"}, n_actions=1)
