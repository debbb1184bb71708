"""Files that survive kill -9 and power loss (P9): the one place where durable writes are made.

Invariants, from which the order of the calls below follows:

* Under its final name a file is whole or is not there: bytes go to a temporary file in the same
  directory, which is fsynced before it is renamed. A crash leaves at most a temporary file, whose
  name starts with TEMPORARY_PREFIX and which anybody may remove when no writer is alive.
* When a function returns, name and bytes are on the disk: the directory is fsynced after the rename.
* An appended file's bytes are durable up to ``durable_size`` and no further: after a crash the tail
  behind it may be missing, torn or zero, and the reader of the format has to cut it off.
* The first error is final. After a failed fsync the kernel may have dropped the dirty pages and
  marked them clean, so that a second fsync succeeds without having written anything. An object that
  has met an error takes nothing more; its owner opens the file anew and reads what is there.
* Nothing is acknowledged from here: callers acknowledge after the return, never before.

The operating system is behind ``Disk``, so that tests and the fault rig can make it fail.
"""

import contextlib
import errno
import os
import secrets
from types import TracebackType
from typing import Protocol, Self

TEMPORARY_PREFIX = ".tmp-"
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW

StrPath = str | os.PathLike[str]
Data = bytes | bytearray | memoryview


class DiskError(Exception):
    """The disk refused; the text names the file and the system's reason."""


class DiskFull(DiskError):
    """No space or quota is left: free some, then try again."""


class AlreadyThere(DiskError):
    """A file of that name exists and is not to be replaced."""


