"""The files of hyperparameters: every entry makes a model, by one protocol."""

import numpy as np
import pytest
import yaml
from test_envs import PROTOCOL

from sb3_rfm.experiments import hyperparams
from sb3_rfm.experiments.hyperparams import (
    ALGORITHMS,
    OWN_ALGORITHMS,
    algorithm_class,
    hyperparams_file,
)
from sb3_rfm.experiments.settings import RunSettings, make_model

FILES = {algo: yaml.safe_load(hyperparams_file(algo).read_text()) for algo in ALGORITHMS}
BASELINES = sorted(set(OWN_ALGORITHMS) - {"rfm_flow", "rfm_diffusion"})
SHARED = {f"dm_control/{task}-v0" for task in PROTOCOL} | {"default", "Pendulum-v1"}


def _distinct(entries):
    """One environment for each of a file's different entries."""
    return list({yaml.dump(entry): env_id for env_id, entry in entries.items()}.values())


# the baselines' files hold the same environments, as a test below asserts
ENTRIES = [
    (algo, env_id)
    for algo, entries in FILES.items()
    for env_id in (_distinct(entries) if algo in BASELINES else entries)
]


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
    wider = {"rfm_flow", "sac"}  # Gymnasium's own tasks and the four goals, too
    assert set(FILES["sac"]) > SHARED
    assert set(FILES[algo]) == (set(FILES["sac"]) if algo in wider else SHARED)
    for env_id in SHARED - {"default", "Pendulum-v1"}:
        assert FILES[algo][env_id]["n_timesteps"] == 250_000
        starts = FILES[algo][env_id]["learning_starts"]
        assert starts == FILES["sac"][env_id]["learning_starts"]  # a fair comparison


@pytest.mark.parametrize("algo", BASELINES)
def test_a_baselines_critic_and_protocol_are_those_of_rfm_flow(algo):
    for env_id in SHARED:
        given = dict(FILES[algo][env_id])
        given.pop("temperature", None)  # of the paper, where it has one for the task
        assert given == FILES["rfm_flow"][env_id]


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
