"""Takes the reader's edit script and turns it into blobs and the listing: the sealing process's work.

It walks along the old listing as the script says, keeps pages in which nothing changed, and builds the others.
"""

import marshal
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mastodon.host.paths import Directory
from mastodon.sealed.entry import EntryFlag
from mastodon.sealed.snapshot import Reason
from mastodon_agent.bundle import Bundler
from mastodon_agent.draft import OldEntries
from mastodon_agent.kept_entries import without_content
from mastodon_agent.outcome import Note, Tally
from mastodon_agent.outlet import Outlet
from mastodon_agent.pages import ListingBuilder
from mastodon_agent.reader import LINKS
from mastodon_agent.records import NO_ROW, Kind, Listed, unpack_listed
from mastodon_agent.references import Base, Content
from mastodon_agent.refusals import ReaderCrashed
from mastodon_agent.state import StatePage

if TYPE_CHECKING:
    from mastodon_agent.delta import Deltas

WEIGHT = 64
"""Pages that may wait for the open bundle (ListingBuilder.weight)."""


class OldPages:
    """The old listing, walked along in the script's steps."""

    def __init__(self, parts: Iterable[Iterator[StatePage]]) -> None:
        self._parts = iter(parts)
        self._pages: Iterator[StatePage] = iter(())
        self._page: StatePage | None = None
        self._index = 0
        self._entries: OldEntries | None = None
        self.next_part()

    def next_part(self) -> None:
        """Go on at the start of the next part, whatever is left of this one."""
        self._pages = next(self._parts, iter(()))
        self._page, self._index, self._entries = next(self._pages, None), 0, None

    def steps(self, count: int) -> Iterator[tuple[StatePage, int, int]]:
        """The next ``count`` entries, as (page, first, how many), each passed after it was given."""
        while count:
            page = self._page
            if page is None:
                raise ReaderCrashed("the state in the state directory changed during the run: run again")
            part = min(count, page.count - self._index)
            yield page, self._index, part
            count -= part
            self._index += part
            if self._index == page.count:
                self._page, self._index, self._entries = next(self._pages, None), 0, None

    def base(self) -> Base | None:
        """What is there in full for the next entry."""
        page = self._page
        return None if page is None else self.entries(page).base(self._index)

    def entries(self, page: StatePage) -> OldEntries:
        """The page's entries, taken apart once."""
        if self._entries is None or self._entries.page is not page:
            self._entries = OldEntries.of(page)
        return self._entries


