"""Reads a spool's copy of a ledger chain, segment by segment, every hash checked against the one before.

Promises: entries come in order and only after their hash was found to fit. Bytes that do not fit at the very end of
the last segment are what a power loss leaves of entries that were never acknowledged (cut short, torn, or zeros): they
are left out and their place is told, unless they stand where ``floor`` says that an entry is known to be. Anything
else that does not fit raises FormatError naming the file.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mastodon.sealed.errors import Forged, FormatError, Malformed
from mastodon.sealed.ledger import GENESIS, SEGMENT_LIMIT, Head, LedgerEntry, SegmentReader

SEGMENT_MOST = SEGMENT_LIMIT + 16 * 1024 * 1024
"""A segment ends with the entry that reaches SEGMENT_LIMIT; what is longer is no segment."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How a chain's copy ends: its head, the last segment, how many bytes of it are good, and if more follow."""

    head: Head
    segment: Path | None
    valid_length: int
    torn: bool


class ChainReader:
    """Reads ``paths``, the segments of one chain in order; ``tail`` is right once ``entries`` is exhausted."""

    def __init__(self, chain: bytes, paths: Sequence[Path], floor: int = 0) -> None:
        """Entries up to the sequence ``floor`` are known to have been written whole."""
        self._paths = list(paths)
        self._floor = floor
        self.tail = Tail(Head(chain, 0, GENESIS), None, 0, False)

    def entries(self) -> Iterator[tuple[LedgerEntry, Head]]:
        """Each entry with the head after it. Raises FormatError or OSError."""
        for path in self._paths:
            try:
                yield from self._segment(path)
            except (Malformed, Forged) as error:
                if path != self._paths[-1] or self.tail.head.sequence < self._floor:
                    raise type(error)(f"{path}: {error}") from None
                # Only the last segment is being written; and the floor says what was acknowledged.
                good = self.tail.valid_length if self.tail.segment == path else 0
                self.tail = Tail(self.tail.head, path, good, True)
            except FormatError as error:
                raise type(error)(f"{path}: {error}") from None

    def _segment(self, path: Path) -> Iterator[tuple[LedgerEntry, Head]]:
        if os.path.getsize(path) > SEGMENT_MOST:
            raise Malformed("longer than a ledger segment can be")
        reader = SegmentReader(path.read_bytes(), self.tail.head)
        self.tail = Tail(reader.head, path, reader.valid_length, False)
        for entry in reader.entries():
            self.tail = Tail(reader.head, path, reader.valid_length, False)
            yield entry, reader.head
        if reader.torn:
            raise Malformed("an entry is cut short")
