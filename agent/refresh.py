"""Blobs of which little is used any more are made anew from what is still used of them, a bounded share a run.

Files change and go, and the blobs that they shared with others stay: a restore fetches all of a blob for the little
that is left in use. So a run that changed
the listing counts, at its end, how much of each blob the listing uses, and notes the blobs of which too little is. The
next run reads the small files in them as if they had changed, and looks for their content everywhere but there: it
comes together in fresh bundles, in the listing's order. Large files are counted when they are read, which is when they
changed, and their pieces in blobs that were noted go into fresh ones when they are read next.

The file ``refresh`` in the state directory::

    8   magic "MASTREFR"     32  machine id     4   how many of the blobs are bundles
    16  BLAKE3 of the file without this field
    then 32 bytes for each blob

Promises: a hint, never more. Lost, damaged, old or forged, it makes a run read and send more, or the next restore
slower. A file that cannot be read stays where it is and is not told of: nothing about it changed. Memory is bounded,
by looking at some of the blobs only where there are very many.
"""

import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice

from mastodon.host.paths import Directory
from mastodon.sealed.purposes import Purpose, hasher
from mastodon_agent.kept_entries import Kept
from mastodon_agent.listing_parts import OpenListing, Part
from mastodon_agent.reader import SMALL
from mastodon_agent.records import NO_ROW, ROW_SIZE
from mastodon_agent.state import HEAD, StatePage, private, read_only
from mastodon_agent.uses import NUMBER, Use

NAME = "refresh"
MAGIC = b"MASTREFR"
ID, CHECK = 32, 16
_HEAD = struct.Struct("<8s32sI16s")
MOST = 4096
"""Blobs that are made anew in one run."""
SHARE, SHARE_OF_PIECES = 100, 64
"""Of all bytes in use, one part of so many is sent again in one run at most."""
LEAST = 1024 * 1024
"""What may be sent again however little there is."""
LITTLE = 2 / 3
"""A bundle of which less is used is made anew."""
LITTLE_OF_PIECES = 1 / 2
"""The same for blobs of pieces: databases are edited all over, and compress badly."""
TINY = 128 * 1024
FEW_TINY = 16
COUNTED = 1 << 16
"""Blobs that are counted at once."""

"""Fields of an entry (mastodon.sealed.entry_codec)."""


