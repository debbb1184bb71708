"""Large files: cut by content into pieces, which travel in chunk blobs; long lists of places go into maps.

Pieces are small, so that an edit costs little; blobs hold many, so that they compress well and cost little each. A
piece is found again by its hash, wherever it lies: it is sent once, and a file that changed in a few places refers to
the blobs of old for all the rest. A blob ends after a piece whose hash says so, so that a file that is read without
any memory of it makes the blobs that it made at first. Memory is constant.

The chunker is seeded from the machine's secret, so that where it cuts tells nothing. Pieces are cut in the stream of
the file's data, holes left out; a piece that spans a hole becomes two places.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterator

from pyfastcdc import FastCDC

from mastodon.sealed.blob import BlobKind
from mastodon.sealed.content import MAP_PLACES_LIMIT, encode_map
from mastodon.sealed.entry import HOLE, PLACES_LIMIT, Place
from mastodon_agent.outlet import Held, Outlet
from mastodon_agent.references import BlobRef, Content, Stretch
from mastodon_agent.uses import Uses

SMALLEST_AVERAGE = 16 * 1024
MANY_BYTES = 1 << 30
"""Of longer files the pieces are twice as long: each costs some 20 µs, and a place in the content map."""
LARGEST_AVERAGE = 4 * 1024 * 1024
LARGEST_PIECE = 8 * 1024 * 1024
MOST_PIECES = 1 << 18

BLOB_MINIMUM = 512 * 1024
BLOB_SPREAD = 256 * 1024
"""Bytes beyond the minimum after which a blob ends on average."""
BLOB_MAXIMUM = 1024 * 1024
"""A longer piece is a blob of its own."""
WINDOW = 4 * 1024 * 1024

MAP_MINIMUM, MAP_ODDS, MAP_MAXIMUM = 512, 1024, 8192
ORDINARY_MAPS = 200
"""After so many, maps are as long as they may be: an entry has room for PLACES_LIMIT of them."""
MAP_LONGEST = MAP_PLACES_LIMIT - PLACES_LIMIT


class TooScattered(Exception):
    """The file has more stretches than maps can hold."""

    errno = errno.EFBIG


def make_chunker(size: int, seed: int) -> FastCDC:
    """The chunker for a file of this size: the number of pieces stays about MOST_PIECES."""
    average = SMALLEST_AVERAGE if size <= MANY_BYTES else 2 * SMALLEST_AVERAGE
    while average < LARGEST_AVERAGE and size // average > MOST_PIECES:
        average *= 2
    return FastCDC(average, min_size=average // 4, max_size=min(average * 4, LARGEST_PIECE), seed=seed)


class LargeFile:
    """Takes the data and holes of one file, in order. ``take``, if there is one, gets each piece in the stead of
    ``place``, which is to be called for it later."""

    def __init__(self, outlet: Outlet, seed: int, size: int) -> None:
        self.take: Callable[[memoryview], None] | None = None
        self._pieces = _Pieces(outlet)
        self._chunker = make_chunker(size, seed)
        self._reach = int(self._chunker.max_size)
        self._buffer = memoryview(bytearray(max(min(WINDOW, size), 2 * self._reach)))
        self._used = 0
        self._done = 0  # bytes of data in places so far
        self._taken = 0  # bytes of data so far
        self._holes: deque[tuple[int, int]] = deque()  # (bytes of data before, length)
        self._stretches = _Stretches(outlet, self._pieces)

    def data(self, piece: memoryview) -> None:
        """The next bytes."""
        self._taken += len(piece)
        while piece:
            if self._used == len(self._buffer):
                self._cut(last=False)
            part = piece[: len(self._buffer) - self._used]
            self._buffer[self._used : self._used + len(part)] = part
            self._used += len(part)
            piece = piece[len(part) :]

    def hole(self, length: int) -> None:
        """So many bytes of nothing."""
        self._holes.append((self._taken, length))

    def end(self) -> None:
        """There are no more data: the last pieces are taken."""
        self._cut(last=True)

    def finish(self, hash: bytes, size: int) -> Content:
        """The file is whole. Raises TooScattered."""
        self.end()
        self.add(b"", None, 0, 0)
        self._pieces.close()
        return Content(hash, size, self._stretches.finish())

    def abandon(self) -> None:
        """What came is not a file: send what others may refer to, and make nothing of it."""
        self._pieces.close()

    def place(self, piece: memoryview) -> None:
        """The next piece, sent if it is nowhere yet."""
        hash, ref, offset = self._pieces.put(piece)
        self.add(hash, ref, offset, len(piece))

    def _cut(self, last: bool) -> None:
        # A cut is where the content says only if the chunker saw as far as a piece may reach.
        safe = self._used if last else self._used - self._reach
        end = 0
        with self._buffer[: self._used] as view:
            for chunk in self._chunker.cut_buf(view):
                if chunk.offset > safe:
                    break
                end = chunk.offset + chunk.length
                (self.take or self.place)(view[chunk.offset : end])
        self._buffer[: self._used - end] = bytes(self._buffer[end : self._used])
        self._used -= end

    def add(self, hash: bytes, ref: BlobRef | None, start: int, length: int) -> None:
        """Where the next piece lies: its stretches, holes in it between them; no length: the holes at the end."""
        offset = 0
        while self._holes and (not length or self._holes[0][0] < self._done + length):
            before, hole = self._holes.popleft()
            inside = before - self._done
            if inside > offset:
                self._stretches.add(hash, ref, start + offset, inside - offset)
                offset = inside
            self._stretches.add(b"", None, 0, hole)
        if length > offset:
            self._stretches.add(hash, ref, start + offset, length - offset)
        self._done += length


class _Pieces:
    """Puts pieces that are not there yet into the open blob."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._buffer = memoryview(b"")
        self._used = 0
        self._ref = BlobRef()
        self._held: list[Held] = []

    def put(self, piece: memoryview) -> tuple[bytes, BlobRef, int]:
        """The piece's hash, and where it lies or will lie."""
        length = len(piece)
        hash = self._outlet.hash_piece(piece)
        found = self._outlet.find(hash, length)
        if found is not None:
            return hash, *found
        if self._used + length > BLOB_MAXIMUM:
            self.close()
        if not self._used:
            self._buffer = memoryview(bytearray(max(BLOB_MAXIMUM, length)))
        offset, ref = self._used, self._ref
        self._used += length
        self._buffer[offset : self._used] = piece
        self._held.append((hash, offset, length))
        self._outlet.expect(hash, ref, offset, length)
        if self._used >= BLOB_MINIMUM and int.from_bytes(hash[:4], "big") * BLOB_SPREAD < length << 32:
            self.close()
        return hash, ref, offset

    def close(self) -> None:
        """End the open blob, if there is one."""
        if not self._used:
            return
        ref, held, plaintext = self._ref, self._held, self._buffer[: self._used]
        self._ref, self._held, self._used = BlobRef(), [], 0
        ref.id = self._outlet.put(BlobKind.CHUNK, (), plaintext, held)


