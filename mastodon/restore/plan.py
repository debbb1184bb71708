"""A snapshot's listing, verified and streamed: root, then pages, each by the id that the level above names.

Pages are fetched a few ahead and handed out in order, so a listing of a million files needs no more memory than
some pages. A page that is missing or does not verify is told as lost, with the range of names that it covers, and
the others go on: a hostile or damaged page never takes others with it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mastodon.restore.blobs import BlobReader, LostBlob, OpenBlob
from mastodon.restore.errors import Distrusted, Locked
from mastodon.restore.history import Snapshot
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.errors import FormatError, Malformed
from mastodon.sealed.listing import Directory, Key, Root, Section, decode_page, first_key

PAGES_AHEAD = 16
PAGES_A_QUESTION = 8


@dataclass(frozen=True, slots=True)
class Page:
    """A verified page."""

    references: tuple[bytes, ...]
    sections: Sequence[Section]


@dataclass(frozen=True, slots=True)
class LostPage:
    """A page that could not be had: names from ``first`` on, up to ``end`` (None: the last)."""

    first: Key
    end: Key | None
    reason: str

    def __str__(self) -> str:
        return f"listing from {show_key(self.first)} {_until(self.end)}: {self.reason}"


class Listing:
    """The listing of one snapshot. Making it fetches the root. Raises Distrusted or Locked."""

    def __init__(self, reader: BlobReader, snapshot: Snapshot) -> None:
        self._reader = reader
        root_id = snapshot.record.root
        blob = reader.read_now([root_id])[root_id]
        what = f"snapshot {snapshot.record.sequence}: the root of its listing"
        if isinstance(blob, LostBlob):
            raise (Locked if blob.locked else Distrusted)(f"{what} cannot be had: {blob.reason}")
        try:
            if blob.kind is not BlobKind.ROOT:
                raise Malformed(f"it is a {blob.kind.name.lower()}")
            self.root = Root.decode(blob.plaintext, len(blob.references))
        except FormatError as error:
            raise Distrusted(f"{what} is not one: {error}") from None
        self._pages = blob.references

    @property
    def count(self) -> int:
        """How many pages there are."""
        return len(self._pages)

    def pages(self, wanted: Sequence[int] | None = None) -> Iterator[Page | LostPage]:
        """The pages with these indices (all of them), in order."""
        todo = deque(range(self.count) if wanted is None else wanted)
        asked: deque[tuple[int, list[int]]] = deque()
        ahead = 0
        while todo or asked:
            while todo and ahead < PAGES_AHEAD:
                indices = [todo.popleft() for _ in range(min(PAGES_A_QUESTION, len(todo)))]
                asked.append((self._reader.ask([self._pages[index] for index in indices]), indices))
                ahead += len(indices)
            question, indices = asked.popleft()
            found = self._reader.read(question, [self._pages[index] for index in indices])
            ahead -= len(indices)
            for index in indices:
                yield self.verified(index, found.pop(self._pages[index]))

    def page_id(self, index: int) -> bytes:
        """The id of a page's blob."""
        return self._pages[index]

    def verified(self, index: int, blob: OpenBlob | LostBlob) -> Page | LostPage:
        """What a blob is as the page of that index."""
        keys = self.root.first_keys
        end = keys[index + 1] if index + 1 < len(keys) else None
        if isinstance(blob, LostBlob):
            return LostPage(keys[index], end, blob.reason)
        try:
            if blob.kind is not BlobKind.PAGE:
                raise Malformed(f"a {blob.kind.name.lower()} where a page should be")
            sections = decode_page(blob.plaintext, len(blob.references))
            _check_page(sections, keys[index], end)
        except FormatError as error:
            return LostPage(keys[index], end, str(error))
        return Page(blob.references, sections)


def _check_page(sections: Sequence[Section], first: Key, end: Key | None) -> None:
    """The page lies where the root says."""
    if first_key(sections) != first:
        raise Malformed("the page starts with another name than the root says")
    if end is not None and (sections[-1].directory, sections[-1].entries[-1].name) >= end:
        raise Malformed("the page runs into the next one")


def show_path(directory: Directory, name: bytes | None = None) -> str:
    """A path in a snapshot as people read it: absolute; sources below /.source; odd bytes escaped."""
    names = [*directory] if name is None else [*directory, name]
    if names and names[0] == b"":
        names[0] = b".source"
    return "/" + printable_bytes(b"/".join(names))


def printable_bytes(raw: bytes) -> str:
    """Bytes of a name for a terminal: nothing in them can move the cursor or forge a line."""
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def show_key(key: Key) -> str:
    """The path that a key stands for."""
    return show_path(key[0], key[1])


def _until(end: Key | None) -> str:
    return "to its end" if end is None else f"up to before {show_key(end)}"
