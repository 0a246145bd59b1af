"""The folders of checkpoints, and their manifests, by which damage is found before loading."""

import hashlib
import json
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

from sb3_rfm.utils.files import sync_file, write_whole
from sb3_rfm.utils.locks import FileLock

MANIFEST, FORMAT = "manifest.json", 1
LOCK = "checkpoints.lock"

_LOCKS: "weakref.WeakValueDictionary[tuple[Path, int], FileLock]" = weakref.WeakValueDictionary()


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing, cut short or changed; the message names it."""


def writers_lock(folder: Path) -> FileLock:
    """
    What whoever writes checkpoints into a folder holds.

    A thread trains one model at a time: within one thread it is the same lock, which an exception
    may have left taken.

    :param folder: of the checkpoints
    :return: the lock
    """
    folder = folder.resolve()
    key = folder, threading.get_ident()
    lock = _LOCKS.get(key)
    if lock is None:
        lock = FileLock(folder / LOCK, "another process writes checkpoints here")
        _LOCKS[key] = lock
    return lock


def is_whole(checkpoint: Path) -> bool:
    """
    Whether training can go on from a checkpoint.

    :param checkpoint: its folder
    :return: False where a file is missing or not what was saved
    """
    try:
        verify(checkpoint)
    except DamagedCheckpoint:
        return False
    return True


def checkpoints_in(folder: Path) -> list[Path]:
    """
    The checkpoints of a folder.

    :param folder: its path
    :return: their paths, the newest last
    """
    return sorted((p for p in folder.glob("step_*") if p.name[5:].isdigit()), key=steps_of)


def steps_of(checkpoint: Path) -> int:
    """
    The environment steps that a checkpoint's name tells.

    :param checkpoint: its folder
    :return: steps
    """
    return int(checkpoint.name.removeprefix("step_"))


def latest_checkpoint(path: Path) -> Path:
    """
    The newest whole checkpoint of a folder.

    :param path: a folder of checkpoints, or one checkpoint
    :return: the checkpoint's folder
    :raises FileNotFoundError: there is none
    :raises DamagedCheckpoint: none that is whole
    """
    found = [path] if (path / MANIFEST).is_file() else checkpoints_in(path)
    if not found:
        raise FileNotFoundError(f"path must be a checkpoint or a folder of them; got {path}.")
    damages = []
    for checkpoint in reversed(found):
        try:
            verify(checkpoint)
        except DamagedCheckpoint as damage:
            damages.append(str(damage))
        else:
            for message in damages:
                warnings.warn(f"{message}; going on from {checkpoint}", stacklevel=2)
            return checkpoint
    raise DamagedCheckpoint("; ".join(damages))


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """
    What a checkpoint says of itself.

    :param checkpoint: its folder
    :return: algorithm, steps, versions, notes, and the size and sum of each file
    :raises DamagedCheckpoint: there is no manifest, or it is of another format
    """
    path = checkpoint / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        found = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path} is not a checkpoint's manifest: {error}") from error
    if found != FORMAT:
        raise DamagedCheckpoint(f"{path} has format {found}; this version reads {FORMAT}")
    return manifest


def verify(checkpoint: Path) -> None:
    """
    Check a checkpoint's files against its manifest.

    :param checkpoint: its folder
    :raises DamagedCheckpoint: what is wrong, and with which file
    """
    for name, saved in read_manifest(checkpoint)["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path} is missing")
        size = path.stat().st_size
        if size != saved["bytes"]:
            raise DamagedCheckpoint(f"{path} has {size} bytes where {saved['bytes']} were saved")
        if _sha256(path) != saved["sha256"]:
            raise DamagedCheckpoint(f"{path} is not what was saved: its SHA-256 sum is another")


def write_manifest(checkpoint: Path, content: dict[str, Any]) -> None:
    """
    Force a checkpoint's files onto the disk, and write what they are beside them.

    :param checkpoint: its folder, with all its files
    :param content: what else the manifest says
    """
    files = {path.name: _onto_the_disk(path) for path in sorted(checkpoint.iterdir())}
    manifest = {"format": FORMAT, **content, "files": files}
    write_whole(checkpoint / MANIFEST, json.dumps(manifest, indent=1).encode())


def _sha256(path: Path) -> str:
    """The SHA-256 sum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _onto_the_disk(path: Path) -> dict[str, Any]:
    """Force a file onto the disk; its size and sum."""
    sync_file(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}
