"""Small files travel in bundles: one after the other in a blob, cut by content at file boundaries.

A bundle ends after a file whose hash says so, with odds that follow the file's length, so that bundles of the same
files are the same wherever they begin, once the first cut is found: an agent without state sends nearly nothing anew.
"""

from collections.abc import Callable

from mastodon.sealed.blob import BlobKind
from mastodon_agent.outlet import Held, Outlet
from mastodon_agent.references import BlobRef, Content

MINIMUM = 640 * 1024
MAXIMUM = 1024 * 1024
SPREAD = 256 * 1024
"""Bytes beyond the minimum after which a bundle ends on average. Long bundles compress better, and a restore of
one file pays for it with less than a millisecond."""


class Bundler:
    """Puts small contents into the open bundle; ``closed`` is called whenever one has got its id."""

    def __init__(self, outlet: Outlet, closed: Callable[[], None]) -> None:
        self._outlet = outlet
        self._closed = closed
        self._buffer = bytearray()
        self._used = 0
        self._ref = BlobRef()
        self._held: list[Held] = []

    def add(self, hash: bytes, data: memoryview) -> Content:
        """Where this content is, or will be."""
        length = len(data)
        found = self._outlet.find(hash, length)
        if found is not None:
            return Content(hash, length, [(found[0], found[1], length)])
        if self._used + length > MAXIMUM:
            self.close()
        if not self._used:
            self._buffer = bytearray(MAXIMUM)
        offset = self._used
        self._used += length
        self._buffer[offset : self._used] = data
        ref = self._ref
        self._held.append((hash, offset, length))
        self._outlet.expect(hash, ref, offset, length)
        if self._used >= MINIMUM and int.from_bytes(hash[:4], "big") * SPREAD < length << 32:
            self.close()
        return Content(hash, length, [(ref, offset, length)])

    def close(self) -> None:
        """End the open bundle, if there is one."""
        if not self._used:
            return
        ref, held, plaintext = self._ref, self._held, memoryview(self._buffer)[: self._used]
        self._ref, self._held, self._used = BlobRef(), [], 0
        ref.id = self._outlet.put(BlobKind.BUNDLE, (), plaintext, held)
        self._closed()
