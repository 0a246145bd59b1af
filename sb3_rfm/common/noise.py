"""Noise of exploring actions, added to them or what the flow draws them from; and fixed noise."""

from functools import lru_cache

import numpy as np
import torch as th
from stable_baselines3.common.noise import NormalActionNoise
from torch import Tensor

from sb3_rfm.sampling.numerics.sobol import sobol_points


class NormalNoise(NormalActionNoise):
    """
    Stable-Baselines3's ``NormalActionNoise``, which fails for actions without an axis: NumPy draws
    a plain number for them.

    :param mean: of the noise, of the action's shape
    :param sigma: its standard deviation, of the action's shape
    """

    def __call__(self) -> np.ndarray:
        return np.asarray(np.random.normal(self._mu, self._sigma), self._dtype)  # noqa: NPY002


TIME_SCALES = 4.0 ** np.arange(5)
"""Steps after which the parts of :class:`PinkNoise` have lost all but 1 / e of their value."""


class PinkNoise:
    """
    Standard normal noise whose successive draws are correlated over all time scales up to hundreds
    of steps, with a spectrum close to 1 / frequency: the mean, times the root of their number, of
    stationary first-order processes with :data:`TIME_SCALES`.

    Eberhard et al. (ICLR 2023, "Pink noise is all you need") add such noise to actions. Here a flow
    starts from it: each action by itself has the policy's law, and successive ones go together.
    """

    def __init__(self) -> None:
        self.parts = np.empty((len(TIME_SCALES), 0))

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """
        The next draw.

        :param shape: of the draw; another than the last one's starts anew
        :return: of that shape, float64
        """
        fresh = np.random.standard_normal((len(TIME_SCALES), *shape))  # noqa: NPY002
        if self.parts.shape == fresh.shape:
            kept = np.exp(-1 / TIME_SCALES).reshape(-1, *[1] * len(shape))
            fresh = kept * self.parts + np.sqrt(1 - kept**2) * fresh
        self.parts = fresh
        return fresh.sum(0) / np.sqrt(len(TIME_SCALES))


NOISE_COLORS: dict[str, type[PinkNoise] | None] = {"white": None, "pink": PinkNoise}
"""What a flow starts from while exploring: independent normal noise, or pink."""


@lru_cache(maxsize=16)
def fixed_noise(n_samples: int, dim: int, device: th.device) -> Tensor:
    """
    A fixed set of standard normal points that fills space evenly: the origin, then scrambled Sobol
    points.

    :param n_samples: number of points
    :param dim: dimension
    :param device: device of the result
    :return: (n_samples, 1, dim)
    """
    points = th.special.ndtri(sobol_points(n_samples, dim, device).clamp(1e-6, 1 - 1e-6))
    points[0] = 0.0
    return points.float().unsqueeze(1)
