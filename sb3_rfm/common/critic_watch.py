"""Critics that diverge, told from critics that have learnt nothing yet."""

import math
from dataclasses import dataclass

import numpy as np

IMPOSSIBLE = 2.0
"""Times the largest value that anything explains: no longer an error of a young critic."""
UNTRAINED = 5.0
"""Times the size of the first values (or 1 in all): what critics say before they know rewards."""

SMOOTHING = 0.01
"""Share of one update's entropy: a density that is off the scale once explains nothing."""


@dataclass
class CriticWatch:
    """
    Compares the critics' mean target, and half their errors (both values of an error are possible
    ones), with the largest value that anything explains: the return that the sampled rewards allow,
    the bonus of entropy, and what critics say that are untrained.

    Critics that diverge grow past any of these. Rewards that are tiny, rare or zero at first, or
    scaled, change when that is noticed and not whether.

    :param going_on: the largest return of rewards after which an episode goes on
    :param last: the largest reward that ended an episode, in size
    :param bonus: the largest return of entropy, smoothed over updates
    :param smoothed: the entropy's bonus a step, smoothed; None before the first
    :param untrained: size of the first values; None before them
    :param diverged: whether the critics are beyond what is possible
    """

    going_on: float = 0.0
    last: float = 0.0
    bonus: float = 0.0
    smoothed: float | None = None
    untrained: float | None = None
    diverged: bool = False

    def see_rewards(
        self, rewards: np.ndarray, ends: np.ndarray, discounts: float | np.ndarray, horizon: int
    ) -> None:
        """
        Take note of some transitions' rewards.

        :param rewards: (...)
        :param ends: whether an episode ended with them, (...)
        :param discounts: discount factor; of each where rewards are returns of several steps, (...)
        :param horizon: steps that an episode may have had so far: the discount of 1 has no other
        """
        sizes = np.abs(rewards)
        returns = sizes * horizon_of(discounts, horizon)
        self.going_on = max(self.going_on, float(returns.max(where=~ends, initial=0.0)))
        self.last = max(self.last, float(sizes.max(where=ends, initial=0.0)))

    def see_entropy(self, bonus: float, gamma: float, horizon: int) -> None:
        """
        Take note of the entropy in the critics' target.

        :param bonus: temperature times entropy, a step
        :param gamma: discount factor
        :param horizon: see :meth:`see_rewards`
        """
        before = abs(bonus) if self.smoothed is None else self.smoothed
        self.smoothed = before + SMOOTHING * (abs(bonus) - before)
        self.bonus = max(self.bonus, self.smoothed * float(horizon_of(gamma, horizon)))

    def see_first(self, q_target: float, error: float) -> None:
        """
        Take note of the first update, from untrained critics; later ones change nothing.

        :param q_target: mean target
        :param error: root mean square of the critics' errors
        """
        if self.untrained is None:
            self.untrained = max(abs(q_target), error)

    def ratio(
        self, q_target: float, error: float, reward_scale: float, bonus: float | None = None
    ) -> float:
        """
        The size of an update's values over the largest that anything explains.

        :param q_target: mean target
        :param error: root mean square of the critics' errors; not looked at with entropy, single
            densities of which are off the scale
        :param reward_scale: what rewards are multiplied by
        :param bonus: temperature times entropy in this very target; None for a target without
        :return: about 1 at most, unless critics diverge
        """
        rewards = abs(reward_scale) * (self.going_on + self.last)
        untrained = max(1.0, UNTRAINED * (self.untrained or 0.0))
        if bonus is not None:
            return abs(q_target) / (rewards + self.bonus + abs(bonus) + untrained)
        return max(abs(q_target), error / 2) / (rewards + untrained)

    def diverges_anew(self, ratio: float) -> bool:
        """
        Whether critics have begun to diverge, for the first time or after they had recovered.

        :param ratio: see :meth:`ratio`
        :return: True once each time
        """
        before = self.diverged
        if not math.isnan(ratio):
            self.diverged = ratio > (1.0 if before else IMPOSSIBLE)
        return self.diverged and not before


def horizon_of(discounts: float | np.ndarray, horizon: int) -> np.ndarray:
    """
    The number of equal rewards that a discounted return is worth, ``1 / (1 - gamma)``.

    :param discounts: gamma, any shape
    :param horizon: in the place of infinity
    :return: of that shape
    """
    left = 1.0 - np.asarray(discounts, np.float64)
    return np.where(left > 0, 1.0 / np.where(left > 0, left, 1.0), horizon)
