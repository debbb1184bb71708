"""Pages taken apart and put together: the entries of an old page, and a page in the making."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mastodon.host.paths import Directory
from mastodon.sealed.entry import HOLE
from mastodon.sealed.listing import Key, shared_length
from mastodon_agent.kept_entries import DELTA, Kept
from mastodon_agent.records import ROW_SIZE
from mastodon_agent.references import Base, BlobRef, Stretch
from mastodon_agent.state import StatePage
from mastodon_agent.uses import Uses

SECTION_OVERHEAD = 12
OWNER_BYTES = 270
"""An owner's number and name at most."""


@dataclass(slots=True)
class OldEntries:
    """A page of the old listing, taken apart: what is copied from it into new pages."""

    page: StatePage
    keys: list[Key]
    entries: list[Kept]
    rows: bytes
    references: list[BlobRef]
    users: dict[int, str]
    groups: dict[int, str]

    @classmethod
    def of(cls, page: StatePage) -> "OldEntries":
        """All entries of a page."""
        users, groups, sections = page.entries()
        maps = set(page.maps())
        references = [BlobRef(id, index in maps) for index, id in enumerate(page.references())]
        keys = [(directory, name) for directory, names in page.sections() for name in names]
        entries = [entry for section in sections for entry in section]
        return cls(page, keys, entries, page.rows(), references, users, groups)

    def row(self, index: int) -> bytes:
        """The row of an entry."""
        return self.rows[index * ROW_SIZE : (index + 1) * ROW_SIZE]

    def stretches(self, places: list[int]) -> list[Stretch]:
        """Where flat places lead."""
        threes = zip(places[::3], places[1::3], places[2::3], strict=True)
        return [(None if at == HOLE else self.references[at], offset, length) for at, offset, length in threes]

    def base(self, index: int) -> Base | None:
        """The full content that is there for an entry: its own, or what it is a delta to."""
        entry = self.entries[index]
        if DELTA in entry.rest:
            _, hash, size, places = entry.rest[DELTA]
            return Base(hash, size, self.stretches(places))
        return Base(entry.hash, entry.size, self.stretches(entry.places)) if entry.places else None

    def has_content(self, index: int) -> bool:
        """Whether it is a file whose content is there."""
        entry = self.entries[index]
        return entry.is_file and (bool(entry.places) or not entry.size)


@dataclass(slots=True)
class Draft:
    """A page in the making."""

    sections: list[tuple[Directory, list[bytes], list[Kept]]] = field(default_factory=list)
    """Directory, names, entries."""
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
    copied: OldEntries | None = None
    numbers: dict[int, int] = field(default_factory=dict)
    """From the numbers of references in the page that is being copied to those in this one."""

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

    def renumber(self, places: list[int], old: OldEntries, uses: Uses | None) -> list[int]:
        """The flat places of an old page's entry as they stand in this page, counted there."""
        if self.copied is not old:
            self.copied, self.numbers = old, {}
        numbers = self.numbers
        flat: list[int] = []
        for at in range(0, len(places), 3):
            before, offset, length = places[at : at + 3]
            index = numbers.get(before)
            if index is None:
                index = numbers[before] = self.reference(None if before == HOLE else old.references[before])
            flat += (index, offset, length)
            if index != HOLE and uses is not None:
                uses.add(index, offset, length)
        return flat

    def add(self, directory: Directory, name: bytes, entry: Kept, length: int, row: bytes) -> None:
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
        if entry.is_file:
            self.files += 1
            self.content_bytes += entry.size
        if len(self.users) + len(self.groups) > self.owners:
            self.length += OWNER_BYTES * (len(self.users) + len(self.groups) - self.owners)
            self.owners = len(self.users) + len(self.groups)


def join_references(draft: Draft) -> None:
    """Two bundles turned out to be the same blob: number the references anew, by first use."""
    numbers: dict[bytes, int] = {}
    kept: list[BlobRef] = []

    def renumber(flat: list[int]) -> None:
        for at in range(0, len(flat), 3):
            if flat[at] != HOLE:
                ref = draft.references[flat[at]]
                if ref.id not in numbers:
                    numbers[ref.id] = len(kept)
                    kept.append(ref)
                flat[at] = numbers[ref.id]

    for _, _, entries in draft.sections:
        for entry in entries:
            renumber(entry.places)
            if DELTA in entry.rest:
                renumber(entry.rest[DELTA][3])
    joined = Uses()
    for id, used, reach in draft.uses.of([ref.id for ref in draft.references]):
        joined.add(numbers[id], reach - used, used)
    draft.references, draft.uses = kept, joined
