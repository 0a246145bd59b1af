"""Aggregates over runs and environments, after "Deep reinforcement learning at the edge of the
statistical precipice" (arXiv 2108.13264), with rliable's stratified bootstrap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_rfm.results.curves import CONFIDENCE

RESAMPLES = 5000  # of the bootstrap
FEW = 5  # runs; the paper's own advice is more than that


@dataclass(frozen=True)
class Estimate:
    """
    A number with its confidence interval.

    :param value: of the sample
    :param low: lower end; None when there is one run only, which says nothing of its spread
    :param high: upper end, likewise
    """

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 3) -> str:
        """
        In words.

        :param digits: after the point
        :return: ``0.512 [0.430, 0.601]``
        """
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f} (no interval)"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interquartile_mean(scores: np.ndarray) -> Estimate:
    """
    The mean of the middle half of all runs: the lowest and the highest quarter (rounded down to
    whole runs) are left out.

    :param scores: of shape (N, M): N runs on each of M environments
    :return: the mean and its interval, resampling the runs of each environment
    """
    from rliable.metrics import aggregate_iqm

    return _interval(aggregate_iqm, scores)


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """
    The probability that a run of X scores higher than one of Y on the same environment, averaged
    over the environments; equal scores count half (Mann and Whitney's U / (N K)).

    :param x: scores of shape (N, M)
    :param y: scores of shape (K, M)
    :return: a number in [0, 1]
    """
    # rliable's own takes a thousand times as long for each resample
    difference = x[:, None] - y[None]
    return np.mean((difference > 0) + 0.5 * (difference == 0))


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> Estimate:
    """
    ``improvement`` with its interval.

    :param x: scores of shape (N, M): N runs on each of M environments
    :param y: scores of shape (K, M) of the reference
    :return: the probability, resampling the runs of both
    :raises ValueError: when the numbers of environments differ
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"scores must be of the same environments, got {x.shape} and {y.shape}.")
    return _interval(improvement, x, y)


def _interval(function: Callable[..., Any], *scores: np.ndarray) -> Estimate:
    """
    A statistic with its percentile-bootstrap interval, stratified by environment.

    :param function: of the scores
    :param scores: of shape (N, M) each
    :return: its value, and an interval when every array has two runs at least
    """
    from rliable.library import get_interval_estimates

    value = float(function(*scores))
    if min(len(array) for array in scores) < 2:
        return Estimate(value)
    # rliable draws from NumPy's global generator, whatever random_state it is given
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        _, interval = get_interval_estimates(
            {"": scores[0] if len(scores) == 1 else scores},
            lambda *arrays: np.atleast_1d(function(*arrays)),
            reps=RESAMPLES,
            confidence_interval_size=CONFIDENCE,
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002
    low, high = (float(end) for end in np.ravel(interval[""]))
    return Estimate(value, low, high)
