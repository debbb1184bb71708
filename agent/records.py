"""What the reader process tells the sealing process: an edit script over the old listing, with contents.

Both hold the old listing open, in the same order, and the script walks along it: so many entries are as they were,
so many are gone, here comes a new one. Of what did not change nothing but a count is passed on.

A record is a kind, a ``meta`` (marshal: both ends are one program, forked) and data. Of an entry's fields, all travel
but places and delta; ``row`` is what the next run compares with (state.py).
"""

import marshal
import os
import struct
from enum import IntEnum

from mastodon.sealed.entry import Entry, EntryFlag, EntryType


class Kind(IntEnum):
    """Kinds of records. Those that replace an old entry say so in their meta."""

    UNCHANGED = 1  # meta: count of old entries that stay as they are
    GONE = 2  # meta: count of old entries that are no longer there
    CARRIED = 3  # meta: count of old entries that could not be looked at: their last good copy stays
    DIRECTORY = 4  # meta: names that lead to the directory of the entries that follow
    ENTRY = 5  # meta: entry without content, (fields, row, replaces)
    SMALL = 6  # the same, with the whole content as data
    LINKED = 7  # the same, with the content of an entry of the same link group that came before
    BEGIN = 8  # meta: size of a large file, whose content follows
    DATA = 9  # data: the next bytes of the large file
    HOLE = 10  # meta: length of a hole in it
    RESTART = 11  # it changed meanwhile: its content comes again from the start
    END = 12  # meta as for ENTRY: the large file is whole
    FAILED = 13  # meta as for ENTRY: the content could not be read; the old entry's stays, if there is one
    NOTE = 14  # meta: (reason, path, errno) to count and to tell
    DONE = 15
    CRASHED = 16  # meta: text; the reader gave up


MASK = (1 << 64) - 1

_ROW = struct.Struct("<IQQQQ")
_pack_row = _ROW.pack
ROW_SIZE = _ROW.size
NO_ROW = bytes(ROW_SIZE)
"""Fits no file: whatever it belongs to is read again next time."""


def pack_entry(entry: Entry, row: bytes, replaces: bool) -> bytes:
    """The meta of an entry."""
    fields = (
        entry.name, int(entry.type), entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, entry.user,
        entry.group, entry.hash, entry.target, entry.link_group, entry.rdev, entry.birth_ns, entry.xattrs,
        entry.acl_names, entry.inode_flags, int(entry.flags), entry.error,
    )  # fmt: skip
    return marshal.dumps((fields, row, replaces))


def unpack_entry(meta: bytes | memoryview) -> tuple[Entry, bytes, bool]:
    """The entry in a meta, without places; its row; whether it takes the place of the next old entry."""
    fields, row, replaces = marshal.loads(meta)
    (
        name, kind, mode, uid, gid, mtime_ns, size, user, group, hash, target, link_group, rdev, birth_ns, xattrs,
        acl_names, inode_flags, flags, error,
    ) = fields  # fmt: skip
    entry = Entry(
        name, EntryType(kind), mode, uid, gid, mtime_ns, size, user, group, hash, (), target, link_group, rdev,
        birth_ns, xattrs, acl_names, inode_flags, EntryFlag(flags), error,
    )  # fmt: skip
    return entry, row, replaces


def make_row(st: os.stat_result) -> bytes:
    """What tells whether a file is still the same: type and mode, size, mtime, ctime, inode.

    The device is left out: its number may be another after each boot, and nothing that is mounted in a file's stead
    has its inode number, size and both times to the nanosecond.
    """
    return _pack_row(st.st_mode, st.st_size & MASK, st.st_mtime_ns & MASK, st.st_ctime_ns & MASK, st.st_ino & MASK)
