"""Action noise of any shape."""

import numpy as np
from stable_baselines3.common.noise import NormalActionNoise


class NormalNoise(NormalActionNoise):
    """
    Stable-Baselines3's ``NormalActionNoise``, which fails for actions without an axis: NumPy draws
    a plain number for them.

    :param mean: of the noise, of the action's shape
    :param sigma: its standard deviation, of the action's shape
    """

    def __call__(self) -> np.ndarray:
        return np.asarray(np.random.normal(self._mu, self._sigma), self._dtype)  # noqa: NPY002
