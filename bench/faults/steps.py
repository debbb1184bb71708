"""What a program does to its files, step by step, and what goes wrong at one of them.

``watch`` puts itself between a program and ``os``: each call that changes a file below the watched directories is a
step, and so is each statement to SQLite. At the step that a Fault names the program is killed, the call fails, or
takes only a part. What was done goes into a journal that outlives the program, so that a loss of power can take back
what was not synced (power.py).

Promises: a program under watch does what it would do otherwise, until its fault comes; the count of steps lies in
memory that is shared with the processes that the program forks, and with the rig.
"""

import errno
import marshal
import mmap
import os
import signal
import sqlite3
import stat
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

RECORD = struct.Struct("<I")
WRITES = frozenset({"write", "pwrite", "ftruncate"})
NAMES = frozenset({"create", "rename", "replace", "link", "unlink", "mkdir", "rmdir", "symlink", "mknod"})
READS = frozenset({"read", "pread", "readv", "preadv"})
SYNCS = frozenset({"fsync"})
STATEMENTS = frozenset({"sql"})
CHANGES = WRITES | NAMES | SYNCS | STATEMENTS


class What(Enum):
    """What happens at a step."""

    KILL_BEFORE = "killed before"
    KILL_AFTER = "killed after"
    ERROR = "fails"
    SHORT = "takes a part"


@dataclass(frozen=True, slots=True)
class Fault:
    """At the ``step``th of the ``calls`` to paths with ``part`` in them (1 is the first, 0 never); ``lasting``: from
    then on."""

    step: int = 0
    what: What = What.KILL_BEFORE
    number: int = errno.EIO
    calls: frozenset[str] = CHANGES
    part: str = ""
    lasting: bool = False


class Counter:
    """How many steps there were, and whether the fault came; shared by a fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)

    @property
    def steps(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @property
    def hit(self) -> bool:
        return self._memory[8] != 0

    def add(self) -> int:
        """One more; its number."""
        number = self.steps + 1
        self._memory[:8] = number.to_bytes(8, "little")
        return number

    def mark(self) -> None:
        """The fault has come."""
        self._memory[8] = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How a program is watched: below which directories, with which fault; the journal where one is wanted."""

    below: tuple[Path, ...]
    fault: Fault = Fault()
    journal: Path | None = None
    counter: Counter = field(default_factory=Counter)


