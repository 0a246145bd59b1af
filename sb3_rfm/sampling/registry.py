"""Names for pieces: an argument takes a name or an object; what is allowed stands in the error."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def require(condition: bool, argument: str, got: object, allowed: str) -> None:
    """
    Raise a ValueError that names the argument, what was got and what is allowed.

    :param condition: what must hold
    :param argument: name of the argument
    :param got: its value
    :param allowed: a phrase: what would have been right
    """
    if not condition:
        raise ValueError(f"{argument} must satisfy: {allowed}; got {got!r}")


def require_int(argument: str, got: Any, minimum: int = 1) -> None:
    """
    Raise unless the argument is a whole number of at least ``minimum``, Python's or NumPy's
    (``True`` is not one).

    :param argument: name of the argument
    :param got: its value
    :param minimum: the smallest value allowed
    """
    if isinstance(got, bool) or not isinstance(got, Integral):
        raise TypeError(
            f"{argument} must be an int of at least {minimum}; got {got!r} ({type(got).__name__})"
        )
    require(int(got) >= minimum, argument, got, f"an int of at least {minimum}")


def require_float(argument: str, got: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """
    Raise unless the argument is a finite number in [low, high], Python's or NumPy's.

    :param argument: name of the argument
    :param got: its value
    :param low: smallest value allowed
    :param high: largest value allowed
    """
    if isinstance(got, bool) or not isinstance(got, Real):
        raise TypeError(
            f"{argument} must be a number in [{low}, {high}]; got {got!r} ({type(got).__name__})"
        )
    require(
        math.isfinite(got) and low <= float(got) <= high,
        argument,
        got,
        f"a finite number in [{low}, {high}]",
    )


class Registry(Generic[T]):
    """
    The pieces of one kind by name.

    :param kind: the argument's name, for error messages
    :param factories: name -> something that builds the piece from no arguments
    """

    def __init__(self, kind: str, factories: Mapping[str, Callable[[], T]]) -> None:
        self.kind = kind
        self.factories = dict(factories)

    def resolve(self, piece: str | T, base: type, group: str | None = None) -> T:
        """
        Turn a name or an object into the object.

        :param piece: a registered name, or an instance of ``base``
        :param base: the class that an object must have
        :param group: what the argument is a setting of, for error messages
        :return: the piece
        """
        names = ", ".join(sorted(self.factories))
        argument = self.kind if group is None else f"{group}.{self.kind}"
        if isinstance(piece, str):
            require(piece in self.factories, argument, piece, f"one of {names}, or an object")
            return self.factories[piece]()
        if not isinstance(piece, base):
            raise TypeError(
                f"{argument} must be a name ({names}) or an instance of {base.__name__}; "
                f"got {piece!r} ({type(piece).__name__})"
            )
        return piece
