"""A lock that a killed process cannot leave behind."""

import time
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]


class Locked(ValueError):
    """Another process holds the lock."""


class FileLock:
    """
    Held by one process at a time, and let go by the operating system when that one ends.

    Used as ``with FileLock(path, "why not"):``.

    :param path: of a file, made if need be; it stays
    :param message: of the error when another holds it
    :param patience: seconds to wait for it
    """

    def __init__(self, path: Path, message: str, patience: float = 0.0) -> None:
        self.path, self.message, self.patience = path, message, patience
        self._file: IO[str] | None = None

    def __enter__(self) -> "FileLock":
        """
        Take the lock.

        :return: itself
        :raises Locked: when another process holds it for longer than ``patience``
        """
        self._file = self.path.open("a")
        end = time.monotonic() + self.patience
        while fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    self._file.close()
                    raise Locked(f"{self.message}: {self.path.parent}") from None
                time.sleep(0.1)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
