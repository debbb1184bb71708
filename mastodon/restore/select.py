"""Which entries of a listing are meant: all, or those that PATHs and patterns name, and the pages where they lie.

A PATH is absolute (a leading slash may be left out) and means the entry and all below it. With ``*``, ``?`` or ``[``
it is a pattern, name by name: ``*`` stays within a name, ``**`` stands for any number of directories. An entry whose
own name has such characters is still found, since a PATH is looked for literally as well.
"""

import fnmatch
import os
from collections.abc import Iterable, Sequence

from mastodon.sealed.listing import Directory, Root

WILD = frozenset(b"*?[")
ANY_DEPTH = b"**"
SHOWN_SOURCE = b".source"


class Selection:
    """PATHs and patterns; none of them means everything."""

    def __init__(self, paths: Iterable[str | bytes]) -> None:
        self._literal: dict[Directory, bool] = {}  # path, and whether it was met
        self._patterns: dict[Directory, bool] = {}
        self._ancestors: set[Directory] = set()
        self.everything = True
        for path in paths:
            self.everything = False
            names = split_path(path)
            if not names:
                self._everything()
                return
            self._literal[names] = False
            if any(WILD & set(name) for name in names):
                self._patterns[names] = False
            else:
                self._ancestors.update(names[:depth] for depth in range(1, len(names)))

    def _everything(self) -> None:
        self.everything = True
        self._literal.clear()
        self._patterns.clear()
        self._ancestors.clear()

    def page_indices(self, root: Root) -> Sequence[int] | None:
        """The pages where something selected can lie; None: all."""
        if self.everything or self._patterns:
            return None
        wanted: set[int] = set()
        for names in (*self._literal, *self._ancestors):
            wanted.add(root.page_of((names[:-1], names[-1])))
            if names in self._literal:
                after = (*names[:-1], names[-1] + b"\0")
                wanted.update(range(root.page_of((names, b"")), root.page_of((after, b"")) + 1))
        return sorted(index for index in wanted if index >= 0)

    def takes(self, directory: Directory, name: bytes) -> bool:
        """Whether an entry is meant, as one named or as something below."""
        if self.everything:
            return True
        path = (*directory, name)
        found = False
        for depth in range(1, len(path) + 1):
            if path[:depth] in self._literal:
                self._literal[path[:depth]] = found = True
        for pattern in self._patterns:
            if matches_or_below(path, pattern):
                self._patterns[pattern] = found = True
        return found

    def met(self) -> list[Directory]:
        """PATHs and patterns that something was met for: what another process has to be told."""
        return [names for found in (self._literal, self._patterns) for names, met in found.items() if met]

    def mark(self, met: Iterable[Directory]) -> None:
        """Something was met for these, in another process."""
        for names in met:
            for found in (self._literal, self._patterns):
                if names in found:
                    found[names] = True

    def is_ancestor(self, path: Directory) -> bool:
        """Whether a directory leads to something that a literal PATH names, so that its attributes are wanted."""
        return path in self._ancestors

    def unmatched(self) -> list[bytes]:
        """PATHs and patterns that nothing was met for."""
        return [
            b"/" + b"/".join(names)
            for names, met in self._literal.items()
            if not met and not self._patterns.get(names, False)
        ]


def split_path(path: str | bytes) -> Directory:
    """The names of a path; '.' and empty ones left out, /.source turned into what the listing has."""
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    if names and names[0] == SHOWN_SOURCE:
        names[0] = b""
    return tuple(names)


def matches_or_below(path: Directory, pattern: Directory) -> bool:
    """Whether a pattern matches a path or one of the directories on the way to it."""
    return _match(path, pattern, below=True)


def matches_whole(path: Directory, pattern: Directory) -> bool:
    """Whether a pattern matches exactly this path."""
    return _match(path, pattern, below=False)


def _match(path: Directory, pattern: Directory, *, below: bool) -> bool:
    """Name by name; ``reached`` are the positions in the pattern that the names so far can stand for."""
    reached = _after_stars({0}, pattern)
    for name in path:
        if below and len(pattern) in reached:
            return True
        following = set()
        for position in reached:
            if position == len(pattern):
                continue
            if pattern[position] == ANY_DEPTH:
                following.add(position)
            elif _name_matches(name, pattern[position]):
                following.add(position + 1)
        reached = _after_stars(following, pattern)
        if not reached:
            return False
    return len(pattern) in reached


def _after_stars(reached: set[int], pattern: Directory) -> set[int]:
    result = set(reached)
    for position in reached:
        while position < len(pattern) and pattern[position] == ANY_DEPTH:
            position += 1
            result.add(position)
    return result


def _name_matches(name: bytes, pattern: bytes) -> bool:
    if not WILD & set(pattern):
        return name == pattern
    return fnmatch.fnmatchcase(os.fsdecode(name), os.fsdecode(pattern))
