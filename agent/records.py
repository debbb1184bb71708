"""What the reader process tells the sealing process: an edit script over the old listing, with contents.

Both hold the old listing open, in the same order, and the script walks along it: so many entries are as they were,
so many are gone, here comes a new one. Of what did not change nothing but a count is passed on.

A record is a kind, a ``meta`` (marshal: both ends are one program, forked) and data. An entry travels as it will stand
in its page, but for its places and its owners' names; ``row`` is what the next run compares with (state.py).
"""

import marshal
import os
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from mastodon.sealed.entry import Entry, EntryType
from mastodon.sealed.entry_codec import PackedEntry, pack_entry


class Kind(IntEnum):
    """Kinds of records. Those that replace an old entry say so in their meta."""

    UNCHANGED = 1  # meta: count of old entries that stay as they are
    GONE = 2  # meta: count of old entries that are no longer there
    CARRIED = 3  # meta: count of old entries that could not be looked at: their last good copy stays
    DIRECTORY = 4  # meta: names that lead to the directory of the entries that follow
    ENTRY = 5  # meta: entry without content, as pack_listed makes it
    SMALL = 6  # the same, with the whole content as data
    LINKED = 7  # the same, with the content of an entry of the same link group that came before
    BEGIN = 8  # meta: (size, replaces) of a large file, whose content follows
    DATA = 9  # data: the next bytes of the large file
    HOLE = 10  # meta: length of a hole in it
    RESTART = 11  # meta as for BEGIN: it changed meanwhile, its content comes again from the start
    END = 12  # meta as for ENTRY: the large file is whole
    FAILED = 13  # meta as for ENTRY: the content could not be read; the old entry's stays, if there is one
    NOTE = 14  # meta: (reason, path, errno) to count and to tell
    DONE = 15  # meta: what was seen on the way to the two ends of the part (share.py)
    CRASHED = 16  # meta: text; the reader gave up
    NEXT = 17  # the next part of the old listing begins, read by another process


MASK = (1 << 64) - 1

_ROW = struct.Struct("<IQQQQ")
_pack_row = _ROW.pack
ROW_SIZE = _ROW.size
NO_ROW = bytes(ROW_SIZE)
"""Fits no file: whatever it belongs to is read again next time."""


class Listed(NamedTuple):
    """What the listing needs of an entry: encoded but for places and owner names, and what decides about those."""

    name: bytes
    packed: PackedEntry
    is_file: bool
    size: int
    hash: bytes
    link_group: int
    uid: int
    user: str
    gid: int
    group: str


def pack_listed(entry: Entry, row: bytes, replaces: bool) -> bytes:
    """The meta of an entry."""
    return marshal.dumps(
        (
            entry.name, *pack_entry(entry), entry.type is EntryType.FILE, entry.size, entry.hash, entry.link_group,
            entry.uid, entry.user, entry.gid, entry.group, row, replaces,
        )
    )  # fmt: skip


def unpack_listed(meta: bytes | memoryview) -> tuple[Listed, bytes, bool]:
    """The entry in a meta; its row; whether it takes the place of the next old entry."""
    name, count, before, behind, is_file, size, hash, group_, uid, user, gid, group, row, replaces = marshal.loads(meta)
    packed = PackedEntry(count, before, behind)
    return Listed(name, packed, is_file, size, hash, group_, uid, user, gid, group), row, replaces


def make_row(st: os.stat_result) -> bytes:
    """What tells whether a file is still the same: type and mode, size, mtime, ctime, inode.

    The device is left out: its number may be another after each boot, and nothing that is mounted in a file's stead
    has its inode number, size and both times to the nanosecond.
    """
    return _pack_row(st.st_mode, st.st_size & MASK, st.st_mtime_ns & MASK, st.st_ctime_ns & MASK, st.st_ino & MASK)


def make_rows(stats: Sequence[os.stat_result]) -> bytes:
    """The rows of many, joined."""
    try:
        return b"".join([_pack_row(st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_ino) for st in stats])
    except struct.error:  # a time before 1970
        return b"".join(map(make_row, stats))
