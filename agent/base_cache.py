"""Bases for deltas: whole contents of large files, as the server has them in full, kept on this machine's disk.

A base is a file in the state directory's folder ``bases``, named ``HASH.SENT``: the keyed hash of its content, and how
many bytes of deltas have been sent against it. The file's mtime says when it was last of use.

Promises: at most ``limit`` bytes, least recently used go first; a tenth of the file system stays free. A base is good
only with the hash and size that the listing names, read anew before each use: one that was damaged, swapped or made by
another machine is as good as none, and removed. Whatever is lost here costs bytes, nothing else.
"""

import contextlib
import os
import re
from dataclasses import dataclass
from typing import IO

from mastodon.sealed.content import FileHasher

FOLDER = "bases"
PIECE = 1024 * 1024
NEW, TEMPORARY = "new", "temporary"
FREE_PARTS = 10
_NAME = re.compile(r"([0-9a-f]{64})\.([0-9]{1,18})")


@dataclass(slots=True)
class CachedBase:
    """A base that has the hash it should have, open for reading."""

    name: str
    hash: bytes
    size: int
    sent: int
    fd: int

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class BaseCache:
    """``key`` is that of file hashes. One process at a time uses a cache; the run's lock sees to that."""

    def __init__(self, state: str, limit: int, key: bytes) -> None:
        self._folder = os.path.join(state, FOLDER)
        self._limit = limit
        self._key = key
        with contextlib.suppress(OSError):
            os.mkdir(self._folder, 0o700)
        self._sweep()
        self._make_room(0)

    def find(self, hash: bytes, size: int) -> CachedBase | None:
        """The base of this hash and size, checked."""
        for name in self._names():
            if name.startswith(hash.hex()):
                return self._open(name, hash, size)
        return None

    def begin(self, size: int, evicts: bool) -> "NewBase | None":
        """A base in the making, if there is room; with ``evicts``, room is made for it."""
        if size > self._limit or (not evicts and size > self._limit - self._total()):
            return None
        self._make_room(size)
        try:
            there = os.statvfs(self._folder)
            if (there.f_bavail - there.f_blocks // FREE_PARTS) * there.f_frsize < size:
                return None
            return NewBase(self._folder)
        except OSError:
            return None

    def temporary(self) -> IO[bytes]:
        """A file without a name on the cache's disk. Raises OSError."""
        try:
            fd = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # not every file system has it
            path = os.path.join(self._folder, TEMPORARY)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.unlink(path)
        return open(fd, "r+b", buffering=0)

    def used(self, base: CachedBase, sent: int) -> None:
        """A delta of so many bytes was sent against it."""
        with contextlib.suppress(OSError):
            path = os.path.join(self._folder, f"{base.hash.hex()}.{base.sent + sent}")
            os.rename(os.path.join(self._folder, base.name), path)
            os.utime(path)

    def drop(self, base: CachedBase) -> None:
        """It is of no more use."""
        self._remove(base.name)

    def _open(self, name: str, hash: bytes, size: int) -> CachedBase | None:
        try:
            fd = os.open(os.path.join(self._folder, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        base = CachedBase(name, hash, size, int(name.partition(".")[2]), fd)
        try:
            if os.fstat(fd).st_size == size and _hash(fd, size, self._key) == hash:
                return base
        except OSError:
            pass
        base.close()
        self._remove(name)
        return None

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder) if _NAME.fullmatch(name)]
        except OSError:
            return []

    def _sizes(self) -> list[tuple[int, str, int]]:
        """(time of last use, name, size) of all bases, the oldest first."""
        found = []
        for name in self._names():
            with contextlib.suppress(OSError):
                st = os.lstat(os.path.join(self._folder, name))
                found.append((st.st_mtime_ns, name, st.st_size))
        return sorted(found)

    def _total(self) -> int:
        return sum(size for _, _, size in self._sizes())

    def _make_room(self, size: int) -> None:
        bases = self._sizes()
        total = sum(length for _, _, length in bases)
        for _, name, length in bases:
            if total + size <= self._limit:
                break
            self._remove(name)
            total -= length

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, name))

    def _sweep(self) -> None:
        """Remove what an interrupted run left."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):
                if not _NAME.fullmatch(name):
                    self._remove(name)


class NewBase:
    """A base in the making. A disk that refuses ends it: ``is_good`` is then false."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = os.path.join(folder, NEW)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o600)

    @property
    def is_good(self) -> bool:
        """Whether all that was written is there."""
        return self._fd >= 0

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        view = memoryview(data)
        try:
            while view and self.is_good:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self.discard()

    def keep(self, hash: bytes) -> None:
        """It is whole, and has this hash."""
        if self.is_good:
            self._close()
            with contextlib.suppress(OSError):
                os.rename(self._path, os.path.join(self._folder, f"{hash.hex()}.0"))

    def discard(self) -> None:
        """Nothing comes of it."""
        if self.is_good:
            self._close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


def _hash(fd: int, size: int, key: bytes) -> bytes:
    hasher = FileHasher(key)
    offset = 0
    while data := os.pread(fd, PIECE, offset):
        hasher.data(data)
        offset += len(data)
    return hasher.digest(size) if offset == size else b""
