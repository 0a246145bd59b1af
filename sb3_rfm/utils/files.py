"""Files that are there as a whole, or not at all."""

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

PREFIX, SUFFIX = ".sb3_rfm_", ".unfinished"  # of what is being written
ABANDONED = 3600.0  # seconds after which nobody is writing a file any more
PATIENCE = 2.0  # seconds that Windows has to let go of a file that another process is reading
NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)
"""What file systems answer that cannot, or may not, force a folder onto the disk."""


def temporary(path: Path) -> Path:
    """
    Where to write a file or a folder until it is whole: beside it, so that it has only to be
    renamed, and under a name that no other writer uses.

    :param path: its final name
    :return: a new name
    """
    return path.with_name(f"{PREFIX}{uuid.uuid4().hex[:12]}{SUFFIX}")


def remove_unfinished(folder: Path, age: float | None = None) -> None:
    """
    Remove what killed writers left in a folder.

    :param folder: its path; it need not exist
    :param age: seconds since a file was last written to; None for folders, too, of any age, where
        nobody else can be writing
    """
    for left in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if age is None and left.is_dir():
                shutil.rmtree(left)
            elif age is None or time.time() - left.stat().st_mtime > age:
                left.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """
    Have an error of the disk in the ``with`` block name what was to be written, which that of a
    full disk does not.

    :param path: of the file or folder
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: Path, content: bytes) -> None:
    """
    Write a file aside, have it on the disk, and only then give it its name: whoever reads the name
    finds what was there before, or all of the new content.

    :param path: its name; its folder is made if need be, and an earlier file is replaced
    :param content: what it holds
    :raises OSError: the file cannot be written; the error names it, and nothing is left behind
    """
    unfinished = temporary(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, ABANDONED)
        try:
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            rename(unfinished, path)
            sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):  # else it would hide why the file was not written
                unfinished.unlink(missing_ok=True)


def rename(source: Path, target: Path) -> None:
    """
    Give a file or a folder its name, in the place of an earlier file.

    :param source: its path
    :param target: its new path, in the same folder
    :raises OSError: it cannot be renamed; on Windows, another process has kept one of them open
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() >= end:
                raise
            time.sleep(0.02)


def remove_folder(folder: Path) -> None:
    """
    Remove a folder so that its name is never that of a half of it; where it cannot be removed, it
    stays.

    :param folder: its path
    """
    with contextlib.suppress(OSError):
        unfinished = temporary(folder)
        rename(folder, unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)


def sync_file(path: Path) -> None:
    """
    Have a file's content on the disk.

    :param path: of the file
    :raises OSError: the disk refuses it
    """
    with path.open("r+b") as file:  # Windows forces only what may be written to
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """
    Have the names in a folder on the disk, where the system can do that.

    :param folder: its path
    :raises OSError: the disk refuses it
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDERS:
            raise


def with_suffix(path: str | Path, suffix: str) -> Path:
    """
    A path, with a suffix where it has none.

    :param path: a path
    :param suffix: such as ".onnx"
    :return: the path
    """
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + suffix)
