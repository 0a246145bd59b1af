"""Settings: five groups, how they are changed, and what they refuse."""

import inspect
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from environments import Bandit
from rows import ROWS

import sb3_rfm
from sb3_rfm import DPMD, DQS, QSM, QVPO, SDAC, RFMDiffusion, RFMFlow
from sb3_rfm.common.config import (
    GROUPS,
    ActorUpdateSettings,
    CandidateSettings,
    CriticUpdateSettings,
    EstimatorSettings,
    FlowSettings,
    Settings,
)
from sb3_rfm.common.flat_names import FLAT_NAMES
from sb3_rfm.common.policies import MlpPolicy
from sb3_rfm.common.selection import Best
from sb3_rfm.common.targets import Advantage
from sb3_rfm.sampling import Bounded
from sb3_rfm.sampling.solvers import Heun

CLASSES = [getattr(sb3_rfm, name) for name in ROWS]


def small(algorithm: Any = RFMFlow, **changes: Any) -> Any:
    kinds = {"policy_kwargs": {"net_arch": [4]}, "buffer_size": 10, "device": "cpu"}
    return algorithm("MlpPolicy", Bandit(), **kinds, **changes)


@pytest.mark.parametrize("algorithm", CLASSES)
def test_the_signature_has_the_groups_and_their_defaults(algorithm):
    parameters = inspect.signature(algorithm).parameters
    assert len(parameters) <= 32
    assert set(GROUPS) < set(parameters)
    for field in fields(Settings):
        assert parameters[field.name].default == getattr(algorithm.defaults, field.name)


@pytest.mark.parametrize("algorithm", CLASSES)
def test_none_is_the_classs_group(algorithm):
    assert small(algorithm, **dict.fromkeys(GROUPS)).settings == algorithm.defaults


def test_a_dict_changes_what_it_names():
    model = small(flow={"steps": 7}, candidates={"evaluate": 5})
    assert model.flow == replace(RFMFlow.defaults.flow, steps=7)
    assert model.candidates == replace(RFMFlow.defaults.candidates, evaluate=5)
    assert model.estimator == RFMFlow.defaults.estimator
    assert model.actor.flow.steps == 7


def test_a_groups_object_takes_its_place():
    own = FlowSettings(interpolant="vp_cosine", steps=3)
    assert small(RFMDiffusion, flow=own).flow == own
    with pytest.raises(
        TypeError, match="estimator must be a dict of its settings or of type Estimator"
    ):
        small(estimator=own)


def test_a_bare_value_stands_for_the_first_setting():
    assert small(candidates=5).candidates.n == 5
    assert small(candidates=np.int64(5)).candidates.n == 5
    assert small(estimator="bounded").estimator == replace(
        RFMFlow.defaults.estimator, name="bounded"
    )
    for group in ("flow", "actor_update", "critic_update"):
        with pytest.raises(TypeError, match=f"{group} must be a dict of its settings"):
            small(**{group: 3})


@pytest.mark.parametrize("group", GROUPS)
def test_a_name_that_there_is_not_is_named(group):
    name = fields(GROUPS[group])[0].name
    with pytest.raises(
        ValueError, match=rf"{group} has no setting '{name}x': did you mean .*{name}"
    ):
        small(**{group: {f"{name}x": 1}})


def test_numbers_of_an_object_are_not_overruled():
    model = small(estimator={"name": Bounded(n_particles=64), "n_times": 2})
    assert (model.method.estimator.n_particles, model.estimator.n_particles) == (64, None)
    with pytest.raises(ValueError, match=r"estimator.n_particles .*None beside Bounded.*got 8"):
        small(estimator={"name": Bounded(n_particles=64), "n_particles": 8})
    back = model.settings.changed({"estimator": "bounded"})
    assert back.estimator.n_particles == EstimatorSettings().n_particles


def test_none_can_be_given_for_a_setting():
    assert small(SDAC).actor.averaged_network is not None
    assert small(SDAC, actor_update={"average": None}).actor.averaged_network is None
    assert small(QVPO).method.n_training_candidates == 64
    assert small(QVPO, candidates={"train": None}).method.n_training_candidates == 4


@pytest.mark.parametrize(
    ("algorithm", "changes", "named"),
    [
        (QVPO, {"estimator": {"n_particles": 8}}, "estimator is not used where .*'advantage'"),
        (DPMD, {"estimator": "bounded"}, "estimator is not used where .*'exponential'"),
        (QVPO, {"temperature": 0.1}, "temperature is not used by these settings; got 0.1"),
        (QVPO, {"actor_update": {"x_t_from": "replay"}}, "x_t_from .*None with .*'advantage'"),
        (RFMFlow, {"temperature": 0.1, "target_entropy": -2.0}, "target_entropy is not used"),
    ],
)
def test_what_nothing_uses_is_refused(algorithm, changes, named):
    with pytest.raises(ValueError, match=named):
        small(algorithm, **changes)


def test_it_is_not_where_something_does():
    assert small(QVPO, temperature=0.1, candidates={"select": "softmax"}).temperature > 0
    assert small(QVPO, temperature=0.1, candidates={"noise": "temperature_1"}).temperature > 0
    assert small(DPMD, temperature=0.1).temperature == pytest.approx(0.1)


