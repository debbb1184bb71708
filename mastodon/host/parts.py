"""Parts: what is not complete yet, under a name of its own beside the place where it is to stand.

A part is named ``.mastodon-TOKEN-N.part``; TOKEN is one restore's, so that leftovers of an earlier one are told from
what a parallel process is writing. Becoming complete is one rename, which makes a restore that was killed anywhere
safe to take up again.

On ext4 the rename costs a third of making a small file. So in a directory that a restore has made and not finished,
which nobody else may look into, a small file stands under its own name from the start, with the mode
FILE_IN_PROGRESS until it has everything else: setting its mode is what completes it.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from mastodon.host.linux import rename_without_replacing
from mastodon.host.metadata import TYPES
from mastodon.sealed.entry import Entry, EntryType

_PART = re.compile(rb"\.mastodon-([0-9a-f]{16})-[0-9a-f]+\.part")
_TOKEN = re.compile(r"[0-9a-f]{16}")
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_IN_PROGRESS = 0o1600
"""Sticky without access for others means nothing to anybody on a file: the mode of one that is not complete. Its owner
may write: without that an ordinary user could set no xattrs."""
_OPEN_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.SOCKET: stat.S_IFSOCK,
    EntryType.CHARACTER_DEVICE: stat.S_IFCHR,
    EntryType.BLOCK_DEVICE: stat.S_IFBLK,
}


class Parts:
    """Makes parts and moves them into place. ``token``: 16 hex digits of the restore, and ``worker`` its process."""

    def __init__(self, token: str, worker: int, *, replace: bool) -> None:
        if not _TOKEN.fullmatch(token):
            raise ValueError("a restore's token is 16 hex digits")
        self._token = token.encode()
        self._prefix = b".mastodon-%s-%x" % (self._token, worker)
        self._count = 0
        self._replace = replace

    def new_name(self) -> bytes:
        """A name for a part that no other one of this restore has."""
        self._count += 1
        return b"%s%08x.part" % (self._prefix, self._count)

    def create(self, dir_fd: int, mode: int) -> tuple[int, bytes]:
        """A new file for a part: its descriptor and name. Raises OSError."""
        name = self.new_name()
        return os.open(name, _CREATE, mode, dir_fd=dir_fd), name

    def create_named(self, dir_fd: int, name: bytes) -> int:
        """A new file under its own name, incomplete until it gets another mode. Raises OSError."""
        return os.open(name, _CREATE, FILE_IN_PROGRESS, dir_fd=dir_fd)

    def create_node(self, dir_fd: int, entry: Entry) -> bytes:
        """A new symlink, fifo, socket or device for a part: its name. Raises OSError, ValueError, OverflowError."""
        name = self.new_name()
        if entry.type is EntryType.SYMLINK:
            os.symlink(entry.target, name, dir_fd=dir_fd)
            return name
        device = os.makedev(*entry.rdev) if entry.rdev is not None else 0
        os.mknod(name, _NODES[entry.type] | 0o600, device, dir_fd=dir_fd)
        return name

    def settle(self, dir_fd: int, part: bytes, name: bytes) -> None:
        """Moves a complete part into place. Raises OSError: FileExistsError where nothing may be replaced.

        Of directories only an empty one is replaced.
        """
        if not self._replace:
            rename_without_replacing(dir_fd, part, name)
            return
        try:
            os.rename(part, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=dir_fd)
            os.rename(part, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def discard(self, dir_fd: int, part: bytes) -> None:
        """Removes a part that will not become complete; one that is gone already is fine."""
        try:
            os.unlink(part, dir_fd=dir_fd)
        except OSError:
            return

    def is_leftover(self, name: bytes) -> bool:
        """Whether this is the name of another restore's part."""
        match = _PART.fullmatch(name)
        return match is not None and match.group(1) != self._token


def is_incomplete(st: os.stat_result) -> bool:
    """Whether this is a file of this user's that a restore made under its own name and did not complete."""
    return st.st_mode == stat.S_IFREG | FILE_IN_PROGRESS and st.st_uid == os.geteuid()


@contextmanager
def opened_node(dir_fd: int, name: bytes, kind: EntryType) -> Iterator[bytes]:
    """A path that stands for this one inode, which is neither opened nor followed. Raises OSError.

    ESTALE where it is not of this kind: somebody has swapped it.
    """
    fd = os.open(name, _OPEN_NODE, dir_fd=dir_fd)
    try:
        if TYPES.get(stat.S_IFMT(os.fstat(fd).st_mode)) is not kind:
            raise OSError(errno.ESTALE, "swapped for something else")
        yield b"/proc/self/fd/%d" % fd
    finally:
        os.close(fd)
