"""The statistics of observations, and what is normalised by them."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from normalised_models import statistics

from sb3_rfm.common.observations import CLIP, EPSILON, ObservationNormalizer, make_normalizer


def box(*shape: int, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(-100, 100, shape, dtype)


def fed(normalizer: ObservationNormalizer, obs: np.ndarray, size: int) -> ObservationNormalizer:
    for start in range(0, len(obs), size):
        normalizer.update(obs[start : start + size])
    return normalizer


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_statistics_are_those_of_all_that_was_seen(size: int) -> None:
    seen = np.random.default_rng(0).normal([-1, 0, 5], [0.01, 1, 30], (5000, 3)).astype(np.float32)
    normalizer = fed(ObservationNormalizer(box(3)), seen, size)
    count, mean, variance = normalizer.statistics.numpy()
    expected = statistics(seen.astype(np.float64))
    assert count == pytest.approx(6000)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(variance, expected[1], rtol=1e-10)
    np.testing.assert_allclose(normalizer.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(normalizer.scale, 1 / np.sqrt(variance + EPSILON), rtol=1e-6)


def test_small_changes_about_a_large_value_are_not_lost() -> None:
    """After a million steps a mean of 1e4 in float32 would stay where it is."""
    normalizer = ObservationNormalizer(box(1))
    normalizer.statistics.copy_(th.tensor([[1e6], [1e4], [1.0]], dtype=th.float64))
    for _ in range(100):
        normalizer.update(np.full((1, 1), 10_001.0, np.float32))
    assert normalizer.statistics[1].item() == pytest.approx(1e4 + 1e-4, abs=1e-8)


def test_observations_that_are_not_finite_are_left_out() -> None:
    normalizer, other = ObservationNormalizer(box(2)), ObservationNormalizer(box(2))
    normalizer.update(np.array([[1.0, 2.0], [np.nan, 0.0], [0.0, np.inf], [3.0, -1.0]]))
    normalizer.update(np.full((2, 2), -np.inf))
    other.update(np.array([[1.0, 2.0], [3.0, -1.0]]))
    assert th.equal(normalizer.statistics, other.statistics)
    assert th.equal(normalizer.mean, other.mean)


@pytest.mark.parametrize(
    "space",
    [
        box(3),
        box(2, 2),
        box(2, 3, 2),
        box(3, dtype=np.float64),
        box(3, dtype=np.int32),
        spaces.Box(0, 255, (4,), np.uint8),
    ],
    ids=str,
)
def test_each_number_is_normalised_and_clipped(space: spaces.Box) -> None:
    space.seed(0)
    obs = np.stack([space.sample() for _ in range(50)])
    normalizer = ObservationNormalizer(space)
    for _ in range(100):
        normalizer.update(obs)
    got = normalizer(th.as_tensor(obs))
    assert got.shape == obs.shape
    mean, variance = (row.reshape(space.shape) for row in normalizer.statistics[1:].numpy())
    assert np.allclose(got, (obs - mean) / np.sqrt(variance), atol=1e-4)
    far = np.full((1, *space.shape), np.iinfo(space.dtype).max if space.dtype.kind == "i" else 1e6)
    if space.dtype != np.uint8:
        assert bool((normalizer(th.as_tensor(far.astype(space.dtype))) == CLIP).all())


MIXED = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
        "vector.with.dots": box(2),
        "matrix": box(2, 2),
        "choice": spaces.Discrete(3),
        "choices": spaces.MultiDiscrete([2, 3]),
        "bits": spaces.MultiBinary(4),
    }
)


def test_images_and_choices_stay_as_they_are() -> None:
    MIXED.seed(0)
    draws = [MIXED.sample() for _ in range(20)]
    obs = {key: np.stack([draw[key] for draw in draws]) for key in MIXED.spaces}
    normalizer = make_normalizer(MIXED, True, True)
    assert normalizer is not None
    normalizer.update(obs)
    tensors = {key: th.as_tensor(part) for key, part in obs.items()}
    got = normalizer(tensors)
    assert list(got) == list(tensors)
    for key in MIXED.spaces:
        changes = key in ("vector.with.dots", "matrix")
        assert changes != th.equal(got[key], tensors[key])
    seen = np.concatenate([obs["matrix"].reshape(20, 4), obs["vector.with.dots"]], 1)
    mean = statistics(seen.astype(np.float64))[0]
    np.testing.assert_allclose(normalizer.statistics[1], mean)  # in the order of the names


@pytest.mark.parametrize(
    "space", [MIXED["image"], spaces.Discrete(3), spaces.Dict({"bits": spaces.MultiBinary(2)})]
)
def test_where_there_is_nothing_to_normalise(space: spaces.Space) -> None:
    assert make_normalizer(space, True, True) is None


def test_images_that_are_not_bytes() -> None:
    image = spaces.Box(0, 1, (3, 36, 36), np.float32)
    assert make_normalizer(image, True, normalize_images=False) is None
    assert make_normalizer(image, True, normalize_images=True) is not None


def test_statistics_stay_with_the_environment() -> None:
    """On the host and in float64, wherever the networks are and in whatever precision."""
    normalizer = ObservationNormalizer(box(3)).to("meta").half()
    assert normalizer.mean.device.type == normalizer.scale.device.type == "meta"
    assert normalizer.mean.dtype == normalizer.scale.dtype == th.float16
    assert normalizer.statistics.device.type == "cpu"
    assert normalizer.statistics.dtype == th.float64
    assert [*normalizer.state_dict()] == ["mean", "scale", "statistics"]
