"""Other systems and bad disks, emulated: what Windows refuses, and writes that fail."""

import errno
import fcntl
import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sb3_rfm.utils import files, locks

DISK_ERRORS = [
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO")
    if hasattr(errno, name)
]


class FakeMsvcrt:
    """The part of ``msvcrt`` that locks: one byte, where the file is read next."""

    LK_NBLCK, LK_UNLCK = 2, 0

    @staticmethod
    def locking(descriptor: int, mode: int, size: int) -> None:
        assert size == 1
        # what is locked cannot be read by others: it must not be what the file says
        assert os.lseek(descriptor, 0, os.SEEK_CUR) > os.fstat(descriptor).st_size
        unlock = mode == FakeMsvcrt.LK_UNLCK
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN if unlock else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


def be_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``fcntl``; ``fsync`` wants a descriptor that may be written to, and takes no folder."""
    posix = os.fsync

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        posix(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(
        files, "os", types.SimpleNamespace(name="nt", fsync=fsync, replace=os.replace)
    )
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", FakeMsvcrt)


class Disk:
    """A disk on which nothing can be written while it has an ``error``: forcing it there fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._try)

    def _try(self, descriptor: int) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        self._fsync(descriptor)

    @contextmanager
    def failing(self, error: int = errno.ENOSPC) -> Iterator[None]:
        self.error = error
        try:
            yield
        finally:
            self.error = None


def left_by_writers(folder: Path) -> list[Path]:
    """What is unfinished in a folder."""
    return [*folder.rglob(f"{files.PREFIX}*")]
