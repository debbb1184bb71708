"""Durable writes, on the real disk and on one that fails."""

import errno
import os
import stat
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.durable import (
    AlreadyThere,
    AppendFile,
    Data,
    DiskError,
    DiskFull,
    PendingFile,
    SystemDisk,
    fsync_directory,
    is_temporary,
    write_file,
    write_new,
)


class FaultyDisk(SystemDisk):
    """The real disk, writing down each call, and failing where a test says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failures: dict[str, OSError] = {}
        self.short = 0

    def fail(self, call: str, number: int) -> None:
        """From now on, ``call`` raises the error of that number."""
        self.failures[call] = OSError(number, os.strerror(number))

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call in self.failures:
            raise self.failures[call]

    def open(self, path: str, flags: int, mode: int) -> int:
        directory = bool(flags & os.O_DIRECTORY)
        self._note("open directory" if directory else "open")
        fd = super().open(path, flags, mode)
        if directory:
            self._directory = fd
        return fd

    def write(self, fd: int, data: Data) -> int:
        self._note("write")
        return super().write(fd, data[: self.short] if self.short else data)

    def fsync(self, fd: int) -> None:
        self._note("fsync directory" if fd == getattr(self, "_directory", -1) else "fsync")
        super().fsync(fd)

    def close(self, fd: int) -> None:
        if fd == getattr(self, "_directory", -1):
            self._directory = -1
        super().close(fd)

    def rename(self, source: str, target: str) -> None:
        self._note("rename")
        super().rename(source, target)

    def link(self, source: str, target: str) -> None:
        self._note("link")
        super().link(source, target)


class DurableCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.path = os.path.join(self.directory, "file")
        self.disk = FaultyDisk()

    def content(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read()


class WholeFiles(DurableCase):
    """write_file and write_new."""

    def test_write_and_replace(self) -> None:
        """A file is written, then replaced, with the mode asked for whatever the umask, and nothing else is left."""
        self.addCleanup(os.umask, os.umask(0o077))
        write_file(self.path, b"one", 0o644)
        write_file(self.path, bytearray(b"two"), 0o644)
        self.assertEqual(self.content(), b"two")
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o644)
        self.assertEqual(os.listdir(self.directory), ["file"])

    def test_private_by_default(self) -> None:
        """Without a mode only the owner may read it."""
        self.addCleanup(os.umask, os.umask(0))
        write_new(self.path, b"key")
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    def test_promise_p9_order_of_calls(self) -> None:
        """The bytes are fsynced before the rename, the directory after it."""
        write_file(self.path, b"x", disk=self.disk)
        self.assertEqual(self.disk.calls, ["open", "write", "fsync", "rename", "open directory", "fsync directory"])

    def test_write_new_leaves_an_existing_file_alone(self) -> None:
        """A second write_new is refused, and neither changes the file nor leaves anything behind."""
        write_new(self.path, b"first")
        self.assertRaises(AlreadyThere, write_new, self.path, b"second")
        self.assertEqual(self.content(), b"first")
        self.assertEqual(os.listdir(self.directory), ["file"])

    def test_write_new_does_not_follow_a_symlink(self) -> None:
        """A symlink put in the way, dangling or not, counts as an existing file."""
        os.symlink("elsewhere", self.path)
        self.assertRaises(AlreadyThere, write_new, self.path, b"x")
        self.assertEqual(os.listdir(self.directory), ["file"])

    def test_short_writes_are_gone_on_with(self) -> None:
        """A system that takes a few bytes at a time gets all of them."""
        self.disk.short = 3
        write_file(self.path, b"0123456789", disk=self.disk)
        self.assertEqual(self.content(), b"0123456789")

    def test_promise_p9_any_failure_leaves_the_old_file(self) -> None:
        """Whichever call before the rename fails, the old bytes stand and no leftover is there."""
        write_file(self.path, b"old")
        for call in ("open", "write", "fsync", "rename"):
            disk = FaultyDisk()
            disk.fail(call, errno.EIO)
            self.assertRaises(DiskError, write_file, self.path, b"new", disk=disk)
            self.assertEqual(self.content(), b"old", call)
            self.assertEqual(os.listdir(self.directory), ["file"], call)

    def test_promise_p9_a_failed_directory_fsync_is_an_error(self) -> None:
        """When the name may not be durable, the caller hears of it and acknowledges nothing."""
        self.disk.fail("fsync directory", errno.EIO)
        self.assertRaises(DiskError, write_file, self.path, b"new", disk=self.disk)

    def test_a_full_disk_is_told_apart(self) -> None:
        """No space and no quota are DiskFull, and the text names the file."""
        for number in (errno.ENOSPC, errno.EDQUOT):
            self.disk.fail("write", number)
            error = self.assertRaises(DiskFull, write_file, self.path, b"x", disk=self.disk)
            self.assertIn(self.path, str(error))

    def test_missing_directory(self) -> None:
        """A directory that is not there is an error in the system's words."""
        error = self.assertRaises(DiskError, write_file, os.path.join(self.directory, "no", "file"), b"")
        self.assertIn("No such file or directory", str(error))


