"""Pieces of a large file that wait for a decision: on disk, so that memory does not grow with the file.

Of pieces that the server has only the place is noted, of others the content. ``replay`` gives all of them to the file,
in order, as if they came just now.
"""

import io
import os
import struct
from typing import IO

import zstandard

from mastodon_agent.chunk import LargeFile
from mastodon_agent.outlet import Outlet
from mastodon_agent.references import BlobRef

_RECORD = struct.Struct("<32s32sII")
"""Hash, blob id, offset, length; without a blob id, the content follows."""
UNKNOWN = bytes(32)
PENDING = 1024 * 1024
_compressor = zstandard.ZstdCompressor(level=1)


class HeldPieces:
    """Holds pieces in an unbuffered file."""

    def __init__(self, outlet: Outlet, file: IO[bytes]) -> None:
        self._outlet = outlet
        self._file = file
        self._written = 0
        self._pending = bytearray()
        self._is_broken = False
        self.cost = 0
        """What sending the pieces would cost, about."""

    def add(self, piece: memoryview) -> bool:
        """Hold a piece; false when the disk has no room, and it was not taken."""
        if self._is_broken:
            return False
        length = len(piece)
        hash = self._outlet.hash_piece(piece)
        found = self._outlet.find(hash, length)
        if found is not None and not found[0].id:
            found = None  # in a blob that is open
        if found is not None:
            self._pending += _RECORD.pack(hash, found[0].id, found[1], length)
        else:
            self.cost += compressed_length(piece)
            self._pending += _RECORD.pack(hash, UNKNOWN, 0, length)
            self._pending += piece
        if len(self._pending) >= PENDING:
            self._flush()
        return True

    def replay(self, large: LargeFile) -> None:
        """Give the pieces to the file. Raises OSError."""
        with open(self._file.fileno(), "rb", PENDING, closefd=False) as written, io.BytesIO(self._pending) as pending:
            written.seek(0)
            _replay(written, self._written, large)
            _replay(pending, len(self._pending), large)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _flush(self) -> None:
        """Onto the disk. If that refuses, what is held stays good, and nothing more fits."""
        try:
            if os.pwrite(self._file.fileno(), self._pending, self._written) != len(self._pending):
                self._is_broken = True
                return
        except OSError:
            self._is_broken = True
            return
        self._written += len(self._pending)
        self._pending = bytearray()


def compressed_length(data: bytes | memoryview) -> int:
    """About what data cost when they are sent."""
    return len(_compressor.compress(data))


def _replay(source: IO[bytes], length: int, large: LargeFile) -> None:
    while length > 0:
        hash, id, offset, size = _RECORD.unpack(source.read(_RECORD.size))
        length -= _RECORD.size
        if id != UNKNOWN:
            large.add(hash, BlobRef(id), offset, size)
            continue
        length -= size
        large.place(memoryview(source.read(size)))
