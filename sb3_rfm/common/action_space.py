"""The spaces of actions that a policy can draw in."""

import numpy as np
from gymnasium import spaces

FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


def check_action_space(space: spaces.Box) -> None:
    """
    Refuse a Box in which Stable-Baselines3's scaling of actions to [-1, 1] and back does not work:
    it computes the width in the Box's own type, and stores scaled actions in it.

    :param space: a Box with finite bounds (SB3 has checked that)
    :raises ValueError: the Box is of integers, is empty, or has a width that is not positive, or
        not finite in its type
    """
    if space.dtype not in FLOATS:
        raise ValueError(
            "action_space must be a Box of float32, float64 or float16, as actions are stored "
            f"scaled to [-1, 1]; got {space.dtype}. A wrapper can take floats and round them"
        )
    if not space.low.size:
        raise ValueError(f"action_space must have a coordinate; got shape {space.shape}")
    flat = np.flatnonzero(~(space.low < space.high).reshape(-1))
    if len(flat):
        low, high = space.low.reshape(-1)[flat[0]], space.high.reshape(-1)[flat[0]]
        raise ValueError(
            "action_space must have low < high in every coordinate; "
            f"got low {low}, high {high} at index {flat[0]}"
        )
    with np.errstate(over="ignore"):
        wide = np.flatnonzero(~np.isfinite(space.high - space.low).reshape(-1))
    if len(wide):
        low, high = space.low.reshape(-1)[wide[0]], space.high.reshape(-1)[wide[0]]
        raise ValueError(
            f"action_space must have a width high - low that is finite in {space.dtype}; "
            f"got low {low}, high {high} at index {wide[0]}"
        )