class Census:
    """Counts how much of each blob is used. ``salt`` chooses which ones to look at where there are too many."""

    def __init__(self, salt: int = 0, most: int = COUNTED) -> None:
        self._salt = salt
        self._most = most
        self._mask = 0
        self._counts: dict[bytes, int] = {}

    def add(self, use: Use) -> None:
        """So much is used of this blob, somewhere up to its reach."""
        id, used, reach = use
        if not used or (id[-1] ^ self._salt) & self._mask:
            return
        before = self._counts.get(id, 0)
        self._counts[id] = (before >> 32) + used << 32 | max(before & NUMBER, min(reach, NUMBER))
        if len(self._counts) > self._most and self._mask < 0xFF:
            self._mask = self._mask << 1 | 1
            self._counts = {id: count for id, count in self._counts.items() if not (id[-1] ^ self._salt) & self._mask}

    def choose(self, little: float, share: int, pages: int = 0) -> list[bytes]:
        """The blobs to make anew: those of which less than ``little`` is used, the least used first, up to one part in
        ``share`` of all; then tiny ones, if there are many for so many pages."""
        counted = [(count >> 32, count & NUMBER, id) for id, count in self._counts.items()]
        left = max(LEAST, sum(used for used, _, _ in counted) * (self._mask + 1) // share)
        wanted = sorted((used / reach, used, id) for used, reach, id in counted if used < little * reach)
        tiny = sorted((used / reach, used, id) for used, reach, id in counted if little * reach <= used < TINY)
        if not pages or len(tiny) <= max(FEW_TINY, pages // 2):
            tiny = []
        chosen: list[bytes] = []
        for _, used, id in chain(wanted, tiny):
            if used <= left and len(chosen) < MOST:
                left -= used
                chosen.append(id)
        return chosen


class Doubts:
    """The entries of the old listing that are read again for this alone."""

    def __init__(self, ids: Iterable[bytes]) -> None:
        self._ids = frozenset(ids)
        self._rows: dict[tuple[Directory, bytes], bytes] = {}

    def over(self, rows_of: Callable[[StatePage], bytes]) -> Callable[[StatePage], bytes]:
        """The same rows, without those of the entries in these blobs."""
        return (lambda page: self._without(page, rows_of(page))) if self._ids else rows_of

    def was(self, directory: Directory, name: bytes) -> bytes | None:
        """The row of an entry that is read again for this alone. It is asked for once."""
        return self._rows.pop((directory, name), None) if self._rows else None

    def _without(self, page: StatePage, rows: bytes) -> bytes:
        doubtful = {index for index, id in enumerate(page.references()) if id in self._ids}
        if not doubtful:
            return rows
        left = bytearray(rows)
        at = 0
        for directory, name, entry in _entries(page):
            row = rows[at : at + ROW_SIZE]
            if row != NO_ROW and entry.size <= SMALL and doubtful.intersection(entry.places[::3]):
                self._rows[directory, name] = row
                left[at : at + ROW_SIZE] = NO_ROW
            at += ROW_SIZE
        return bytes(left)


def _entries(page: StatePage) -> Iterator[tuple[Directory, bytes, Kept]]:
    for (directory, names), entries in zip(page.sections(), page.entries().sections, strict=True):
        for name, entry in zip(names, entries, strict=True):
            yield directory, name, entry


@dataclass(frozen=True, slots=True)
class Noted:
    """Blobs to make anew: those of small files, and those of large files' pieces."""

    bundles: tuple[bytes, ...] = ()
    pieces: tuple[bytes, ...] = ()

    def renewed(self, bundles: Iterable[bytes], pieces: Iterable[bytes]) -> "Noted":
        """For the next run. Pieces stay noted until newer ones push them out: their file may not be read soon."""
        both = dict.fromkeys(chain(pieces, self.pieces))
        return Noted(tuple(islice(bundles, MOST)), tuple(islice(both, MOST)))


def load(directory: str, machine: bytes) -> Noted:
    """What was noted; nothing where the file is not there or not good."""
    with suppress(OSError), open(os.path.join(directory, NAME), "rb", opener=read_only) as file:
        data = file.read(_HEAD.size + 2 * MOST * ID + 1)
        ids = tuple(data[at : at + ID] for at in range(_HEAD.size, len(data), ID))
        if len(data) >= _HEAD.size and len(ids) <= 2 * MOST and all(len(id) == ID for id in ids[-1:]):
            count = _HEAD.unpack_from(data)[2]
            noted = Noted(ids[:count], ids[count:])
            if _encode(machine, noted) == data:
                return noted
    return Noted()


def keep(directory: str, machine: bytes, noted: Noted) -> None:
    """Have it in mind for the next run. Raises OSError."""
    path = os.path.join(directory, NAME)
    if noted == Noted():
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    with open(path + ".new", "wb", opener=private) as file:
        file.write(_encode(machine, noted))
    os.replace(path + ".new", path)


def renew(listing: str, machine: bytes, pair: bytes, noted: Noted, pieces: Census) -> None:
    """Count what a listing uses, and note what to make anew in the next run. Raises OSError."""
    pages = 0
    census = Census(int.from_bytes(os.urandom(1), "big"))
    old = OpenListing(listing, machine, pair)
    try:
        for page in old.pages(Part(HEAD.size, sys.maxsize)):
            pages += 1
            for use in page.uses():
                census.add(use)
    finally:
        old.close()
    bundles = census.choose(LITTLE, SHARE, pages)
    noted = noted.renewed(bundles, pieces.choose(LITTLE_OF_PIECES, SHARE_OF_PIECES))
    keep(os.path.dirname(listing), machine, noted)


def _encode(machine: bytes, noted: Noted) -> bytes:
    head = _HEAD.pack(MAGIC, machine, len(noted.bundles), b"")[:-CHECK]
    body = b"".join(noted.bundles + noted.pieces)
    state = hasher(Purpose.AGENT_STATE)
    state.update(head)
    state.update(body)
    return head + bytes(state.digest(length=CHECK)) + body
