"""The hyperparameters that rl_zoo3's ``train --optimize`` searches for the algorithms here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sb3_rfm.experiments.hyperparams import GROUPS, algorithm_class, merged

if TYPE_CHECKING:
    import optuna

TARGET_ENTROPIES = ["auto_0.5", "auto_0.7", "auto_1", "auto_1.4", "auto_2"]
"""Shares of minus the action's dimension: a factor of two in the spread of actions for each .7."""


def sample_rfm_params(
    algo: str,
    trial: "optuna.Trial",
    n_actions: int,
    n_envs: int,
    additional_args: dict[str, Any],
    given: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """
    The hyperparameters of one trial of ``train --optimize``, one search for every algorithm here.

    Where the temperature is tuned the entropy is searched, else the temperature; the number of
    particles is 8 to 64, or the study's own. A setting of a group has its path for a name,
    ``candidates.n``, and leaves the group's others as they are. The signature after ``algo`` and
    the names of the shared parameters are rl_zoo3's, so that its own conversion to constructor
    arguments applies here and when a stored trial is loaded.

    :param algo: a key of ``OWN_ALGORITHMS``
    :param trial: Optuna's trial
    :param n_actions: dimension of the action (unused)
    :param n_envs: number of environments (unused)
    :param additional_args: whether hindsight replay is used, and its arguments
    :param given: hyperparameters of the study, which the sampled ones change
    :return: constructor arguments
    """
    from rl_zoo3.hyperparams_opt import convert_offpolicy_params, sample_her_params

    sampled: dict[str, Any] = {}
    # of the study: its own hyperparameters may ask for no estimator, or tune no temperature
    settings = algorithm_class(algo).defaults.changed(given)  # type: ignore[attr-defined]
    if settings.tunes_temperature:
        sampled["target_entropy"] = trial.suggest_categorical("target_entropy", TARGET_ENTROPIES)
    elif settings.uses_temperature:
        sampled["temperature"] = trial.suggest_float("temperature", 0.002, 0.5, log=True)
    n_particles = settings.estimator and settings.estimator.n_particles
    if n_particles is not None:
        name, numbers = "estimator.n_particles", sorted({8, 16, 32, 64, n_particles})
        sampled[name] = trial.suggest_categorical(name, numbers)
    n, steps, rate = "candidates.n", "flow.steps", "critic_update.learning_rate"
    sampled |= {
        n: trial.suggest_categorical(n, [1, 2, 4, 8, 16, 32]),
        steps: trial.suggest_int(steps, 2, 20, log=True),
        rate: trial.suggest_float(rate, 1e-4, 3e-3, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 2e-3, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-4, 0.03, log=True),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 5, 10),
        "tau": trial.suggest_float("tau", 0.001, 0.08, log=True),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium", "big"]),
    }
    # the report shows the values themselves
    trial.set_user_attr("gamma", 1 - sampled["one_minus_gamma"])
    trial.set_user_attr("batch_size", 2 ** sampled["batch_size_pow"])
    if additional_args["using_her_replay_buffer"]:
        sampled = sample_her_params(trial, sampled, additional_args["her_kwargs"])
    changes = convert_offpolicy_params(sampled)
    groups = {name: value for name, value in given.items() if name in GROUPS}
    changed = merged(groups, changes)
    names = {name.partition(".")[0] for name in changes}
    return {name: changed[name] for name in names}
