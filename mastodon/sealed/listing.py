"""The listing: all entries of a snapshot, in order, cut into pages, with a root blob on top.

protocol-spec.md §9. The key of an entry is (directory as a tuple of names, name), raw bytes, so a directory's
children are contiguous. A page is a CBOR map::

    0  users: [[uid, name], ...] ascending        1  groups, the same
    2  sections, one a directory: [shared, [names...], [entry, ...]]

``shared`` counts the leading names that the directory has in common with the section before, so that deep paths
are not repeated. A page's references are in the order of their first use, and each is used. The root blob's references
are the pages, in order; its first keys are written like sections: [shared, [names...], name].
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import lt
from typing import Any

from blake3 import blake3

from mastodon.sealed import cbor
from mastodon.sealed.entry import Entry, check_first_use
from mastodon.sealed.entry_codec import check_name, decode_entry, encode_entry
from mastodon.sealed.errors import Malformed
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.schema import EXTENSIONS, Body, array, check_extensions, key, octets, row, text, unsigned

Directory = tuple[bytes, ...]
Key = tuple[Directory, bytes]

PAGE_LIMIT = 1024 * 1024
PAGE_MINIMUM, PAGE_TARGET, PAGE_MAXIMUM = 32 * 1024, 128 * 1024, 768 * 1024
ROOT_LIMIT = 8 * 1024 * 1024
FACTS_LIMIT = 1024 * 1024
"""All host facts of one root together."""
PAGES_LIMIT = 1 << 17
DEPTH_LIMIT = 65536
NAMES_LIMIT, NAMES_MAXIMUM = 4 << 20, 2 << 20
"""Names of all sections' directories in one page, counted whole: what a reader takes, and where a writer cuts. Short
as they are written, a page of very deep directories would else fill a reader's memory."""
SOURCE = b""
"""First component of what is no file: dumps and other typed sources, shown as /.source/KIND/NAME."""


_CUT = Purpose.PAGE_CUT.prefix


def cuts_after(name: bytes, length: int, names: int = 0) -> bool:
    """Whether a page of ``length`` bytes ends after the entry ``name``: by content, so that unchanged stretches
    keep their pages. ``names`` are those in the directories of its sections so far, shared ones included."""
    if length >= PAGE_MAXIMUM or names >= NAMES_MAXIMUM:
        return True
    if length < PAGE_MINIMUM:
        return False
    return int.from_bytes(blake3(_CUT + name).digest(length=4), "big") % CUT_ODDS == 0


CUT_ODDS = 640
"""About (PAGE_TARGET - PAGE_MINIMUM) bytes of entries of 150 bytes each."""


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive entries of one directory."""

    directory: Directory
    entries: Sequence[Entry]


def encode_page(sections: Iterable[Section]) -> bytes:
    """A page's plaintext; the sections are in order, as are the entries in each."""
    users: dict[int, str] = {}
    groups: dict[int, str] = {}
    packed = [
        (
            section.directory,
            [cbor.encode_ordered(encode_entry(entry, users, groups)) for entry in section.entries],
        )
        for section in sections
    ]
    return join_page(users, groups, packed)


def join_page(
    users: dict[int, str], groups: dict[int, str], sections: Iterable[tuple[Directory, Sequence[bytes]]]
) -> bytes:
    """A page's plaintext from entries that are encoded already (entry_codec.join_entry), a directory a section.

    Raises Malformed for directories beyond NAMES_LIMIT.
    """
    parts = []
    before: Directory = ()
    depths = count = 0
    for directory, entries in sections:
        shared = shared_length(before, directory)
        head = cbor.encode_ordered(shared) + cbor.encode_ordered(directory[shared:])
        parts += [b"\x83", head, cbor.array_head(len(entries)), *entries]
        before = directory
        depths += len(before)
        count += 1
    if depths > NAMES_LIMIT:
        raise Malformed(f"a page of {depths} names in its directories, bound {NAMES_LIMIT}")
    owners = b"\x00", cbor.encode_ordered(_pack_owners(users)), b"\x01", cbor.encode_ordered(_pack_owners(groups))
    return b"".join((b"\xa3", *owners, b"\x02", cbor.array_head(count), *parts))