class _Stretches:
    """A file's stretches so far: in the entry while they are few, else in maps."""

    def __init__(self, outlet: Outlet, pieces: _Pieces) -> None:
        self._outlet = outlet
        self._pieces = pieces
        self._open: list[Stretch] = []
        self._maps: list[Stretch] = []

    def add(self, hash: bytes, ref: BlobRef | None, offset: int, length: int) -> None:
        """The next one, from the piece of this hash; one with the stretch before it where they lie together."""
        if self._open:
            last, start, before = self._open[-1]
            if last is ref or (last is not None and ref is not None and last.id and last.id == ref.id):
                if start + before == offset and ref is not None:
                    self._open[-1] = last, start, before + length
                    return
                ref = last
        if self._is_cut_before(hash):
            self._make_map()
        self._open.append((ref, offset, length))

    def finish(self) -> list[Stretch]:
        """All of them, as they stand in the entry. The last blob is closed."""
        if not self._maps and len(self._open) <= PLACES_LIMIT:
            return self._open
        if self._open:
            self._make_map()
        if len(self._maps) > PLACES_LIMIT:
            raise TooScattered
        return self._maps

    def _is_cut_before(self, hash: bytes) -> bool:
        """Whether a map ends here: by content, so that unchanged parts of a file keep their maps."""
        count = len(self._open)
        if len(self._maps) >= ORDINARY_MAPS:
            return count >= MAP_LONGEST
        wanted = hash != b"" and int.from_bytes(hash[:4], "big") % MAP_ODDS == 0
        return count >= MAP_MAXIMUM or (count >= MAP_MINIMUM and wanted)

    def _make_map(self) -> None:
        self._pieces.close()
        references: dict[bytes, int] = {}
        places = list(_places(self._open, references))
        uses = Uses()
        for place in places:
            if place.reference != HOLE:
                uses.add(place.reference, place.offset, place.length)
        id = self._outlet.put(BlobKind.MAP, list(references), encode_map(places))
        ref = BlobRef(id, is_map=True, below=tuple(uses.of(list(references))))
        self._maps.append((ref, 0, sum(place.length for place in places)))
        self._open = []


def _places(stretches: list[Stretch], references: dict[bytes, int]) -> Iterator[Place]:
    """The places, with references numbered by their first use."""
    for ref, offset, length in stretches:
        index = HOLE if ref is None else references.setdefault(ref.id, len(references))
        yield Place(index, offset, length)