class _Watch:
    """The hooks of one program."""

    def __init__(self, plan: Plan) -> None:
        self._below = tuple(os.fspath(path) + "/" for path in plan.below)
        self._fault = plan.fault
        self._counter = plan.counter
        self._paths: dict[int, tuple[int, str]] = {}
        self._lock = threading.RLock()
        self._journal = -1
        self._attic = ""
        self._kept = 0
        if plan.journal is not None:
            self._journal = os.open(plan.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._attic = os.fspath(plan.journal) + ".attic"
            os.mkdir(self._attic)
        self._write = os.write
        self._link = os.link
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._kept = (self._kept // 1_000_000 + 1) * 1_000_000  # names of its own in the attic

    def install(self) -> None:
        """Take the place of ``os``' functions and of SQLite's connections."""
        for name in ("write", "pwrite", "ftruncate", "fsync", "read", "pread", "readv", "preadv"):
            self._put(name, self._of_descriptor(name, getattr(os, name)))
        for name in ("rename", "replace", "link"):
            self._put(name, self._of_two(name, getattr(os, name)))
        for name in ("unlink", "mkdir", "rmdir", "mknod"):
            self._put(name, self._of_one(name, getattr(os, name)))
        self._put("symlink", self._symlink(os.symlink))
        self._put("open", self._open(os.open))
        self._put("close", self._close(os.close))
        _watch_sqlite(self)

    def _put(self, name: str, function: Callable[..., Any]) -> None:
        setattr(os, name, function)

    # Hooks

    def _open(self, original: Callable[..., int]) -> Callable[..., int]:
        def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            where = self._where(path, dir_fd)
            do = lambda: original(path, flags, mode, dir_fd=dir_fd)  # noqa: E731
            if where is None:
                return do()
            makes = flags & os.O_CREAT and not os.path.lexists(where)
            if makes:
                fd: int = self.step("create", where, do, ("make", where))
            else:
                fd = do()
            self._paths[fd] = (os.fstat(fd).st_ino, where)
            return fd

        return open

    def _close(self, original: Callable[[int], None]) -> Callable[[int], None]:
        def close(fd: int) -> None:
            self._paths.pop(fd, None)
            original(fd)

        return close

    def _of_descriptor(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: int, *arguments: Any) -> Any:
            known = self._paths.get(fd)
            if known is None or os.fstat(fd).st_ino != known[0]:
                return original(fd, *arguments)
            inode, path = known
            if name == "fsync":
                is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
                entry: tuple[Any, ...] = ("syncdir", path) if is_directory else ("sync", inode)
                return self.step(name, path, lambda: original(fd), entry)
            if name in ("write", "pwrite") and self._is_short(name, path):
                arguments = (arguments[0][: max(1, len(arguments[0]) // 3)], *arguments[1:])
            before = os.fstat(fd).st_size
            start = arguments[1] if name == "pwrite" else before
            entry = ("write", inode, start) if name in WRITES else ()
            return self.step(name, path, lambda: original(fd, *arguments), entry)

        return call

    def _of_two(self, name: str, original: Callable[..., None]) -> Callable[..., None]:
        def call(
            source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None, **more: Any
        ) -> None:
            from_, to = self._where(source, src_dir_fd), self._where(target, dst_dir_fd)
            do = lambda: original(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **more)  # noqa: E731
            if to is None:
                return do()
            kept = self._keep(to) if name != "link" else ""
            self.step(name, to, do, ("make", to) if name == "link" else ("rename", from_ or "", to, kept))

        return call

    def _of_one(self, name: str, original: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *arguments: Any, dir_fd: int | None = None, **more: Any) -> None:
            where = self._where(path, dir_fd)
            do = lambda: original(path, *arguments, dir_fd=dir_fd, **more)  # noqa: E731
            if where is None:
                return do()
            if name in ("unlink", "rmdir"):
                self.step(name, where, do, ("unlink", where, self._keep(where)))
            else:
                self.step(name, where, do, ("make", where))

        return call

    def _symlink(self, original: Callable[..., None]) -> Callable[..., None]:
        def symlink(target: Any, path: Any, is_directory: bool = False, *, dir_fd: int | None = None) -> None:
            where = self._where(path, dir_fd)
            do = lambda: original(target, path, dir_fd=dir_fd)  # noqa: E731
            if where is None:
                return do()
            self.step("symlink", where, do, ("make", where))

        return symlink

    # Steps

    def step(self, call: str, path: str, do: Callable[[], Any], entry: tuple[Any, ...] = ()) -> Any:
        """Do it, unless the fault is here."""
        fault = self._fault
        with self._lock:
            if call not in fault.calls or fault.part not in path:
                here = False
            else:
                number = self._counter.add()
                here = number == fault.step or (fault.lasting and 0 < fault.step <= number)
            if here:
                self._counter.mark()
                if fault.what is What.KILL_BEFORE:
                    _die()
                if fault.what is What.ERROR:
                    raise _error(call, path, fault.number)
            result = do()
            if entry and self._journal >= 0:
                data = marshal.dumps(entry)
                self._write(self._journal, RECORD.pack(len(data)) + data)
            if here and fault.what is What.KILL_AFTER:
                _die()
            return result

    def _is_short(self, call: str, path: str) -> bool:
        fault = self._fault
        if fault.what is not What.SHORT or call not in fault.calls or fault.part not in path:
            return False
        upcoming = self._counter.steps + 1
        return upcoming == fault.step or (fault.lasting and 0 < fault.step <= upcoming)

    def _keep(self, path: str) -> str:
        """A second name for a file that is about to lose its own, for the case that it gets it back."""
        if self._journal < 0 or not os.path.isfile(path) or os.path.islink(path):
            return ""
        self._kept += 1
        kept = f"{self._attic}/{self._kept}"
        try:
            self._link(path, kept)
        except OSError:
            return ""
        return kept

    def _where(self, path: Any, dir_fd: int | None) -> str | None:
        if isinstance(path, int):
            return None
        name = os.fsdecode(path)
        if dir_fd is not None and not name.startswith("/"):
            try:
                name = f"{os.readlink(f'/proc/self/fd/{dir_fd}')}/{name}"
            except OSError:
                return None
        whole = os.path.abspath(name)
        return whole if f"{whole}/".startswith(self._below) else None


def watch(plan: Plan) -> None:
    """From now on this process and those that it forks are watched."""
    _Watch(plan).install()


def read_journal(path: Path) -> Iterable[tuple[Any, ...]]:
    """What was done, in order."""
    data, at = path.read_bytes(), 0
    while at + RECORD.size <= len(data):
        (length,) = RECORD.unpack_from(data, at)
        yield marshal.loads(data[at + RECORD.size : at + RECORD.size + length])
        at += RECORD.size + length


def _die() -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)
    signal.pause()


def _error(call: str, path: str, number: int) -> Exception:
    if call != "sql":
        return OSError(number, os.strerror(number), path)
    full = number == errno.ENOSPC
    error = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
    return error


def _watch_sqlite(watch: _Watch) -> None:
    original = sqlite3.connect

    def connect(path: Any, *arguments: Any, **more: Any) -> sqlite3.Connection:
        where = os.fspath(path)

        class Watched(sqlite3.Connection):
            def execute(self, *words: Any) -> sqlite3.Cursor:
                result: sqlite3.Cursor = watch.step("sql", where, lambda: sqlite3.Connection.execute(self, *words))
                return result

            def executemany(self, *words: Any) -> sqlite3.Cursor:
                result: sqlite3.Cursor = watch.step("sql", where, lambda: sqlite3.Connection.executemany(self, *words))
                return result

        connection: sqlite3.Connection = original(path, *arguments, factory=Watched, **more)
        return connection

    sqlite3.connect = connect  # type: ignore[assignment]
