"""Names that were meant, and what they mean."""

import difflib
from collections.abc import Iterable
from importlib import import_module
from typing import Any


def near(name: str, allowed: Iterable[str]) -> str:
    """
    What to say of a name that there is not.

    :param name: as it was given
    :param allowed: the names that there are
    :return: the nearest ones, or all of them
    """
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=3)
    return f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(allowed)}."


def import_name(name: str) -> Any:
    """
    What a dotted or coloned name means.

    :param name: ``sb3_rfm.envs.FlatFloat32`` or ``sb3_rfm:RFMFlow``
    :return: the object
    """
    module, _, attribute = name.replace(":", ".").rpartition(".")
    return getattr(import_module(module), attribute)
