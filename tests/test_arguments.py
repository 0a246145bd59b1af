"""Whatever is given to a constructor, it is built or says what is wrong with which argument."""

import inspect
import math
from typing import Any

import pytest
from environments import Bandit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_rfm import QVPO, RFMFlow

LEFT_OUT = {"self", "policy", "env", "_init_setup_model", "buffer_size"}  # a large buffer is slow
NAMES = sorted(set(inspect.signature(RFMFlow).parameters) - LEFT_OUT)
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
    return RFMFlow("MlpPolicy", Bandit(), **{"buffer_size": 10, "device": "cpu", **changes})


@pytest.mark.parametrize("name", NAMES)
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
        inner = {"policy_kwargs": "net_arch", "device": "device", "t_range": "t_range"}
        assert name in message or inner.get(name, name) in message, message


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("learning_rate", "3e-4"),
        ("learning_rate", -1e-3),
        ("critic_learning_rate", math.nan),
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
    with pytest.raises((ValueError, TypeError), match=name):
        build(**{name: wrong})
    with pytest.raises((ValueError, TypeError), match=name):
        QVPO("MlpPolicy", Bandit(), **{"buffer_size": 10, name: wrong})


def test_what_is_allowed_is_built() -> None:
    one = build(
        learning_rate=lambda progress: 1e-3 * progress,
        critic_learning_rate=0.0,
        train_freq=(2, "episode"),
        gradient_steps=-1,
        gamma=1.0,
        seed=0,
    )
    assert one.gamma == 1.0
