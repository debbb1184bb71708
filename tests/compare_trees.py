"""Compares two trees by directory descriptors, and says every difference. Knows nothing of Mastodon.

    python -m tests.compare_trees A B [--leave-out KIND]... [--unprivileged]

Compared: names, type, content, mode, owner, times (ns, also of symlinks and directories), xattrs and ACLs, hard link
groups, holes, inode flags, device numbers, symlink targets. No path is handed to the kernel, so depth has no bound,
and no more than OPEN_LIMIT directories a side are open. Not compared: atime, ctime, birth time.
Exit status: 0 no difference, 1 differences, 2 not comparable.
"""

import argparse
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass

OPEN_LIMIT = 32
PIECE = 1 << 20
HOLE_SLACK = 64 * 1024
"""So much more than A, for each stretch of data and once, B may occupy: file systems round."""

KINDS = (
    "missing", "extra", "type", "content", "size", "mode", "owner", "mtime", "xattr", "links", "holes", "flags",
    "device", "target", "unreadable",
)  # fmt: skip
UNPRIVILEGED = ("owner", "device-nodes", "trusted", "setid")
"""What an ordinary user cannot restore: owners, devices, xattrs outside user.* and ACLs, setuid bits of others."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GETFLAGS = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
_CHATTR = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x400 | 0x4000 | 0x8000 | 0x10000 | 0x20000 | 0x800000

Path = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same: where, which of KINDS, and what A and B have."""

    path: bytes
    kind: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path!r}: {self.a} / {self.b}"


class _Side:
    """One of the trees: opens its directories by components, keeping the last ones open."""

    def __init__(self, root: str | bytes) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: dict[Path, int] = {}
        self.inodes: dict[tuple[int, int], tuple[int, int]] = {}
        """Of linked files: the inode to the other side's."""

    def directory(self, path: Path) -> int:
        known = len(path)
        while known and path[:known] not in self._open:
            known -= 1
        fd = self._open[path[:known]] if known else self._root
        for depth in range(known, len(path)):
            fd = os.open(path[depth], _DIRECTORY, dir_fd=fd)
            self._open[path[: depth + 1]] = fd
            if len(self._open) > OPEN_LIMIT:
                os.close(self._open.pop(next(iter(self._open))))
        return fd

    def close(self) -> None:
        for fd in (*self._open.values(), self._root):
            os.close(fd)


