"""Two truncated normals in each coordinate: a law in the box with two hills."""

from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal


@dataclass(frozen=True)
class TruncatedMixture:
    """
    ``w TN(x; loc_1, scale_1²) + (1 - w) TN(x; loc_2, scale_2²)``, independent coordinates.

    With D coordinates it has up to ``2^D`` hills.

    :param parts: the two laws, (*S) each
    :param log_shares: log w and log (1 - w), (2, *S)
    """

    parts: tuple[TruncatedNormal, TruncatedNormal]
    log_shares: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """
        Normalised log-density of each coordinate, for points in the box.

        :param x: in [-1, 1], broadcastable with (*S)
        :return: the broadcast shape
        """
        first, second = (
            share + part.log_prob(x)
            for share, part in zip(self.log_shares, self.parts, strict=True)
        )
        return th.logaddexp(first, second)

    def icdf(self, u: Tensor) -> Tensor:
        """
        A draw from a uniform number: the first w of them make the first part, the rest the second.

        Even numbers stay even within each part.

        :param u: in [0, 1], broadcastable with (*S)
        :return: in [-1, 1]
        """
        u = u.double()
        first, second = self.log_shares.double().exp()
        tiny = th.finfo(u.dtype).tiny
        below = (u / first.clamp_min(tiny)).clamp(0, 1)
        above = ((u - first) / second.clamp_min(tiny)).clamp(0, 1)
        return th.where(u < first, self.parts[0].icdf(below), self.parts[1].icdf(above))
