"""Builds the listing: entries in order into pages, pages into the new state, and what the root needs to know.

A stretch in which nothing changed keeps its pages, without their entries being looked at. An entry may refer to the
bundle that is still open; its page then waits, and all pages behind it, until the bundle has its id.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cbor2

from mastodon.host.paths import Directory
from mastodon.sealed import cbor
from mastodon.sealed.entry import HOLE, Entry, EntryFlag, EntryType, Place
from mastodon.sealed.entry_codec import encode_entry
from mastodon.sealed.listing import PAGE_MAXIMUM, Key, cuts_after, shared_length
from mastodon_agent.records import NO_ROW
from mastodon_agent.references import BlobRef, Content
from mastodon_agent.state import ListingWriter, NewPage, StatePage

Body = dict[int, Any]
PutPage = Callable[[list[bytes], bytes], bytes]
"""From references and plaintext to the page's id, the blob being sent where it has to be."""

# Fields of an entry (mastodon.sealed.entry_codec).
NAME, TYPE, UID, GID, SIZE, PLACES, XATTRS, ACL_NAMES, FLAGS = 0, 1, 3, 4, 6, 8, 13, 14, 16
DELTA, USER, GROUP = 18, 19, 20
RARE = frozenset({9, 10, 11, XATTRS, ACL_NAMES, 15, DELTA, USER, GROUP})
"""Fields of any length, and those that few entries have."""
USUAL_BYTES, HASH_BYTES = 56, 36
SECTION_OVERHEAD = 12
UNFLAGGED = EntryFlag(0)
OWNER_BYTES = 270
"""An owner's number and name at most."""


@dataclass(slots=True)
class OldEntries:
    """A page of the old listing, taken apart: what is copied from it into new pages."""

    page: StatePage
    keys: list[Directory]
    bodies: list[Body]
    rows: bytes
    references: list[BlobRef]
    users: dict[int, str]
    groups: dict[int, str]

    @classmethod
    def of(cls, page: StatePage) -> "OldEntries":
        """All entries of a page."""
        body = cbor2.loads(page.plaintext())
        maps = set(page.maps())
        references = [BlobRef(id, index in maps) for index, id in enumerate(page.references())]
        keys: list[Directory] = []
        bodies: list[Body] = []
        for (directory, _), (_, _, entries) in zip(page.sections(), body[2], strict=True):
            keys += [directory] * len(entries)
            bodies += entries
        return cls(page, keys, bodies, page.rows(), references, dict(body[0]), dict(body[1]))

    def has_content(self, index: int) -> bool:
        """Whether it is a file whose content is there."""
        body = self.bodies[index]
        return body[TYPE] == EntryType.FILE and (PLACES in body or not body[SIZE])


@dataclass(slots=True)
class Draft:
    """A page in the making."""

    sections: list[tuple[Directory, list[Body]]] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    references: list[BlobRef] = field(default_factory=list)
    index: dict[object, int] = field(default_factory=dict)
    users: dict[int, str] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    length: int = 0
    names: int = 0
    owners: int = 0
    files: int = 0
    content_bytes: int = 0
    whole: bool = True

    @property
    def is_settled(self) -> bool:
        """Whether all that it refers to has an id."""
        return all(ref.id for ref in self.references)

    def reference(self, ref: BlobRef | None) -> int:
        """The number of a blob in this page, by its first use."""
        if ref is None:
            return HOLE
        key = ref.id or ref
        index = self.index.get(key)
        if index is None:
            index = self.index.get(ref)
            if index is None:
                index = len(self.references)
                self.references.append(ref)
            self.index[key] = index
        return index

    def add(self, directory: Directory, body: Body, row: bytes) -> None:
        """The next entry, its places numbered in this page."""
        if not self.sections or self.sections[-1][0] != directory:
            before = self.sections[-1][0] if self.sections else ()
            shared = shared_length(before, directory)
            self.length += SECTION_OVERHEAD + sum(len(name) + 3 for name in directory[shared:])
            self.names += len(directory)
            self.sections.append((directory, []))
        self.sections[-1][1].append(body)
        self.rows.append(row)
        self.length += entry_length(body)
        if len(self.users) + len(self.groups) > self.owners:
            self.length += OWNER_BYTES * (len(self.users) + len(self.groups) - self.owners)
            self.owners = len(self.users) + len(self.groups)
        if body[TYPE] == EntryType.FILE:
            self.files += 1
            self.content_bytes += body[SIZE]


