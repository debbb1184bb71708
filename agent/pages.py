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
from mastodon.sealed.entry import HOLE, EntryFlag, EntryType
from mastodon.sealed.entry_codec import PackedEntry, join_entry, odd_owners, pack_body
from mastodon.sealed.listing import PAGE_MAXIMUM, Key, cuts_after, join_page, shared_length
from mastodon_agent.reader import SMALL
from mastodon_agent.records import NO_ROW, Listed
from mastodon_agent.references import Base, BlobRef, Content, Stretch
from mastodon_agent.state import ListingWriter, NewPage, StatePage
from mastodon_agent.uses import Use, Uses, pack_uses

Body = dict[int, Any]
PutPage = Callable[[list[bytes], bytes], bytes]
"""From references and plaintext to the page's id, the blob being sent where it has to be."""

# Fields of an entry (mastodon.sealed.entry_codec).
NAME, TYPE, UID, GID, SIZE, HASH, PLACES, FLAGS, DELTA, USER, GROUP = 0, 1, 3, 4, 6, 7, 8, 16, 18, 19, 20
PLACE_BYTES, PLACE_MOST = 20, 27
"""Of a file's only place, and of each of several, at most."""
BASE_BYTES = 64
"""Of a delta's base, without its places."""
METHOD = 1
"""Of deltas: VCDIFF, as xdelta3 makes it."""
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

    def base(self, index: int) -> Base | None:
        """The full content that is there for an entry: its own, or what it is a delta to."""
        body = self.bodies[index]
        if DELTA in body:
            _, hash, size, flat = body[DELTA]
        elif PLACES in body and HASH in body:
            hash, size, flat = body[HASH], body[SIZE], body[PLACES]
        else:
            return None
        places = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return Base(hash, size, [(None if at == HOLE else self.references[at], *where) for at, *where in places])

    def has_content(self, index: int) -> bool:
        """Whether it is a file whose content is there."""
        body = self.bodies[index]
        return body[TYPE] == EntryType.FILE and (PLACES in body or not body[SIZE])


@dataclass(slots=True)
class Draft:
    """A page in the making."""

    sections: list[tuple[Directory, list[bytes], list[bytes]]] = field(default_factory=list)
    """Directory, names, encoded entries."""
    rows: list[bytes] = field(default_factory=list)
    references: list[BlobRef] = field(default_factory=list)
    index: dict[object, int] = field(default_factory=dict)
    uses: Uses = field(default_factory=Uses)
    large: Uses = field(default_factory=Uses)
    """The same for large files that were read in this run."""
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

    def places(self, stretches: Sequence[Stretch], uses: Uses | None = None) -> list[int]:
        """Stretches as a flat array of places, counted there."""
        flat: list[int] = []
        for ref, at, size in stretches:
            index = self.reference(ref)
            flat += (index, at, size)
            if ref is not None and uses is not None:
                uses.add(index, at, size)
        return flat

    def add(self, directory: Directory, name: bytes, entry: bytes, length: int, row: bytes) -> None:
        """The next entry, its places numbered in this page. ``length`` is what it counts for (counted_length)."""
        if not self.sections or self.sections[-1][0] != directory:
            before = self.sections[-1][0] if self.sections else ()
            shared = shared_length(before, directory)
            self.length += SECTION_OVERHEAD + sum(len(name) + 3 for name in directory[shared:])
            self.names += len(directory)
            self.sections.append((directory, [], []))
        _, names, entries = self.sections[-1]
        names.append(name)
        entries.append(entry)
        self.rows.append(row)
        self.length += length
        if len(self.users) + len(self.groups) > self.owners:
            self.length += OWNER_BYTES * (len(self.users) + len(self.groups) - self.owners)
            self.owners = len(self.users) + len(self.groups)