class Intake:
    """Follows the script. ``told`` is called with each note; with ``deltas``, large files may go as such."""

    def __init__(
        self, outlet: Outlet, listing: ListingBuilder, old: OldPages, seed: int, told: Callable[[Note], None],
        deltas: "Deltas | None" = None,
    ) -> None:  # fmt: skip
        self._outlet = outlet
        self._listing = listing
        self._old = old
        self._seed = seed
        self._told = told
        self._deltas = deltas
        self._bundler = Bundler(outlet, listing.settle)
        self._directory: Directory = ()
        self._large: Any = None
        self._links: OrderedDict[int, Content] = OrderedDict()
        self.tally = Tally()
        self.is_done = False
        self._takers: dict[int, Callable[[memoryview, memoryview], None]] = {
            Kind.UNCHANGED: self._unchanged,
            Kind.GONE: self._gone,
            Kind.CARRIED: self._carried,
            Kind.DIRECTORY: self._enter,
            Kind.ENTRY: self._entry,
            Kind.SMALL: self._small,
            Kind.LINKED: self._linked,
            Kind.BEGIN: self._begin,
            Kind.DATA: self._data,
            Kind.HOLE: self._hole,
            Kind.RESTART: self._begin,
            Kind.END: self._end,
            Kind.FAILED: self._failed,
            Kind.NOTE: self._note,
            Kind.DONE: self._done,
            Kind.CRASHED: self._crashed,
            Kind.NEXT: self._next_part,
        }

    def take(self, kind: int, data: memoryview, meta: memoryview) -> None:
        """One record. Raises ReaderCrashed."""
        self._takers[kind](data, meta)

    def settle(self) -> None:
        """Close the open bundle, so that nothing waits for it."""
        self._bundler.close()

    def abandon(self) -> None:
        """Nothing more comes."""
        self._abandon()
        self.settle()

    # Counts of old entries

    def _unchanged(self, _data: memoryview, meta: memoryview) -> None:
        count = marshal.loads(meta)
        self.tally.unchanged += count
        for page, start, part in self._old.steps(count):
            if part == page.count and self._listing.at_boundary:
                self.tally.files += page.files
                self.tally.content_bytes += page.content_bytes
                self._listing.keep(page)
            else:
                self._listing.copy(self._old.entries(page), start, part)
            self._bound()

    def _gone(self, _data: memoryview, meta: memoryview) -> None:
        for _ in self._old.steps(marshal.loads(meta)):
            pass

    def _carried(self, _data: memoryview, meta: memoryview) -> None:
        for page, start, part in self._old.steps(marshal.loads(meta)):
            self._listing.copy(self._old.entries(page), start, part, EntryFlag.CARRIED)
            self.tally.counts[Reason.CARRIED] += part
            self._bound()

    # Entries

    def _enter(self, _data: memoryview, meta: memoryview) -> None:
        self._directory = marshal.loads(meta)

    def _entry(self, _data: memoryview, meta: memoryview) -> None:
        entry, row, replaces = unpack_listed(meta)
        self._replace(replaces)
        content = Content(entry.hash, 0) if entry.is_file else None
        self._add(entry, content, row)

    def _small(self, data: memoryview, meta: memoryview) -> None:
        entry, row, replaces = unpack_listed(meta)
        self._replace(replaces)
        self._read(entry, self._bundler.add(entry.hash, data) if len(data) else Content(entry.hash, 0), row)

    def _linked(self, _data: memoryview, meta: memoryview) -> None:
        entry, row, replaces = unpack_listed(meta)
        self._replace(replaces)
        self._add(entry, self._links[entry.link_group], row)

    def _begin(self, _data: memoryview, meta: memoryview) -> None:
        # Imported late: a run without large files does without the chunker.
        from mastodon_agent.chunk import LargeFile

        self._abandon()
        size, replaces = marshal.loads(meta)
        large = LargeFile(self._outlet, self._seed, size)
        if self._deltas is None:
            self._large = large
        else:
            self._large = self._deltas.open(large, size, self._old.base() if replaces else None, replaces)

    def _data(self, data: memoryview, _meta: memoryview) -> None:
        self._large.data(data)

    def _hole(self, _data: memoryview, meta: memoryview) -> None:
        self._large.hole(marshal.loads(meta))

    def _end(self, _data: memoryview, meta: memoryview) -> None:
        from mastodon_agent.chunk import TooScattered

        entry, row, replaces = unpack_listed(meta)
        large, self._large = self._large, None
        try:
            content = large.finish(entry.hash, entry.size)
        except TooScattered as error:
            self._replace(replaces)
            self._count(Note(Reason.UNREADABLE, entry.name, error.errno))
            failed = entry._replace(packed=without_content(entry.packed, error.errno), hash=b"")
            self._add(failed, None, NO_ROW)
            return
        self._replace(replaces)
        self._read(entry, content, row)

    def _failed(self, _data: memoryview, meta: memoryview) -> None:
        entry, _, replaces = unpack_listed(meta)
        self._abandon()
        if replaces:
            for page, start, _ in self._old.steps(1):
                old = self._old.entries(page)
                if old.has_content(start):
                    self._listing.copy(old, start, 1, EntryFlag.CARRIED)
                    self.tally.counts[Reason.CARRIED] += 1
                    self._bound()
                else:
                    self._add(entry, None, NO_ROW)
        else:
            self._add(entry, None, NO_ROW)

    def _abandon(self) -> None:
        """A large file that was begun comes again, or not at all."""
        if self._large is not None:
            self._large.abandon()
            self._large = None

    def _replace(self, replaces: bool) -> None:
        if replaces:
            for _ in self._old.steps(1):
                pass

    def _read(self, entry: Listed, content: Content, row: bytes) -> None:
        """An entry whose content was read in this run."""
        self.tally.read_files += 1
        self.tally.read_bytes += content.size
        if entry.link_group and row != NO_ROW:
            self._links[entry.link_group] = replace(content)
            if len(self._links) > LINKS:
                self._links.popitem(last=False)
        self._add(entry, content, row)

    def _add(self, entry: Listed, content: Content | None, row: bytes) -> None:
        if content is not None:
            self.tally.files += 1
            self.tally.content_bytes += content.size
        self._listing.add(self._directory, entry, content, row)
        self._bound()

    def _bound(self) -> None:
        if self._listing.weight > WEIGHT:
            self._bundler.close()

    # The rest

    def _note(self, _data: memoryview, meta: memoryview) -> None:
        reason, path, number = marshal.loads(meta)
        self._count(Note(Reason(reason), path, number))

    def _count(self, note: Note) -> None:
        self.tally.counts[note.reason] += 1
        self._told(note)

    def _next_part(self, _data: memoryview, _meta: memoryview) -> None:
        self._old.next_part()
        self._links.clear()  # the next process has not read what this one has

    def _done(self, _data: memoryview, _meta: memoryview) -> None:
        self._bundler.close()
        self._listing.close()
        self.is_done = True

    def _crashed(self, _data: memoryview, meta: memoryview) -> None:
        raise ReaderCrashed(marshal.loads(meta))