class ListingBuilder:
    """``put_page`` sends a page; ``is_missing`` tells ids that the server has lost, whatever was known of them."""

    def __init__(
        self, put_page: PutPage, writer: ListingWriter, is_missing: Callable[[bytes], bool] = lambda _id: False
    ) -> None:
        self._put_page = put_page
        self._writer = writer
        self._is_missing = is_missing
        self._draft = Draft()
        self._waiting: deque[Draft | StatePage] = deque()
        self.first_keys: list[Key] = []
        self.ids: list[bytes] = []
        self.entries = 0
        self.files = 0
        self.content_bytes = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the next entry begins a page."""
        return not self._draft.rows

    @property
    def weight(self) -> int:
        """How much waits for a bundle; kept pages, which are small, count little."""
        return sum(8 if isinstance(one, Draft) else 1 for one in self._waiting)

    def add(self, directory: Directory, entry: Entry, content: Content | None, row: bytes) -> None:
        """A new entry."""
        self._make_room(directory, sum(len(name) + len(value) for name, value in entry.xattrs), entry.acl_names)
        draft = self._draft
        if content is not None:
            entry.hash, entry.size = content.hash, content.size
            entry.places = tuple(Place(draft.reference(ref), at, length) for ref, at, length in content.stretches)
        self._append(directory, encode_entry(entry, draft.users, draft.groups), row)

    def copy(self, old: OldEntries, start: int, count: int, flag: EntryFlag = UNFLAGGED) -> None:
        """Entries of the old listing, as they were but for a flag; flagged ones are looked at again next time."""
        size = len(NO_ROW)
        for index in range(start, start + count):
            body = old.bodies[index]
            xattrs = sum(len(name) + len(value) for name, value in body.get(XATTRS, ()))
            self._make_room(old.keys[index], xattrs, body.get(ACL_NAMES, ()))
            draft = self._draft
            for field_, table, owners, fresh in (
                (USER, old.users, UID, draft.users), (GROUP, old.groups, GID, draft.groups),
            ):  # fmt: skip
                name = body.pop(field_, table.get(body[owners], ""))
                if fresh.setdefault(body[owners], name) != name:
                    body[field_] = name
            if PLACES in body:
                self._renumber(old, body[PLACES])
                if DELTA in body:
                    self._renumber(old, body[DELTA][3])
            if flag:
                body[FLAGS] = body.get(FLAGS, 0) | int(flag)
            row = NO_ROW if flag else old.rows[index * size : (index + 1) * size]
            self._append(old.keys[index], body, row)

    def keep(self, page: StatePage) -> None:
        """A page that is as it was. Only at a boundary."""
        self._waiting.append(page)
        self.settle()

    def settle(self) -> None:
        """Finish the pages whose bundles have ids, in order."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, Draft):
                if not first.is_settled:
                    return
                self._finish(first)
            else:
                if self._is_missing(first.id):
                    self._put_page(first.references(), first.plaintext())
                self._writer.keep(first)
                self._count(first.first_key(), first.id, first.count, first.files, first.content_bytes)
            self._waiting.popleft()

    def close(self) -> None:
        """The listing is at its end; every bundle is closed."""
        self._draft.whole = False
        self._cut()
        self.settle()

    def _make_room(self, directory: Directory, xattrs: int, acl_names: Sequence[Any]) -> None:
        """End the page before an entry with which it would be too long."""
        draft = self._draft
        if not draft.rows:
            return
        length = draft.length + xattrs + OWNER_BYTES * len(acl_names)
        if draft.sections[-1][0] != directory:
            length += sum(map(len, directory))
        if length > PAGE_MAXIMUM:
            self._cut()

    def _append(self, directory: Directory, body: Body, row: bytes) -> None:
        draft = self._draft
        draft.add(directory, body, row)
        if cuts_after(body[NAME], draft.length, draft.names):
            self._cut()

    def _cut(self) -> None:
        if self._draft.rows:
            self._waiting.append(self._draft)
            self._draft = Draft()
            self.settle()

    def _renumber(self, old: OldEntries, places: list[int]) -> None:
        for at in range(0, len(places), 3):
            if places[at] != HOLE:
                places[at] = self._draft.reference(old.references[places[at]])

    def _finish(self, draft: Draft) -> None:
        if len({ref.id for ref in draft.references}) != len(draft.references):
            _join_references(draft)
        references = [ref.id for ref in draft.references]
        plaintext = encode(draft)
        id = self._put_page(references, plaintext)
        sections = [(directory, [body[NAME] for body in bodies]) for directory, bodies in draft.sections]
        maps = [index for index, ref in enumerate(draft.references) if ref.is_map]
        self._writer.add(
            NewPage(
                id, sections, draft.rows, plaintext, references, maps, draft.files, draft.content_bytes, draft.whole
            )
        )
        first = (sections[0][0], sections[0][1][0])
        self._count(first, id, len(draft.rows), draft.files, draft.content_bytes)

    def _count(self, first: Key, id: bytes, entries: int, files: int, content_bytes: int) -> None:
        self.first_keys.append(first)
        self.ids.append(id)
        self.entries += entries
        self.files += files
        self.content_bytes += content_bytes


def entry_length(body: Body) -> int:
    """About the bytes of an entry, rather more than less; the same for the same entry, since pages are cut by it."""
    length = USUAL_BYTES + len(body[NAME])
    places = body.get(PLACES)
    if places is not None:
        length += HASH_BYTES + (8 if len(places) == 3 else 9 * len(places))
    rare = RARE.intersection(body)
    if rare:
        length += sum(len(cbor.encode(body[number])) for number in rare)
    return length


def encode(draft: Draft) -> bytes:
    """A page's plaintext (mastodon.sealed.listing has the format)."""
    packed = []
    before: Directory = ()
    for directory, bodies in draft.sections:
        shared = shared_length(before, directory)
        packed.append([shared, list(directory[shared:]), bodies])
        before = directory
    return cbor.encode_ordered({0: _owners(draft.users), 1: _owners(draft.groups), 2: packed})


def _owners(owners: dict[int, str]) -> list[list[Any]]:
    return [[number, owners[number]] for number in sorted(owners)]


def _join_references(draft: Draft) -> None:
    """Two bundles turned out to be the same blob: number the references anew, by first use."""
    numbers: dict[bytes, int] = {}
    kept: list[BlobRef] = []

    def renumber(places: Sequence[int]) -> list[int]:
        flat = list(places)
        for at in range(0, len(flat), 3):
            if flat[at] != HOLE:
                ref = draft.references[flat[at]]
                if ref.id not in numbers:
                    numbers[ref.id] = len(kept)
                    kept.append(ref)
                flat[at] = numbers[ref.id]
        return flat

    for _, bodies in draft.sections:
        for body in bodies:
            if PLACES in body:
                body[PLACES] = renumber(body[PLACES])
                if DELTA in body:
                    body[DELTA][3] = renumber(body[DELTA][3])
    draft.references = kept
