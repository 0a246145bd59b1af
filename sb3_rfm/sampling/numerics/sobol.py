"""Even uniform numbers: a scrambled Sobol set with a random shift for each state."""

from functools import lru_cache

import torch as th
from torch import Tensor


@lru_cache(maxsize=32)
def sobol_points(n_points: int, dim: int, device: th.device) -> Tensor:
    """
    A fixed scrambled Sobol set.

    :param n_points: K
    :param dim: D
    :param device: device of the result
    :return: uniform points in (0, 1), (K, D), float64
    """
    return (
        th.quasirandom.SobolEngine(dim, scramble=True, seed=0)
        .draw(n_points, dtype=th.float64)
        .to(device)
    )


def shifted_sobol(n_points: int, like: Tensor, generator: th.Generator | None = None) -> Tensor:
    """
    The Sobol set, moved modulo one by a random shift per column.

    Each point is uniform, the set is even.

    :param n_points: K
    :param like: (*S, D)
    :param generator: random generator
    :return: (K, *S, D), float64
    """
    shift = th.rand(like.shape, dtype=th.float64, device=like.device, generator=generator)
    points = sobol_points(n_points, like.shape[-1], like.device)
    return (points.view(n_points, *[1] * (like.dim() - 1), -1) + shift) % 1.0
