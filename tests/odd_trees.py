"""Makers of trees with everything in them that backups get wrong. Knows nothing of Mastodon.

    python -m tests.odd_trees PATH [--full]
"""

import argparse
import errno
import fcntl
import hashlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GETFLAGS = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
_SETFLAGS = 1 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 2
NODUMP, NOATIME, IMMUTABLE, APPEND_ONLY = 0x40, 0x80, 0x10, 0x20
ACL_ACCESS, ACL_DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
YEAR_1901 = -2_147_000_000 * 10**9 + 123_456_789


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the large things are."""

    levels: int
    sparse: int
    many: int
    big: int


QUICK = Scale(levels=40, sparse=64 << 20, many=2_000, big=12 << 20)
FULL = Scale(levels=400, sparse=3 << 30, many=100_000, big=5 << 30)


def acl(*entries: tuple[int, int, int | None]) -> bytes:
    """The xattr of a POSIX ACL from (tag, permissions, id) entries."""
    packed = (struct.pack("<HHI", tag, bits, 0xFFFFFFFF if who is None else who) for tag, bits, who in entries)
    return struct.pack("<I", 2) + b"".join(packed)


NAMED_ACL = acl((1, 6, None), (2, 4, 1), (2, 6, 2), (4, 4, None), (8, 2, 1), (0x10, 6, None), (0x20, 0, None))
"""user::rw- user:1:r-- user:2:rw- group::r-- group:1:-w- mask::rw- other::---"""


class _Maker:
    def __init__(self, root: int, scale: Scale) -> None:
        self.root = root
        self.scale = scale
        self.skipped: list[str] = []

    def attempt(self, what: str, action: Callable[[], object]) -> None:
        """Does what not everybody may or not every file system can; refused, it is counted as skipped."""
        try:
            action()
        except OSError as error:
            refusals = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSPC)
            if error.errno not in refusals:
                raise
            self.skipped.append(f"{what}: {os.strerror(error.errno)}")

    def directory(self, name: bytes, parent: int | None = None) -> int:
        at = self.root if parent is None else parent
        os.mkdir(name, 0o755, dir_fd=at)
        return os.open(name, _DIRECTORY, dir_fd=at)

    def file(self, at: int, name: bytes, content: bytes = b"", mode: int = 0o644) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=at)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def names(self) -> None:
        at = self.directory(b"names")
        odd = (b"\xff\xfe not utf-8", b"new\nline", b" ", b"-rf", b"*?[", b"\x01\x1b[31m", "ä€😀".encode(), b"\\")
        for name in (*odd, b"..x", b"n" * 255, b"\xff" * 255, b"a.", b"a", b"a b", b"a-", b"a\x7f"):
            self.file(at, name, name)
        os.close(self.directory(b"d\xff\nd", at))
        self.file(at, b"empty")
        for size in (1, 4095, 4096, 4097):
            self.file(at, b"size-%d" % size, b"s" * size)
        os.close(at)

    def depth(self) -> None:
        fd = self.directory(b"deep")
        for level in range(self.scale.levels):
            self.file(fd, b"leaf", b"level %d" % level)
            below = self.directory((b"%03d-" % level).ljust(200, b"x"), fd)
            os.close(fd)
            fd = below
        self.file(fd, b"bottom", b"far beyond PATH_MAX")
        os.symlink(b"bottom", b"link", dir_fd=fd)
        os.close(fd)

    def sparse(self) -> None:
        at = self.directory(b"sparse")
        size = self.scale.sparse
        for name, pieces in ((b"islands", (0, size // 2, size - 5)), (b"nothing", ()), (b"tail", (size - 4096,))):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=at)
            os.ftruncate(fd, size)
            for position in pieces:
                os.pwrite(fd, b"data!", position)
            os.close(fd)
        self.file(at, b"zeros", bytes(1 << 20))
        os.close(at)

    def links(self) -> None:
        at = self.directory(b"links")
        one, two = self.directory(b"one", at), self.directory(b"two", at)
        self.file(one, b"first", b"one inode, three names")
        os.link(b"first", b"second", src_dir_fd=one, dst_dir_fd=two)
        os.link(b"first", b"a third", src_dir_fd=one, dst_dir_fd=at)
        os.symlink(b"../two/second", b"symlink", dir_fd=one)
        os.link(b"symlink", b"linked symlink", src_dir_fd=one, dst_dir_fd=two, follow_symlinks=False)
        os.symlink(b"/nowhere/\xff\n", b"dangling", dir_fd=at)
        os.symlink(b"..", b"up", dir_fd=at)
        os.symlink(b"x" * 1000, b"long", dir_fd=at)
        os.mkfifo(b"fifo", 0o640, dir_fd=one)
        os.link(b"fifo", b"linked fifo", src_dir_fd=one, dst_dir_fd=two, follow_symlinks=False)
        for fd in (one, two, at):
            os.close(fd)

    def modes(self) -> None:
        at = self.directory(b"modes")
        for mode in (0o000, 0o400, 0o777, 0o4755, 0o2755, 0o6711, 0o1644):
            self.file(at, b"f%04o" % mode, b"mode", mode)
        for name, mode in ((b"sticky", 0o1777), (b"setgid", 0o2775), (b"read-only", 0o555), (b"closed", 0o000)):
            below = self.directory(name, at)
            self.file(below, b"inside", name)
            os.fchmod(below, mode)
            os.close(below)
        os.close(at)

    def owners(self) -> None:
        at = self.directory(b"owners")
        for uid, gid in ((1, 1), (65534, 65534), (123_456, 654_321), (0, 2)):
            name = b"%d-%d" % (uid, gid)
            self.file(at, name, name, 0o640)
            self.attempt("owners", partial(os.chown, name, uid, gid, dir_fd=at))
        self.file(at, b"setuid of another", b"s")
        os.symlink(b"1-1", b"symlink of another", dir_fd=at)
        self.attempt("owners", lambda: os.chown(b"setuid of another", 1, 1, dir_fd=at))
        self.attempt("owners", lambda: os.chown(b"symlink of another", 1, 2, dir_fd=at, follow_symlinks=False))
        os.chmod(b"setuid of another", 0o6755, dir_fd=at)
        os.close(at)

    def xattrs(self) -> None:
        at = self.directory(b"xattrs")
        below = self.directory(b"directory", at)
        os.symlink(b"file", b"symlink", dir_fd=at)
        os.mkfifo(b"fifo", 0o600, dir_fd=at)
        for name in (b"file", b"acl", b"capable", b"large"):
            self.file(at, name, name)

        def put(name: bytes, key: str, value: bytes) -> None:
            path = b"/proc/self/fd/%d/%s" % (at, name)
            self.attempt(f"xattr {key}", lambda: os.setxattr(path, key, value, follow_symlinks=False))

        for key, value in (("user.plain", b"v"), ("user.empty", b""), ("user.bytes", bytes(range(256)))):
            put(b"file", key, value)
            put(b"directory", key, value)
        put(b"large", "user.large", b"L" * 3000)
        for name in (b"file", b"directory", b"symlink", b"fifo"):
            put(name, "trusted.odd", name)
        put(b"acl", ACL_ACCESS, NAMED_ACL)
        put(b"directory", ACL_ACCESS, NAMED_ACL)
        put(b"directory", ACL_DEFAULT, NAMED_ACL)
        put(b"capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
        os.close(below)
        os.close(at)

    def specials(self) -> None:
        at = self.directory(b"specials")
        os.mkfifo(b"fifo", 0o620, dir_fd=at)
        os.mknod(b"socket", stat.S_IFSOCK | 0o755, dir_fd=at)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{at}/bound socket")
        for name, kind, device in ((b"null", stat.S_IFCHR, (1, 3)), (b"loop", stat.S_IFBLK, (7, 1_000))):
            self.attempt("devices", partial(os.mknod, name, kind | 0o660, os.makedev(*device), dir_fd=at))
        os.close(at)

    def many(self) -> None:
        at = self.directory(b"many")
        for number in range(self.scale.many):
            fd = os.open(b"%06d" % number, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=at)
            os.write(fd, b"file %d\n" % number)
            os.close(fd)
        os.close(at)

    def big(self) -> None:
        """Half of it compressible, half not, the same bytes every time."""
        at = self.directory(b"big")
        fd = os.open(b"file", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=at)
        piece = 1 << 20
        for number in range(self.scale.big // piece):
            if number % 2:
                os.write(fd, hashlib.shake_128(b"%d" % number).digest(piece))
            else:
                os.write(fd, (b"line %d of a log that repeats itself\n" % number * (piece // 30))[:piece])
        os.close(fd)
        os.close(at)

    def flags(self) -> None:
        at = self.directory(b"flags")
        below = self.directory(b"directory", at)
        for name, wanted in ((b"nodump", NODUMP), (b"noatime", NODUMP | NOATIME)):
            self.file(at, name, name)
            fd = os.open(name, os.O_RDONLY, dir_fd=at)
            self.attempt("inode flags", partial(add_flags, fd, wanted))
            os.close(fd)
        self.attempt("inode flags", lambda: add_flags(below, NODUMP))
        os.close(below)
        os.close(at)

    def times(self) -> None:
        """Last of all, since making things moves their directories' times."""
        at = self.directory(b"times")
        moments = (YEAR_1901, -1, 0, 1, 1_000_000_000_123_456_789, 4_000_000_000 * 10**9 + 1)
        for number, moment in enumerate(moments):
            self.file(at, b"%d" % number, b"t")
            os.utime(b"%d" % number, ns=(moment, moment), dir_fd=at)
        os.symlink(b"0", b"symlink", dir_fd=at)
        os.utime(b"symlink", ns=(0, -123_456_789), dir_fd=at, follow_symlinks=False)
        os.utime(at, ns=(0, 86_400 * 10**9 + 7))
        os.close(at)
        os.utime(b"links", ns=(0, YEAR_1901), dir_fd=self.root)


