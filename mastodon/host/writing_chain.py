"""The directories that a restore writes in: opened name by name, made where they are missing, never through a symlink.

A directory has the mode DIRECTORY_IN_PROGRESS from when a restore makes it until it is finished. Two processes that
make the same one at once are fine: whoever comes second opens it.
"""

import errno
import os
import stat
from dataclasses import dataclass

from mastodon.host import acl
from mastodon.host.linux import inode_flags, set_inode_flags
from mastodon.host.paths import DIRECTORY_FLAGS, OPEN_DIRECTORIES, Directory, DirectoryChain, check_name

DIRECTORY_IN_PROGRESS = 0o1700
"""Sticky without access for others means nothing to anybody else."""

_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class WritingDirectory:
    """An open directory, valid until the chain moves on, and what is known of things made in it."""

    fd: int
    fresh: bool  # this process has made it just now, so what it has not written is not there
    unfinished: bool  # a restore made it and has not finished it: nobody else may look into it
    plain: bool  # new things get this user's owner and group and inherit nothing
    inherits: bool  # new things inherit an ACL or inode flags, which have to be taken away


def in_progress(st: os.stat_result) -> bool:
    """Whether this is a directory of this user that a restore made and has not finished."""
    return stat.S_IMODE(st.st_mode) == DIRECTORY_IN_PROGRESS and st.st_uid == os.geteuid()


class WritingChain(DirectoryChain):
    """Opens directories below a target and makes them on demand.

    ``replace``: a symlink or file that stands where a directory is to be is removed; else it is an error.
    """

    def __init__(self, root_fd: int, *, replace: bool, limit: int = OPEN_DIRECTORIES) -> None:
        super().__init__(root_fd, limit)
        self._replace = replace
        self._made: set[int] = set()
        self._place: tuple[Directory, WritingDirectory] | None = None

    def place(self, directory: Directory) -> WritingDirectory:
        """The directory to write in; raises OSError or HostileName where it cannot be had."""
        if self._place is not None and self._place[0] == directory:
            return self._place[1]
        self._place = None
        fd = self.open(directory)
        st = os.fstat(fd)
        unfinished = in_progress(st)
        place = WritingDirectory(
            fd, fd in self._made, unfinished, unfinished and st.st_gid == os.getegid(), not unfinished and _inherits(fd)
        )
        self._place = (directory, place)
        return place

    def _enter(self, parent_fd: int, name: bytes) -> int:
        check_name(name)
        missing = parent_fd in self._made  # then making comes before trying to open
        for _ in range(_ATTEMPTS):
            if missing and (made := self._make(parent_fd, name)) is not None:
                return made
            try:
                return os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)
            except FileNotFoundError:
                missing = True
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP) or not self._replace:
                    raise
                _unlink(parent_fd, name)
        raise OSError(errno.EBUSY, "somebody keeps replacing this directory")

    def _leave(self, fd: int) -> None:
        self._made.discard(fd)
        self._place = None

    def _make(self, parent_fd: int, name: bytes) -> int | None:
        try:
            os.mkdir(name, DIRECTORY_IN_PROGRESS, dir_fd=parent_fd)
        except FileExistsError:
            return None
        try:
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)
        except OSError:
            return None  # swapped in this moment: seen to as whatever it is now
        if parent_fd not in self._made:
            strip_inherited(fd, flags=True)
            os.fchmod(fd, DIRECTORY_IN_PROGRESS)
        self._made.add(fd)
        return fd


def strip_inherited(handle: int | bytes, *, flags: bool) -> None:
    """Takes away the ACLs (and inode flags) that something new has from its directory."""
    for name in acl.ACL_XATTRS:
        try:
            os.removexattr(handle, name)
        except OSError:
            continue  # none there, or a file system without
    if flags and isinstance(handle, int) and inode_flags(handle):
        set_inode_flags(handle, 0)


def _inherits(fd: int) -> bool:
    try:
        os.getxattr(fd, acl.DEFAULT)
    except OSError:
        return bool(inode_flags(fd))
    return True


def _unlink(parent_fd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
