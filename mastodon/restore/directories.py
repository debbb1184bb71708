"""Directories wait for their attributes until nothing more is made in them.

The listing is in order, so a directory's subtree is contiguous: once the listing is past it, it can be finished as
soon as the workers are done. So what waits is bounded by what is open, not by the size of the tree.
"""

from mastodon.restore.jobs import PackedEntry, pack_entry, unpack_entry
from mastodon.sealed.entry import Entry
from mastodon.sealed.listing import Directory


class WaitingDirectories:
    """Entries of directories that are not finished yet."""

    def __init__(self) -> None:
        self._waiting: dict[Directory, tuple[PackedEntry, bool]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, directory: Directory, entry: Entry, *, fits: bool = False) -> None:
        """A directory's entry was met; ``fits``: one like it was there before this restore wrote anything in it."""
        self._waiting[(*directory, entry.name)] = pack_entry(entry), fits

    def take_passed(self, position: Directory | None) -> list[tuple[Directory, Entry, bool]]:
        """Those that the listing, now at the directory ``position``, has left behind (None: all); and ``fits``."""
        passed = [
            path for path in self._waiting if position is None or (path < position and position[: len(path)] != path)
        ]
        taken = [(path, *self._waiting.pop(path)) for path in passed]
        return [(path[:-1], unpack_entry(packed), fits) for path, packed, fits in taken]
