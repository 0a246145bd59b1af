"""Where functions are carried out: processes of this machine, or a Ray cluster. Both hand out
futures; a worker that dies is a ``WorkerLost``, and costs nothing but its own function.
"""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

# What a worker needs; where processes are forked it is imported once, for all of them.
PRELOAD = (
    "sb3_rfm.experiments.comparison.worker",
    "sb3_rfm.algorithms",
    "sb3_rfm.envs",
    "torch._dynamo",  # by the first optimizer, for two seconds
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)


class WorkerLost(Exception):
    """A worker ended without an answer: killed, out of memory, or its machine is gone."""


def available_cores() -> int:
    """
    The CPU cores this process may use.

    :return: at least 1
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Executor(ABC):
    """
    Carries functions out elsewhere, several at a time. Used as ``with Executor(...) as executor:``,
    which leaves nothing running behind.

    :param jobs: how many at a time
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs must be an integer of at least 1, got {jobs!r}.")
        self.jobs = jobs
        self.stopping = False
        self._lock = threading.Lock()  # nothing starts while what is running is asked to stop
        self._threads = ThreadPoolExecutor(jobs)  # each waits for one function

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """
        Carry a function out as soon as there is room.

        :param function: of a module, so that it can be found elsewhere
        :param arguments: picklable
        :return: its future, whose ``result()`` raises ``WorkerLost`` when the worker died, and
            ``CancelledError`` when it was stopped before it began
        """
        return self._threads.submit(self._unless_stopping, function, arguments)

    def _unless_stopping(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """
        What a thread does for a future. (One that ``ThreadPoolExecutor`` has cancelled is never
        done for ``concurrent.futures.wait``.)

        :param function: what to do
        :param arguments: of it
        :return: what it returns
        """
        if self.stopping:
            raise CancelledError
        return self._carry_out(function, arguments)

    def stop(self) -> None:
        """Start nothing more, and ask what is running to save and end, as Ctrl-C does."""
        self.stopping = True
        self._threads.shutdown(wait=False)  # what still waits there ends at once
        self._end(force=False)

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping = True
        self._end(force=True)
        self._threads.shutdown()

    @abstractmethod
    def _carry_out(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """
        Carry a function out and wait for it.

        :param function: what to do
        :param arguments: of it
        :return: what it returns
        """

    @abstractmethod
    def _end(self, force: bool) -> None:
        """
        End what is running.

        :param force: at once, instead of asking
        """


class LocalExecutor(Executor):
    """
    One new process of this machine for each function.

    :param jobs: how many at a time
    """

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        # Elsewhere a fork after the imports is unsafe (macOS) or unknown (Windows).
        method = "forkserver" if sys.platform == "linux" else "spawn"
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(list(PRELOAD))
        self._processes: dict[Any, Any] = {}  # each with what asks it to stop

    def _carry_out(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        receiver, sender = self._context.Pipe(duplex=False)
        asked, ask = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_in_child, args=(sender, asked, function, arguments))
        with self._lock:
            if self.stopping:
                raise CancelledError
            process.start()
            self._processes[process] = ask
        asked.close()
        sender.close()  # the child has its own: that it ends is now the end of the file
        try:
            return receiver.recv()
        except EOFError:
            process.join()
            raise WorkerLost(_reason(process.exitcode)) from None
        finally:
            process.join()
            with self._lock:
                self._processes.pop(process).close()

    def _end(self, force: bool) -> None:
        with self._lock:
            for process, ask in self._processes.items():
                if force:
                    process.kill()
                else:  # not terminate(), which kills on Windows
                    with contextlib.suppress(OSError):  # it has ended
                        ask.send(None)


def _reason(exitcode: int | None) -> str:
    """
    Why a process ended.

    :param exitcode: of the process; minus the signal that killed it
    :return: in words
    """
    if exitcode is None or exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:  # a real-time signal
        name = f"signal {-exitcode}"
    hint = ", as when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


def _in_child(
    sender: Any, asked: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """
    Carry a function out in this process, and send what it returns.

    :param sender: of the pipe to the parent
    :param asked: by the parent, to stop
    :param function: what to do
    :param arguments: of it
    """
    _leave_ctrl_c_to_the_parent()
    threading.Thread(target=_stop_when_asked, args=(asked,), daemon=True).start()
    sender.send(function(*arguments))


def _leave_ctrl_c_to_the_parent() -> None:
    """The terminal sends it to all of its processes; the parent asks each of us to stop, once."""
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, True)
    else:
        os.setpgrp()


def _stop_when_asked(asked: Any) -> None:
    """
    Make this process save and end when its parent asks for it, or is gone, even by kill -9.

    :param asked: the pipe from the parent
    """
    parent = multiprocessing.parent_process()
    multiprocessing.connection.wait([asked, *([parent.sentinel] if parent else [])])
    signal.raise_signal(signal.SIGTERM)  # os.kill would kill on Windows


class RayExecutor(Executor):
    """
    Tasks of a Ray cluster, of one CPU each. Its machines need this package and the same folders.

    :param jobs: how many to hand to Ray at a time
    :param address: of the cluster; None for the one that Ray finds (``RAY_ADDRESS``, or one started
        on this machine), else a new one of this machine alone
    """

    def __init__(self, jobs: int, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports nothing
        import ray

        super().__init__(jobs)
        self._ray: Any = ray
        self._owned = not ray.is_initialized()
        if self._owned:
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        self._references: set[Any] = set()

    def _carry_out(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        # a process of its own for each, and retries are counted by who submits
        remote = self._ray.remote(num_cpus=1, max_calls=1, max_retries=0)(function)
        with self._lock:
            if self.stopping:
                raise CancelledError
            reference = remote.remote(*arguments)
            self._references.add(reference)
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.TaskCancelledError:
            raise CancelledError from None
        except errors.RayTaskError:
            raise  # of the function's own
        except errors.RayError as error:
            raise WorkerLost(str(error).splitlines()[0]) from error
        finally:
            with self._lock:
                self._references.discard(reference)

    def _end(self, force: bool) -> None:
        with self._lock:
            for reference in self._references:
                self._ray.cancel(reference, force=force)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._owned:
            self._ray.shutdown()
