"""What Linux has and Python's ``os`` does not reach: birth time, inode flags, a rename that replaces nothing.

Where the kernel, the C library or the file system lacks one of them, that is an answer (None, OSError), never a crash.
"""

import ctypes
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000  # what the network file system has at hand is enough: lstat was just there
_BIRTH_FLAGS = _AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
_STATX_BTIME = 0x800
_STATX_SIZE = 256
_STATX_MASK_AND_BIRTH = struct.Struct("=I76xqI")
_RENAME_NOREPLACE = 1

_LONG = struct.calcsize("l")
_FS_IOC_GETFLAGS = 2 << 30 | _LONG << 16 | ord("f") << 8 | 1
_FS_IOC_SETFLAGS = 1 << 30 | _LONG << 16 | ord("f") << 8 | 2

IMMUTABLE = 0x10
APPEND_ONLY = 0x20
NO_COPY_ON_WRITE = 0x800000
INODE_FLAGS = (
    0x1  # secure removal
    | 0x2  # undeletable
    | 0x4  # compress
    | 0x8  # synchronous
    | IMMUTABLE
    | APPEND_ONLY
    | 0x40  # no dump
    | 0x80  # no atime
    | 0x400  # do not compress
    | 0x4000  # journal the data
    | 0x8000  # no tail merging
    | 0x10000  # synchronous directory
    | 0x20000  # top of a hierarchy
    | NO_COPY_ON_WRITE
)
"""The flags of chattr that a user may set; the others say how the file system stores the file."""


def _from_libc(library: Any, name: str, *argument_types: Any) -> Callable[..., int] | None:
    try:
        function = getattr(library(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = argument_types
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


# One buffer for all threads: PyDLL keeps the interpreter's lock, which for a look at an inode is also the quicker way.
_statx_buffer = ctypes.create_string_buffer(_STATX_SIZE)
_statx_address = ctypes.addressof(_statx_buffer)
_statx = _from_libc(ctypes.PyDLL, "statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
_renameat2 = _from_libc(
    ctypes.CDLL, "renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)


def birth_time_ns(dir_fd: int, name: bytes) -> int | None:
    """When the inode was made, nanoseconds since 1970; None where the system does not tell. An empty name: the open
    thing itself, of whatever type."""
    if _statx is None:
        return None
    if _statx(dir_fd, name, _BIRTH_FLAGS, _STATX_BTIME, _statx_address):
        return None
    mask, seconds, nanoseconds = _STATX_MASK_AND_BIRTH.unpack_from(_statx_buffer)
    return int(seconds) * 1_000_000_000 + int(nanoseconds) if mask & _STATX_BTIME else None


def inode_flags(fd: int) -> int:
    """The INODE_FLAGS of an open regular file or directory; 0 where the file system has none. Raises OSError."""
    try:
        answer = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(_LONG))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            return 0
        raise
    # The kernel writes an int, whatever the ioctl's number says.
    return int.from_bytes(answer[:4], sys.byteorder) & INODE_FLAGS


def set_inode_flags(fd: int, flags: int) -> int:
    """Gives an open file or directory these INODE_FLAGS and takes the others away; what does not stick is returned.

    Raises OSError where the file system has no such flags, or this user may not set them.
    """
    answer = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(_LONG))
    kept = int.from_bytes(answer[:4], sys.byteorder) & ~INODE_FLAGS
    wanted = flags & INODE_FLAGS
    fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=I", kept | wanted).ljust(_LONG, b"\0"))
    return wanted & ~inode_flags(fd)


def rename_without_replacing(dir_fd: int, old: bytes, new: bytes) -> None:
    """Renames inside one directory; FileExistsError where the new name is taken, by anything. Raises OSError.

    A file system without such a rename gets a look before the rename: only there somebody may slip in between.
    """
    if _renameat2 is not None:
        if _renameat2(dir_fd, old, dir_fd, new, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
    try:
        os.stat(new, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
