"""Directories wait for their attributes until nothing more is made in them.

The listing is in order, so a directory's subtree is contiguous: once the listing is past it, it can be finished as
soon as the workers are done. So what waits is bounded by what is open, not by the size of the tree.
"""

from collections.abc import Sequence

from mastodon.restore.jobs import PackedDirectory
from mastodon.sealed.listing import Directory

SHARE = 512
"""Directories that are finished by one worker at a time."""


class WaitingDirectories:
    """Entries of directories that are not finished yet."""

    def __init__(self) -> None:
        self._waiting: dict[Directory, PackedDirectory] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: PackedDirectory) -> None:
        """A directory's entry was met."""
        self._waiting[_path(entry)] = entry

    def take_passed(self, position: Directory | None) -> list[PackedDirectory]:
        """Those that the listing, now at the directory ``position``, has left behind (None: all), in order."""
        passed = [
            path for path in self._waiting if position is None or (path < position and position[: len(path)] != path)
        ]
        return [self._waiting.pop(path) for path in sorted(passed)]


def shares(ordered: Sequence[PackedDirectory]) -> tuple[list[list[PackedDirectory]], list[PackedDirectory]]:
    """Directories in order, cut into shares that may be finished at the same time, and those that lead to several
    shares: they come last, since a finished directory may let nobody in any more."""
    apart: list[list[PackedDirectory]] = []
    spanning: list[PackedDirectory] = []
    for start in range(0, len(ordered), SHARE):
        following = _path(ordered[start + SHARE]) if start + SHARE < len(ordered) else ()
        share: list[PackedDirectory] = []
        for entry in ordered[start : start + SHARE]:
            path = _path(entry)
            (spanning if following[: len(path)] == path else share).append(entry)
        apart.append(share)
    return apart, spanning


def _path(entry: PackedDirectory) -> Directory:
    directory, packed, _ = entry
    return (*directory, packed[0])
