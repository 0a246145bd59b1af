"""Boxes of actions of any shape and size: trained in, saved and exported, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch as th
from environments import Bandit, observations
from gymnasium import spaces
from small_models import BOXES, AnyBox, actions, small


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_every_box_of_floats_is_trained_in_saved_and_exported(
    box: spaces.Box, tmp_path: Path
) -> None:
    from sb3_rfm.export.onnx import DeterministicPolicy

    model = small(env=AnyBox(box), learning_starts=5, batch_size=4).learn(12)
    expected = actions(model)
    assert expected.dtype == np.result_type(np.float32, box.dtype)
    assert expected.shape == (32, *box.shape)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(actions(type(model).load(tmp_path / "model")), expected)
    model.save_weights(tmp_path / "weights")
    other = small(env=AnyBox(box), seed=3)
    other.load_weights(tmp_path / "weights")
    np.testing.assert_array_equal(actions(other), expected)
    with th.no_grad():
        got = DeterministicPolicy(model.policy)(th.as_tensor(observations(model))).numpy()
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    width = box.high.astype(float) - box.low.astype(float)
    assert (np.abs(got.astype(float) - expected) <= 1e-6 * width).all()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (spaces.Box(-3, 3, (2,), np.int8), "a Box of float32, float64 or float16, .* got int8"),
        (spaces.Box(0, 255, (), np.uint8), "got uint8"),
        (spaces.Box(-1, 1, (2,), np.longdouble), f"got {np.dtype(np.longdouble)}"),
        (spaces.Box(-1, 1, (0,), np.float32), r"have a coordinate; got shape \(0,\)"),
        (spaces.Box(-6e4, 6e4, (2,), np.float16), "finite in float16; got low -60000.0"),
        (spaces.Box(-3e38, 3e38, (2,), np.float32), "finite in float32; .* at index 0"),
    ],
    ids=str,
)
def test_a_box_that_cannot_be_scaled_is_named(box: spaces.Box, message: str) -> None:
    with pytest.raises(ValueError, match=f"action_space must .*{message}"):
        small(env=Bandit(box))


def test_noise_that_fails_without_an_axis_is_named() -> None:
    from stable_baselines3.common.noise import NormalActionNoise

    from sb3_rfm.common.noise import NormalNoise

    box, scale = BOXES["no axis"], np.ones(())
    with pytest.raises(ValueError, match=r"action_noise must be sb3_rfm.common.noise.NormalNoise"):
        small(env=AnyBox(box), action_noise=NormalActionNoise(0 * scale, scale))
    small(env=AnyBox(box), action_noise=NormalNoise(0 * scale, scale), learning_starts=0).learn(3)
