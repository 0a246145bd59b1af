"""Whatever is given to a constructor, it is built or says what is wrong with which argument."""

import inspect
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.logger import Logger

from sb3_rfm import QVPO, SAC, RFMFlow
from sb3_rfm.common.config import GROUPS
from sb3_rfm.common.flat_names import FLAT_NAMES
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.sampling import Bounded, posterior_mean

LEFT_OUT = {"self", "policy", "env", "_init_setup_model", "buffer_size"}  # a large buffer is slow
NAMES = sorted(set(inspect.signature(RFMFlow).parameters) - LEFT_OUT)
SETTINGS = [f"{group}.{field.name}" for group, kind in GROUPS.items() for field in fields(kind)]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, -1.0, 0.5, 1e-12, 1e12, math.nan, math.inf, -math.inf]),
    st.sampled_from(["", "auto", "auto_", "lin_x", "3e-4", "box", "cpu:7", "bounded", "ß"]),
    st.sampled_from([(), (1,), (0.5, 0.1), (1, "step"), ("step", 1), [], {}, {"net_arch": 3}]),
    st.sampled_from([object(), object, print, b"bytes", 1j]),
)


def build(**changes: Any) -> Any:
    """:param changes: arguments; ``flow.steps`` is one setting of a group"""
    return RFMFlow("MlpPolicy", Bandit(), **merged({"buffer_size": 10, "device": "cpu"}, changes))


def read(holder: Any, name: str) -> Any:
    """What an attribute's name, or ``flow.steps``, means."""
    group, _, key = name.partition(".")
    return getattr(vars(holder)[group], key) if key else vars(holder).get(name)


