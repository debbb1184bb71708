"""Opens files to be read: nothing followed, nothing waited for, no trace left; and has the kernel fetch them early."""

import os
from contextlib import suppress

from mastodon.host.paths import READ_FLAGS

ANNOUNCED = 4 * 1024 * 1024
"""Bytes of a file that are announced when it is opened."""


def open_quietly(name: bytes, dir_fd: int) -> int:
    """Without touching the access time, where this user may have it so. Raises OSError."""
    try:
        return os.open(name, READ_FLAGS | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, READ_FLAGS, dir_fd=dir_fd)


def announce(fd: int, offset: int, length: int) -> None:
    """These bytes of an open file will be read soon."""
    with suppress(OSError):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
