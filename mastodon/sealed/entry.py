"""An entry: one name in a directory, with everything that is needed to make it again.

protocol-spec.md §9. In a page an entry is a CBOR map; what is absent has the default. Owner names are kept
once a page (listing.py), not in each entry.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from mastodon.sealed.errors import Malformed

HOLE = -1
"""Reference index of a place that stands for a hole: so many bytes that read as zero and take no space."""

NAME_LIMIT = 255
TARGET_LIMIT = 4096
XATTR_TOTAL_LIMIT = 256 * 1024
"""Names and values of one entry's xattrs together, so that an entry always fits in a page."""
PLACES_LIMIT = 256
"""Places in one entry; a longer list goes to map blobs."""
MAX_FILE_SIZE = (1 << 63) - 1


class EntryType(IntEnum):
    """What an entry is. 8-127 are reserved."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


class EntryFlag(IntFlag):
    """How the content was had (design §5). Bits 0-7 are critical (unknown: refuse), 8-15 ignorable."""

    FUZZY = 1  # changed while it was read, even after retries
    CARRIED = 2  # could not be read this time: the last good copy, carried over


class Place(NamedTuple):
    """A stretch of content: ``length`` bytes from ``offset`` in the blob at index ``reference`` (or a HOLE).

    A reference to a map stands for the whole content of the map; offset is then 0.
    """

    reference: int
    offset: int
    length: int


@dataclass(slots=True)
class Entry:
    """One name and all its metadata. Times are nanoseconds since 1970, and may be negative.

    ``link_group`` is equal in all names of one hard-linked inode (0: not linked); each carries the whole content.
    ``hash`` is the whole-file keyed hash (FileHasher), empty for what has no content of its own.
    ``acl_names`` are (kind "u" or "g", id, name) for qualifiers in the ACL xattrs.
    ``error`` is the errno that kept the content or metadata from being read whole, 0 for none. A file that could not
    be read and has no copy to carry over has its size, an error and no places.
    """

    name: bytes
    type: EntryType
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    user: str = ""
    group: str = ""
    hash: bytes = b""
    places: tuple[Place, ...] = ()
    target: bytes = b""
    link_group: int = 0
    rdev: tuple[int, int] | None = None
    birth_ns: int | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    acl_names: tuple[tuple[str, int, str], ...] = ()
    inode_flags: int = 0
    flags: EntryFlag = EntryFlag(0)
    error: int = 0
    delta: "Delta | None" = None


@dataclass(frozen=True, slots=True)
class Delta:
    """The content is the result of applying the places' bytes, a VCDIFF (RFC 3284), to a base.

    ``method`` 1 is xdelta3 without secondary compression. ``base_hash`` is the base's whole-file hash,
    ``base_places`` where it lies (always full, never itself a delta).
    """

    method: int
    base_hash: bytes
    base_size: int
    base_places: tuple[Place, ...] = field(default=())


def encode_places(places: tuple[Place, ...]) -> list[int]:
    """Places as one flat array of reference, offset, length."""
    flat: list[int] = []
    for place in places:
        flat += (place.reference, place.offset, place.length)
    return flat


def decode_places(flat: Any, references: int) -> tuple[Place, ...]:
    """The places in a flat array; each must name one of so many references or be a hole.

    Raises Malformed when it is not such an array.
    """
    if type(flat) is not list or len(flat) % 3:
        raise Malformed("places are not a flat array of threes")
    places = []
    numbers = iter(flat)
    for reference, offset, length in zip(numbers, numbers, numbers, strict=True):
        if type(reference) is not int or type(offset) is not int or type(length) is not int:
            raise Malformed("a place holds something else than integers")
        if not HOLE <= reference < references:
            raise Malformed(f"a place names reference {reference} of {references}")
        if not 0 <= offset <= MAX_FILE_SIZE or not 0 < length <= MAX_FILE_SIZE:
            raise Malformed("a place lies outside any file")
        if reference == HOLE and offset:
            raise Malformed("a hole with an offset")
        places.append(Place(reference, offset, length))
    return tuple(places)


def places_length(places: Iterable[Place]) -> int:
    """Bytes that these places stand for."""
    return sum(place.length for place in places)


def check_first_use(places: Iterable[Place], following: int = 0) -> int:
    """The reference that comes next after ``places``, if they use new ones in ascending order from ``following``.

    So the same content has one listing only, and a reference that nothing uses shows. Raises Malformed.
    """
    for place in places:
        if place.reference >= following:
            if place.reference > following:
                raise Malformed("references are not in the order of their first use")
            following += 1
    return following
