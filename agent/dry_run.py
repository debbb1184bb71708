"""What a run would read, without reading it."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from mastodon.host.paths import Directory, printable
from mastodon.sealed.snapshot import Reason
from mastodon_agent.outcome import Note


@dataclass(slots=True)
class DryRun:
    """The scan's visitor; ``would_read`` is called with each path and its size."""

    would_read: Callable[[bytes, int], None]
    told: Callable[[Note], None]
    entries: int = 0
    unchanged_entries: int = 0
    files: int = 0
    content_bytes: int = 0
    reasons: list[Reason] = field(default_factory=list)

    def unchanged(self, count: int) -> None:
        """Nothing to read."""
        self.unchanged_entries += count

    def gone(self, count: int) -> None:
        """Nothing to read."""

    def carried(self, count: int) -> None:
        """Nothing to read."""

    def changed(self, directory: Directory, dir_fd: int, name: bytes, st: os.stat_result, replaces: bool) -> None:
        """Something that would be recorded, and read if it is a file."""
        self.entries += 1
        if stat.S_ISREG(st.st_mode):
            self.files += 1
            self.content_bytes += st.st_size
            self.would_read(b"/" + printable(directory, name), st.st_size)

    def note(self, reason: Reason, directory: Directory, name: bytes | None, number: int) -> None:
        """Something that would go otherwise than well."""
        self.reasons.append(reason)
        self.told(Note(reason, b"/" + printable(directory, name), number))