def add_flags(fd: int, flags: int) -> None:
    """Adds chattr flags to an open file or directory. Raises OSError."""
    old = struct.unpack_from("=I", fcntl.ioctl(fd, _GETFLAGS, bytes(struct.calcsize("l"))))[0]
    fcntl.ioctl(fd, _SETFLAGS, struct.pack("=I", old | flags).ljust(struct.calcsize("l"), b"\0"))


def make_odd_tree(path: str | bytes, *, scale: str = "quick") -> list[str]:
    """Makes the tree in a new directory; returns what had to be skipped, and why ("what: reason")."""
    os.mkdir(path, 0o755)
    root = os.open(path, _DIRECTORY)
    mask = os.umask(0o022)
    try:
        maker = _Maker(root, {"quick": QUICK, "full": FULL}[scale])
        makers = (
            maker.names, maker.depth, maker.sparse, maker.links, maker.modes, maker.owners, maker.xattrs,
            maker.specials, maker.many, maker.big, maker.flags, maker.times,
        )  # fmt: skip
        for make in makers:
            make()
        return maker.skipped
    finally:
        os.umask(mask)
        os.close(root)


def remove_tree(path: str | bytes) -> None:
    """Removes a tree of any depth, whatever its modes and flags; nothing where there is none."""
    parent = os.open(os.path.dirname(os.path.abspath(path)), _DIRECTORY)
    name = os.path.basename(os.path.abspath(os.fsencode(path)))
    try:
        _flatten(parent, name)
    except FileNotFoundError:
        return
    finally:
        os.close(parent)


