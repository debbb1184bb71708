"""A worker's share of the listing: pages are decoded where their files are written.

Of each page the worker keeps what it can write by itself, files that lie whole in one blob, until that blob comes;
what has no content it makes at once. Directories, large files, links and deltas concern more than one worker, and go
to the main process. What is already there is judged here too when a restore is taken up again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mastodon.host.existing import Verdict
from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.blobs import OpenBlob
from mastodon.restore.jobs import PageFile, PageResult, Part, pack_entry, pack_whole
from mastodon.restore.plan import Listing, LostPage
from mastodon.restore.select import Selection
from mastodon.sealed.entry import HOLE, Entry, EntryFlag, EntryType
from mastodon.sealed.listing import SOURCE, Directory

WHOLE_LIMIT = 4 * 1024 * 1024
"""A file up to this size that lies in one blob is written at once."""
SHOWN_SOURCE = b".source"

KeptFile = tuple[Directory, Entry]


@dataclass(frozen=True, slots=True)
class Terms:
    """What decides what is wanted of a page. ``resumes``: something may be there already; ``verify``: and its content
    is to be compared."""

    listing: Listing
    selection: Selection
    resumes: bool
    verify: bool


class KeptPages:
    """What a worker has of the pages that were given to it. ``make`` is called for entries without content."""

    def __init__(self, terms: Terms, writer: TreeWriter, make: Callable[[Directory, Entry], None]) -> None:
        self._terms = terms
        self._writer = writer
        self._make = make
        self._kept: dict[Part, list[KeptFile]] = {}

    def take(self, index: int, blob: OpenBlob) -> PageResult:
        """A page of the listing, its blob verified."""
        page = self._terms.listing.verified(index, blob)
        result = PageResult(index)
        if isinstance(page, LostPage):
            result.lost = str(page)
            return result
        last = len(page.sections) - 1
        for number, section in enumerate(page.sections):
            here = shown(section.directory)
            if self._terms.resumes:
                # of the first and last directory other pages may have more, which somebody is writing meanwhile
                whole = 0 < number < last
                self._writer.remove_leftovers(here, {entry.name for entry in section.entries}, named=whole)
            self._take_section(section.directory, here, section.entries, result)
        result.needs = [
            (part[1], max(entry.places[0].offset + entry.size for _, entry in files))
            for part, files in self._kept.items()
            if part[0] == index
        ]
        result.met = self._terms.selection.met()
        return result

    def part(self, part: Part) -> list[KeptFile]:
        """The files of a part, which are given up with it."""
        return self._kept.pop(part, [])

    def give_back(self, part: Part) -> list[PageFile]:
        """The same, for the main process."""
        return [(directory, pack_whole(entry)) for directory, entry in self.part(part)]

    def _take_section(
        self, directory: Directory, here: Directory, entries: Sequence[Entry], result: PageResult
    ) -> None:
        selection = self._terms.selection
        for entry in entries:
            if selection.takes(directory, entry.name):
                self._take_entry(here, entry, result)
            elif entry.type is EntryType.DIRECTORY and selection.is_ancestor((*directory, entry.name)):
                self._take_directory(here, entry, result)

    def _take_entry(self, here: Directory, entry: Entry, result: PageResult) -> None:
        result.entries += 1
        if entry.flags:
            result.carried += bool(entry.flags & EntryFlag.CARRIED)
            result.fuzzy += bool(entry.flags & EntryFlag.FUZZY)
        if entry.type is EntryType.DIRECTORY:
            self._take_directory(here, entry, result)
        elif not is_simple(entry) or (self._terms.resumes and self._terms.verify):
            result.others.append((here, pack_whole(entry)))
        elif self._terms.resumes and not self._wanted(here, entry, result):
            return
        elif entry.size:
            self._kept.setdefault((result.page, entry.places[0].reference), []).append((here, entry))
        else:
            self._make(here, entry)

    def _take_directory(self, here: Directory, entry: Entry, result: PageResult) -> None:
        """One that looks finished loses its time when something is made in it, and is to get it back."""
        fits = self._terms.resumes and self._writer.existing_matches(here, entry)
        result.directories.append((here, pack_entry(entry), fits))

    def _wanted(self, here: Directory, entry: Entry, result: PageResult) -> bool:
        """Whether an entry has to be written, seeing what is there."""
        verdict = self._writer.verdict(here, entry)
        if verdict is Verdict.VERIFY and self._writer.accept(here, entry):
            result.kept_files += entry.type is EntryType.FILE
            result.kept_bytes += entry.size
        return verdict is Verdict.WRITE


def is_simple(entry: Entry) -> bool:
    """Whether nothing but at most one blob is needed to make it."""
    return not entry.link_group and (not entry.size or (entry.delta is None and is_whole(entry)))


def is_whole(entry: Entry) -> bool:
    """Whether a file lies in one blob, and is small enough to be written at once."""
    places = entry.places
    return len(places) == 1 and places[0].reference != HOLE and entry.size <= WHOLE_LIMIT


def shown(directory: Directory) -> Directory:
    """Where a directory of the listing goes below the target: sources go to .source."""
    return (SHOWN_SOURCE, *directory[1:]) if directory and directory[0] == SOURCE else directory
