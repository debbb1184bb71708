"""What the server is known to have: content hash to place, and blob ids. A hint on disk, never more.

The file ``contents`` in the state directory is a hash table that is read and written in place::

    head    8   magic "MASTCONT"     1   version, 1      1   log2 of the number of slots
            32  machine id           16  pair id         6   zero
    slot    16  key: the start of a content hash, or of a blob id
            32  blob id              4   offset          4   length (0: the key is the blob's own)
            8   BLAKE3 of the bytes before

Promises: an entry is written when the server has acknowledged the pack, so what an interrupted run sent is not sent
again. Each slot carries its own check: one that was torn or damaged is an empty one. Memory does not grow with the
number of files, since slots are read one neighbourhood at a time and never mapped. A table of another machine or pair
is made anew. A lost or old table makes a run offer and send more, and a wrong one cannot do harm: a place names a
blob by the id of its content, and a commit fails while a blob is missing.
"""

import os
import struct
from collections.abc import Iterable

from blake3 import blake3

MAGIC = b"MASTCONT"
VERSION = 1
HEAD = struct.Struct("<8sBB32s16s6x")
SLOT = struct.Struct("<16s32sII8s")
EMPTY = bytes(SLOT.size)
NEAR = 8
"""Slots that are read at once."""
FAR = 64
"""Slots behind its own that an entry may lie in."""
SMALLEST = 12
FULL = 0.6
NAME = "contents"


class ContentMap:
    """The table. One process at a time uses it; the run's lock sees to that.

    A disk that refuses costs speed, not the backup: ``failure`` then says why, and nothing more is written.
    """

    def __init__(self, directory: str, machine: bytes, pair: bytes) -> None:
        self._path = os.path.join(directory, NAME)
        self._machine = machine
        self._pair = pair
        self._forgotten: set[bytes] = set()
        self._count = 0
        self.failure: OSError | None = None
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._log = self._read_head()
        if not self._log:
            self._make_empty(SMALLEST)
        else:
            self._count = self._estimate()

    def place(self, hash: bytes, length: int) -> tuple[bytes, int] | None:
        """The blob that holds content of this hash and length, and the offset in it."""
        found = self._find(hash[:16])
        if found is None or found[2] != length or found[0] in self._forgotten:
            return None
        return found[0], found[1]

    def knows(self, id: bytes) -> bool:
        """Whether the server has acknowledged this blob."""
        found = self._find(id[:16])
        return found is not None and found[0] == id and found[2] == 0 and id not in self._forgotten

    def add_blob(self, id: bytes) -> None:
        """The server has this blob."""
        self._forgotten.discard(id)
        self._put(id[:16], id, 0, 0)

    def add_contents(self, id: bytes, contents: Iterable[tuple[bytes, int, int]]) -> None:
        """What lies in a blob: (content hash, offset, length)."""
        for hash, offset, length in contents:
            self._put(hash[:16], id, offset, length)

    def forget(self, ids: Iterable[bytes]) -> None:
        """The server says that it does not have these."""
        self._forgotten.update(ids)

    def clear(self) -> None:
        """The server has nothing."""
        self._make_empty(SMALLEST)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _find(self, key: bytes) -> tuple[bytes, int, int] | None:
        first = int.from_bytes(key[:8], "little") & ((1 << self._log) - 1)
        for start in range(first, first + FAR, NEAR):
            slots = os.pread(self._fd, NEAR * SLOT.size, HEAD.size + start * SLOT.size)
            for found, id, offset, length, check in SLOT.iter_unpack(slots):
                if found == key:
                    packed = SLOT.pack(key, id, offset, length, b"")[:-8]
                    return (id, offset, length) if _check(packed) == check else None
                if found == EMPTY[:16]:
                    return None
        return None

    def _put(self, key: bytes, id: bytes, offset: int, length: int) -> None:
        if self.failure is not None:
            return
        packed = SLOT.pack(key, id, offset, length, b"")[:-8]
        try:
            self._write(key, packed + _check(packed))
        except OSError as error:
            self.failure = error

    def _write(self, key: bytes, slot: bytes) -> None:
        if self._count > FULL * (1 << self._log):
            self._grow()
        while (at := self._slot_for(key, slot)) is None:
            self._grow()
        if at:
            os.pwrite(self._fd, slot, at)

    def _slot_for(self, key: bytes, slot: bytes) -> int | None:
        """Where an entry goes: 0 if it is there already, None if there is no room near its own slot."""
        first = int.from_bytes(key[:8], "little") & ((1 << self._log) - 1)
        for start in range(first, first + FAR, NEAR):
            base = HEAD.size + start * SLOT.size
            slots = os.pread(self._fd, NEAR * SLOT.size, base)
            for index in range(NEAR):
                there = slots[index * SLOT.size : (index + 1) * SLOT.size]
                if there[:16] == key or there[:16] == EMPTY[:16] or not there:
                    self._count += there[:16] != key
                    return 0 if there == slot else base + index * SLOT.size
        return None

    def _grow(self) -> None:
        """Four times as many slots, in a new file."""
        old, old_log = self._fd, self._log
        fresh = self._path + ".new"
        self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._make_empty(old_log + 2)
        at = HEAD.size
        while slots := os.pread(old, 1024 * SLOT.size, at):
            at += len(slots)
            for start in range(0, len(slots) - SLOT.size + 1, SLOT.size):
                self._copy(slots[start : start + SLOT.size])
        os.close(old)
        os.replace(fresh, self._path)

    def _copy(self, slot: bytes) -> None:
        """One slot of the table before, if it is a good one and finds room."""
        if slot[:16] != EMPTY[:16] and _check(slot[:-8]) == slot[-8:]:
            at = self._slot_for(slot[:16], slot)
            if at:
                os.pwrite(self._fd, slot, at)

    def _make_empty(self, log: int) -> None:
        self._log = log
        self._count = 0
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, HEAD.size + ((1 << log) + FAR) * SLOT.size)
        os.pwrite(self._fd, HEAD.pack(MAGIC, VERSION, log, self._machine, self._pair), 0)

    def _read_head(self) -> int:
        """The table's log2, 0 where it is none of this machine and pair."""
        head = os.pread(self._fd, HEAD.size, 0)
        if len(head) != HEAD.size:
            return 0
        log = head[9]
        whole = HEAD.size + ((1 << log) + FAR) * SLOT.size if SMALLEST <= log < 40 else -1
        if head != HEAD.pack(MAGIC, VERSION, log, self._machine, self._pair) or os.fstat(self._fd).st_size != whole:
            return 0
        return int(log)

    def _estimate(self) -> int:
        """How many slots are taken, from a look at some of them: hashes lie evenly."""
        looked = min(1 << self._log, 4096)
        slots = os.pread(self._fd, looked * SLOT.size, HEAD.size)
        taken = sum(slots[at : at + 16] != EMPTY[:16] for at in range(0, len(slots), SLOT.size))
        return taken * (1 << self._log) // looked


def _check(packed: bytes) -> bytes:
    return bytes(blake3(packed).digest(length=8))
