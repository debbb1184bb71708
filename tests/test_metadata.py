"""Reading one file's metadata: every attribute, each type, and what cannot be read."""

import errno
import os
import socket
import stat
import struct
import time

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host import metadata
from mastodon.host.linux import inode_flags
from mastodon.host.metadata import data_extents, read_entry
from mastodon.host.owners import OwnerNames
from mastodon.sealed.entry import XATTR_TOTAL_LIMIT, Entry, EntryType
from tests.odd_trees import ACL_ACCESS, ACL_DEFAULT, NAMED_ACL, NODUMP, add_flags, remove_tree

IS_ROOT = os.geteuid() == 0


class MetadataCase(SynchronousTestCase):
    """A directory, and entries read from it."""

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        os.makedirs(self.path)
        self.addCleanup(remove_tree, self.path)
        self.dir_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, self.dir_fd)

    def file(self, name: str = "file", content: bytes = b"content") -> str:
        path = os.path.join(self.path, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def read(self, name: str = "file", **options: object) -> Entry:
        raw = os.fsencode(name)
        st = os.stat(raw, dir_fd=self.dir_fd, follow_symlinks=False)
        return read_entry(self.dir_fd, raw, st, OwnerNames(), **options)  # type: ignore[arg-type]

    def put(self, path: str, name: str, value: bytes) -> None:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP):
                self.skipTest(f"no {name} here: {error.strerror}")
            raise


class TypesAndStat(MetadataCase):
    def test_regular_file(self) -> None:
        """Mode, owner with names, time to the nanosecond, size and link group are those of lstat and the caller."""
        path = self.file()
        os.chmod(path, 0o4751)
        os.utime(path, ns=(0, 1_234_567_890_123_456_789))
        entry = self.read(link_group=7)
        st = os.stat(path)
        self.assertEqual((entry.type, entry.mode, entry.size), (EntryType.FILE, 0o4751, 7))
        self.assertEqual((entry.uid, entry.gid, entry.mtime_ns), (st.st_uid, st.st_gid, 1_234_567_890_123_456_789))
        self.assertEqual((entry.link_group, entry.error, entry.name), (7, 0, b"file"))

    def test_time_before_1970(self) -> None:
        """Times before 1970 are negative and keep their nanoseconds."""
        os.utime(self.file(), ns=(0, -5 * 10**9 - 1))
        self.assertEqual(self.read().mtime_ns, -5_000_000_001)

    def test_other_types(self) -> None:
        """Directories, symlinks, fifos and sockets are told apart; a symlink has its target, raw; none has a size."""
        os.mkdir(os.path.join(self.path, "directory"))
        os.symlink(b"\xff/not\nthere", b"symlink", dir_fd=self.dir_fd)
        os.mkfifo(b"fifo", dir_fd=self.dir_fd)
        os.mknod(b"socket", stat.S_IFSOCK | 0o600, dir_fd=self.dir_fd)
        for name in ("directory", "symlink", "fifo", "socket"):
            entry = self.read(name)
            self.assertEqual((entry.type, entry.size, entry.error), (EntryType[name.upper()], 0, 0))
        self.assertEqual(self.read("symlink").target, b"\xff/not\nthere")

    def test_devices(self) -> None:
        """Devices carry major and minor number."""
        if not IS_ROOT:
            self.skipTest("only root makes devices")
        os.mknod(b"c", stat.S_IFCHR | 0o600, os.makedev(1, 3), dir_fd=self.dir_fd)
        os.mknod(b"b", stat.S_IFBLK | 0o600, os.makedev(7, 1_000_000), dir_fd=self.dir_fd)
        self.assertEqual((self.read("c").type, self.read("c").rdev), (EntryType.CHARACTER_DEVICE, (1, 3)))
        self.assertEqual((self.read("b").type, self.read("b").rdev), (EntryType.BLOCK_DEVICE, (7, 1_000_000)))

    def test_unknown_type(self) -> None:
        """A type that no entry can have is a ValueError, not a wrong entry."""
        st = os.stat_result((0o160000, *os.stat(self.file())[1:]))
        self.assertRaises(ValueError, read_entry, self.dir_fd, b"file", st, OwnerNames())

    def test_vanished_symlink(self) -> None:
        """A symlink that is gone since lstat gives an entry with that error instead of raising."""
        os.symlink(b"x", b"link", dir_fd=self.dir_fd)
        st = os.stat(b"link", dir_fd=self.dir_fd, follow_symlinks=False)
        os.unlink(b"link", dir_fd=self.dir_fd)
        self.assertEqual(read_entry(self.dir_fd, b"link", st, OwnerNames()).error, errno.ENOENT)

    def test_birth_time(self) -> None:
        """The birth time is that of making the file, whatever its mtime was set to."""
        before = time.time_ns() - 10**9
        os.utime(self.file(), ns=(0, 0))
        birth = self.read().birth_ns
        if birth is None:
            self.skipTest("the file system keeps no birth time")
        self.assertTrue(before < birth < time.time_ns() + 10**9, birth)

    def test_not_extended(self) -> None:
        """Without extended there is what lstat tells, and nothing else is asked for."""
        self.put(self.file(), "user.a", b"1")
        entry = self.read(extended=False)
        self.assertEqual((entry.xattrs, entry.birth_ns, entry.inode_flags, entry.size), ((), None, 0, 7))


