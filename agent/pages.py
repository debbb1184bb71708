"""Builds the listing: entries in order into pages, pages into the new state, and what the root needs to know.

A stretch in which nothing changed keeps its pages, without their entries being looked at. An entry may refer to the
bundle that is still open; its page then waits, and all pages behind it, until the bundle has its id.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mastodon.host.paths import Directory
from mastodon.sealed import cbor
from mastodon.sealed.entry import EntryFlag
from mastodon.sealed.entry_codec import PackedEntry, odd_owners
from mastodon.sealed.listing import PAGE_MAXIMUM, Key, cuts_after
from mastodon_agent.draft import Draft, OldEntries, join_references
from mastodon_agent.kept_entries import DELTA, GROUP, USER, Kept, PageEntries, flagged
from mastodon_agent.reader import SMALL
from mastodon_agent.records import NO_ROW, Listed
from mastodon_agent.references import Base, Content, Stretch
from mastodon_agent.state import ListingWriter, NewPage, StatePage
from mastodon_agent.uses import Use, pack_uses

PutPage = Callable[[list[bytes], bytes], bytes]
"""From references and plaintext to the page's id, the blob being sent where it has to be."""

PLACE_BYTES, PLACE_MOST = 20, 27
"""Of a file's only place, and of each of several, at most."""
BASE_BYTES = 64
"""Of a delta's base, without its places."""
METHOD = 1
"""Of deltas: VCDIFF, as xdelta3 makes it."""
UNFLAGGED = EntryFlag(0)


class Owned(NamedTuple):
    """What decides about an entry's places and owners."""

    is_file: bool
    size: int
    uid: int
    user: str
    gid: int
    group: str


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
        self.weight = 0
        """How much waits for a bundle; kept pages, which are small, count little."""
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

    def add(self, directory: Directory, entry: Listed, content: Content | None, row: bytes) -> None:
        """A new entry."""
        stretches = content.stretches if content is not None else ()
        base = content.base if content is not None else None
        self._add((directory, entry.name), entry, entry.packed, stretches, base, row, is_new=True)

    def copy(self, old: OldEntries, start: int, count: int, flag: EntryFlag = UNFLAGGED) -> None:
        """Entries of the old listing, as they were but for a flag; flagged ones are looked at again next time."""
        for index in range(start, start + count):
            if flag or not self._copy_as_is(old, index):
                self._copy(old, index, flag)

    def _copy_as_is(self, old: OldEntries, index: int) -> bool:
        """Whether the entry is like nearly all, with nothing in it to be changed but the numbers of references."""
        _, before, behind, _, size, uid, gid, places, rest = entry = old.entries[index]
        if rest:
            return False
        directory, name = old.keys[index]
        length = counted_length(len(before) + len(behind), len(places) // 3)
        self._make_room(directory, length)
        draft = self._draft
        if draft.users.get(uid) != old.users.get(uid, "") or draft.groups.get(gid) != old.groups.get(gid, ""):
            return False
        numbered = draft.renumber(places, old, draft.uses if size <= SMALL else None)
        if numbered != places:
            entry = entry._replace(places=numbered)
        draft.add(directory, name, entry, length, old.row(index))
        if cuts_after(name, draft.length, draft.names):
            self._cut()
        return True

    def _copy(self, old: OldEntries, index: int, flag: EntryFlag) -> None:
        entry = old.entries[index]
        packed = flagged(entry.packed, flag) if flag else entry.packed
        uid, gid, rest = entry.uid, entry.gid, entry.rest
        user, group = rest.get(USER, old.users.get(uid, "")), rest.get(GROUP, old.groups.get(gid, ""))
        base = old.base(index) if DELTA in rest else None
        owned = Owned(entry.is_file, entry.size, uid, user, gid, group)
        row = NO_ROW if flag else old.row(index)
        self._add(old.keys[index], owned, packed, old.stretches(entry.places), base, row)

    def _add(
        self, key: Key, entry: Listed | Owned, packed: PackedEntry, stretches: Sequence[Stretch], base: Base | None,
        row: bytes, is_new: bool = False,
    ) -> None:  # fmt: skip
        directory, name = key
        base_places = len(base.stretches) if base is not None else 0
        length = counted_length(len(packed.before) + len(packed.behind), len(stretches), base_places)
        self._make_room(directory, length)
        draft = self._draft
        uses = draft.uses if entry.size <= SMALL else draft.large if is_new else None
        places = draft.places(stretches, uses)
        rest: dict[int, Any] = {}
        if base is not None:
            rest[DELTA] = [METHOD, base.hash, base.size, draft.places(base.stretches)]
        odd = odd_owners(entry.uid, entry.user, entry.gid, entry.group, draft.users, draft.groups)
        if odd:
            rest |= odd
            length += len(cbor.encode(odd))
        kept = Kept(*packed, entry.is_file, entry.size, entry.uid, entry.gid, places, rest)
        draft.add(directory, name, kept, length, row)
        if cuts_after(name, draft.length, draft.names):
            self._cut()

    def keep(self, page: StatePage) -> None:
        """A page that is as it was. Only at a boundary.

        One that ended with its listing, and not where its content says, stays only if this listing ends there too.
        """
        if page.whole:
            self._wait(page)
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
            self.weight -= _weight(first)

    def close(self) -> None:
        """The listing is at its end; every bundle is closed."""
        self._draft.whole = False
        self._cut()
        if self._last is not None:
            self._wait(self._last)
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

    def _cut(self) -> None:
        if self._draft.rows:
            self._wait(self._draft)
            self._draft = Draft()
            self.settle()

    def _wait(self, page: Draft | StatePage) -> None:
        self._waiting.append(page)
        self.weight += _weight(page)

    def _finish(self, draft: Draft) -> None:
        for ref, use in zip(draft.references, draft.large.of([ref.id for ref in draft.references]), strict=True):
            for one in ref.below if ref.is_map else (use,):
                self._told(one)
        if len({ref.id for ref in draft.references}) != len(draft.references):
            join_references(draft)
        references = [ref.id for ref in draft.references]
        entries = PageEntries(draft.users, draft.groups, [entries for _, _, entries in draft.sections])
        id = self._put_page(references, entries.plaintext(directory for directory, _, _ in draft.sections))
        sections = [(directory, names) for directory, names, _ in draft.sections]
        maps = [index for index, ref in enumerate(draft.references) if ref.is_map]
        # fmt: off
        self._writer.add(
            NewPage(
                id, sections, draft.rows, entries, references, maps, draft.files, draft.content_bytes, draft.whole,
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


def counted_length(packed: int, places: int, base_places: int = 0) -> int:
    """About the bytes of an entry, rather more than less, from those that are packed; the same for the same entry,
    wherever its content lies, since pages are cut by it."""
    length = packed + 4
    if base_places:
        length += BASE_BYTES + PLACE_MOST * base_places
    return length + (PLACE_BYTES if places == 1 else PLACE_MOST * places)


def _weight(page: Draft | StatePage) -> int:
    return 8 if isinstance(page, Draft) else 1
