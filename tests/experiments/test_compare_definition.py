"""What a comparison is of: a definition is given, remembered, grown and contradicted."""

import pytest
from small_comparisons import ENV, GIVEN, given_with

from sb3_rfm.experiments.comparison.definition import Entry
from sb3_rfm.experiments.comparison.definition_file import (
    FILE,
    read_comparison,
    read_request,
    to_yaml,
    write_comparison,
)
from sb3_rfm.experiments.comparison.request import combined, define
from sb3_rfm.experiments.hyperparams import parse_overrides

pytestmark = pytest.mark.usefixtures("here")


def test_a_definition_is_what_was_given():
    variant = {"algorithm": "rfm_flow", "hyperparams": {"temperature": 0.1, "gamma": 0.5}}
    algos = {"sac": None, "paper": variant}
    given = given_with(algos=algos, hyperparams={"gamma": 0.9}, envs=["cartpole-swingup", ENV])
    comparison = define(given | {"seeds": [1, 0, 1]})
    assert comparison.algos == {
        "sac": Entry("sac", {"gamma": 0.9}),
        "paper": Entry("rfm_flow", {"gamma": 0.5, "temperature": 0.1}),  # its own come last
    }
    assert comparison.envs == ("dm_control/cartpole-swingup-v0", ENV)
    assert comparison.seeds == (1, 0)
    assert (comparison.steps, comparison.eval_freq, comparison.eval_episodes) == (40, 4, 1)
    settings = comparison.settings()
    assert len(settings) == 2 * 2 * 2
    assert [label for label, _ in settings[:2]] == ["sac", "paper"]  # what is early compares
    assert {run.seed for _, run in settings[:4]} == {1}
    assert settings[1][1].hyperparams["temperature"] == 0.1
    assert settings[1][1].hyperparams["env_wrapper"] == "sb3_rfm.envs.FlatFloat32"


def test_a_definition_is_remembered(tmp_path):
    comparison = define(given_with(hyperparams={"train_freq": (2, "step"), "learning_rate": 3e-4}))
    write_comparison(comparison, tmp_path / "c", ["a command"])
    assert read_comparison(tmp_path / "c") == (comparison, ["a command"])
    assert read_comparison(tmp_path / "nothing") == (None, [])
    # it is a --config, too
    assert define(read_request(tmp_path / "c" / FILE)) == comparison


def test_a_folder_grows():
    stored = define(given_with())
    more = define({"algos": "td3", "seeds": [0, 1], "envs": "walker-walk", "steps": 80}, stored)
    assert list(more.algos) == ["sac", "td3"]
    assert more.envs == (ENV, "dm_control/walker-walk-v0")
    assert more.seeds == (0, 1)
    assert (more.steps, more.eval_freq) == (80, stored.eval_freq)
    assert define({}, stored) == define(given_with(), stored) == stored
    assert define({"checkpoint_freq": 7}, stored).checkpoint_freq == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algos": "ppo"}, "algo must be one of rfm_flow, .*got 'ppo'"),
        ({"algos": {"a/b": {"algorithm": "sac"}}}, "a label must be letters.*got 'a/b'"),
        ({"algos": {"a": {"algo": "sac"}}}, "a takes the keys 'algorithm' and 'hyperparams'"),
        ({"algos": {"sac": {"hyperparams": [1]}}}, r"hyperparams of sac must be.*got \[1\]"),
        ({"algos": []}, r"algos must be one value or several, got \[\]"),
        ({"hyperparams": {"batchsize": 3}}, "has no hyperparameter 'batchsize': did you mean b"),
        (
            {"algos": "rfm_flow", "hyperparams": {"n_particles": 3}},
            "RFMFlow has no hyperparameter 'n_particles': it is estimator.n_particles now",
        ),
        (
            {"algos": "rfm_flow", "hyperparams": {"flow.stpes": 3}},
            "flow has no setting 'stpes': did you mean steps",
        ),
        (
            {"algos": "rfm_flow", "hyperparams": {"flow": {"steps": "many"}}},
            "flow.steps must be an int of at least 1; got 'many'",
        ),
        (
            {"algos": {"qne": {"hyperparams": {"flow.steps": 3}}}, "hyperparams": {"flow": "fast"}},
            "flow must be a dict of its settings; got 'fast'",
        ),
        ({"hyperparams": {"flow.steps": 3}}, "SAC has no hyperparameter 'flow'"),
        ({"hyperparams": "gamma"}, "hyperparams must be KEY: VALUE pairs, got 'gamma'"),
        ({"hyperparams": {"gamma": object()}}, "hyperparams must be plain values"),
        ({"envs": "Pendulm-v1"}, "Unknown environment 'Pendulm-v1': did you mean Pendulum"),
        ({"seeds": [0, -1]}, "seeds must be an integer of at least 0, got -1"),
        ({"seeds": [0.5]}, "seeds must be an integer of at least 0, got 0.5"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"steps": "many"}, "steps must be an integer of at least 1, got 'many'"),
        ({"eval_episodes": 0}, "eval_episodes must be an integer of at least 1, got 0"),
        ({"checkpoint_freq": -1}, "checkpoint_freq must be an integer of at least 0, got -1"),
        ({"env": ENV}, "a comparison has the keys algos, .*got 'env'"),
    ],
)
def test_a_wrong_definition_names_what_was_got(changes, message):
    with pytest.raises(ValueError, match=message):
        define(given_with(**changes))


