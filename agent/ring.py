"""A ring of slots in memory that two processes share: records without pickling, without a copy.

One process fills slots with records, the other takes them in order. Slot numbers go through two pipes, full slots one
way and free ones back, so that either side sleeps while there is nothing for it to do, and sees the other one's end
as the end of its pipe. A record is u8 kind, u32 length of data, u32 length of meta, data, meta.

The odd shape (a file is read straight into the slot, its meta behind it) buys what threads lose: each short system
call of a reading thread would give up the interpreter's lock and have to win it back.
"""

import mmap
import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

SLOT = 1024 * 1024
SLOTS = 12
_USED = struct.Struct("<I")
_HEAD = struct.Struct("<BII")
DATA_LIMIT = 512 * 1024
META_LIMIT = SLOT - DATA_LIMIT - _USED.size - _HEAD.size
_META_USUAL = 1024


class OtherEnded(Exception):
    """The process at the other end of the ring is gone."""


class Ring:
    """Made before the fork; then each process takes its end and leaves the other."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.memory = mmap.mmap(-1, SLOT * slots)
        self.full_read, self.full_write = os.pipe()
        self.free_read, self.free_write = os.pipe()
        os.write(self.free_write, bytes(range(slots)))

    def writer(self) -> "RingWriter":
        """The filling end."""
        os.close(self.full_read)
        os.close(self.free_write)
        return RingWriter(self)

    def reader(self) -> "RingReader":
        """The taking end."""
        os.close(self.full_write)
        os.close(self.free_read)
        return RingReader(self)


class RingWriter:
    """Fills slots; what was recorded goes out when a slot is full, or at a flush."""

    def __init__(self, ring: Ring) -> None:
        self._view = memoryview(ring.memory)
        self._full = ring.full_write
        self._free = ring.free_read
        self._slot = -1
        self._base = 0
        self._at = _USED.size

    def room(self, length: int) -> memoryview:
        """Where the data of the next record go: exactly ``length`` bytes, at most DATA_LIMIT."""
        if self._slot < 0 or self._at + _HEAD.size + length + _META_USUAL > SLOT:
            self.flush()
            self._next_slot()
        start = self._base + self._at + _HEAD.size
        return self._view[start : start + length]

    def record(self, kind: int, meta: bytes = b"", length: int = 0) -> None:
        """A record whose ``length`` bytes of data lie in the room asked for just before."""
        if self._slot < 0:
            self._next_slot()
        end = self._at + _HEAD.size + length + len(meta)
        if end > SLOT:
            data = bytes(self._view[self._base + self._at + _HEAD.size :][:length])
            self.flush()
            self._next_slot()
            self.room(length)[:] = data
            end = self._at + _HEAD.size + length + len(meta)
        start = self._base + self._at
        _HEAD.pack_into(self._view, start, kind, length, len(meta))
        self._view[self._base + end - len(meta) : self._base + end] = meta
        self._at = end

    def flush(self) -> None:
        """Hand over what is in the slot."""
        if self._slot >= 0 and self._at > _USED.size:
            _USED.pack_into(self._view, self._base, self._at)
            try:
                os.write(self._full, bytes((self._slot,)))
            except BrokenPipeError:
                raise OtherEnded from None
            self._slot = -1

    def _next_slot(self) -> None:
        if self._slot >= 0:
            return
        number = os.read(self._free, 1)
        if not number:
            raise OtherEnded
        self._slot = number[0]
        self._base = self._slot * SLOT
        self._at = _USED.size


class RingReader:
    """Takes records in order. Their views are good until the next record is asked for."""

    def __init__(self, ring: Ring) -> None:
        self._view = memoryview(ring.memory)
        self._full = ring.full_read
        self._free = ring.free_write
        self._closed = False

    def records(self, idle: Callable[[], None], patience: float = 1.0) -> Iterator[tuple[int, memoryview, memoryview]]:
        """(kind, data, meta) for ever, until the taker stops; ``idle`` is called while there is nothing to take.

        Raises OtherEnded.
        """
        view = self._view
        while True:
            while not select.select((self._full,), (), (), patience)[0]:
                idle()
            number = os.read(self._full, 1)
            if not number:
                raise OtherEnded
            base = number[0] * SLOT
            (used,) = _USED.unpack_from(view, base)
            at = base + _USED.size
            end = base + used
            try:
                while at < end:
                    kind, data_length, meta_length = _HEAD.unpack_from(view, at)
                    start = at + _HEAD.size
                    middle = start + data_length
                    at = middle + meta_length
                    yield kind, view[start:middle], view[middle:at]
            finally:
                # Where the other one has ended, what it handed over is still good; its end comes with the next read.
                if not self._closed:
                    with suppress(BrokenPipeError):
                        os.write(self._free, number)

    def close(self) -> None:
        """Let go: a writer that still runs sees the end."""
        self._closed = True
        os.close(self._full)
        os.close(self._free)
