"""
Files that were saved before settings had groups: what stood in them, made settings of today.

A model's file then held a ``Row`` (and each of its values as an attribute), a policy's a ``Flow``
of resolved pieces. Pickle finds the stand-ins here by their earlier modules' names
(:mod:`sb3_rfm.utils.moved`).
"""

from typing import Any

from sb3_rfm.common.config import (
    ActorUpdateSettings,
    CandidateSettings,
    CriticUpdateSettings,
    EstimatorSettings,
    FlowSettings,
    Settings,
)
from sb3_rfm.common.flat_names import FLAT_NAMES
from sb3_rfm.common.selection import GaussianNoise
from sb3_rfm.common.targets import Advantage, Exponential, WeightedActions
from sb3_rfm.sampling.estimators.posteriors import Estimator

ESTIMATORS_OF_BEFORE = {"noise": "noise_expectation", "gradient": "gradient_expectation"}
__all__ = ["Advantage", "Exponential"]  # found here by files of before


class Row:
    """What a file holds in the place of :class:`sb3_rfm.common.config.Settings`."""


class Policy:
    """Rules for the actions that ``x_t`` is mixed from, in files of before; likewise the next."""


class BestOfPolicy(Policy):
    """Of the best candidate."""


class Replay(Policy):
    """Of the replay buffer's."""


X_T_FROM_OF_BEFORE = {Policy: "policy", BestOfPolicy: "best", Replay: "replay"}


def temperature_of_before(temperature: Any) -> Any:
    """
    The temperature's rule in a model saved while there was one relative to the spread of Q.

    :param temperature: the saved model's
    :return: the rule that takes its place, from the saved value of lambda
    """
    relative = isinstance(temperature, str) and temperature.partition("_")[0] == "relative"
    return "auto" if relative else temperature


def policy_of_before(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    The policy's arguments in a model that was saved before LayerNorm in the critics and normalised
    observations were defaults.

    :param policy_kwargs: the saved model's
    :return: with what were the defaults then
    """
    given = policy_kwargs.get("critic_kwargs") or {}
    plain = {} if given.get("network", "mlp") != "mlp" else {"layer_norm": False}
    return {**policy_kwargs, "normalize_observations": False, "critic_kwargs": {**plain, **given}}


def settings_of_before(attributes: dict[str, Any]) -> None:
    """
    Put settings in the place of a saved model's ``Row`` and its values; in place. Groups that
    ``load`` was given stay.

    :param attributes: of the model
    """
    row = attributes.pop("choices", None)
    if row is None:
        return
    own = vars(row)
    flat = {name: attributes.pop(name) for name in FLAT_NAMES if name in attributes}
    attributes["settings"] = settings_of_row({**own, **flat})
    for name in ("estimator", "temperature", "target_entropy"):
        if name in attributes and name in own and attributes[name] == own[name]:
            attributes.pop(name)  # the row's, and not given to ``load``


def settings_of_row(row: dict[str, Any]) -> Settings:
    """
    The settings that a row of before was.

    :param row: its values by name
    :return: the settings
    """
    estimator = row["estimator"]
    if isinstance(estimator, str):
        estimator = ESTIMATORS_OF_BEFORE.get(estimator, estimator)
    view, examples = row["critic_view"], row["examples"]
    examples = X_T_FROM_OF_BEFORE.get(type(examples), examples)
    weighted = examples in ("exponential", "advantage") or isinstance(examples, WeightedActions)
    number = None if isinstance(estimator, Estimator) else row["n_particles"]
    return Settings(
        flow=_flow_settings(row, one_step=row.get("one_step_policy", False)),
        estimator=None
        if weighted
        else EstimatorSettings(
            name=estimator,
            n_particles=number,
            n_times=row.get("n_times", 1),
            q_aggregation=view.removeprefix("target_"),
            use_target_critic=view.startswith("target_"),
        ),
        candidates=CandidateSettings(
            n=row["n_candidates"],
            train=row["n_training_candidates"],
            evaluate=row["n_eval_candidates"],
            select=row["candidate_choice"],
            noise=row.get("exploration_noise", 0.0),
            noise_color=row.get("noise_color", "white"),
        ),
        actor_update=ActorUpdateSettings(
            x_t_from=None if weighted else examples,
            objective=examples if weighted else "posterior_mean",
            loss_weighting=row.get("loss_weighting", "uniform"),
            every=row["policy_delay"],
            average=row.get("policy_tau"),
            max_grad_norm=row["max_grad_norm"],
        ),
        critic_update=CriticUpdateSettings(
            learning_rate=row["critic_learning_rate"],
            entropy=row.get("entropy_backup", False),
            target_noise=row.get("target_noise", 0.0),
            reward_scale=row.get("reward_scale", 1.0),
        ),
        temperature=temperature_of_before(row["temperature"]),
        target_entropy=row.get("target_entropy", "auto"),
    )


def _flow_settings(had: dict[str, Any], one_step: bool) -> FlowSettings:
    """What a row and a flow of before named alike."""
    return FlowSettings(
        interpolant=had["interpolant"],
        parametrization=had["parametrization"],
        solver=had["solver"],
        steps=had["sampling_steps"],
        time_shift=had.get("time_shift", 1.0),
        support=had["support"],
        t_range=tuple(had["t_range"]),
        one_step=one_step,
    )


def settings_of_flow(flow: Any) -> Settings:
    """
    The settings of a policy that was saved alone: what acts is as it was; what training alone asks
    is the defaults'.

    :param flow: its file's
    :return: the settings
    """
    had: Any = vars(flow)
    noise: GaussianNoise = had["exploration_noise"]
    return Settings(
        flow=_flow_settings(had, one_step=had.get("one_step", False)),
        estimator=EstimatorSettings("noise_expectation", n_times=1),  # of any support
        candidates=CandidateSettings(
            n=had["n_candidates"],
            evaluate=had["n_eval_candidates"],
            select=had["choice"],
            noise=f"temperature_{noise.std}" if noise.per_temperature else noise.std,
            noise_color="white",
        ),
        actor_update=ActorUpdateSettings(average=0.005 if had["averaged"] else None),
        temperature=had["temperature"],
    )
