"""What a run tells while it is at work, and what it comes to."""

from collections import Counter
from dataclasses import dataclass, field

from mastodon.sealed.snapshot import Notice, Reason, SnapshotStatus


@dataclass(frozen=True, slots=True)
class Note:
    """Something that went otherwise than well: why, with which file, and the errno."""

    reason: Reason
    path: bytes
    errno: int


@dataclass(slots=True)
class Tally:
    """What a run has seen so far."""

    counts: Counter[Reason] = field(default_factory=Counter)
    files: int = 0
    content_bytes: int = 0
    unchanged: int = 0
    read_files: int = 0
    read_bytes: int = 0


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    status: SnapshotStatus
    sequence: int
    tally: Tally
    entries: int
    sent_bytes: int
    sent_blobs: int
    checkpoints: int = 0
    notices: Notice = field(default=Notice(0))


class Watcher:
    """Is told what happens; the command's output is one."""

    def note(self, note: Note) -> None:
        """A file went otherwise than well."""

    def say(self, text: str) -> None:
        """Something that the admin should know."""

    def detail(self, text: str) -> None:
        """Something for those who look."""

    def progress(self, tally: Tally, sent_bytes: int) -> None:
        """Called often: how far it is."""
