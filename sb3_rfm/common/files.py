"""Files that are there as a whole, or not at all."""

import os
import uuid
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """
    Write a file aside, have it on the disk, and only then give it its name: whoever reads the name
    finds what was there before, or all of the new content.

    :param path: its name; its folder is made if need be, and an earlier file is replaced
    :param content: what it holds
    :raises OSError: the file cannot be written; nothing is left behind
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """
    Have the names in a folder on the disk, where the system can do that.

    :param folder: its path
    """
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def with_suffix(path: str | Path, suffix: str) -> Path:
    """
    A path, with a suffix where it has none.

    :param path: a path
    :param suffix: such as ".onnx"
    :return: the path
    """
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + suffix)