class Xattrs(MetadataCase):
    def test_all_namespaces(self) -> None:
        """User, trusted and security xattrs are read, in the order of their names, empty values too."""
        path = self.file()
        values = {b"security.odd": b"s", b"trusted.t": b"t", b"user.a": b"", b"user.b": b"b"}
        for name in reversed(values):
            self.put(path, name.decode(), values[name])
        found = [pair for pair in self.read().xattrs if pair[0] != b"security.selinux"]
        self.assertEqual(found, list(values.items()))

    def test_symlink_is_not_followed(self) -> None:
        """A symlink's xattrs are its own, never those of the file behind it."""
        self.put(self.file(), "user.behind", b"1")
        os.symlink("file", os.path.join(self.path, "link"))
        self.assertNotIn(b"user.behind", dict(self.read("link").xattrs))
        self.put(os.path.join(self.path, "link"), "trusted.own", b"2")
        self.assertEqual(dict(self.read("link").xattrs)[b"trusted.own"], b"2")

    def test_fifo_socket_directory(self) -> None:
        """Xattrs of fifos, sockets and directories are read without opening them."""
        os.mkfifo(b"fifo", dir_fd=self.dir_fd)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{self.dir_fd}/socket")
        os.mkdir(b"directory", dir_fd=self.dir_fd)
        for name in ("fifo", "socket", "directory"):
            self.put(os.path.join(self.path, name), "trusted.own", name.encode())
            self.assertEqual(dict(self.read(name).xattrs)[b"trusted.own"], name.encode())

    def test_acl_names(self) -> None:
        """Whoever an ACL names is recorded with name, once; a number without a name is left out."""
        os.mkdir(b"directory", dir_fd=self.dir_fd)
        path = os.path.join(self.path, "directory")
        self.put(path, ACL_ACCESS, NAMED_ACL)
        nobodys = NAMED_ACL.replace(struct.pack("<HHI", 2, 6, 2), struct.pack("<HHI", 2, 6, 4_000_001))
        self.put(path, ACL_DEFAULT, nobodys)
        entry = self.read("directory")
        names = OwnerNames()
        expected = [("g", 1, names.group(1)), ("u", 1, names.user(1)), ("u", 2, names.user(2))]
        self.assertEqual(list(entry.acl_names), [who for who in expected if who[2]])
        self.assertIn((ACL_ACCESS.encode(), NAMED_ACL), entry.xattrs)

    def test_one_unreadable(self) -> None:
        """One xattr that cannot be read leaves the others, and its errno in the entry."""
        path = self.file()
        self.put(path, "user.a", b"1")
        self.put(path, "user.b", b"2")
        real = os.getxattr

        def getxattr(path: bytes, name: bytes, *, follow_symlinks: bool = True) -> bytes:
            if name == b"user.a":
                raise OSError(errno.EIO, "broken")
            return real(path, name, follow_symlinks=follow_symlinks)

        self.patch(metadata.os, "getxattr", getxattr)
        entry = self.read()
        self.assertEqual((dict(entry.xattrs)[b"user.b"], entry.error), (b"2", errno.EIO))
        self.assertNotIn(b"user.a", dict(entry.xattrs))

    def test_vanished_between(self) -> None:
        """An xattr that is removed between listing and reading is no error."""
        self.file()
        self.patch(metadata.os, "listxattr", lambda *_path, **_options: ["user.gone"])
        entry = self.read()
        self.assertEqual((entry.xattrs, entry.error), ((), 0))

    def test_too_much(self) -> None:
        """More than XATTR_TOTAL_LIMIT is cut at whole xattrs and marked E2BIG; just as much is not."""
        self.file()
        size = XATTR_TOTAL_LIMIT // 4 - 6
        for count, error in ((4, 0), (5, errno.E2BIG)):
            listed = [f"user.{number}" for number in range(count)]
            self.patch(metadata.os, "listxattr", lambda *_path, listed=listed, **_options: listed)
            self.patch(metadata.os, "getxattr", lambda *_path, **_options: bytes(size))
            entry = self.read()
            self.assertEqual((len(entry.xattrs), entry.error), (4, error))