def _flatten(parent: int, top: bytes) -> None:
    """Empties directories breadth first by moving their subdirectories to the top, so depth does not matter."""
    root = os.open(top, _DIRECTORY, dir_fd=parent)
    try:
        serial = 0
        waiting = [b"."]
        while waiting:
            name = waiting.pop()
            fd = _unlocked(root, name)
            for child in map(os.fsencode, os.listdir(fd)):
                if name == b"." and child.startswith(b"\n"):
                    continue
                if not stat.S_ISDIR(os.stat(child, dir_fd=fd, follow_symlinks=False).st_mode):
                    _unlock_file(fd, child)
                    os.unlink(child, dir_fd=fd)
                    continue
                os.close(_unlocked(fd, child))
                serial += 1
                os.rename(child, b"\n%d" % serial, src_dir_fd=fd, dst_dir_fd=root)
                waiting.append(b"\n%d" % serial)
            os.close(fd)
            if name != b".":
                os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)
    os.rmdir(top, dir_fd=parent)


def _unlocked(parent: int, name: bytes) -> int:
    if os.geteuid():
        os.chmod(name, 0o700, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    _clear_flags(fd)
    os.fchmod(fd, 0o700)
    return fd


def _unlock_file(parent: int, name: bytes) -> None:
    if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
    except PermissionError:
        return  # not root: then it has no flag that would matter
    _clear_flags(fd)
    os.close(fd)


def _clear_flags(fd: int) -> None:
    try:
        old = struct.unpack_from("=I", fcntl.ioctl(fd, _GETFLAGS, bytes(struct.calcsize("l"))))[0]
        if old & (IMMUTABLE | APPEND_ONLY):
            fcntl.ioctl(fd, _SETFLAGS, struct.pack("=I", old & ~0x30).ljust(struct.calcsize("l"), b"\0"))
    except OSError:
        return  # a file system without flags


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="odd_trees", description="Makes a tree that is hard to back up.")
    parser.add_argument("path")
    parser.add_argument("--full", action="store_true", help="3 GB sparse, 100,000 files, 5 GB")
    options = parser.parse_args()
    for line in make_odd_tree(options.path, scale="full" if options.full else "quick"):
        print("skipped:", line)
    sys.exit(0)
