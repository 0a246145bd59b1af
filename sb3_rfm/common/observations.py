"""Observations, normalised by the running mean and variance of what a policy saw in training."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_rfm.sampling.registry import require

NORMALIZE_OBSERVATIONS = True
"""Whether policies normalise observations unless they are told; SAC's do not."""
PRIOR_STEPS = 1000.0
"""Weight of the mean of 0 and the variance of 1 that statistics start from, in observations."""
CLIP = 10.0
EPSILON = 1e-8

ONLY = ""
"""Name of the only part of an observation that is no dictionary."""


def is_normalized(space: spaces.Space, normalize_images: bool = True) -> bool:
    """
    Whether an observation, or a part of one, is normalised: a Box that is no image.

    :param space: its space
    :param normalize_images: whether images are bytes; else any Box of three axes is an image
    :return: whether it is
    """
    image = is_image_space(space, normalized_image=not normalize_images)
    return isinstance(space, spaces.Box) and not image


class ObservationNormalizer(nn.Module):
    """
    Normalises each number of an observation, ``clip((x - mean) / sqrt(variance + 1e-8), ±10)``.

    Images and parts that are not Boxes stay as they are. Networks read ``mean`` and ``scale``, in
    float32 on their device. The statistics of which these are made, in float64, stay in the host's
    memory, where observations come from: a step's update reads nothing back from a device.

    :param observation_space: observation space, of which some part :func:`is_normalized`
    :param normalize_images: see :func:`is_normalized`
    """

    mean: Tensor
    scale: Tensor
    statistics: Tensor

    def __init__(self, observation_space: spaces.Space, normalize_images: bool = True) -> None:
        super().__init__()
        self.sizes = {
            name: math.prod(space.shape or ())
            for name, space in _parts(observation_space).items()
            if is_normalized(space, normalize_images)
        }
        size = sum(self.sizes.values())
        count, mean, variance = th.full((size,), PRIOR_STEPS), th.zeros(size), th.ones(size)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", th.ones(size))
        self.register_buffer("statistics", th.stack([count, mean, variance]).double())

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> "ObservationNormalizer":
        """Move or cast what the networks read, and leave the statistics where they are."""
        statistics = self._buffers.pop("statistics")
        super()._apply(fn, recurse)
        self._buffers["statistics"] = statistics
        return self

    def update(
        self, obs: np.ndarray | Mapping[str, np.ndarray], seen: np.ndarray | bool = True
    ) -> None:
        """
        Take observations into the statistics by pairwise moments (Chan, Golub and LeVeque, 1979),
        without those that are not finite.

        :param obs: n observations as the environments gave them, (n, ...) each part
        :param seen: which of them count, (n)
        """
        parts = obs if isinstance(obs, Mapping) else {ONLY: obs}
        sizes = self.sizes.items()
        rows = [parts[name].reshape(len(parts[name]), size) for name, size in sizes]
        batch = (rows[0] if len(rows) == 1 else np.concatenate(rows, 1)).astype(np.float64)
        batch = batch[np.isfinite(batch).all(1) & seen]
        count, mean, variance = self.statistics.numpy()
        count += len(batch)
        deviation = batch - mean
        mean += deviation.sum(0) / count
        variance += ((deviation * (batch - mean)).sum(0) - len(batch) * variance) / count
        self.mean.copy_(th.from_numpy(mean), non_blocking=True)
        self.scale.copy_(th.from_numpy(1 / np.sqrt(variance + EPSILON)), non_blocking=True)

    def forward(self, obs: PyTorchObs) -> PyTorchObs:
        """
        The observations, normalised by the present statistics.

        :param obs: B observations, (B, ...) each part
        :return: of the same shapes; what is normalised is of a floating type
        """
        if not isinstance(obs, dict):
            return _normalized(obs, self.mean, self.scale)
        sizes = list(self.sizes.values())
        pieces = zip(self.sizes, self.mean.split(sizes), self.scale.split(sizes), strict=True)
        return {**obs, **{name: _normalized(obs[name], *piece) for name, *piece in pieces}}


def make_normalizer(
    observation_space: spaces.Space, normalize_observations: bool, normalize_images: bool
) -> ObservationNormalizer | None:
    """
    The normaliser of a policy, where it is asked for and there is anything to normalise.

    :param observation_space: observation space
    :param normalize_observations: whether one is asked for
    :param normalize_images: see :func:`is_normalized`
    :return: the normaliser, or None
    :raises ValueError: ``normalize_observations`` is no bool
    """
    asked = normalize_observations
    require(isinstance(asked, bool), "normalize_observations", asked, "True or False")
    parts = _parts(observation_space).values()
    if not asked or not any(is_normalized(space, normalize_images) for space in parts):
        return None
    return ObservationNormalizer(observation_space, normalize_images)


def _parts(space: spaces.Space) -> Mapping[str, spaces.Space]:
    """The spaces of a dictionary by name, or the one that there is."""
    return space.spaces if isinstance(space, spaces.Dict) else {ONLY: space}


def _normalized(obs: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """One part, (B, ...), by its mean and scale, (N) each."""
    flat = obs.flatten(1) if obs.dim() > 2 else obs
    return (flat - mean).mul_(scale).clamp(-CLIP, CLIP).view(obs.shape)


class NormalizedInputs(BaseModel):
    """A network that extracts features from observations normalised by its policy."""

    normalizer: ObservationNormalizer | None = None
    features_extractor: BaseFeaturesExtractor

    def _borrow(self, normalizer: ObservationNormalizer | None) -> None:
        """Use the policy's normaliser, which is in the policy's state dictionary alone."""
        self.__dict__["normalizer"] = normalizer

    def features(self, obs: PyTorchObs) -> Tensor:
        """
        The features of observations.

        :param obs: B observations
        :return: (B, F)
        """
        return self.extract_features(obs, self.features_extractor)

    def extract_features(
        self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor
    ) -> Tensor:
        """
        Normalise observations where the policy does, preprocess them and extract features.

        :param obs: B observations as the environment gave them
        :param features_extractor: the features extractor
        :return: features, (B, F)
        """
        if self.normalizer is not None:
            obs = self.normalizer(obs)
        return super().extract_features(obs, features_extractor)