class InodeFlags(MetadataCase):
    def test_file_and_directory(self) -> None:
        """Flags of files and directories are read, from an open descriptor as well as by name."""
        self.file()
        os.mkdir(b"directory", dir_fd=self.dir_fd)
        for name in (b"file", b"directory"):
            fd = os.open(name, os.O_RDONLY, dir_fd=self.dir_fd)
            self.addCleanup(os.close, fd)
            try:
                add_flags(fd, NODUMP)
            except OSError as error:
                self.skipTest(f"no inode flags here: {error.strerror}")
            self.assertEqual(self.read(name.decode()).inode_flags, NODUMP)
            self.assertEqual(self.read(name.decode(), fd=fd).inode_flags, NODUMP)

    def test_of_the_file_system_are_left_out(self) -> None:
        """Flags that say how the file system stores the file (extents) are not recorded."""
        with open(self.file(), "rb") as file:
            self.assertEqual(inode_flags(file.fileno()), 0)

    def test_swapped_meanwhile(self) -> None:
        """Flags of something else that took the name since lstat are not taken for the file's."""
        self.file()
        other = self.file("other")
        with open(other, "rb") as file:
            try:
                add_flags(file.fileno(), NODUMP)
            except OSError as error:
                self.skipTest(f"no inode flags here: {error.strerror}")
        st = os.stat(b"file", dir_fd=self.dir_fd)
        os.rename(other, os.path.join(self.path, "file"))
        self.assertEqual(read_entry(self.dir_fd, b"file", st, OwnerNames()).inode_flags, 0)


class DataExtents(MetadataCase):
    BLOCK = 1 << 20

    def extents(self, size: int, *data: int) -> list[tuple[int, int]]:
        fd = os.open(b"sparse", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self.dir_fd)
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, size)
        for position in data:
            os.pwrite(fd, b"d" * self.BLOCK, position)
        return data_extents(fd, os.fstat(fd).st_size)

    def test_empty_and_full(self) -> None:
        """An empty file has no extent, a full one has one."""
        self.assertEqual(self.extents(0), [])
        self.assertEqual(self.extents(self.BLOCK, 0), [(0, self.BLOCK)])

    def test_holes(self) -> None:
        """Holes before, between and after data are left out."""
        size = 16 * self.BLOCK
        found = self.extents(size, 2 * self.BLOCK, 8 * self.BLOCK)
        if found == [(0, size)]:
            self.skipTest("the file system does not tell holes")
        self.assertEqual(found, [(2 * self.BLOCK, self.BLOCK), (8 * self.BLOCK, self.BLOCK)])
        self.assertEqual(self.extents(size), [])

    def test_no_seek_hole(self) -> None:
        """Where the file system does not know holes, all of it is data."""

        def lseek(*_arguments: int) -> int:
            raise OSError(errno.EINVAL, "no such whence")

        self.patch(metadata.os, "lseek", lseek)
        self.assertEqual(self.extents(4 * self.BLOCK, 0), [(0, 4 * self.BLOCK)])
