"""A cursor over the listing of the last run, for whoever walks along it in its order."""

from collections.abc import Callable, Iterator

from mastodon.host.paths import Directory
from mastodon_agent.records import ROW_SIZE
from mastodon_agent.state import StatePage


class OldListing:
    """A cursor over the old listing, in its order. What is passed over counts as ``skipped``."""

    def __init__(self, pages: Iterator[StatePage], distrust: Callable[[StatePage], bytes] = StatePage.rows) -> None:
        self._sections = self._open(pages, distrust)
        self._directory: Directory | None = None
        self._names: list[bytes] = []
        self._rows = b""
        self._index = 0
        self.skipped = 0
        self._matches = False
        self._next()

    def enter(self, directory: Directory) -> None:
        """Move to the entries of a directory."""
        while self._directory is not None and self._directory < directory:
            self.skipped += len(self._names) - self._index
            self._next()
        self._matches = self._directory == directory

    def find(self, name: bytes) -> bytes | None:
        """The row of that name in the directory entered, which is passed with it; None if it was not there."""
        while self._matches:
            old = self._names[self._index]
            if old > name:
                return None
            row = self._rows[self._index * ROW_SIZE : (self._index + 1) * ROW_SIZE]
            self._step()
            if old == name:
                return row
            self.skipped += 1
        return None

    def find_all(self, names: list[bytes], at: int) -> bytes | None:
        """The rows of ``names[at:]``, as many as a page has together, where the old names are just the same."""
        if not self._matches or self._index:
            return None
        old = self._names
        if old[0] != names[at] or old != names[at : at + len(old)]:
            return None
        return self._rows

    def pass_found(self) -> None:
        """Pass what ``find_all`` gave."""
        self._index = len(self._names) - 1
        self._step()

    def pass_below(self, directory: Directory) -> int:
        """How many entries lie in a directory and below it; they are passed, and not skipped."""
        self.enter(directory)
        depth = len(directory)
        count = 0
        while self._directory is not None and self._directory[:depth] == directory:
            count += len(self._names) - self._index
            self._next()
        self._matches = False
        return count

    def pass_all(self) -> None:
        """Skip what is left."""
        while self._directory is not None:
            self.skipped += len(self._names) - self._index
            self._next()

    def _step(self) -> None:
        self._index += 1
        if self._index == len(self._names):
            directory = self._directory
            self._next()
            self._matches = self._directory == directory

    def _next(self) -> None:
        self._index = 0
        self._directory, self._names, self._rows = next(self._sections, (None, [], b""))

    @staticmethod
    def _open(
        pages: Iterator[StatePage], distrust: Callable[[StatePage], bytes]
    ) -> Iterator[tuple[Directory | None, list[bytes], bytes]]:
        for page in pages:
            rows = distrust(page)
            at = 0
            for directory, names in page.sections():
                end = at + len(names) * ROW_SIZE
                yield directory, names, rows[at:end]
                at = end
