"""Reads a spool's copy of a ledger chain, segment by segment, every hash checked against the one before.

Promises: entries come in order and only after their hash was found to fit; an entry cut short at the very end of the
last segment is left out (it was never acknowledged) and its place is told; anything else that does not fit raises
FormatError naming the file.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mastodon.sealed.errors import FormatError, Malformed
from mastodon.sealed.ledger import GENESIS, SEGMENT_HEAD, SEGMENT_LIMIT, Head, LedgerEntry, SegmentReader

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

    def __init__(self, chain: bytes, paths: Sequence[Path], start: Head | None = None) -> None:
        """``start`` is the head before the first segment given; None: the chain's beginning."""
        self._paths = list(paths)
        head = Head(chain, 0, GENESIS) if start is None else start
        self.tail = Tail(head, None, 0, False)

    def entries(self) -> Iterator[tuple[LedgerEntry, Head]]:
        """Each entry with the head after it. Raises FormatError or OSError."""
        for path in self._paths:
            last = path == self._paths[-1]
            try:
                yield from self._segment(path, last)
            except FormatError as error:
                raise type(error)(f"{path}: {error}") from None

    def _segment(self, path: Path, last: bool) -> Iterator[tuple[LedgerEntry, Head]]:
        if os.path.getsize(path) > SEGMENT_MOST:
            raise Malformed("longer than a ledger segment can be")
        data = path.read_bytes()
        if last and len(data) < SEGMENT_HEAD.size:
            self.tail = Tail(self.tail.head, path, 0, True)
            return
        reader = SegmentReader(data, self.tail.head)
        for entry in reader.entries():
            self.tail = Tail(reader.head, path, reader.valid_length, False)
            yield entry, reader.head
        if reader.torn and not last:
            raise Malformed("an entry is cut short, and another segment follows")
        self.tail = Tail(reader.head, path, reader.valid_length, reader.torn)
