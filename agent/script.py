"""Writes the edit script over the old listing into the ring (records.py says what stands in it)."""

import errno
import marshal

from mastodon.host.paths import Directory, printable
from mastodon.sealed.entry import Entry
from mastodon.sealed.snapshot import Reason
from mastodon_agent.records import NO_ROW, Kind, pack_listed
from mastodon_agent.ring import RingWriter

ENTRY_META_LIMIT = 400 * 1024
"""More xattrs and names in ACLs than that fit neither in a record nor in a page of the listing."""
PATH_SHOWN = 1000


class Script:
    """Counts of the same kind are joined; a directory is named once for all its entries."""

    def __init__(self, ring: RingWriter) -> None:
        self.ring = ring
        self._kind = Kind.UNCHANGED
        self._count = 0
        self._directory: Directory | None = None

    def count(self, kind: Kind, count: int) -> None:
        """So many old entries more are UNCHANGED, GONE or CARRIED."""
        if kind is not self._kind:
            self._flush()
            self._kind = kind
        self._count += count

    def entry(
        self, kind: Kind, directory: Directory, entry: Entry, row: bytes, replaces: bool, length: int = 0
    ) -> None:
        """An entry; its ``length`` bytes of content lie in the ring's room, asked for after ``enter``."""
        if not length:
            self.enter(directory)
        meta = pack_listed(entry, row, replaces)
        oversized = len(meta) > ENTRY_META_LIMIT
        if oversized:
            entry.xattrs, entry.acl_names, entry.error = (), (), errno.E2BIG
            meta = pack_listed(entry, NO_ROW, replaces)
        self.ring.record(kind, meta, length)
        if oversized:
            self.note(Reason.METADATA, directory, entry.name, errno.E2BIG)

    def enter(self, directory: Directory) -> None:
        """Entries of this directory follow. To be called before their content is put into the ring."""
        self._flush()
        if directory is not self._directory:
            self._directory = directory
            self.ring.record(Kind.DIRECTORY, marshal.dumps(directory))

    def note(self, reason: Reason, directory: Directory, name: bytes | None, number: int) -> None:
        """Something to count and to tell."""
        self._flush()
        path = (b"/" + printable(directory, name))[:PATH_SHOWN]
        self.ring.record(Kind.NOTE, marshal.dumps((int(reason), path, number)))

    def done(self, before: bytes, after: bytes) -> None:
        """The script is at its end; what was seen at the seams before and after it."""
        self._flush()
        self.ring.record(Kind.DONE, marshal.dumps((before, after)))
        self.ring.flush()

    def _flush(self) -> None:
        if self._count:
            self.ring.record(self._kind, marshal.dumps(self._count))
            self._count = 0
