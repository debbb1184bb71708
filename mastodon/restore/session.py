"""A look at one machine's backups: trust, history, a snapshot, its listing. For the admin's client and recovery."""

from collections.abc import Callable, Iterator
from functools import cached_property

from mastodon.restore.blobs import BlobReader
from mastodon.restore.errors import NotThere, WentBack
from mastodon.restore.history import History, Snapshot, choose, read_history, show_time
from mastodon.restore.memory import Memory
from mastodon.restore.plan import Listing, LostPage, Page
from mastodon.restore.source import Intake, Source
from mastodon.restore.trust import KnownMachine, OpenEnvelope, Trust
from mastodon.sealed.entry import Entry
from mastodon.sealed.listing import Directory

Warn = Callable[[str], None]
STRANGERS_TOLD = 3


class Session:
    """Opened step by step: the history needs no key, a listing does. ``warn`` gets what the user should know."""

    def __init__(
        self, source: Source, known: KnownMachine, open_envelope: OpenEnvelope, memory: Memory, warn: Warn, *,
        accept_pairs: bool = False, allow_older: bool = False,
    ) -> None:  # fmt: skip
        self.known = known
        self.source = source
        self._open_envelope = open_envelope
        self._memory = memory
        self._warn = warn
        self._accept = accept_pairs
        self._allow_older = allow_older

    @cached_property
    def history(self) -> History:
        """The machine's snapshots, checked against the newest seen before. Raises WentBack."""
        history = read_history(
            self.known, self.source.snapshots(self.known.machine), has_an_end=self.source.has_an_end
        )
        for warning in history.warnings:
            self._warn(warning)
        text = self._memory.against(self.known.machine, history)
        if text:
            if not self._allow_older:
                raise WentBack(f"{self.known.name}: {text}. To take what is there, give --allow-older")
            self._warn(f"{self.known.name}: {text}. What is shown is taken as the newest from now on")
            self._memory.take_older(self.known.machine, history)
        else:
            self._memory.remember(self.known.machine, history)
        return history

    @property
    def given_up(self) -> str:
        """What was seen once and is not shown any more, since an older state was taken; empty for nothing."""
        head = self._memory.given_up(self.known.machine)
        if head is None:
            return ""
        return (
            f"{self.known.name}: snapshot {head.sequence}, seen on {show_time(head.seen_ns)}, is not shown any more; "
            "an older state was taken with --allow-older"
        )

    @cached_property
    def trust(self) -> Trust:
        """The machine's pairs and what opens them."""
        trust = Trust(self.known, self.source, self._open_envelope, self._warn, accept_pairs=self._accept)
        strangers = trust.strangers()
        for stranger in strangers[:STRANGERS_TOLD]:
            self._warn(
                f"{self.known.name}: sealing pair {stranger.number} of {show_time(stranger.time_ns)} is not known to "
                "the book; what is sealed to it is read with --accept-pair only"
            )
        if len(strangers) > STRANGERS_TOLD:
            self._warn(
                f"{self.known.name}: {len(strangers) - STRANGERS_TOLD} or more sealing pairs besides are not known to "
                "the book either: whoever has root there may be making them"
            )
        return trust

    @cached_property
    def reader(self) -> BlobReader:
        """Opens the machine's blobs."""
        return BlobReader(Intake(self.source, self.known.machine), self.trust)

    def snapshot(self, wanted: str) -> Snapshot:
        """The snapshot that ``wanted`` names. Raises NotThere."""
        return choose(self.history, wanted, self._warn)

    def listing(self, snapshot: Snapshot) -> Listing:
        """The listing of a snapshot. Raises Distrusted or Locked."""
        return Listing(self.reader, snapshot)


def entries_in(listing: Listing, directory: Directory) -> Iterator[tuple[Page, Entry] | LostPage]:
    """The entries of one directory, by binary search for its pages."""
    first = max(0, listing.root.page_of((directory, b"")))
    last = listing.root.page_of((directory, b"\xff" * 256))
    for page in listing.pages(range(first, last + 1)):
        if isinstance(page, LostPage):
            yield page
            continue
        for section in page.sections:
            if section.directory == directory:
                for entry in section.entries:
                    yield page, entry


def find_entry(listing: Listing, path: Directory) -> tuple[Page, Entry]:
    """One entry by its path, by binary search. Raises NotThere."""
    directory, name = path[:-1], path[-1]
    index = listing.root.page_of((directory, name))
    if index >= 0:
        (page,) = listing.pages([index])
        if isinstance(page, LostPage):
            raise NotThere(str(page))
        for section in page.sections:
            if section.directory == directory:
                for entry in section.entries:
                    if entry.name == name:
                        return page, entry
    raise NotThere("there is nothing of that name in the snapshot")
