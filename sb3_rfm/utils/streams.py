"""Output that cannot end a program."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Unfailing:
    """
    A text stream in which words may be lost, but which raises nothing: what is said about a run is
    worth less than the run.

    :param stream: what is written to: a file on a disk that may be full, a pipe whose reader may be
        gone, a terminal that may not have every letter
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        """Why words were lost; None when none were."""

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self.error = error
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def unfailing_output() -> Iterator[None]:
    """Make standard output and standard error unfailing."""
    # None where a program has no such thing
    out, err = (stream and Unfailing(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