class ListingBuilder:
    """``put_page`` sends a page; ``is_missing`` tells ids that the server has lost, whatever was known of them.

    ``told`` is given what large files that were read in this run use of their blobs.
    """

    def __init__(
        self, put_page: PutPage, writer: ListingWriter, is_missing: Callable[[bytes], bool] = lambda _id: False,
        told: Callable[[Use], None] = lambda _use: None,
    ) -> None:  # fmt: skip
        self._put_page = put_page
        self._writer = writer
        self._is_missing = is_missing
        self._told = told
        self._draft = Draft()
        self._waiting: deque[Draft | StatePage] = deque()
        self._last: StatePage | None = None
        self.first_keys: list[Key] = []
        self.ids: list[bytes] = []
        self.entries = 0
        self.files = 0
        self.content_bytes = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the next entry begins a page."""
        return not self._draft.rows and self._last is None

    @property
    def weight(self) -> int:
        """How much waits for a bundle; kept pages, which are small, count little."""
        return sum(8 if isinstance(one, Draft) else 1 for one in self._waiting)

    def add(self, directory: Directory, entry: Listed, content: Content | None, row: bytes) -> None:
        """A new entry."""
        packed = entry.packed
        stretches = content.stretches if content is not None else ()
        base = content.base if content is not None else None
        length = counted_length(packed, len(stretches), len(base.stretches) if base is not None else 0)
        self._make_room(directory, length)
        draft = self._draft
        places = draft.places(stretches, draft.uses if entry.size <= SMALL else draft.large)
        delta: Body = {DELTA: [METHOD, base.hash, base.size, draft.places(base.stretches)]} if base is not None else {}
        odd = odd_owners(entry.uid, entry.user, entry.gid, entry.group, draft.users, draft.groups)
        if entry.is_file:
            draft.files += 1
            draft.content_bytes += entry.size
        self._append(directory, entry.name, join_entry(packed, places, delta | odd), length + _extra_length(odd), row)

    def copy(self, old: OldEntries, start: int, count: int, flag: EntryFlag = UNFLAGGED) -> None:
        """Entries of the old listing, as they were but for a flag; flagged ones are looked at again next time."""
        size = len(NO_ROW)
        for index in range(start, start + count):
            body = old.bodies[index]
            if flag:
                body = dict(sorted((body | {FLAGS: body.get(FLAGS, 0) | int(flag)}).items()))
            row = NO_ROW if flag else old.rows[index * size : (index + 1) * size]
            self._copy(old, old.keys[index], body, row)

    def _copy(self, old: OldEntries, directory: Directory, body: Body, row: bytes) -> None:
        packed, places = pack_body(body), body.get(PLACES, [])
        rest = {number: value for number, value in body.items() if number >= DELTA}
        user = rest.pop(USER, old.users.get(body[UID], ""))
        group = rest.pop(GROUP, old.groups.get(body[GID], ""))
        delta = {DELTA: rest.pop(DELTA)} if DELTA in rest else {}
        base = delta[DELTA][3] if delta else []
        length = counted_length(packed, len(places) // 3, len(base) // 3) + _extra_length(rest)
        self._make_room(directory, length)
        draft = self._draft
        self._renumber(old, places)
        self._renumber(old, base)
        if body.get(SIZE, 0) <= SMALL:
            for at in range(0, len(places), 3):
                if places[at] != HOLE:
                    draft.uses.add(places[at], places[at + 1], places[at + 2])
        odd = odd_owners(body[UID], user, body[GID], group, draft.users, draft.groups)
        if delta or odd:
            rest = dict(sorted((delta | rest | odd).items()))
        if body[TYPE] == EntryType.FILE:
            draft.files += 1
            draft.content_bytes += body[SIZE]
        self._append(directory, body[NAME], join_entry(packed, places, rest), length + _extra_length(odd), row)

    def keep(self, page: StatePage) -> None:
        """A page that is as it was. Only at a boundary.

        One that ended with its listing, and not where its content says, stays only if this listing ends there too.
        """
        if page.whole:
            self._waiting.append(page)
            self.settle()
        else:
            self._last = page

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
        if self._last is not None:
            self._waiting.append(self._last)
        self.settle()
        if self._waiting:
            raise AssertionError("a page refers to a bundle that was never closed")

    def _make_room(self, directory: Directory, length: int) -> None:
        """End the page before an entry with which it would be too long."""
        if self._last is not None:
            last, self._last = self._last, None
            self.copy(OldEntries.of(last), 0, last.count)
        draft = self._draft
        if not draft.rows:
            return
        length += draft.length
        if draft.sections[-1][0] != directory:
            length += sum(map(len, directory))
        if length > PAGE_MAXIMUM:
            self._cut()

    def _append(self, directory: Directory, name: bytes, entry: bytes, length: int, row: bytes) -> None:
        draft = self._draft
        draft.add(directory, name, entry, length, row)
        if cuts_after(name, draft.length, draft.names):
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
        for ref, use in zip(draft.references, draft.large.of([ref.id for ref in draft.references]), strict=True):
            for one in ref.below if ref.is_map else (use,):
                self._told(one)
        if len({ref.id for ref in draft.references}) != len(draft.references):
            _join_references(draft)
        references = [ref.id for ref in draft.references]
        plaintext = join_page(
            draft.users, draft.groups, [(directory, entries) for directory, _, entries in draft.sections]
        )
        id = self._put_page(references, plaintext)
        sections = [(directory, names) for directory, names, _ in draft.sections]
        maps = [index for index, ref in enumerate(draft.references) if ref.is_map]
        # fmt: off
        self._writer.add(
            NewPage(
                id, sections, draft.rows, plaintext, references, maps, draft.files, draft.content_bytes, draft.whole,
                pack_uses(draft.uses.of(references)),
            )
        )
        # fmt: on
        first = (sections[0][0], sections[0][1][0])
        self._count(first, id, len(draft.rows), draft.files, draft.content_bytes)

    def _count(self, first: Key, id: bytes, entries: int, files: int, content_bytes: int) -> None:
        self.first_keys.append(first)
        self.ids.append(id)
        self.entries += entries
        self.files += files
        self.content_bytes += content_bytes


def counted_length(packed: PackedEntry, places: int, base_places: int = 0) -> int:
    """About the bytes of an entry, rather more than less; the same for the same entry, wherever its content lies, since
    pages are cut by it."""
    length = len(packed.before) + len(packed.behind) + 4
    if base_places:
        length += BASE_BYTES + PLACE_MOST * base_places
    return length + (PLACE_BYTES if places == 1 else PLACE_MOST * places)


def _extra_length(rest: dict[int, Any]) -> int:
    """The bytes of fields that few entries have."""
    return len(cbor.encode(rest)) if rest else 0


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

    for _, _, entries in draft.sections:
        for at, entry in enumerate(entries):
            body = cbor2.loads(entry)
            if PLACES in body:
                body[PLACES] = renumber(body[PLACES])
                if DELTA in body:
                    body[DELTA][3] = renumber(body[DELTA][3])
                entries[at] = cbor.encode_ordered(body)
    joined = Uses()
    for id, used, reach in draft.uses.of([ref.id for ref in draft.references]):
        joined.add(numbers[id], reach - used, used)
    draft.references, draft.uses = kept, joined