def decode_page(plaintext: bytes, references: int) -> list[Section]:
    """The sections of a page that has so many references.

    Raises Malformed for duplicate or unsorted entries, bad names, places outside the references, or references that
    are not used, each, in this order.
    """
    body = cbor.decode_untyped(plaintext, PAGE_LIMIT)  # all that is in it is looked at below, or in decode_entry
    cbor.check_maps([body])
    if set(body) - {EXTENSIONS} != {0, 1, 2} or type(body[2]) is not list or not body[2]:
        raise Malformed("page: expected users, groups and sections")
    if EXTENSIONS in body:
        check_extensions("page", body[EXTENSIONS])
    users, groups = _unpack_owners(body[0]), _unpack_owners(body[1])
    sections = _unpack_sections(body[2], users, groups, references)
    following = 0
    for section in sections:
        for entry in section.entries:
            places = entry.places
            if places and (places[0].reference >= following or len(places) > 1):
                following = check_first_use(places, following)
            if entry.delta is not None:
                following = check_first_use(entry.delta.base_places, following)
    if following != references:
        raise Malformed("page: visible and sealed references differ")
    if {entry.uid for section in sections for entry in section.entries} != set(users):
        raise Malformed("page: users are not those of the entries")
    if {entry.gid for section in sections for entry in section.entries} != set(groups):
        raise Malformed("page: groups are not those of the entries")
    return sections


def _unpack_sections(
    packed_sections: list[Any], users: dict[int, str], groups: dict[int, str], references: int
) -> list[Section]:
    sections: list[Section] = []
    before: Directory | None = None
    depths = 0
    for packed in packed_sections:
        if type(packed) is not list or len(packed) != 3 or type(packed[2]) is not list or not packed[2]:
            raise Malformed("page: a section is [shared, names, entries]")
    cbor.check_maps([one for packed in packed_sections for one in packed[2]])
    for packed in packed_sections:
        directory = _expand(packed[0], packed[1], before or ())
        depths += len(directory)
        if depths > NAMES_LIMIT:
            raise Malformed("page: directories too deep, too often")
        if before is not None and directory <= before:
            raise Malformed("page: directories out of order, or twice")
        entries = [decode_entry(one, users, groups, references) for one in packed[2]]
        names = [entry.name for entry in entries]
        if not all(map(lt, names, names[1:])):
            raise Malformed("page: entries out of order, or twice")
        sections.append(Section(directory, entries))
        before = directory
    return sections


def check_order(pages: Iterable[list[Section]]) -> Iterator[list[Section]]:
    """Pass pages through, raising Malformed when one does not come after the one before."""
    last: Key | None = None
    for sections in pages:
        first = first_key(sections)
        if last is not None and first <= last:
            raise Malformed("listing: pages out of order")
        last = (sections[-1].directory, sections[-1].entries[-1].name)
        yield sections


def first_key(sections: Sequence[Section]) -> Key:
    """The key of a page's first entry."""
    return sections[0].directory, sections[0].entries[0].name


