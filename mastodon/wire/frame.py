"""Frames: a u32 length that counts the type byte, the type, the payload.

protocol-spec.md §14. Each length is checked against its bound before anything is waited for or allocated.
"""

import struct
from collections import deque
from itertools import islice

from mastodon.wire.errors import FrameTooLong

LENGTH = struct.Struct(">I")
HEAD_SIZE = 5
HELLO_FRAME_LIMIT = 4096
"""Until the peer has proven who it is, so that strangers cost little memory. Limits count type byte and payload."""
APPEND_FRAME_LIMIT = 1024 * 1024
RESTORE_FRAME_LIMIT = 4 * 1024 * 1024 + 128 * 1024
"""Room for a whole book beside the statement that swaps it."""
SMALL = 4096
"""Chunks below this are gathered: objects for single bytes would take many times the bytes' own memory."""


def encode_frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    return b"".join((LENGTH.pack(len(payload) + 1), bytes((kind,)), payload))


class FrameReader:
    """Cuts a byte stream into frames, however TCP chopped it up.

    ``receive`` takes bytes; ``next_frame`` gives (type, payload) or None for "more bytes". An error is final. Chunks
    are kept as they came, and a payload is copied once, out of them: everything that a backup sends passes here.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """May be raised between frames, once the peer is known."""
        self.buffered = 0
        """Bytes received and not yet given out."""
        self._chunks: deque[bytes | bytearray] = deque()
        self._start = 0
        self._size = 0
        self._failed: FrameTooLong | None = None

    def receive(self, data: bytes) -> None:
        """Take bytes from the transport; after an error they are dropped."""
        if self._failed is not None or not data:
            return
        self.buffered += len(data)
        last = self._chunks[-1] if self._chunks else b""
        if isinstance(last, bytearray) and len(last) < SMALL:
            last += data
        else:
            self._chunks.append(bytearray(data) if len(data) < SMALL else bytes(data))

    def next_frame_size(self) -> int | None:
        """Bytes that the next frame takes when it is here whole, else None. Raises FrameTooLong."""
        if self._failed is not None:
            raise self._failed
        if not self._size:
            if self.buffered < LENGTH.size:
                return None
            (length,) = LENGTH.unpack(self._look(LENGTH.size))
            if not 1 <= length <= self.limit:
                self._failed = FrameTooLong(f"a frame of {length} bytes, bound {self.limit}")
                self._chunks.clear()
                self.buffered = 0
                raise self._failed
            self._size = LENGTH.size + length
        return self._size if self.buffered >= self._size else None

    def next_head(self) -> bytes:
        """Length, type and the payload's first byte of the next frame, when that is here whole."""
        return self._look(HEAD_SIZE + 1)

    def next_frame(self) -> tuple[int, bytes] | None:
        """The next whole frame. Raises FrameTooLong, then and for ever after."""
        size = self.next_frame_size()
        if size is None:
            return None
        self._size = 0
        return self._take(HEAD_SIZE)[-1], self._take(size - HEAD_SIZE)

    def _look(self, size: int) -> bytes:
        """The next bytes, which are here and stay."""
        found = self._chunks[0][self._start : self._start + size]
        for chunk in islice(self._chunks, 1, None):
            if len(found) == size:
                break
            found += chunk[: size - len(found)]
        return bytes(found)

    def _take(self, size: int) -> bytes:
        """The next bytes, which are here; what is spent is let go."""
        self.buffered -= size
        parts = []
        while size:
            chunk = self._chunks[0]
            end = self._start + size
            if end < len(chunk):
                parts.append(memoryview(chunk)[self._start : end])
                self._start = end
                break
            parts.append(memoryview(chunk)[self._start :])
            size = end - len(chunk)
            self._start = 0
            self._chunks.popleft()
        return b"".join(parts)