class Pending(DurableCase):
    """PendingFile."""

    def test_an_abandoned_file_is_removed(self) -> None:
        """What was not published leaves no trace; while it is written its name says that it is temporary."""
        with PendingFile(self.path) as pending:
            pending.write(b"x")
            names = os.listdir(self.directory)
            self.assertEqual([is_temporary(name) for name in names], [True])
        self.assertEqual(os.listdir(self.directory), [])

    def test_grouped_directory_fsync(self) -> None:
        """Several files can share one fsync of their directory."""
        for number in range(3):
            with PendingFile(f"{self.path}{number}", disk=self.disk) as pending:
                pending.write(b"x")
                pending.publish(sync_directory=False)
        fsync_directory(self.directory, self.disk)
        self.assertEqual(self.disk.calls.count("fsync directory"), 1)
        self.assertEqual(self.disk.calls[-1], "fsync directory")

    def test_promise_p9_a_failed_fsync_is_final(self) -> None:
        """After a failed fsync a second attempt is refused, although the disk would say yes."""
        with PendingFile(self.path, disk=self.disk) as pending:
            pending.write(b"x")
            self.disk.fail("fsync", errno.EIO)
            self.assertRaises(DiskError, pending.publish)
            self.disk.failures.clear()
            self.assertRaises(DiskError, pending.publish)
            self.assertRaises(DiskError, pending.write, b"y")
        self.assertEqual(os.listdir(self.directory), [])

    def test_published_takes_nothing_more(self) -> None:
        """A published or closed file refuses more bytes."""
        with PendingFile(self.path) as pending:
            pending.publish()
            self.assertRaises(DiskError, pending.write, b"x")
        self.assertRaises(DiskError, pending.write, b"x")
        self.assertEqual(self.content(), b"")


class Appending(DurableCase):
    """AppendFile."""

    def test_append_and_reopen(self) -> None:
        """Bytes are added at the end, across two openings, and the sizes are told."""
        with AppendFile(self.path) as file:
            file.append(b"one")
            self.assertEqual((file.size, file.durable_size), (3, 0))
            self.assertEqual(file.sync(), 3)
        with AppendFile(self.path) as file:
            self.assertEqual(file.durable_size, 3)
            file.append(b"two")
            file.sync()
        self.assertEqual(self.content(), b"onetwo")

    def test_a_new_file_has_a_durable_name(self) -> None:
        """Its directory is fsynced when it is made."""
        with AppendFile(self.path, disk=self.disk):
            self.assertEqual(self.disk.calls, ["open", "open", "fsync", "open directory", "fsync directory"])

    def test_promise_p9_errors_are_final(self) -> None:
        """After a failed write or fsync the file takes nothing more, and the durable size stays where it was."""
        steps: list[tuple[str, Callable[[AppendFile], object]]] = [
            ("write", lambda file: file.append(b"more")),
            ("fsync", lambda file: file.sync()),
        ]
        for call, step in steps:
            disk = FaultyDisk()
            with AppendFile(self.path, disk=disk) as file:
                before = file.durable_size
                file.append(b"data")
                disk.fail(call, errno.ENOSPC)
                self.assertRaises(DiskFull, step, file)
                disk.failures.clear()
                self.assertRaises(DiskFull, file.append, b"x")
                self.assertRaises(DiskFull, file.sync)
                self.assertEqual(file.durable_size, before)

    def test_a_symlink_is_not_followed(self) -> None:
        """A symlink in the file's place is refused, so that nothing is appended elsewhere."""
        target = os.path.join(self.directory, "target")
        write_file(target, b"x")
        os.symlink("target", self.path)
        self.assertRaises(DiskError, AppendFile, self.path)

    def test_closed(self) -> None:
        """A closed file refuses more, and may be closed twice."""
        file = AppendFile(self.path)
        file.close()
        file.close()
        self.assertRaises(DiskError, file.append, b"x")