class Disk(Protocol):
    """What is asked of the operating system."""

    def open(self, path: str, flags: int, mode: int) -> int: ...
    def write(self, fd: int, data: Data) -> int: ...
    def fsync(self, fd: int) -> None: ...
    def close(self, fd: int) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def link(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...


class SystemDisk:
    """The real one."""

    def open(self, path: str, flags: int, mode: int) -> int:
        fd = os.open(path, flags | os.O_CLOEXEC, mode)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            os.fchmod(fd, mode)  # the umask does not decide who may read a key
        return fd

    def write(self, fd: int, data: Data) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(path)


SYSTEM_DISK = SystemDisk()


def fsync_directory(path: StrPath, disk: Disk = SYSTEM_DISK) -> None:
    """Make the names in a directory durable; one call covers all renames into it before."""
    name = os.fspath(path)
    try:
        fd = disk.open(name, os.O_RDONLY | os.O_DIRECTORY, 0)
        try:
            disk.fsync(fd)
        finally:
            disk.close(fd)
    except OSError as error:
        raise _converted(error, name) from error


def write_file(path: StrPath, data: Data, mode: int = 0o600, disk: Disk = SYSTEM_DISK) -> None:
    """Put ``data`` durably under ``path``, replacing what was there in one step."""
    with PendingFile(path, mode, disk) as pending:
        pending.write(data)
        pending.publish()


def write_new(path: StrPath, data: Data, mode: int = 0o600, disk: Disk = SYSTEM_DISK) -> None:
    """The same, but an existing file is left alone: AlreadyThere."""
    with PendingFile(path, mode, disk) as pending:
        pending.write(data)
        pending.publish(replace=False)


class PendingFile:
    """A file in the making: write, then publish; leaving the ``with`` block unpublished removes it."""

    def __init__(self, path: StrPath, mode: int = 0o600, disk: Disk = SYSTEM_DISK) -> None:
        self.path = os.fspath(path)
        self.size = 0
        self._disk = disk
        self._directory = os.path.dirname(self.path) or "."
        self._temporary = os.path.join(self._directory, TEMPORARY_PREFIX + secrets.token_hex(8))
        self._error: DiskError | None = None
        self._done = False
        try:
            self._fd = disk.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise _converted(error, self.path) from error

    def write(self, data: Data) -> None:
        """Add bytes; all of them, or an error that is final."""
        self._demand_health()
        try:
            _write_all(self._disk, self._fd, data)
        except OSError as error:
            self._fail(error)
        self.size += len(data)

    def publish(self, *, replace: bool = True, sync_directory: bool = True) -> None:
        """Make the bytes durable and give the file its name.

        Without ``sync_directory`` the name is not durable yet: the caller groups several files and calls
        ``fsync_directory`` once, before anything is acknowledged.
        """
        self._demand_health()
        try:
            self._disk.fsync(self._fd)
            if replace:
                self._disk.rename(self._temporary, self.path)
            else:
                self._disk.link(self._temporary, self.path)
                self._disk.unlink(self._temporary)
        except OSError as error:
            self._fail(error)
        self._done = True
        if sync_directory:
            try:
                fsync_directory(self._directory, self._disk)
            except DiskError as error:
                self._error = error
                raise

    def close(self) -> None:
        """Let go of the file; unpublished, it is removed."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            self._disk.close(fd)
        except OSError as error:
            self._error = self._error or _converted(error, self.path)
        if not self._done:
            with contextlib.suppress(OSError):  # a leftover does no harm: it never had its name
                self._disk.unlink(self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _demand_health(self) -> None:
        if self._error is not None:
            raise self._error
        if self._done or self._fd < 0:
            raise DiskError(f"{self.path}: the file is finished, nothing more can be written")

    def _fail(self, error: OSError) -> None:
        self._error = _converted(error, self.path)
        raise self._error from error


class AppendFile:
    """A file that only grows; several appends may share one ``sync``. One writer at a time."""

    def __init__(self, path: StrPath, mode: int = 0o600, disk: Disk = SYSTEM_DISK) -> None:
        """Open an existing file at its end, or make an empty one, durably."""
        self.path = os.fspath(path)
        self._disk = disk
        self._error: DiskError | None = None
        try:
            try:
                self._fd = disk.open(self.path, _APPEND, 0)
            except FileNotFoundError:
                self._fd = disk.open(self.path, _APPEND | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise _converted(error, self.path) from error
        try:
            # What an earlier writer left unsynced would else be taken for durable.
            disk.fsync(self._fd)
            fsync_directory(os.path.dirname(self.path) or ".", disk)
            self.size = self.durable_size = os.fstat(self._fd).st_size
        except OSError as error:
            disk.close(self._fd)
            raise _converted(error, self.path) from error
        except DiskError:
            disk.close(self._fd)
            raise

    def append(self, data: Data) -> None:
        """Add bytes at the end; not durable before ``sync``."""
        self._demand_health()
        try:
            _write_all(self._disk, self._fd, data)
        except OSError as error:
            self._fail(error)
        self.size += len(data)

    def sync(self) -> int:
        """Make everything appended before this call durable; tells up to which size."""
        self._demand_health()
        reached = self.size
        try:
            self._disk.fsync(self._fd)
        except OSError as error:
            self._fail(error)
        self.durable_size = reached
        return reached

    def close(self) -> None:
        """Let go of the file, without making anything durable."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _demand_health(self) -> None:
        if self._error is not None:
            raise self._error
        if self._fd < 0:
            raise DiskError(f"{self.path}: the file is closed")

    def _fail(self, error: OSError) -> None:
        self._error = _converted(error, self.path)
        raise self._error from error


def is_temporary(name: str) -> bool:
    """Whether a file name in a directory is a leftover of an interrupted write."""
    return name.startswith(TEMPORARY_PREFIX)


def _write_all(disk: Disk, fd: int, data: Data) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = disk.write(fd, view)
        if written <= 0:
            raise OSError(errno.EIO, "nothing was written")
        view = view[written:]


def _converted(error: OSError, path: str) -> DiskError:
    text = f"{path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(text)
    if error.errno == errno.EEXIST:
        return AlreadyThere(text)
    return DiskError(text)
