"""Files, locks and output: whole or not at all, held once, and the same on every system."""

import ast
import contextlib
import errno
import io
import os
import platform
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from systems import DISK_ERRORS, Disk, be_windows, left_by_writers

from sb3_rfm.utils import files, locks, shell
from sb3_rfm.utils.files import remove_unfinished, temporary, write_whole
from sb3_rfm.utils.locks import FileLock, Locked
from sb3_rfm.utils.streams import Unfailing, unfailing_output
from sb3_rfm.utils.unwritten import Unwritten

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["posix", "windows"])
def system(request, monkeypatch):
    if request.param == "windows":
        be_windows(monkeypatch)
    return request.param


# ---------------------------------------------------------------- files


@pytest.mark.usefixtures("system")
def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for content in (b"one", b"two"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", DISK_ERRORS)
def test_a_write_that_fails_leaves_the_earlier_file(error, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, b"one")
    with (
        Disk(monkeypatch).failing(error),
        pytest.raises(OSError, match=r".") as caught,
    ):
        write_whole(path, b"two")
    assert (caught.value.errno, caught.value.filename) == (error, str(path))
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_have_two_names(tmp_path):
    names = {temporary(tmp_path / "a.txt") for _ in range(100)}
    assert len(names) == 100
    assert {name.parent for name in names} == {tmp_path}  # on the same disk


def test_what_killed_writers_left_is_removed(tmp_path):
    old, new, folder = (temporary(tmp_path / "a.txt") for _ in range(3))
    old.touch()
    os.utime(old, (time.time() - 2 * files.ABANDONED,) * 2)
    new.touch()
    folder.mkdir()
    (folder / "model.zip").touch()
    write_whole(tmp_path / "a.txt", b"")
    assert {*left_by_writers(tmp_path)} == {new, folder}  # somebody may be writing them
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_windows_renames_nothing_that_is_being_read(tmp_path, monkeypatch):
    tries = []

    def replace(source, target):
        tries.append(source)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        os.rename(source, target)

    monkeypatch.setattr(
        files, "os", types.SimpleNamespace(name="nt", fsync=os.fsync, replace=replace)
    )
    write_whole(tmp_path / "a.txt", b"one")
    assert (len(tries), (tmp_path / "a.txt").read_bytes()) == (3, b"one")
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    tries.clear()
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "a.txt", b"two")
    assert len(tries) == 1


@pytest.mark.parametrize(("error", "is_fine"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_folders_are_forced_onto_the_disk_where_that_can_be(error, is_fine, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fsync)
    with contextlib.nullcontext() if is_fine else pytest.raises(OSError, match=r"I/O|Input"):
        files.sync_folder(tmp_path)


def _opens_text(call):
    """Whether a call opens a text file without naming an encoding."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name not in ("open", "read_text", "write_text") or "encoding" in {
        keyword.arg for keyword in call.keywords
    }:
        return False
    if name == "open":
        modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
        return not any("b" in str(mode) for mode in modes)
    return name == "write_text" or not call.args


def test_every_text_file_names_its_encoding():
    found = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "sb3_rfm").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and _opens_text(node)
        and ast.unparse(node.func) not in ("os.open", "RunFolder.open")
    ]
    assert not found


@pytest.mark.parametrize(
    ("name", "expected"),
    [("posix", "sb3-rfm run --resume 'my runs/a'"), ("nt", 'sb3-rfm run --resume "my runs/a"')],
)
def test_commands_can_be_pasted(name, expected, monkeypatch):
    monkeypatch.setattr(shell, "os", types.SimpleNamespace(name=name))
    assert shell.command_line(["sb3-rfm", "run", "--resume", "my runs/a"]) == expected


# ---------------------------------------------------------------- locks


@pytest.mark.usefixtures("system")
def test_a_lock_is_held_once_and_let_go(tmp_path):
    path = tmp_path / "new" / "lock"
    who = f"process {os.getpid()} on {platform.node()}"
    with FileLock(path, "busy") as lock:
        begun = time.monotonic()
        with (
            pytest.raises(Locked, match=rf"busy: {path.parent} \({who}\)"),
            FileLock(path, "busy", patience=0.2),
        ):
            pass
        assert time.monotonic() - begun >= 0.2
        with lock:  # the same object's
            pass
        with pytest.raises(Locked), FileLock(path, "busy"):
            pass
    assert not path.parent.exists()  # nothing was written there
    path.parent.mkdir()
    with FileLock(path, "busy"):
        pass
    assert not list(path.parent.iterdir())


def test_a_lock_that_was_removed_is_nobodys(tmp_path, monkeypatch):
    path, flock = tmp_path / "lock", locks.fcntl.flock

    def late(file, how):
        monkeypatch.setattr(locks.fcntl, "flock", flock)
        path.unlink()  # by the one who held it, between our opening and our locking
        flock(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with FileLock(path, "busy"), pytest.raises(Locked), FileLock(path, "busy"):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    being_written = temporary(tmp_path / "a")
    being_written.touch()
    with (
        pytest.warns(UserWarning, match=f"{tmp_path} cannot be locked .No locks available"),
        FileLock(tmp_path / "lock", "busy"),
    ):
        assert being_written.exists()  # by whom we cannot know


HOLDER = """
import os, sys, time
from pathlib import Path
from sb3_rfm.utils.files import temporary
from sb3_rfm.utils.locks import FileLock

lock = FileLock(Path(sys.argv[1]) / "lock", "busy")
lock.take()
temporary(lock.path).mkdir()
if child := os.fork():  # as environments in other processes are
    print(child, flush=True)
time.sleep(100)
"""


def test_a_lock_does_not_outlive_a_killed_process(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(holder.stdout.readline())
    with pytest.raises(Locked, match=f"process {holder.pid} on"), FileLock(tmp_path / "lock", ""):
        pass
    try:
        holder.kill()
        holder.wait()
        assert left_by_writers(tmp_path)
        # its child lives on, and lets it go with its first breath
        with FileLock(tmp_path / "lock", "", patience=30):
            assert not left_by_writers(tmp_path)
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


# ---------------------------------------------------------------- what fails, and goes on


def test_what_is_not_written_is_named_by_reason():
    unwritten = Unwritten()
    assert not unwritten
    for name, error in (("a", errno.ENOSPC), ("b", errno.EIO), ("c", errno.ENOSPC)):
        warned = pytest.warns(UserWarning, match=f"{name} is not written: ")
        with warned, unwritten.noting(Path(name)):
            raise OSError(error, os.strerror(error), name)
    full, broken = os.strerror(errno.ENOSPC), os.strerror(errno.EIO)
    assert str(unwritten) == f"not written: a, c: {full}; not written: b: {broken}"
    for name in ("a", "b"):
        with unwritten.noting(Path(name)):
            pass
    assert str(unwritten) == f"not written: c: {full}"
    with pytest.raises(ValueError, match="else"), unwritten.noting(Path("c")):
        raise ValueError("else")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_ends_nothing(monkeypatch):
    with open("/dev/full", "w", buffering=1) as file:
        stream = Unfailing(file)
        print("lost", file=stream, flush=True)
        assert stream.error.errno == errno.ENOSPC
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # it would fail once more
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    with unfailing_output():
        print("return 1 ± 2", flush=True)
    assert raw.getvalue() == b"return 1 \\xb1 2\n"
