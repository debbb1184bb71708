"""The content of one file, in order: for download, for deltas, and for comparing what is there.

Blobs are asked for a few megabytes ahead; each piece is verified before it comes out. Places that name a map are
followed into it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mastodon.restore.blobs import BlobReader, LostBlob, OpenBlob
from mastodon.sealed.blob import LEVELS, BlobKind
from mastodon.sealed.content import FileHasher, decode_map, file_hash_key, places_length
from mastodon.sealed.entry import HOLE, Entry, Place
from mastodon.sealed.errors import FormatError

GROUP_BYTES = 8 * 1024 * 1024
GROUP_PLACES = 256
GROUPS_AHEAD = 2
MAP_SUSPECT = 1024 * 1024
"""Bundles and all but giant files' chunks are smaller; a longer place is looked at for being a map."""


class ContentLost(Exception):
    """A file's content cannot be had whole; the text says why."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The next bytes of a file: ``data``, or a hole of ``length`` bytes."""

    offset: int
    length: int
    data: memoryview | None


def stretches(reader: BlobReader, references: Sequence[bytes], places: Sequence[Place]) -> Iterator[Stretch]:
    """What the places stand for, in order. Raises ContentLost."""
    offset = 0
    for length, data in _stream(reader, references, places, BlobKind.PAGE):
        yield Stretch(offset, length, data)
        offset += length


def hashed(entry: Entry, parts: Iterator[Stretch], id_key: bytes) -> Iterator[Stretch]:
    """Pass a file's content through; raises ContentLost at its end unless it has the entry's hash."""
    hasher = FileHasher(file_hash_key(id_key))
    size = 0
    for part in parts:
        feed(hasher, part)
        size += part.length
        yield part
    if entry.hash and hasher.digest(size) != entry.hash:
        raise ContentLost("the whole file does not have the hash that its listing names")


def feed(hasher: FileHasher, part: Stretch) -> None:
    """Give a stretch to a hasher."""
    if part.data is None:
        hasher.hole(part.offset, part.length)
    else:
        hasher.data(part.data)


def map_places(blob: OpenBlob, length: int) -> Sequence[Place]:
    """The places in a map that is to stand for so many bytes. Raises ContentLost."""
    try:
        places = decode_map(blob.plaintext, len(blob.references))
    except FormatError as error:
        raise ContentLost(str(error)) from None
    if places_length(places) != length:
        raise ContentLost("a map stands for another length than its file says")
    return places


def extents(
    reader: BlobReader, references: Sequence[bytes], places: Sequence[Place]
) -> Iterator[tuple[int, int, bool]]:
    """Where the content has data and holes: (offset, length, is a hole). Only maps are fetched. Raises ContentLost."""
    offset = 0
    if any(place.length > MAP_SUSPECT for place in places if place.reference != HOLE):
        places = _without_maps(reader, references, places)
    for place in places:
        yield offset, place.length, place.reference == HOLE
        offset += place.length


def _without_maps(reader: BlobReader, references: Sequence[bytes], places: Sequence[Place]) -> list[Place]:
    result: list[Place] = []
    for place in places:
        if place.reference == HOLE:
            result.append(place)
            continue
        wanted = references[place.reference]
        blob = reader.read_now([wanted])[wanted]
        if isinstance(blob, LostBlob):
            raise ContentLost(blob.reason)
        result += map_places(blob, place.length) if blob.kind is BlobKind.MAP else [place]
    return result


def _stream(
    reader: BlobReader, references: Sequence[bytes], places: Sequence[Place], above: BlobKind
) -> Iterator[tuple[int, memoryview | None]]:
    todo = deque(_groups(places))
    asked: deque[tuple[int, list[bytes], list[Place]]] = deque()
    while todo or asked:
        while todo and len(asked) < GROUPS_AHEAD:
            group = todo.popleft()
            ids = list(dict.fromkeys(references[place.reference] for place in group if place.reference != HOLE))
            asked.append((reader.ask(ids) if ids else 0, ids, group))
        question, ids, group = asked.popleft()
        found = reader.read(question, ids) if ids else {}
        for place in group:
            if place.reference == HOLE:
                yield place.length, None
                continue
            blob = found[references[place.reference]]
            if isinstance(blob, LostBlob):
                raise ContentLost(f"{blob.reason} (blob {references[place.reference].hex()[:16]})")
            if LEVELS[blob.kind] >= LEVELS[above]:
                raise ContentLost(f"a {blob.kind.name.lower()} where content should be")
            if blob.kind is BlobKind.MAP:
                yield from _stream(reader, blob.references, map_places(blob, place.length), BlobKind.MAP)
            elif place.offset + place.length > len(blob.plaintext):
                raise ContentLost("the listing names bytes outside of their blob")
            else:
                yield place.length, memoryview(blob.plaintext)[place.offset : place.offset + place.length]


def _groups(places: Sequence[Place]) -> Iterator[list[Place]]:
    group: list[Place] = []
    size = 0
    for place in places:
        group.append(place)
        size += 0 if place.reference == HOLE else place.length
        if size >= GROUP_BYTES or len(group) >= GROUP_PLACES:
            yield group
            group, size = [], 0
    if group:
        yield group
