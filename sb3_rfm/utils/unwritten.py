"""What could not be written while a run goes on: a full disk, a quota, a disk that was removed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Unwritten:
    """
    The files that are not as they should be, each with the reason of the last try.

    Empty, and false, when everything is on the disk.
    """

    def __init__(self) -> None:
        self._reasons: dict[Path, str] = {}

    @contextmanager
    def noting(self, path: Path) -> Iterator[None]:
        """
        Go on when what is in the ``with`` block cannot be written, with a warning.

        :param path: of the file or folder that is written there
        """
        try:
            yield
        except OSError as error:
            self.note(path, error)
            warnings.warn(f"{path} is not written: {_reason(error)}", stacklevel=3)
        else:
            self.note(path, None)

    def note(self, path: Path, error: Exception | None) -> None:
        """
        Remember how a try to write came out.

        :param path: of the file or folder
        :param error: why it failed; None where it did not
        """
        if error is None:
            self._reasons.pop(path, None)
        else:
            self._reasons[path] = _reason(error)

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def __str__(self) -> str:
        """All of them in one line, by reason."""
        paths: dict[str, list[str]] = {}
        for path, reason in self._reasons.items():
            paths.setdefault(reason, []).append(str(path))
        return "; ".join(f"not written: {', '.join(p)}: {reason}" for reason, p in paths.items())


def _reason(error: Exception) -> str:
    """Why, in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())
