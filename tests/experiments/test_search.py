"""The search for hyperparameters: what a trial samples, and which trials are pruned."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import optuna
import pytest
import rl_zoo3
from gymnasium import spaces
from rl_zoo3 import hyperparams_opt
from rl_zoo3.exp_manager import ExperimentManager
from rows import WITHOUT_PARTICLES, WITHOUT_TEMPERATURE

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments import rl_zoo, search
from sb3_rfm.experiments.hyperparams import OWN_ALGORITHMS, algorithm_class, merged

pytestmark = pytest.mark.usefixtures("zoo")

NO_HINDSIGHT = {"using_her_replay_buffer": False, "her_kwargs": {}}


def named(classes):
    """Their names on the command line."""
    return {algo for algo, place in OWN_ALGORITHMS.items() if place.split(":")[1] in classes}


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
    assert searched == (algo not in named(WITHOUT_PARTICLES)) == ("estimator" in arguments)
    if searched:
        assert model.estimator.n_particles == trial.params["estimator.n_particles"]
    if model.temperature_rule.tuned:
        assert "temperature" not in arguments
        assert arguments["target_entropy"] in search.TARGET_ENTROPIES
    else:
        assert "target_entropy" not in arguments
        assert ("temperature" in arguments) == (algo not in named(WITHOUT_TEMPERATURE))


def test_lsac_is_searched_as_sac():
    trial, arguments = _sampled("lsac", {})
    model = rl_zoo3.ALGOS["lsac"]("MlpPolicy", "Pendulum-v1", buffer_size=9, **arguments)
    assert type(model) is algorithm_class("lsac")
    assert model.learning_rate == trial.params["learning_rate"]
    assert model.critic_learning_rate == 1e-3
    assert _of_a_stored_trial("lsac", trial) == arguments


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
