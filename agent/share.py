"""The share of the listing's order that one reader process scans, and the seams where shares meet.

A share goes from its first key up to the first key of the next one, wherever these lie: between directories or inside
one. On the way to its first key a process looks at directories whose entries are another's: only to find those
subdirectories that are its own.

A subdirectory may thus be recorded by one process, and entered by the next one. So both hash what they found on the way
to the key between them. As long as both saw the same, one process alone would have; else something was made or removed
there at that very moment, and the shares do not fit together.
"""

import marshal
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from mastodon.host.paths import Directory
from mastodon.sealed.listing import Key
from mastodon.sealed.purposes import Purpose, hasher


@dataclass(frozen=True, slots=True)
class Share:
    """From ``low`` on, up to and without ``high``; None: from the start, to the end."""

    low: Key | None = None
    high: Key | None = None

    def is_behind(self, directory: Directory) -> bool:
        """Whether a directory and all that follows it lie behind the share."""
        return self.high is not None and (directory, b"") >= self.high

    def begins_in(self, directory: Directory) -> bool:
        """Whether the share has a directory's first entry, be there one or not: it tells what is wrong with it."""
        return self.low is None or (directory, b"") >= self.low

    def own(self, directory: Directory, names: list[bytes]) -> list[bytes]:
        """Of a directory's sorted names, those whose entries are in the share."""
        start, end = 0, len(names)
        if self.low is not None and directory <= self.low[0]:
            start = bisect_left(names, self.low[1]) if directory == self.low[0] else end
        if self.high is not None and directory >= self.high[0]:
            end = bisect_left(names, self.high[1]) if directory == self.high[0] else 0
        return names[start:end]

    def passed(self, directory: Directory, names: list[bytes]) -> list[bytes]:
        """Of a directory's sorted names, those that are another's and may lead to entries of this share."""
        if self.low is None or not _leads_to(directory, self.low):
            return []
        way, name = self.low
        if directory == way:
            return names[: bisect_left(names, name)]
        return names[bisect_left(names, way[len(directory)]) :]


def _leads_to(directory: Directory, key: Key) -> bool:
    """Whether a key lies in a directory or below it."""
    return key[0][: len(directory)] == directory


class Seam:
    """What one side saw on the way to the first key of a share."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._share = Share(low=key)
        self._hash = hasher(Purpose.AGENT_STATE)

    def lies_below(self, directory: Directory) -> bool:
        """Whether the key lies in a directory or below it, so that both sides look at it."""
        return _leads_to(directory, self._key)

    def found(self, directory: Directory, subdirectories: Iterable[tuple[bytes, bool]]) -> None:
        """The subdirectories in a directory, in order, and whether each is out of reach."""
        states = dict(subdirectories)
        names = self._share.passed(directory, list(states))
        self._add(directory, [(name, states[name]) for name in names])

    def failed(self, directory: Directory, number: int) -> None:
        """A directory could not be opened."""
        self._add(directory, number)

    def digest(self) -> bytes:
        """The same on both sides if both saw the same."""
        return bytes(self._hash.digest())

    def _add(self, directory: Directory, what: int | list[tuple[bytes, bool]]) -> None:
        self._hash.update(marshal.dumps((directory, what), 0))