class _Comparison:
    def __init__(self, a: str | bytes, b: str | bytes, leave_out: Collection[str]) -> None:
        self._a = _Side(a)
        self._b = _Side(b)
        self._out = frozenset(leave_out)
        self.found: list[Difference] = []

    def close(self) -> None:
        self._a.close()
        self._b.close()

    def run(self) -> list[Difference]:
        self._compare_metadata((), self._a.directory(()), self._b.directory(()), b".")
        waiting: list[Path] = [()]
        while waiting:
            path = waiting.pop()
            try:
                a, b = self._a.directory(path), self._b.directory(path)
                names_a, names_b = set(_names(a)), set(_names(b))
            except OSError as error:
                self._say(path, "unreadable", error.strerror, "")
                continue
            for name in sorted(names_a - names_b):
                if not self._cannot_be_had(a, name):
                    self._say((*path, name), "missing", "there", "not there")
            for name in sorted(names_b - names_a):
                self._say((*path, name), "extra", "not there", "there")
            below = []
            for name in sorted(names_a & names_b):
                try:
                    if self._compare_metadata((*path, name), a, b, name):
                        below.append((*path, name))
                except OSError as error:
                    self._say((*path, name), "unreadable", error.strerror, "")
            waiting += reversed(below)
        return self.found

    def _say(self, path: Path, kind: str, a: object, b: object) -> None:
        if kind not in self._out:
            self.found.append(Difference(b"/".join(path) or b".", kind, str(a), str(b)))

    def _cannot_be_had(self, a: int, name: bytes) -> bool:
        mode = os.stat(name, dir_fd=a, follow_symlinks=False).st_mode
        return "device-nodes" in self._out and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode))

    def _differ(self, path: Path, kind: str, a: object, b: object) -> None:
        if a != b:
            self._say(path, kind, a, b)

    def _compare_metadata(self, path: Path, a: int, b: int, name: bytes) -> bool:
        """Compares one thing whole, but for a directory's children; True for a directory on both sides."""
        sa = os.stat(name, dir_fd=a, follow_symlinks=False)
        sb = os.stat(name, dir_fd=b, follow_symlinks=False)
        kind = stat.S_IFMT(sa.st_mode)
        if kind != stat.S_IFMT(sb.st_mode):
            self._say(path, "type", oct(kind), oct(stat.S_IFMT(sb.st_mode)))
            return False
        mask = 0o1777 if "setid" in self._out else 0o7777
        self._differ(path, "mode", oct(sa.st_mode & mask), oct(sb.st_mode & mask))
        self._differ(path, "owner", (sa.st_uid, sa.st_gid), (sb.st_uid, sb.st_gid))
        self._differ(path, "mtime", sa.st_mtime_ns, sb.st_mtime_ns)
        self._differ(path, "xattr", self._xattrs(a, name), self._xattrs(b, name))
        if kind != stat.S_IFDIR:
            self._compare_links(path, sa, sb)
        if kind == stat.S_IFLNK:
            self._differ(path, "target", os.readlink(name, dir_fd=a), os.readlink(name, dir_fd=b))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            self._differ(path, "device", _device(sa), _device(sb))
        elif kind in (stat.S_IFREG, stat.S_IFDIR):
            self._compare_opened(path, a, b, name)
        return kind == stat.S_IFDIR

    def _xattrs(self, dir_fd: int, name: bytes) -> dict[str, bytes]:
        path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return {}
            raise
        if "trusted" in self._out:
            names = [one for one in names if one.startswith(("user.", "system.posix_acl_"))]
        return {one: os.getxattr(path, one, follow_symlinks=False) for one in sorted(names)}

    def _compare_links(self, path: Path, sa: os.stat_result, sb: os.stat_result) -> None:
        """Linked names of A must be linked names of B and the other way round; links out of the tree do not count."""
        if sa.st_nlink == 1 and sb.st_nlink == 1:
            return
        ia, ib = (sa.st_dev, sa.st_ino), (sb.st_dev, sb.st_ino)
        if self._a.inodes.setdefault(ia, ib) != ib:
            self._say(path, "links", "linked", "not linked to the same")
        elif self._b.inodes.setdefault(ib, ia) != ia:
            self._say(path, "links", "not linked", "linked to another")

    def _compare_opened(self, path: Path, a: int, b: int, name: bytes) -> None:
        fa = os.open(name, _FILE, dir_fd=a)
        try:
            fb = os.open(name, _FILE, dir_fd=b)
            try:
                self._differ(path, "flags", hex(_flags(fa)), hex(_flags(fb)))
                if stat.S_ISREG(os.fstat(fa).st_mode):
                    self._compare_content(path, fa, fb)
            finally:
                os.close(fb)
        finally:
            os.close(fa)

    def _compare_content(self, path: Path, fa: int, fb: int) -> None:
        size, other = os.fstat(fa).st_size, os.fstat(fb).st_size
        if size != other:
            self._say(path, "size", size, other)
            return
        da, db = list(_data(fa, size)), list(_data(fb, size))
        for start, end in _union(da + db):  # outside of both, both read as zeros
            for position in range(start, end, PIECE):
                length = min(PIECE, end - position)
                if os.pread(fa, length, position) != os.pread(fb, length, position):
                    self._say(path, "content", f"differs within {length} bytes from {position}", "")
                    return
        occupied_a, occupied_b = (sum(end - start for start, end in data) for data in (da, db))
        if occupied_b > occupied_a + HOLE_SLACK * (len(da) + 1):
            self._say(path, "holes", f"{occupied_a} bytes of data", f"{occupied_b} bytes of data")


def _names(fd: int) -> Iterator[bytes]:
    return map(os.fsencode, os.listdir(fd))


def _device(st: os.stat_result) -> str:
    return f"{os.major(st.st_rdev)}:{os.minor(st.st_rdev)}"


def _flags(fd: int) -> int:
    try:
        answer = fcntl.ioctl(fd, _GETFLAGS, bytes(struct.calcsize("l")))
    except OSError:
        return 0
    return int(struct.unpack_from("=I", answer)[0]) & _CHATTR


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as (start, end); all of it where the file system does not tell."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            position = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                yield position, size
            return
        yield start, min(position, size)


def _union(stretches: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    done = 0
    for start, end in sorted(stretches):
        if end > done:
            yield max(start, done), end
            done = end


def compare_trees(a: str | bytes, b: str | bytes, *, leave_out: Collection[str] = ()) -> list[Difference]:
    """All differences between two directories; ``leave_out`` names KINDS, or what is in UNPRIVILEGED."""
    comparison = _Comparison(a, b, leave_out)
    try:
        return comparison.run()
    finally:
        comparison.close()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="compare_trees", description="Says every difference between two trees.")
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--leave-out", action="append", default=[], choices=sorted({*KINDS, *UNPRIVILEGED}))
    parser.add_argument("--unprivileged", action="store_true", help="leave out what an ordinary user cannot restore")
    options = parser.parse_args(arguments)
    left_out = [*options.leave_out, *(UNPRIVILEGED if options.unprivileged else ())]
    try:
        differences = compare_trees(options.a, options.b, leave_out=left_out)
    except OSError as error:
        print(f"compare_trees: {error}", file=sys.stderr)
        return 2
    for difference in differences:
        print(difference)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