@pytest.mark.parametrize("name", [*NAMES, *SETTINGS])
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(value=ODD)
def test_odd_values_build_or_raise_a_clear_error(name: str, value: Any) -> None:
    try:
        build(**{name: value})
    except (ValueError, TypeError, AssertionError) as error:
        message = str(error)
        inner = {
            "policy_kwargs": "net_arch",
            "replay_buffer_kwargs": "ReplayBuffer.__init__() got an unexpected keyword argument",
            "estimator.name": "estimator",
        }
        key = name.rpartition(".")[2]
        assert key in message or inner.get(name, name) in message, message


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("learning_rate", "3e-4"),
        ("learning_rate", -1e-3),
        ("critic_update.learning_rate", math.nan),
        ("buffer_size", 0),
        ("buffer_size", 1e6),
        ("learning_starts", -1),
        ("batch_size", 0),
        ("batch_size", 64.0),
        ("tau", 1.5),
        ("gamma", -0.1),
        ("gamma", "0.9"),
        ("train_freq", 0),
        ("train_freq", (1, "minute")),
        ("train_freq", (1, 2, 3)),
        ("gradient_steps", -2),
        ("n_steps", 0),
        ("seed", -1),
        ("seed", 0.5),
        ("verbose", True),
        ("action_noise", 0.1),
        ("replay_buffer_class", list),
        ("policy_kwargs", [64, 64]),
        ("device", 0),
    ],
)
def test_wrong_arguments_are_named(name: str, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(name)):
        build(**{name: wrong})
    with pytest.raises((ValueError, TypeError), match=re.escape(name)):
        QVPO("MlpPolicy", Bandit(), **merged({"buffer_size": 10}, {name: wrong}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    build(policy_kwargs={"net_arch": [4]}).save(path)
    return path


@pytest.mark.parametrize("name", FLAT_NAMES)
def test_each_flat_name_says_where_it_is_now(name: str, saved: Path) -> None:
    """In the constructor, whatever the class, and in ``load``: no value of it is taken."""
    place = FLAT_NAMES[name]
    group, key = re.match(r"(\w+)\.(\w+)", place).groups()
    assert f"{group}.{key}" in SETTINGS
    said = re.escape(f"{name} is {place} now: {group}=dict({key}=...)")
    for value in (1, None):
        for take in (build, lambda **given: QVPO("MlpPolicy", Bandit(), buffer_size=10, **given)):
            with pytest.raises(TypeError, match=said):
                take(**{name: value})
        with pytest.raises(TypeError, match=said):
            RFMFlow.load(saved, **{name: value})
        with pytest.raises(TypeError, match=said):
            RFMFlow.load(saved, env=Bandit(), temperature=0.1, **{name: value})


def test_what_is_allowed_is_built() -> None:
    one = build(
        learning_rate=lambda progress: 1e-3 * progress,
        critic_update={"learning_rate": 0.0},
        train_freq=(2, "episode"),
        gradient_steps=-1,
        gamma=1.0,
        seed=0,
    )
    assert one.gamma == 1.0
    assert one.critic_update.learning_rate == 0.0


@pytest.mark.parametrize(
    ("name", "number", "kinds"),
    [
        ("buffer_size", 11, (np.int64, np.int32, np.uint8, np.array, th.tensor)),
        ("batch_size", 16, (np.int64, np.array)),
        ("learning_starts", 3, (np.int64, np.array)),
        ("gradient_steps", -1, (np.int64, np.array)),
        ("n_steps", 3, (np.int64, np.array)),
        ("seed", 1, (np.int64, np.array)),
        ("train_freq", 2, (np.int64, np.array)),
        ("stats_window_size", 5, (np.int64, np.array)),
        ("gamma", 0.5, (np.float64, np.float32, np.float16, np.array, th.tensor)),
        ("tau", 0.25, (np.float32, np.array)),
        ("learning_rate", 0.5, (np.float32, np.array)),
        ("critic_update.learning_rate", 0.5, (np.float32, np.array)),
        ("temperature", 0.5, (np.float32, np.array)),
        ("target_entropy", -2.0, (np.float32, np.array)),
        ("candidates.noise", 0.5, (np.float32, np.array)),
        ("estimator", 0.5, (np.float32, np.array)),
        ("estimator.name", 0.5, (np.float32, np.array)),
        ("candidates", 3, (np.int64, np.array)),
        ("critic_update.entropy", True, (np.bool_,)),
        ("critic_update.reward_scale", 2.0, (np.float32, np.array)),
        ("estimator.n_particles", 6, (np.int64, np.array)),
        ("candidates.n", 3, (np.int64, np.array)),
        ("candidates.train", 3, (np.int64, np.array)),
        ("flow.steps", 3, (np.int64, np.array)),
        ("flow.time_shift", 2.0, (np.float32, np.array)),
        ("actor_update.every", 2, (np.int64, np.array)),
        ("actor_update.max_grad_norm", 2.0, (np.float32, np.array)),
    ],
)
def test_numbers_of_numpy_and_torch_are_numbers(name: str, number: Any, kinds: Any) -> None:
    support = {"flow.support": "tanh"} if name in ("estimator", "estimator.name") else {}
    expected = build(**{name: number}, **support)
    for kind in kinds:
        one = build(**{name: kind(number)}, **support)
        assert one.settings == expected.settings
        got, wanted = read(one, name), read(expected, name)
        assert got == wanted
        assert type(got) is type(wanted)


def test_pairs_and_lists_of_numpys_numbers() -> None:
    for pair in ((np.float32(0.25), np.float64(0.5)), [np.float32(0.25), np.float64(0.5)]):
        one = build(train_freq=[np.int64(2), "episode"], flow={"t_range": pair})
        assert (one.train_freq.frequency, one.train_freq.unit.value) == (2, "episode")
        assert one.flow.t_range == (0.25, 0.5)
        assert [type(number) for number in one.flow.t_range] == [float, float]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, th.tensor])
@pytest.mark.parametrize("name", ["learning_rate", "critic_update.learning_rate", "temperature"])
def test_schedules_may_return_numpys_numbers(name: str, kind: Any) -> None:
    one = build(**{name: lambda progress: kind(0.25 + progress)})
    one._logger, one._current_progress_remaining = Logger(None, []), 0.5
    one._update_rates()
    critic, actor = (part.optimizer.param_groups[0]["lr"] for part in (one.critic, one.actor))
    found = {
        "learning_rate": actor,
        "critic_update.learning_rate": critic,
        "temperature": one.temperature,
    }
    assert found[name] == pytest.approx(0.75)
    assert isinstance(found[name], float)


@pytest.mark.parametrize("wrong", [np.float32(1.5), np.array([0.5, 0.5]), np.array(np.nan)])
def test_numpys_numbers_are_checked_like_any(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="gamma"):
        build(gamma=wrong)
    with pytest.raises((ValueError, TypeError), match="batch_size"):
        build(batch_size=wrong)


def test_pieces_and_sac_take_numpys_numbers() -> None:
    assert Bounded(n_particles=np.int64(4)) == Bounded(n_particles=4)
    x_t = th.zeros(2, 1)
    posterior_mean(
        lambda x: -x.square().sum(-1), x_t, t=np.float32(0.5), estimator=np.float32(0.5),
        n_particles=np.int64(4),
    )  # fmt: skip
    one = SAC("MlpPolicy", Bandit(), n_candidates=np.int64(2), gamma=np.array(0.5), buffer_size=10)
    assert (one.n_candidates, one.gamma) == (2, 0.5)
