"""Reads file content and judges whether it held still; large and sparse files go into the ring piece by piece."""

import marshal
import os
from collections.abc import Sequence
from enum import Enum

from mastodon.host.metadata import data_extents
from mastodon.sealed.content import FileHasher
from mastodon_agent.opening import announce
from mastodon_agent.records import Kind
from mastodon_agent.ring import DATA_LIMIT, RingWriter

WINDOW = 64 * 1024 * 1024
"""Bytes of a large file that are announced ahead."""
BLOCK = 4096
"""No file system keeps holes in files shorter than that."""


class Verdict(Enum):
    """What happened to a file while it was read."""

    STABLE = "stable"
    GREW = "grew"
    CHANGED = "changed"


def judge(before: os.stat_result, after: os.stat_result, got: int) -> Verdict:
    """What became of a file that had ``before`` when it was opened, and of which ``got`` bytes were there."""
    if got == before.st_size:
        if after.st_size > before.st_size:
            return Verdict.GREW
        if (after.st_size, after.st_mtime_ns, after.st_ctime_ns) == (
            before.st_size, before.st_mtime_ns, before.st_ctime_ns,
        ):  # fmt: skip
            return Verdict.STABLE
    return Verdict.CHANGED


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill ``view`` from ``offset`` on; how much was there. Raises OSError."""
    got = os.preadv(fd, (view,), offset)
    while 0 < got < len(view):
        more = os.preadv(fd, (view[got:],), offset + got)
        if not more:
            break
        got += more
    return got


def extents_of(fd: int, st: os.stat_result) -> Sequence[tuple[int, int]]:
    """Where an open file has data. Raises OSError."""
    if st.st_size < BLOCK or st.st_blocks * 512 >= st.st_size:
        return ((0, st.st_size),)
    return data_extents(fd, st.st_size)


def stream(ring: RingWriter, fd: int, size: int, extents: Sequence[tuple[int, int]], key: bytes) -> tuple[int, bytes]:
    """DATA and HOLE records for a file's content up to ``size``; how far it reached, and its hash. Raises OSError."""
    hasher = FileHasher(key)
    position = 0
    for start, length in extents:
        if start > position:
            _hole(ring, hasher, position, start - position)
        position = announced = start
        end = start + length
        while position < end:
            if announced < end and announced - position <= WINDOW // 2:
                # The disk goes on while this process waits for room in the ring.
                upto = min(end, position + WINDOW)
                announce(fd, announced, upto - announced)
                announced = upto
            view = ring.room(min(DATA_LIMIT, end - position))
            got = read_into(fd, view, position)
            hasher.data(view[:got])
            position += got
            if got:
                ring.record(Kind.DATA, b"", got)
            if got < len(view):
                return position, hasher.digest(position)
    if position < size:
        _hole(ring, hasher, position, size - position)
    return size, hasher.digest(size)


def _hole(ring: RingWriter, hasher: FileHasher, offset: int, length: int) -> None:
    hasher.hole(offset, length)
    ring.record(Kind.HOLE, marshal.dumps(length))
