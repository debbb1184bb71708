"""A file's content: its whole-file hash, and map blobs for long lists of chunks.

protocol-spec.md §9. The hash covers the bytes that are data, then the holes and the size; so a sparse file of
terabytes costs nothing for what it does not hold.
"""

import struct
from collections.abc import Sequence

from mastodon.sealed import cbor
from mastodon.sealed.entry import Place, check_first_use, decode_places, encode_places, places_length
from mastodon.sealed.errors import Malformed
from mastodon.sealed.purposes import Purpose, hkdf_expand, keyed_hasher
from mastodon.sealed.schema import EXTENSIONS, check_extensions

__all__ = [
    "MAP_LIMIT", "MAP_PLACES_LIMIT", "FileHasher",
    "decode_map", "encode_map", "file_hash_key", "places_length", "whole_hash",
]  # fmt: skip

MAP_LIMIT = 1024 * 1024
MAP_PLACES_LIMIT = 1 << 16
PAIR = struct.Struct(">QQ")


def file_hash_key(id_key: bytes) -> bytes:
    """The key of whole-file hashes, derived from id_key."""
    return hkdf_expand(id_key, Purpose.FILE_HASH_KEY)


class FileHasher:
    """The whole-file keyed hash: feed data in order, name the holes, finish with the size."""

    def __init__(self, key: bytes) -> None:
        self._state = keyed_hasher(Purpose.FILE_HASH, key)
        self._holes = bytearray()

    def data(self, piece: bytes | memoryview) -> None:
        """The next bytes that are data."""
        self._state.update(piece)

    def hole(self, offset: int, length: int) -> None:
        """A hole of ``length`` bytes at ``offset``."""
        self._holes += PAIR.pack(offset, length)

    def digest(self, size: int) -> bytes:
        """The hash of a file of ``size`` bytes, 32 bytes."""
        self._state.update(self._holes)
        self._state.update(PAIR.pack(len(self._holes) // PAIR.size, size))
        return self._state.digest()


def whole_hash(key: bytes, content: bytes | memoryview) -> bytes:
    """The hash of content without holes."""
    state = keyed_hasher(Purpose.FILE_HASH, key)
    state.update(content)
    state.update(PAIR.pack(0, len(content)))
    return state.digest()


def encode_map(places: Sequence[Place]) -> bytes:
    """The plaintext of a map: places in chunks (indices of the map's references) and holes, in order."""
    return cbor.encode({0: encode_places(tuple(places))})


def decode_map(plaintext: bytes, references: int) -> tuple[Place, ...]:
    """The places in a map that has so many references. Raises Malformed; each is used, in the order of first use."""
    body = cbor.decode(plaintext, MAP_LIMIT)
    if type(body) is not dict or set(body) - {EXTENSIONS} != {0}:
        raise Malformed("map: expected its places")
    if EXTENSIONS in body:
        check_extensions("map", body[EXTENSIONS])
    places = decode_places(body[0], references)
    if not 0 < len(places) <= MAP_PLACES_LIMIT:
        raise Malformed("map: no or too many places")
    if check_first_use(places) != references:
        raise Malformed("map: visible and sealed references differ")
    return places