def test_an_objective_brings_what_goes_with_it():
    weighted = RFMFlow.defaults.changed({"actor_update": {"objective": "advantage"}})
    assert (weighted.estimator, weighted.actor_update.x_t_from) == (None, None)
    again = weighted.changed({"actor_update": {"objective": "posterior_mean"}})
    assert again == RFMFlow.defaults
    small(actor_update={"objective": Advantage(n_uniform=2)}).learn(105)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: FlowSettings(steps=0), "flow.steps"),
        (lambda: FlowSettings(time_shift=0.0), "time_shift"),
        (lambda: FlowSettings(t_range=(0.5, 0.1)), "flow.t_range"),
        (lambda: FlowSettings(t_range=(0.1,)), "flow.t_range"),
        (lambda: FlowSettings(one_step=1), "flow.one_step"),
        (lambda: FlowSettings(solver="rk45"), "solver"),
        (lambda: EstimatorSettings(n_particles=0), "estimator.n_particles"),
        (lambda: EstimatorSettings(n_times=0), "estimator.n_times"),
        (lambda: EstimatorSettings("diagonal_center"), "estimator"),
        (lambda: EstimatorSettings(q_aggregation="max"), "estimator.q_aggregation"),
        (lambda: EstimatorSettings(use_target_critic="yes"), "estimator.use_target_critic"),
        (lambda: CandidateSettings(n=0), "candidates.n"),
        (lambda: CandidateSettings(train=0), "candidates.train"),
        (lambda: CandidateSettings(evaluate=0), "candidates.evaluate"),
        (lambda: CandidateSettings(select="worst"), "candidates.select"),
        (lambda: CandidateSettings(noise=-0.1), "candidates.noise"),
        (lambda: CandidateSettings(noise_color="brown"), "candidates.noise_color"),
        (lambda: ActorUpdateSettings(x_t_from=None), "actor_update.x_t_from"),
        (lambda: ActorUpdateSettings(x_t_from="buffer"), "actor_update.x_t_from"),
        (lambda: ActorUpdateSettings(objective="mean"), "actor_update.objective"),
        (lambda: ActorUpdateSettings(every=0), "actor_update.every"),
        (lambda: ActorUpdateSettings(average=2.0), "actor_update.average"),
        (lambda: ActorUpdateSettings(max_grad_norm=0.0), "actor_update.max_grad_norm"),
        (lambda: CriticUpdateSettings(learning_rate=-1.0), "critic_update.learning_rate"),
        (lambda: CriticUpdateSettings(entropy="exactly"), "critic_update.entropy"),
        (lambda: CriticUpdateSettings(target_noise="noise_1"), "critic_update.target_noise"),
        (lambda: CriticUpdateSettings(reward_scale=math.nan), "critic_update.reward_scale"),
        (lambda: Settings(candidates=CandidateSettings(train=1)), "candidates.train"),
        (lambda: Settings(estimator=None), "estimator"),
        (lambda: Settings(estimator=EstimatorSettings("diagonal", n_times=1)), "estimator"),
        (
            lambda: Settings(
                flow=FlowSettings(one_step=True), critic_update=CriticUpdateSettings(entropy=True)
            ),
            "flow.one_step",
        ),
    ],
)
def test_each_setting_says_what_is_allowed(build, named):
    with pytest.raises((ValueError, TypeError), match=named.replace(".", r"\.")):
        build()


def test_groups_are_frozen_and_take_objects():
    settings = RFMFlow.defaults.changed(
        {"flow": {"solver": Heun()}, "candidates": {"select": Best()}}
    )
    assert settings.flow.build().solver == Heun()
    with pytest.raises(FrozenInstanceError):
        settings.flow.steps = 3


def test_a_policy_built_alone_is_the_classs():
    env = gym.make("Pendulum-v1")
    th.manual_seed(0)
    policy = MlpPolicy(env.observation_space, env.action_space, lambda _: 3e-4)
    model = RFMFlow("MlpPolicy", env, seed=0, buffer_size=10, device="cpu")
    assert policy.settings == model.settings == RFMFlow.defaults
    assert policy.actor.flow == model.actor.flow
    assert [p.shape for p in policy.parameters()] == [p.shape for p in model.policy.parameters()]


def test_flat_names_of_before_say_where_they_are():
    for name, place in FLAT_NAMES.items():
        for path in place.split(" and "):
            group, _, key = path.partition(".")
            assert key in {field.name for field in fields(GROUPS[group])}, name
        with pytest.raises(TypeError, match=f"{name} is {place} now: "):
            small(**{name: 1})


def test_the_settings_print_as_a_table():
    lines = str(RFMFlow.defaults).splitlines()
    assert "flow.steps                   4" in lines
    settings = [f for group in GROUPS.values() for f in fields(group)]
    assert len(lines) == len(settings) + 2  # and temperature, target_entropy


def test_defaults_are_hashable_and_of_the_other_classes_too():
    assert len({cls.defaults for cls in (RFMFlow, RFMDiffusion, DQS, QSM, SDAC, QVPO)}) == 6


@pytest.mark.parametrize(
    ("group", "setting"),
    [
        *[("flow", name) for name in ("interpolant", "parametrization", "solver", "support")],
        ("actor_update", "loss_weighting"),
        ("actor_update", "x_t_from"),
        ("actor_update", "objective"),
        ("candidates", "select"),
        ("critic_update", "entropy"),
    ],
)
@pytest.mark.parametrize("wrong", ["wrong", 0.5])
def test_a_wrong_piece_is_named_by_its_path(group: str, setting: str, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{group}\.{setting}\b.* must "):
        small(**{group: {setting: wrong}})


def test_a_wrong_time_shift_is_named_by_its_path() -> None:
    with pytest.raises(ValueError, match=r"^flow\.time_shift must "):
        small(flow={"time_shift": 0.0})
