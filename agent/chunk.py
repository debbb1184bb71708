"""Large files: cut by content into chunks, long lists of chunks into maps, in constant memory.

The chunker is seeded from the machine's secret, so that sizes of chunks tell nothing. Chunks are cut in the stream of
the file's data, holes left out; a chunk that spans a hole becomes two places.
"""

import errno
from collections import deque
from collections.abc import Iterator

from pyfastcdc import FastCDC

from mastodon.sealed.blob import BlobKind
from mastodon.sealed.content import MAP_PLACES_LIMIT, encode_map
from mastodon.sealed.entry import HOLE, PLACES_LIMIT, Place
from mastodon_agent.outlet import Outlet
from mastodon_agent.references import BlobRef, Content, Stretch

SMALLEST_AVERAGE = 32 * 1024
LARGEST_AVERAGE = 4 * 1024 * 1024
LARGEST_CHUNK = 8 * 1024 * 1024
SMALLEST_BOUND = 1024 * 1024
"""The chunker takes no minimum beyond that."""
MOST_CHUNKS = 1 << 18

MAP_MINIMUM, MAP_ODDS, MAP_MAXIMUM = 512, 1024, 8192
ORDINARY_MAPS = 200
"""After so many, maps are as long as they may be: an entry has room for PLACES_LIMIT of them."""
MAP_LONGEST = MAP_PLACES_LIMIT - PLACES_LIMIT


class TooScattered(Exception):
    """The file has more stretches than maps can hold."""

    errno = errno.EFBIG


def make_chunker(size: int, seed: int) -> FastCDC:
    """The chunker for a file of this size: the number of chunks stays about MOST_CHUNKS."""
    average = SMALLEST_AVERAGE
    while average < LARGEST_AVERAGE and size // average > MOST_CHUNKS:
        average *= 2
    return FastCDC(
        average,
        min_size=min(average // 2, SMALLEST_BOUND),
        max_size=min(average * 4, LARGEST_CHUNK),
        seed=seed,
    )


class LargeFile:
    """Takes the data and holes of one file, in order."""

    def __init__(self, outlet: Outlet, seed: int, size: int) -> None:
        self._outlet = outlet
        self._chunker = make_chunker(size, seed)
        self._buffer = bytearray()
        self._cut_at = max(4 * SMALLEST_BOUND, int(self._chunker.max_size) + SMALLEST_BOUND)
        self._done = 0  # bytes of data in chunks so far
        self._taken = 0  # bytes of data so far
        self._holes: deque[tuple[int, int]] = deque()  # (bytes of data before, length)
        self._stretches = _Stretches(outlet)

    def data(self, piece: memoryview) -> None:
        """The next bytes."""
        self._buffer += piece
        self._taken += len(piece)
        if len(self._buffer) >= self._cut_at:
            self._cut(last=False)

    def hole(self, length: int) -> None:
        """So many bytes of nothing."""
        self._holes.append((self._taken, length))

    def finish(self, hash: bytes, size: int) -> Content:
        """The file is whole. Raises TooScattered."""
        self._cut(last=True)
        self._place(BlobRef(), 0)
        return Content(hash, size, self._stretches.finish())

    def _cut(self, last: bool) -> None:
        end = len(self._buffer)
        # A cut is where the content says only if the chunker saw as far as a chunk may reach.
        safe = end if last else end - self._chunker.max_size
        used = 0
        with memoryview(self._buffer) as view:
            for offset, length in [(chunk.offset, chunk.length) for chunk in self._chunker.cut_buf(view)]:
                if offset > safe:
                    break
                used = offset + length
                self._place(BlobRef(self._outlet.put(BlobKind.CHUNK, (), bytes(view[offset:used]))), length)
        del self._buffer[:used]

    def _place(self, ref: BlobRef, length: int) -> None:
        """A chunk's stretches, the holes that lie in it between them; no length: the holes at the end."""
        offset = 0
        while self._holes and (not length or self._holes[0][0] < self._done + length):
            before, hole = self._holes.popleft()
            inside = before - self._done
            if inside > offset:
                self._stretches.add((ref, offset, inside - offset))
                offset = inside
            self._stretches.add((None, 0, hole))
        if length > offset:
            self._stretches.add((ref, offset, length - offset))
        self._done += length


class _Stretches:
    """A file's stretches so far: in the entry while they are few, else in maps."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._open: list[Stretch] = []
        self._maps: list[Stretch] = []

    def add(self, stretch: Stretch) -> None:
        """The next one."""
        self._open.append(stretch)
        count = len(self._open)
        if len(self._maps) >= ORDINARY_MAPS:
            cut = count >= MAP_LONGEST
        else:
            ref = stretch[0]
            wanted = ref is not None and int.from_bytes(ref.id[:4], "big") % MAP_ODDS == 0
            cut = count >= MAP_MAXIMUM or (count >= MAP_MINIMUM and wanted)
        if cut:
            self._make_map()

    def finish(self) -> list[Stretch]:
        """All of them, as they stand in the entry."""
        if not self._maps and len(self._open) <= PLACES_LIMIT:
            return self._open
        if self._open:
            self._make_map()
        if len(self._maps) > PLACES_LIMIT:
            raise TooScattered
        return self._maps

    def _make_map(self) -> None:
        references: dict[bytes, int] = {}
        places = list(_places(self._open, references))
        id = self._outlet.put(BlobKind.MAP, list(references), encode_map(places))
        self._maps.append((BlobRef(id, is_map=True), 0, sum(place.length for place in places)))
        self._open = []


def _places(stretches: list[Stretch], references: dict[bytes, int]) -> Iterator[Place]:
    """The places, with references numbered by their first use."""
    for ref, offset, length in stretches:
        index = HOLE if ref is None else references.setdefault(ref.id, len(references))
        yield Place(index, offset, length)