@pytest.mark.parametrize("name", ["algos", "envs", "seeds", "steps"])
def test_what_is_missing_is_named(name):
    with pytest.raises(ValueError, match=f"--{name} required, for example --{name} "):
        define({key: value for key, value in GIVEN.items() if key != name})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hyperparams": {"gamma": 0.5}},
            r"sac is another one in this folder: got sac with \{'gamma': 0.5\}, there is sac with "
            r"\{'learning_starts': 20",
        ),
        ({"algos": {"sac": {"algorithm": "td3"}}}, "got td3 with .*there is sac with"),
        ({"steps": 20}, "steps must be at least this folder's own 40, got 20"),
        ({"eval_freq": 9}, "eval_freq of this folder's runs is 4, got 9"),
        ({"eval_episodes": 2}, "eval_episodes of this folder's runs is 1, got 2"),
    ],
)
def test_a_contradiction_names_what_is_there(changes, message):
    with pytest.raises(ValueError, match=message):
        define(given_with(**changes), define(given_with()))
    with pytest.raises(ValueError, match="add --algos"):
        define({"hyperparams": {"gamma": 0.5}}, define(given_with()))


def test_the_command_line_has_the_last_word():
    file = given_with(algos={"sac": None, "mine": {"algorithm": "td3"}}, hyperparams={"gamma": 0.5})
    options = {"algos": ["mine", "rfm_flow"], "seeds": [7], "hyperparams": {"tau": 0.1}}
    comparison = define(combined(file, options))
    assert comparison.seeds == (7,)
    assert comparison.algos == {
        "mine": Entry("td3", {"gamma": 0.5, "tau": 0.1}),
        "rfm_flow": Entry("rfm_flow", {"gamma": 0.5, "tau": 0.1}),
    }


def test_settings_of_a_group_are_changed_one_by_one():
    variant = {"flow": {"solver": "heun"}, "candidates.evaluate": 1}
    algos = {"rfm_flow": None, "mine": {"algorithm": "rfm_diffusion", "hyperparams": variant}}
    given = {"flow": {"steps": "1e1", "time_shift": 2.0}, "candidates": 8}
    file = given_with(algos=algos, hyperparams=given)
    options = {"hyperparams": parse_overrides(["flow.steps:4"])}
    comparison = define(combined(file, options))
    flow = {"steps": 4, "time_shift": 2.0}
    assert comparison.algos == {
        "rfm_flow": Entry("rfm_flow", {"flow": flow, "candidates": 8}),
        "mine": Entry(
            "rfm_diffusion",
            {"flow": {**flow, "solver": "heun"}, "candidates": {"n": 8, "evaluate": 1}},
        ),
    }
    for label, run in comparison.settings():
        for name, value in comparison.algos[label].hyperparams.items():
            assert run.hyperparams[name] == value
    (_, whole), *_ = define(file).settings()
    assert whole.hyperparams["flow"] == {"steps": 10, "time_shift": 2.0}


def test_a_yaml_file_is_read_as_it_is_meant(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text("hyperparams: {learning_rate: 3e-4, temperature: auto, tau: 5.E-3}\n")
    assert read_request(path)["hyperparams"] == {
        "learning_rate": 3e-4,  # a string to YAML 1.1, and then a schedule to us
        "temperature": "auto",
        "tau": 5e-3,
    }
    path.write_text("a: [\n")
    with pytest.raises(ValueError, match=r"c\.yml is not YAML: .*line 2"):
        read_request(path)
    path.write_text("- sac\n")
    with pytest.raises(ValueError, match="must have the keys algos,"):
        read_request(path)
    assert to_yaml({"b": {"c": [1, 2]}, "a": 1}) == "b:\n  c: [1, 2]\na: 1\n"
