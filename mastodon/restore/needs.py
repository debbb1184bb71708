"""What a restore needs blobs for: parts of pages, whole files that lie in one, and stretches of larger files."""

from dataclasses import dataclass, field

from mastodon.host.content_file import ContentFile
from mastodon.restore.jobs import PackedEntry, Part
from mastodon.sealed.entry import Entry
from mastodon.sealed.listing import Directory

ANY = -1
"""Any worker will do."""


@dataclass(slots=True, eq=False)
class LargeFile:
    """A file whose content comes from several blobs, in any order. Begun when the first one has come."""

    directory: Directory
    entry: Entry
    left: int = 0
    """Pieces that are still to be written."""
    content: ContentFile | None = None
    reason: str = ""
    """Why it cannot be completed; empty while all is well."""
    over: bool = False


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file that lies whole in one blob, from ``offset`` on."""

    directory: Directory
    packed: PackedEntry
    offset: int

    @property
    def name(self) -> bytes:
        """Its name in the directory."""
        return self.packed[0]  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """Its length."""
        return self.packed[6]  # type: ignore[no-any-return]

    @property
    def link_group(self) -> int:
        """Its link group, 0 for none."""
        return self.packed[10]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a large file: where it goes, and where it lies in the blob (a map: all of it)."""

    file: LargeFile
    file_offset: int
    blob_offset: int
    length: int


@dataclass(slots=True)
class Need:
    """All that is to be made of one blob. ``level`` is that of what refers to it: references go downwards. ``reach``
    are bytes of the blob that are known to be there, as far as its users tell. ``parts`` are the files that workers
    keep, each with its worker; ``worker`` is whose turn it is to have something come. ``page`` is not negative where
    the blob is itself a page, for that worker; ``references`` are then the blobs that it refers to."""

    id: bytes
    level: int
    files: list[SmallFile] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    parts: list[tuple[int, Part]] = field(default_factory=list)
    page: int = -1
    worker: int = ANY
    references: tuple[bytes, ...] = ()
    reach: int = 0
    asked: bool = False
