"""The TensorBoard log of a run, which does not end it when the disk is full."""

import contextlib
import sys
import threading
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import (
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)

from sb3_rfm.utils.files import temporary, write_whole
from sb3_rfm.utils.unwritten import Unwritten

ROOM = 1 << 16  # bytes that have to fit before TensorBoard's writer is given another try
KEPT = 10_000  # records that are kept until they can be written


class EventLog(KVWriter):
    """
    Stable-Baselines3's TensorBoard log, where it can be written; what cannot is kept until it can.

    TensorBoard writes in a thread of its own, which an error ends: each time there is room again it
    gets another, and another file. Used as ``with EventLog(...) as log:``, at whose end it is
    closed.

    :param folder: of the event files
    :param unwritten: notes when they cannot be written
    :raises ImportError: TensorBoard is not installed
    """

    def __init__(self, folder: Path, unwritten: Unwritten) -> None:
        if find_spec("tensorboard") is None:
            raise ImportError("tensorboard is missing: pip install 'sb3-rfm[zoo]'")
        self.folder, self._unwritten = folder, unwritten
        self._format: TensorBoardOutputFormat | None = None
        self._records: deque[tuple[dict[str, Any], dict[str, Any], int]] = deque(maxlen=KEPT)
        self._hook = threading.excepthook

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        self._records.append((dict(key_values), dict(key_excluded), step))
        self._write()

    def close(self) -> None:
        if self._records:
            self._write()
        self._close()

    def logger(self, verbose: int) -> Logger:
        """
        The logger that a model is to have.

        :param verbose: of the model: whether it is to print, too
        :return: what ``model.set_logger`` takes
        """
        printed: list[KVWriter] = [HumanOutputFormat(sys.stdout)] if verbose else []
        return Logger(str(self.folder), [*printed, self])

    def __enter__(self) -> "EventLog":
        self._hook, threading.excepthook = threading.excepthook, self._unless_noted
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        threading.excepthook = self._hook

    def _write(self) -> None:
        """Write what is kept, as far as that can be done."""
        with self._unwritten.noting(self.folder):
            try:
                self._format = self._format or self._opened()
                while self._records:
                    self._format.write(*self._records[0])
                    self._records.popleft()
            except OSError:
                self._close()
                raise

    def _opened(self) -> TensorBoardOutputFormat:
        """TensorBoard's writer, once there is room: it would leave an empty file at each try."""
        probe = temporary(self.folder / "room")
        write_whole(probe, bytes(ROOM))
        probe.unlink()
        return TensorBoardOutputFormat(str(self.folder))

    def _close(self) -> None:
        """Close TensorBoard's writer."""
        written, self._format = self._format, None
        if written is not None:
            with contextlib.suppress(OSError):  # the one that has been noted, once more
                written.close()

    def _unless_noted(self, args: Any) -> None:
        """An error of TensorBoard's thread comes again in ours: it is not printed there, too."""
        ours = type(args.thread).__module__.startswith("tensorboard.")
        if not (ours and isinstance(args.exc_value, OSError)):
            self._hook(args)