def shared_length(one: Directory, other: Directory) -> int:
    """How many leading names two directories have in common."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _expand(shared: Any, names: Any, before: Directory) -> Directory:
    """The directory that stands as ``shared`` and ``names`` after ``before``, in shortest form. Raises Malformed."""
    if type(shared) is not int or not 0 <= shared <= len(before) or type(names) is not list:
        raise Malformed("a directory does not fit the one before")
    if shared + len(names) > DEPTH_LIMIT:
        raise Malformed("a directory too deep")
    for depth, name in enumerate(names, shared):
        check_name(name, first=depth == 0)
    if shared < len(before) and names and names[0] == before[shared]:
        raise Malformed("a directory that is not in shortest form")
    return before[:shared] + tuple(names)


def _pack_keys(keys: Iterable[Key]) -> list[Any]:
    packed = []
    before: Directory = ()
    for directory, name in keys:
        shared = shared_length(before, directory)
        packed.append([shared, list(directory[shared:]), name])
        before = directory
    return packed


def _unpack_keys(packed: Any) -> tuple[Key, ...]:
    if type(packed) is not list or len(packed) > PAGES_LIMIT:
        raise Malformed(f"expected an array of at most {PAGES_LIMIT}")
    keys: list[Key] = []
    before: Directory = ()
    depths = 0
    for one in packed:
        if type(one) is not list or len(one) != 3:
            raise Malformed("a first key is [shared, names, name]")
        before = _expand(one[0], one[1], before)
        depths += len(before)
        if depths > NAMES_LIMIT:
            raise Malformed("directories too deep, too often")
        keys.append((before, check_name(one[2])))
    return tuple(keys)


def _root_path(value: Any) -> Directory:
    return _expand(0, value, ())


@dataclass(frozen=True, slots=True)
class Root(Body):
    """The top of a listing. Its pages are the blob's references, in the same order as ``first_keys``.

    ``first_keys`` are (directory, name) of each page's first entry; ``roots`` the absolute paths backed up, as
    tuples of names; ``totals`` are entries, files, bytes of content; ``facts`` what the machine says of its disks
    and system (name, text).
    """

    first_keys: tuple[Key, ...] = key(0, _unpack_keys)
    roots: tuple[Directory, ...] = key(1, array(_root_path, 4096))
    excludes: tuple[bytes, ...] = key(2, array(octets(1, 4096), 4096))
    entries: int = key(3, unsigned())
    files: int = key(4, unsigned())
    content_bytes: int = key(5, unsigned())
    facts: tuple[tuple[str, bytes], ...] = key(6, array(row(text(64), octets(0, 1 << 18)), 64))
    agent_version: str = key(7, text(64))
    time_zone: str = key(8, text(64))
    hostname: str = key(9, text(255))

    def to_body(self) -> dict[int, Any]:
        """The map to encode, its first keys shortened."""
        body = Body.to_body(self)
        body[0] = _pack_keys(self.first_keys)
        return body

    def check_whole(self) -> None:
        """Raise Malformed for host facts beyond their bound."""
        if sum(len(value) for _, value in self.facts) > FACTS_LIMIT:
            raise Malformed(f"root: more than {FACTS_LIMIT} bytes of host facts")

    def encode(self) -> bytes:
        """The root blob's plaintext. Raises Malformed for what no reader takes."""
        plaintext = cbor.encode(self.to_body())
        self.decode(plaintext, len(self.first_keys))
        return plaintext

    @classmethod
    def decode(cls, plaintext: bytes, references: int) -> "Root":
        """Raises Malformed, also when the keys are not ascending or not one a page."""
        root = cls.from_body(cbor.decode(plaintext, ROOT_LIMIT))
        if len(root.first_keys) != references:
            raise Malformed("root: visible and sealed references differ")
        if any(one >= two for one, two in pairwise(root.first_keys)):
            raise Malformed("root: pages out of order")
        return root

    def page_of(self, wanted: Key) -> int:
        """Index of the page where ``wanted`` would be (binary search), -1 before the first."""
        low, high = 0, len(self.first_keys)
        while low < high:
            middle = (low + high) // 2
            if self.first_keys[middle] <= wanted:
                low = middle + 1
            else:
                high = middle
        return low - 1


def with_references(sections: Iterable[Section], moved: dict[int, int]) -> list[Section]:
    """The same sections with every place's reference index replaced through ``moved``."""

    def move(places: Any) -> Any:
        return tuple(one._replace(reference=moved.get(one.reference, one.reference)) for one in places)

    result = []
    for section in sections:
        entries = []
        for entry in section.entries:
            delta = entry.delta and replace(entry.delta, base_places=move(entry.delta.base_places))
            entries.append(replace(entry, places=move(entry.places), delta=delta))
        result.append(Section(section.directory, entries))
    return result


def _pack_owners(owners: dict[int, str]) -> list[list[Any]]:
    return [[number, owners[number]] for number in sorted(owners)]


_owners = array(row(unsigned(32), text(256)), 1 << 16)


def _unpack_owners(packed: Any) -> dict[int, str]:
    pairs = _owners(packed)
    if any(one[0] >= two[0] for one, two in pairwise(pairs)):
        raise Malformed("page: owners out of order, or twice")
    return dict(pairs)
