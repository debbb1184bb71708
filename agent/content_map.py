"""What the server is known to have: content hash to place, and blob ids. A hint on disk, never more.

The file ``contents`` in the state directory is a hash table that is read and written in place::

    head    8   magic "MASTCONT"     1   version, 2      1   log2 of the number of slots
            32  machine id           16  pair id         6   zero
    slot    16  key: the start of a content hash, or of a blob id
            32  blob id              4   offset          4   length (0: the key is the blob's own)
            4   CRC-32 of the bytes before, zlib's

An entry lies in the slot that the first bits of its key name, or in one of the FAR behind it.

Promises: an entry is added when the server has acknowledged the pack, so what an interrupted run sent is not sent
again. Each slot carries its own check: one that was torn or damaged is an empty one. Memory hardly grows with the
number of files: the table is never mapped, additions are written in batches, in the table's order. A table of another
machine or pair is made anew. A lost or old table makes a run offer and send more, and a wrong one cannot do harm: a
place names a blob by the id of its content, and a commit fails while a blob is missing.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from zlib import crc32

from mastodon_agent.opening import announce

MAGIC = b"MASTCONT"
VERSION = 2
HEAD = struct.Struct("<8sBB32s16s6x")
SLOT = struct.Struct("<16s32sIII")
_SLOT_BODY = struct.Struct("<16s32sII")
SIZE = SLOT.size
KEY = 16
NOTHING = bytes(KEY)
NEAR = 8
"""Slots that are read at once when one entry is looked for."""
FAR = 64
REGION = 256
"""Slots that are written at once, with those behind them."""
YOUNG = 16384
"""Additions that wait to be written."""
SMALLEST, LARGEST = 12, 40
FULL = 0.6
ANNOUNCED = 64 * 1024 * 1024
"""Bytes of the table that the kernel fetches at the start: all of it for some half a million files."""
NAME = "contents"

Place = tuple[bytes, int, int]
"""(blob id, offset, length)."""


def fetch_early(directory: str) -> None:
    """Have the kernel fetch the table before it is wanted.

    Look-ups come at random: one by one from a cold disk they would take longer than the whole table.
    """
    with suppress(OSError):
        fd = os.open(os.path.join(directory, NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        announce(fd, 0, ANNOUNCED)
        os.close(fd)


class ContentMap:
    """The table. One process at a time uses it; the run's lock sees to that.

    A disk that refuses costs speed, not the backup: ``failure`` then says why, and nothing more is written.
    """

    def __init__(self, directory: str, machine: bytes, pair: bytes) -> None:
        self._path = os.path.join(directory, NAME)
        self._machine = machine
        self._pair = pair
        self._forgotten: set[bytes] = set()
        self._young: dict[bytes, Place] = {}
        self._count = 0
        self._filter: _Filter | None = None
        self.failure: OSError | None = None
        self._fd = _open(self._path)
        self._log = self._read_head()
        if not self._log:
            self.clear()
        else:
            self._count = self._estimate()

    def place(self, hash: bytes, length: int) -> tuple[bytes, int] | None:
        """The blob that holds content of this hash and length, and the offset in it."""
        found = self._find(hash[:KEY])
        if found is None or found[2] != length or found[0] in self._forgotten:
            return None
        return found[0], found[1]

    def knows(self, id: bytes) -> bool:
        """Whether the server has acknowledged this blob, and it is to be used."""
        return self.has(id) and id not in self._forgotten

    def has(self, id: bytes) -> bool:
        """Whether the server has acknowledged this blob, forgotten or not."""
        found = self._find(id[:KEY])
        return found is not None and found[0] == id and found[2] == 0

    def add_blob(self, id: bytes) -> None:
        """The server has this blob."""
        self._forgotten.discard(id)
        self._young[id[:KEY]] = (id, 0, 0)

    def add_contents(self, id: bytes, contents: Iterable[tuple[bytes, int, int]]) -> None:
        """What lies in a blob: (content hash, offset, length)."""
        for hash, offset, length in contents:
            self._young[hash[:KEY]] = (id, offset, length)
        if len(self._young) > YOUNG:
            self.flush()

    def forget(self, ids: Iterable[bytes]) -> None:
        """The server says that it does not have these."""
        self._forgotten.update(ids)

    def clear(self) -> None:
        """The server has nothing."""
        self._young.clear()
        self._make_empty(SMALLEST)

    def flush(self) -> None:
        """Write the additions to the disk's cache."""
        young, self._young = self._young, {}
        if self.failure is not None:
            return
        try:
            while self._count + len(young) > FULL * (1 << self._log):
                self._grow()
            self._insert(_slot(key, young[key]) for key in sorted(young))
        except OSError as error:
            self.failure = error

    def close(self) -> None:
        """Write what is not written yet, and let go of the file."""
        self.flush()
        os.close(self._fd)

    def _home(self, key: bytes) -> int:
        return int.from_bytes(key[:8], "big") >> (64 - self._log)

    def _find(self, key: bytes) -> Place | None:
        young = self._young.get(key)
        if young is not None:
            return young
        if self._filter is not None and not self._filter.may_hold(key):
            return None
        home = self._home(key)
        for start in range(home, home + FAR, NEAR):
            slots = os.pread(self._fd, NEAR * SIZE, HEAD.size + start * SIZE)
            for at in range(0, len(slots) - SIZE + 1, SIZE):
                found = slots[at : at + KEY]
                if found == key:
                    return _checked(slots[at : at + SIZE])
                if found == NOTHING:
                    return None
        return None

    def _insert(self, slots: Iterable[bytes]) -> None:
        """Slots in the order of their keys. One that finds no room is left out: it is a hint."""
        first, region = -1, bytearray()
        for slot in slots:
            home = self._home(slot[:KEY])
            if home - home % REGION != first:
                self._write_region(first, region)
                first = home - home % REGION
                region = bytearray(os.pread(self._fd, (REGION + FAR) * SIZE, HEAD.size + first * SIZE))
            start = (home - first) * SIZE
            for at in range(start, min(start + FAR * SIZE, len(region)), SIZE):
                there = region[at : at + KEY]
                if there == NOTHING or there == slot[:KEY]:
                    self._count += there == NOTHING
                    region[at : at + SIZE] = slot
                    if self._filter is not None:
                        self._filter.add(slot[:KEY])
                    break
        self._write_region(first, region)

    def _write_region(self, first: int, region: bytearray) -> None:
        if region:
            os.pwrite(self._fd, region, HEAD.size + first * SIZE)

    def _grow(self) -> None:
        """Four times as many slots, in a new file."""
        old, count = self._fd, 1 << self._log
        fresh = self._path + ".new"
        self._fd = _open(fresh)
        try:
            self._make_empty(self._log + 2)
            self._insert(_good_slots(old, count + FAR))
            os.replace(fresh, self._path)
        finally:
            os.close(old)

    def _make_empty(self, log: int) -> None:
        self._log = log
        self._count = 0
        self._filter = _Filter(log)
        try:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, _length(log))
            os.pwrite(self._fd, HEAD.pack(MAGIC, VERSION, log, self._machine, self._pair), 0)
        except OSError as error:
            self.failure = error

    def _read_head(self) -> int:
        """The table's log2, 0 where it is none of this machine and pair."""
        head = os.pread(self._fd, HEAD.size, 0)
        if len(head) != HEAD.size or not SMALLEST <= head[9] < LARGEST:
            return 0
        log = head[9]
        if head != HEAD.pack(MAGIC, VERSION, log, self._machine, self._pair):
            return 0
        return int(log) if os.fstat(self._fd).st_size == _length(log) else 0

    def _estimate(self) -> int:
        """How many slots are taken, from a look at some of them: hashes lie evenly."""
        looked = min(1 << self._log, 4096)
        slots = os.pread(self._fd, looked * SIZE, HEAD.size)
        taken = sum(slots[at : at + KEY] != NOTHING for at in range(0, len(slots), SIZE))
        return taken * (1 << self._log) // looked


