"""What machines' days were like, by sizes that the server sees: the part of a catalogue that measures.

It is derived like all of a catalogue, but from questions: what is not there is measured when it is asked for, from
snapshots and packs, and kept. All of it takes one turn beside the machines' own work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from mastodon.sealed.blob import BlobKind
from mastodon.sealed.duration import DAY_NS


@dataclass(frozen=True, slots=True)
class LastOfDay:
    """The last complete snapshot of a day (UTC): its sequence, root, and time of commit."""

    sequence: int
    root: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class Reach:
    """What a page or map leads to: blobs, and their sealed bytes. What it leads to by two ways counts twice."""

    blobs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class BackupDay:
    """A day (UTC) on which complete snapshots were committed. ``sequence``, ``until_ns`` (the time of its commit) and
    what is reached are of the last of them; what was sent is since the last one of the day before."""

    sequence: int
    until_ns: int
    sent_bytes: int
    sent_blobs: int
    listing_bytes: int
    """Root and pages, sealed."""
    content_bytes: int
    """What the pages lead to, sealed."""
    blobs: int
    """All that is reached."""

    @property
    def day(self) -> int:
        """Its number since 1970."""
        return self.until_ns // DAY_NS


class Measures(Protocol):
    """The interface."""

    def unmeasured(self) -> Deferred[list[bytes]]:
        """Machines whose newest complete snapshot was not measured yet."""

    def last_of_days(self, machine: bytes, most: int) -> Deferred[list[LastOfDay]]:
        """The last complete snapshots of days, behind the newest measured one; the newest ``most``, oldest first."""

    def sent(self, machine: bytes, until: LastOfDay) -> Deferred[tuple[int, int]]:
        """Bytes and blobs in packs since the last complete snapshot of the day before, and up to this one."""

    def children(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, tuple[bytes, ...]]]:
        """What roots, pages and maps refer to."""

    def sizes(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, tuple[BlobKind, int]]]:
        """Kind and sealed size of blobs, of whichever sealing."""

    def reaches(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, Reach]]:
        """What pages and maps lead to, as far as it was measured."""

    def note_reaches(self, machine: bytes, found: Mapping[bytes, Reach]) -> Deferred[None]:
        """Keep what pages and maps lead to: what a blob refers to never changes."""

    def days(self, machine: bytes, most: int) -> Deferred[list[BackupDay]]:
        """The newest days that were measured, oldest first."""

    def note_day(self, machine: bytes, day: BackupDay) -> Deferred[None]:
        """Keep what a day was like, in place of what it was so far."""
