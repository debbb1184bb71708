"""Walks and opens by directory descriptors: one name at a time, never through a symlink, however deep.

No path is ever handed to the kernel, so PATH_MAX bounds nothing, and a symlink that somebody swaps in for a
directory is refused instead of followed. Names are raw bytes.
"""

import os
from collections.abc import Sequence
from typing import Self

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""To open whatever may lie there for reading: nothing followed, nothing waited for, no terminal taken over."""
OPEN_DIRECTORIES = 64
"""Descriptors that one chain keeps open at most."""

Directory = tuple[bytes, ...]
"""The names that lead from a root to a directory; () is the root itself."""


class HostileName(ValueError):
    """A name that is no name in a directory (empty, '.', '..', with '/' or NUL): following it would lead elsewhere."""


def check_name(name: bytes) -> bytes:
    """The same name, where it names something *in* a directory. Raises HostileName."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise HostileName(f"{name!r} is not a name in a directory")
    return name


def open_directory(parent_fd: int, name: bytes) -> int:
    """Opens a directory by its name in another one; a symlink is refused (OSError), a hostile name too."""
    return os.open(check_name(name), DIRECTORY_FLAGS, dir_fd=parent_fd)


def printable(directory: Sequence[bytes], name: bytes | None = None) -> bytes:
    """A path for messages only: the names joined by slashes."""
    return b"/".join([*directory, name] if name is not None else directory)


class DirectoryChain:
    """The directories on the way to the one in use, the deepest of them kept open.

    Moving between neighbours costs one open; what was closed for the bound's sake is opened again from the root.
    A subclass may open in its own way (``_enter``) and learn what is closed (``_leave``).
    """

    def __init__(self, root_fd: int, limit: int = OPEN_DIRECTORIES) -> None:
        self._root = root_fd
        self._limit = limit
        self._names: Directory = ()
        self._fds: list[int] = []  # one per name, -1 where closed; the open ones are the last
        self._first_open = 0

    def open(self, directory: Directory) -> int:
        """The descriptor of a directory, valid until the next call; it belongs to the chain."""
        if directory != self._names:
            self._move(directory)
        return self._fds[-1] if self._fds else self._root

    def close(self) -> None:
        """Closes all but the root, which belongs to the caller."""
        self._cut(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _move(self, directory: Directory) -> None:
        common = 0
        for old, new in zip(self._names, directory, strict=False):
            if old != new:
                break
            common += 1
        self._cut(common)
        if self._first_open >= len(self._fds):  # nothing on the way is open any more
            self._cut(0)
        try:
            for name in directory[len(self._fds) :]:
                fd = self._enter(self._fds[-1] if self._fds else self._root, name)
                self._fds.append(fd)
                if len(self._fds) - self._first_open > self._limit:
                    self._shut(self._first_open)
                    self._first_open += 1
        finally:
            self._names = directory[: len(self._fds)]

    def _cut(self, length: int) -> None:
        while len(self._fds) > length:
            self._shut(len(self._fds) - 1)
            self._fds.pop()
        self._first_open = min(self._first_open, length)
        self._names = self._names[:length]

    def _shut(self, index: int) -> None:
        fd = self._fds[index]
        if fd >= 0:
            self._fds[index] = -1
            self._leave(fd)
            os.close(fd)

    def _enter(self, parent_fd: int, name: bytes) -> int:
        return open_directory(parent_fd, name)

    def _leave(self, fd: int) -> None:
        """Called before a descriptor is closed."""
