"""What Linux has beside ``os``: a rename that replaces nothing, inode flags, birth times; and doing without them."""

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host import linux
from mastodon.host.linux import birth_time_ns, inode_flags, rename_without_replacing, set_inode_flags


class LinuxCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        os.makedirs(self.path)
        self.dir_fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, self.dir_fd)
        for name in ("old", "taken"):
            with open(os.path.join(self.path, name), "w") as file:
                file.write(name)


class RenameWithoutReplacing(LinuxCase):
    def check(self) -> None:
        self.assertRaises(FileExistsError, rename_without_replacing, self.dir_fd, b"old", b"taken")
        os.symlink("nowhere", os.path.join(self.path, "dangling"))
        self.assertRaises(FileExistsError, rename_without_replacing, self.dir_fd, b"old", b"dangling")
        rename_without_replacing(self.dir_fd, b"old", b"new")
        self.assertEqual(sorted(os.listdir(self.path)), ["dangling", "new", "taken"])
        with open(os.path.join(self.path, "taken")) as file:
            self.assertEqual(file.read(), "taken")
        self.assertRaises(FileNotFoundError, rename_without_replacing, self.dir_fd, b"old", b"newer")

    def test_by_the_kernel(self) -> None:
        """A name that is taken, by a dangling symlink too, is not replaced."""
        self.check()

    def test_file_system_without(self) -> None:
        """A file system that has no such rename gets the same answers."""

        def refuse(*_arguments: object) -> int:
            linux.ctypes.set_errno(errno.EINVAL)
            return -1

        self.patch(linux, "_renameat2", refuse)
        self.check()

    def test_library_without(self) -> None:
        """So does a C library that has none."""
        self.patch(linux, "_renameat2", None)
        self.check()


class FlagsAndBirth(LinuxCase):
    def test_set_and_take_away(self) -> None:
        """Setting flags takes away the others, and leaves those that say how the file system stores the file."""
        with open(os.path.join(self.path, "old")) as file:
            try:
                self.assertEqual(set_inode_flags(file.fileno(), 0x40 | 0x80), 0)
            except OSError as error:
                raise self.skipTest(f"no inode flags here: {error.strerror}") from None
            self.assertEqual(inode_flags(file.fileno()), 0xC0)
            set_inode_flags(file.fileno(), 0x40)
            self.assertEqual(inode_flags(file.fileno()), 0x40)

    def test_none_on_a_device(self) -> None:
        """What has no flags has none; setting some there is an error."""
        with open("/dev/null") as file:
            self.assertEqual(inode_flags(file.fileno()), 0)
            self.assertRaises(OSError, set_inode_flags, file.fileno(), 0x40)

    def test_no_birth_time(self) -> None:
        """No file, no file system or no C library that tells it: None."""
        self.assertIsNone(birth_time_ns(self.dir_fd, b"missing"))
        self.patch(linux, "_statx", None)
        self.assertIsNone(birth_time_ns(self.dir_fd, b"old"))
