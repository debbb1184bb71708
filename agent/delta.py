"""Large files as deltas to a base that the server has in full and this machine has in its cache (``--delta``).

While a file that has a base is read, xdelta3 makes the delta, and the pieces into which the file would else go are
looked up and held, not sent. At its end both costs are known. A delta goes out only if it is worth it: at half the
cost of the pieces or less, and as long as all deltas to this base cost less than the pieces would; and only after it
was applied to the base and gave the file's hash. Else, and whenever xdelta3 or the disk fails, the pieces go, and the
file is the next base. A base is always full, so that a restore applies one delta at most.

Nothing that lies on this machine is believed: bases are checked before use (base_cache.py), deltas before they go out.
"""

import os
from collections.abc import Callable, Iterator
from typing import IO

from mastodon.sealed.blob import BlobKind
from mastodon.sealed.content import FileHasher
from mastodon.sealed.entry import PLACES_LIMIT
from mastodon_agent.base_cache import BaseCache, CachedBase, NewBase
from mastodon_agent.chunk import LargeFile
from mastodon_agent.held_pieces import HeldPieces, compressed_length
from mastodon_agent.outlet import Outlet
from mastodon_agent.references import Base, BlobRef, Content, Stretch
from mastodon_agent.xdelta import DeltaFailed, Encoder, decode, find_program

SMALLEST = 4 * 1024 * 1024
"""Shorter files go in pieces, whose cost is small."""
DELTA_BLOB = 1024 * 1024
LARGEST_DELTA = PLACES_LIMIT * DELTA_BLOB


class Deltas:
    """What a pass needs to make deltas. ``key`` is that of file hashes; ``told`` is called once with each failure."""

    def __init__(self, outlet: Outlet, cache: BaseCache, program: str, key: bytes, told: Callable[[str], None]) -> None:
        self.outlet = outlet
        self.cache = cache
        self.program = program
        self.key = key
        self._told = told
        self._failures: set[str] = set()

    def open(
        self, large: LargeFile, size: int, old: Base | None, replaces: bool
    ) -> "LargeFile | CachingFile | DeltaFile":
        """What takes a file of this size in the stead of ``large``. ``old`` is what the listing has in full for it."""
        if size < SMALLEST:
            return large
        if old is not None and all(ref is not None and self.outlet.has(ref.id) for ref, _, _ in old.stretches):
            cached = self.cache.find(old.hash, old.size)
            if cached is not None:
                try:
                    return DeltaFile(self, large, old, cached)
                except (DeltaFailed, OSError) as error:
                    cached.close()
                    self.failed(error)
                    return large
        new = self.cache.begin(size, evicts=replaces)
        return large if new is None else CachingFile(large, new)

    def failed(self, error: Exception) -> None:
        """A file goes in pieces because of that."""
        text = str(error)
        if text not in self._failures:
            self._failures.add(text)
            self._told(f"--delta: {text}; the file goes in pieces")


def open_deltas(state: str, limit: int, key: bytes, outlet: Outlet, told: Callable[[str], None]) -> Deltas | None:
    """Deltas with bases in the state directory; None where the program is missing."""
    program = find_program()
    if program is None:
        told("--delta needs the program xdelta3: install the package xdelta3; until then large files go in pieces")
        return None
    return Deltas(outlet, BaseCache(state, limit, key), program, key, told)


class CachingFile:
    """Takes a large file, and keeps it for a base."""

    def __init__(self, large: LargeFile, new: NewBase) -> None:
        self._large = large
        self._new = new

    def data(self, piece: memoryview) -> None:
        """The next bytes."""
        self._new.write(piece)
        self._large.data(piece)

    def hole(self, length: int) -> None:
        """A file with holes is no base: its hash names them."""
        self._new.discard()
        self._large.hole(length)

    def finish(self, hash: bytes, size: int) -> Content:
        """The file is whole. Raises TooScattered."""
        content = self._large.finish(hash, size)
        self._new.keep(hash)
        return content

    def abandon(self) -> None:
        """Nothing comes of it."""
        self._new.discard()
        self._large.abandon()


