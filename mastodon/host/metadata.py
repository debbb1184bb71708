"""Reads all that an Entry carries but its content: one file's metadata, by directory descriptor and name.

Nothing is followed and, but for inode flags, nothing opened. What cannot be read does not spoil the rest: the first
errno is kept in the entry. This runs for every changed file, so the common one (regular, no xattrs) costs two system
calls beyond the caller's lstat, and one ioctl where it has the file open anyway.
"""

import errno
import os
import stat

from mastodon.host import acl
from mastodon.host.linux import birth_time_ns, inode_flags
from mastodon.host.owners import OwnerNames
from mastodon.host.paths import READ_FLAGS
from mastodon.sealed.entry import XATTR_TOTAL_LIMIT, Entry, EntryType

TYPES = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFSOCK: EntryType.SOCKET,
    stat.S_IFCHR: EntryType.CHARACTER_DEVICE,
    stat.S_IFBLK: EntryType.BLOCK_DEVICE,
}
DEVICES = (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE)
FLAGGED = (EntryType.FILE, EntryType.DIRECTORY)
"""The types that may have inode flags; on the others the ioctl goes to a driver."""

LIST_LIMIT = 4096
"""Xattrs, and names in ACLs, that an entry holds."""

_NO_XATTRS = (errno.EOPNOTSUPP, errno.ENOSYS)
_NO_HOLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def read_entry(
    dir_fd: int,
    name: bytes,
    st: os.stat_result,
    names: OwnerNames,
    *,
    fd: int | None = None,
    link_group: int = 0,
    extended: bool = True,
) -> Entry:
    """The entry of what ``st`` (an lstat) describes, without content, hash and places.

    ``fd`` is the thing itself where the caller has it open: flags are read from it. Not ``extended``: only what
    lstat tells, owner names, and a symlink's target. Raises ValueError for a type that no entry can have.
    """
    kind = TYPES.get(stat.S_IFMT(st.st_mode))
    if kind is None:
        raise ValueError(f"{name!r} is of a type that cannot be backed up: {stat.S_IFMT(st.st_mode):#o}")
    entry = Entry(
        name=name,
        type=kind,
        mode=st.st_mode & 0o7777,
        uid=st.st_uid,
        gid=st.st_gid,
        mtime_ns=st.st_mtime_ns,
        size=st.st_size if kind is EntryType.FILE else 0,
        user=names.user(st.st_uid),
        group=names.group(st.st_gid),
        link_group=link_group,
    )
    if kind is EntryType.SYMLINK:
        _read_target(dir_fd, entry)
    elif kind in DEVICES:
        entry.rdev = (os.major(st.st_rdev), os.minor(st.st_rdev))
    if extended:
        entry.birth_ns = birth_time_ns(dir_fd, name) if fd is None else birth_time_ns(fd, b"")
        _read_xattrs(dir_fd, entry, names, fd)
        if kind in FLAGGED:
            _read_flags(dir_fd, entry, st, fd)
    return entry


def data_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Where an open file has data, as (offset, length) in order; the rest up to ``size`` is holes.

    One extent where the file occupies as much as it is long, without looking further. Moves the file's offset.
    Raises OSError.
    """
    if size <= 0:
        return []
    if os.fstat(fd).st_blocks * 512 >= size:
        return [(0, size)]
    extents: list[tuple[int, int]] = []
    position = 0
    try:
        while position < size:
            start = os.lseek(fd, position, os.SEEK_DATA)
            if start >= size:
                break
            position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            extents.append((start, position - start))
    except OSError as error:
        if error.errno in _NO_HOLES:
            return [(0, size)]
        if error.errno != errno.ENXIO:  # no data after this position
            raise
    return extents


def _note(entry: Entry, error: OSError) -> None:
    entry.error = entry.error or error.errno or errno.EIO


def _read_target(dir_fd: int, entry: Entry) -> None:
    try:
        entry.target = os.readlink(entry.name, dir_fd=dir_fd)
    except OSError as error:
        _note(entry, error)


def _read_xattrs(dir_fd: int, entry: Entry, names: OwnerNames, fd: int | None) -> None:
    # Through /proc the kernel takes a name in an open directory, of any type, without opening or following it.
    thing = b"/proc/self/fd/%d/%s" % (dir_fd, entry.name) if fd is None else fd
    follow = fd is not None  # a descriptor is the thing itself, and Python wants to hear so
    try:
        listed = os.listxattr(thing, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            _note(entry, error)
        return
    if not listed:
        return
    found: list[tuple[bytes, bytes]] = []
    total = 0
    for name in sorted(map(os.fsencode, listed)):
        try:
            value = os.getxattr(thing, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.ENODATA, *_NO_XATTRS):  # removed meanwhile, or listed but not there
                _note(entry, error)
            continue
        total += len(name) + len(value)
        if total > XATTR_TOTAL_LIMIT or len(found) == LIST_LIMIT:
            _note(entry, OSError(errno.E2BIG, "more xattrs than an entry holds"))
            break
        found.append((name, value))
    entry.xattrs = tuple(found)
    entry.acl_names = _acl_names(found, names)
    if len(entry.acl_names) > LIST_LIMIT:
        entry.acl_names = entry.acl_names[:LIST_LIMIT]
        _note(entry, OSError(errno.E2BIG, "more names in ACLs than an entry holds"))


def _acl_names(xattrs: list[tuple[bytes, bytes]], names: OwnerNames) -> tuple[tuple[str, int, str], ...]:
    """The names of all whom the ACLs mention, as far as they have one."""
    mentioned = {who for name, value in xattrs if name in acl.ACL_XATTRS for who in acl.qualifiers(value)}
    named = ((kind, number, names.user(number) if kind == "u" else names.group(number)) for kind, number in mentioned)
    return tuple(sorted(who for who in named if who[2]))


def _read_flags(dir_fd: int, entry: Entry, st: os.stat_result, fd: int | None) -> None:
    try:
        if fd is not None:
            entry.inode_flags = inode_flags(fd)
            return
        opened = os.open(entry.name, READ_FLAGS, dir_fd=dir_fd)
        try:
            now = os.fstat(opened)
            if (now.st_dev, now.st_ino) == (st.st_dev, st.st_ino):
                entry.inode_flags = inode_flags(opened)
        finally:
            os.close(opened)
    except OSError as error:
        _note(entry, error)
