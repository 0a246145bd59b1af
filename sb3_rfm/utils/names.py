"""Names that were meant."""

import difflib
from collections.abc import Iterable


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