class DeltaFile:
    """Takes a large file that has a base. Raises DeltaFailed or OSError when it cannot be begun."""

    def __init__(self, deltas: Deltas, large: LargeFile, base: Base, cached: CachedBase) -> None:
        self._deltas = deltas
        self._large = large
        self._base = base
        self._cached = cached
        self._held = HeldPieces(deltas.outlet, deltas.cache.temporary())
        self._delta = deltas.cache.temporary()
        self._encoder: Encoder | None = Encoder(deltas.program, cached.fd, self._delta.fileno())
        large.take = self._hold

    def data(self, piece: memoryview) -> None:
        """The next bytes."""
        if self._encoder is not None:
            try:
                self._encoder.feed(piece)
            except DeltaFailed as error:
                self._fail(error)
        self._large.data(piece)

    def hole(self, length: int) -> None:
        """A file with holes goes in pieces: what a delta makes has none."""
        self._go_in_pieces()
        self._large.hole(length)

    def finish(self, hash: bytes, size: int) -> Content:
        """The file is whole. Raises TooScattered."""
        self._large.end()
        content = self._finish_delta(hash, size)
        self._close()
        return content

    def abandon(self) -> None:
        """Nothing comes of it."""
        self._close()
        self._large.abandon()

    def _hold(self, piece: memoryview) -> None:
        if self._held.add(piece):
            return
        self._go_in_pieces()  # the disk is full
        self._large.place(piece)

    def _go_in_pieces(self) -> None:
        """From the start, for good."""
        if self._encoder is not None:
            self._encoder.kill()
            self._encoder = None
            self._large.take = None
            try:
                self._held.replay(self._large)
            except OSError:  # the run ends; the next one must not come here again
                self._deltas.cache.drop(self._cached)
                raise

    def _fail(self, error: Exception) -> None:
        self._deltas.failed(error)
        self._go_in_pieces()

    def _finish_delta(self, hash: bytes, size: int) -> Content:
        new = None
        try:
            if self._encoder is not None:
                if hash == self._base.hash:
                    return Content(hash, size, self._base.stretches)
                self._encoder.finish()
                cost = _cost(self._delta)
                if 2 * cost + self._cached.sent < self._held.cost:
                    self._check(hash, size)
                    content = self._send(hash, size)
                    self._deltas.cache.used(self._cached, cost)
                    return content
                new = self._deltas.cache.begin(size, evicts=True)
                self._check(hash, size, new)
        except (DeltaFailed, OSError) as error:
            if new is not None:
                new.discard()
            self._fail(error)
        self._go_in_pieces()
        content = self._large.finish(hash, size)
        if new is not None:
            new.keep(hash)
            self._deltas.cache.drop(self._cached)
        return content

    def _check(self, hash: bytes, size: int, copy: NewBase | None = None) -> None:
        """Whether the delta gives the file back; what it gives is written to ``copy``. Raises DeltaFailed."""
        if os.fstat(self._delta.fileno()).st_size > LARGEST_DELTA:
            raise DeltaFailed("the delta is too large")
        hasher = FileHasher(self._deltas.key)
        for data in decode(self._deltas.program, self._cached.fd, self._delta.fileno()):
            hasher.data(data)
            if copy is not None:
                copy.write(data)
        if hasher.digest(size) != hash:
            raise DeltaFailed("xdelta3 made a delta that does not give the file back")

    def _send(self, hash: bytes, size: int) -> Content:
        stretches: list[Stretch] = []
        for data in _blocks(self._delta, DELTA_BLOB):
            ref = BlobRef(self._deltas.outlet.put(BlobKind.DELTA, (), data))
            stretches.append((ref, 0, len(data)))
        return Content(hash, size, stretches, self._base)

    def _close(self) -> None:
        self._large.take = None
        if self._encoder is not None:
            self._encoder.kill()
        self._cached.close()
        self._delta.close()
        self._held.close()


def _blocks(file: IO[bytes], length: int) -> Iterator[bytes]:
    offset = 0
    while data := os.pread(file.fileno(), length, offset):
        offset += len(data)
        yield data


def _cost(file: IO[bytes]) -> int:
    """What sending it costs, about."""
    return sum(map(compressed_length, _blocks(file, DELTA_BLOB)))
