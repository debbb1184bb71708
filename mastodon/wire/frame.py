"""Frames: a u32 length that counts the type byte, the type, the payload.

protocol-spec.md §14. Each length is checked against its bound before anything is waited for or allocated.
"""

import struct

from mastodon.wire.errors import FrameTooLong

LENGTH = struct.Struct(">I")
HEAD_SIZE = 5
HELLO_FRAME_LIMIT = 4096
"""Until the peer has proven who it is, so that strangers cost little memory. Limits count type byte and payload."""
APPEND_FRAME_LIMIT = 1024 * 1024
RESTORE_FRAME_LIMIT = 4 * 1024 * 1024 + 128 * 1024
"""Room for a whole book beside the statement that swaps it."""


def encode_frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    return LENGTH.pack(len(payload) + 1) + bytes((kind,)) + payload


class FrameReader:
    """Cuts a byte stream into frames, however TCP chopped it up.

    ``receive`` takes bytes; ``next_frame`` gives (type, payload) or None for "more bytes". An error is final.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """May be raised between frames, once the peer is known."""
        self._buffer = bytearray()
        self._start = 0
        self._failed: FrameTooLong | None = None

    @property
    def buffered(self) -> int:
        """Bytes received and not yet given out."""
        return len(self._buffer) - self._start

    def receive(self, data: bytes) -> None:
        """Take bytes from the transport; after an error they are dropped."""
        if self._failed is not None:
            return
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame_size(self) -> int | None:
        """Bytes that the next frame takes when it is here whole, else None. Raises FrameTooLong."""
        if self._failed is not None:
            raise self._failed
        if self.buffered < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._buffer, self._start)
        if not 1 <= length <= self.limit:
            self._failed = FrameTooLong(f"a frame of {length} bytes, bound {self.limit}")
            self._buffer, self._start = bytearray(), 0
            raise self._failed
        size = LENGTH.size + length
        return size if self.buffered >= size else None

    def next_frame(self) -> tuple[int, bytes] | None:
        """The next whole frame. Raises FrameTooLong, then and for ever after."""
        size = self.next_frame_size()
        if size is None:
            return None
        kind = self._buffer[self._start + LENGTH.size]
        with memoryview(self._buffer) as view:
            payload = bytes(view[self._start + HEAD_SIZE : self._start + size])
        self._start += size
        if not self.buffered:
            self._buffer, self._start = bytearray(), 0  # what is idle keeps no memory
        return kind, payload
