"""A lock that a killed process cannot leave behind, on every system."""

import contextlib
import errno
import importlib
import os
import platform
import time
import warnings
import weakref
from pathlib import Path
from typing import IO, Any

from sb3_rfm.utils.files import remove_unfinished


def _module(name: str) -> Any:
    """A module that some systems have; None elsewhere."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


fcntl, msvcrt = _module("fcntl"), _module("msvcrt")  # POSIX, Windows
PLACE = 1 << 30  # of the byte that is locked on Windows: what is locked cannot be read
TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems answer that have no locks."""


class Locked(ValueError):
    """Another process holds the lock."""


class FileLock:
    """
    Held by one process at a time, and let go by the operating system when that one ends.

    It is the lock of the folder in which its file lies: who takes it removes what killed writers
    left there unfinished. Used as ``with FileLock(path, "why not"):``; within, the same object can
    be entered again.

    :param path: of a file, made together with its folder; it is there while the lock is held, and
        says who holds it
    :param message: of the error when another holds it
    :param patience: seconds to wait for it
    """

    def __init__(self, path: Path, message: str, patience: float = 0.0) -> None:
        self.path, self.message, self.patience = path, message, patience
        self._file: IO[bytes] | None = None
        self._made_folder = False
        self._entered: list[bool] = []

    def take(self) -> bool:
        """
        Take the lock.

        :return: False when this object holds it already
        :raises Locked: when another process holds it for longer than ``patience``
        :raises OSError: when its file cannot be made
        """
        if self._file is not None:
            return False
        end = time.monotonic() + self.patience
        while not self._try():
            if time.monotonic() >= end:
                raise Locked(f"{self.message}: {self.path.parent}{self._holder()}")
            time.sleep(0.1)
        return True

    def drop(self) -> None:
        """Let the lock go, where this object holds it."""
        file, self._file = self._file, None
        if file is None:
            return
        _HELD.discard(self)
        removed = self._remove()  # while it is held: nobody else's is removed
        _unlock(file)
        file.close()
        if not removed:
            self._remove()  # Windows removes no file that is open
        if self._made_folder:
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()  # where nothing was written in it

    def __enter__(self) -> "FileLock":
        self._entered.append(self.take())
        return self

    def __exit__(self, *error: object) -> None:
        if self._entered.pop():
            self.drop()

    def _try(self) -> bool:
        """Take the lock if it is free now."""
        folder = self.path.parent
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            file = self.path.open("ab+", buffering=0)
            try:
                exclusive = self._lock(file)
            except BaseException as error:
                file.close()
                if isinstance(error, OSError) and error.errno in TAKEN:
                    return False
                raise
            if _lies_at(self.path, file):
                break
            file.close()  # it was removed in the meantime: what is held is nobody's lock
        self._file, self._made_folder = file, made
        _HELD.add(self)
        with contextlib.suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
        if exclusive:
            remove_unfinished(folder)
        return True

    def _lock(self, file: IO[bytes]) -> bool:
        """
        Lock a file, where the file system can.

        :param file: opened for writing
        :return: False where it cannot
        :raises OSError: another process holds it
        """
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt is not None:
                file.seek(PLACE)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            warnings.warn(
                f"{self.path.parent} cannot be locked ({error.strerror}): see to it yourself that "
                "no other process writes there",
                stacklevel=4,
            )
            return False
        return True

    def _holder(self) -> str:
        """Who holds it, in words; nothing where that is not known."""
        with contextlib.suppress(OSError):
            if holder := self.path.read_bytes()[:200].decode(errors="replace"):
                return f" ({holder})"
        return ""

    def _remove(self) -> bool:
        """Remove the file; False where that cannot be done now."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            return False
        return True


def _unlock(file: IO[bytes]) -> None:
    """Windows wants that said; elsewhere closing the file does it."""
    if fcntl is None and msvcrt is not None:
        with contextlib.suppress(OSError):
            file.seek(PLACE)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


def _lies_at(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


_HELD: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child has its parent's open files: it would hold the locks when that is killed."""
    for lock in list(_HELD):
        if lock._file is not None:
            lock._file.close()  # the parent's own stays open, and locked
            lock._file = None
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