class _Filter:
    """Says of most keys that are not in the table that they are not, without a look at it (a Bloom filter).

    There is one only for a table that began empty in this run: a first run asks for nearly nothing that is there.
    """

    def __init__(self, log: int) -> None:
        self._bits = bytearray(1 << log)
        self._mask = (1 << (log + 3)) - 1

    def add(self, key: bytes) -> None:
        """The table holds this key."""
        one, two = self._places(key)
        self._bits[one >> 3] |= 1 << (one & 7)
        self._bits[two >> 3] |= 1 << (two & 7)

    def may_hold(self, key: bytes) -> bool:
        """False only if it was never added."""
        one, two = self._places(key)
        bits = self._bits
        return bool(bits[one >> 3] >> (one & 7) & bits[two >> 3] >> (two & 7) & 1)

    def _places(self, key: bytes) -> tuple[int, int]:
        number = int.from_bytes(key[6:], "little")
        return number & self._mask, (number >> 40) & self._mask


def _good_slots(fd: int, count: int) -> Iterator[bytes]:
    """The slots of a table that are good, in the order of their keys."""
    late: list[bytes] = []
    for start in range(0, count, 1024):
        slots = os.pread(fd, min(1024, count - start) * SIZE, HEAD.size + start * SIZE)
        good = [slots[at : at + SIZE] for at in range(0, len(slots) - SIZE + 1, SIZE)]
        ordered = sorted(late + [slot for slot in good if slot[:KEY] != NOTHING and _checked(slot) is not None])
        # A key may stand up to FAR slots behind one that is larger: the last ones wait for the next piece.
        late = ordered[-2 * FAR :]
        yield from ordered[: -2 * FAR]
    yield from late


def _slot(key: bytes, place: Place) -> bytes:
    packed = _SLOT_BODY.pack(key, *place)
    return packed + crc32(packed).to_bytes(4, "little")


def _checked(slot: bytes) -> Place | None:
    _, id, offset, length, check = SLOT.unpack(slot)
    return (id, offset, length) if crc32(slot[:-4]) == check else None


def _length(log: int) -> int:
    return HEAD.size + ((1 << log) + REGION + FAR) * SIZE


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
