"""The ledger: append-only, checksummed, hash-chained segments of everything the server knows beside packs.

protocol-spec.md §13. One chain a daemon, the same bytes on every spool. A segment::

    0   4   magic "MLDG"
    4   1   version, 1
    5   1   suite, 1 (BLAKE3)
    6   2   critical flags: one that is not known is refused
    8   2   ignorable flags
    10  2   length of the extension map e
    12  16  chain
    28  8   sequence of the first entry
    36  32  hash of the entry before (zeros at the start of the chain)
    68  e   extension map (schema.py), nothing where it is empty

then entries::

    0   4   length of all that follows
    4   1   type
    5   1   critical flags: 1 critical (a reader that does not know the type stops), 2 clock trusted; others: refuse
    6   2   ignorable flags
    8   8   sequence
    16  8   server's time, ns
    24  4   check of the head: the first bytes of BLAKE3 over the purpose's prefix and bytes 0 to 24
    28  n   body, deterministic CBOR map
    28+n 32 BLAKE3 over the purpose's prefix, chain, hash of the entry before, and bytes 0 to 28+n

An entry cut short at the very end of the last segment was never acknowledged and is left out: it ends before its
length says, or a file system that had made the file longer left nothing but zeros behind its head, or where its hash
should stand. The check keeps a damaged length from passing for that. Anything else that does not fit is damage.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mastodon.sealed import cbor
from mastodon.sealed.errors import Forged, Malformed, Unsupported
from mastodon.sealed.ledger_entries import ENTRY_TYPES, EntryBody, LedgerEntryType
from mastodon.sealed.ledger_head import HASH_LENGTH
from mastodon.sealed.purposes import Purpose, hasher
from mastodon.sealed.schema import EXTENSIONS_LIMIT, check_packed_extensions

MAGIC = b"MLDG"
VERSION = SUITE = 1
SEGMENT_HEAD = struct.Struct(">4sBBHHH16sQ32s")
ENTRY_HEAD = struct.Struct(">IBBHQQ4s")
CHECK_LENGTH = 4
ENTRY_LIMIT = 8 * 1024 * 1024
SEGMENT_LIMIT = 16 * 1024 * 1024
"""A segment that has reached this many bytes is followed by a new one."""
FLAG_CRITICAL, FLAG_CLOCK_TRUSTED = 1, 2
FLAGS_KNOWN = FLAG_CRITICAL | FLAG_CLOCK_TRUSTED
GENESIS = bytes(HASH_LENGTH)
KNOWN = frozenset(LedgerEntryType)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain stands: the sequence and hash of its newest entry (0 and GENESIS: empty)."""

    chain: bytes
    sequence: int = 0
    hash: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry. ``body`` is None for a type of a later release that may be passed over."""

    sequence: int
    time_ns: int
    clock_trusted: bool
    body: EntryBody | None


def encode_segment_head(head: Head) -> bytes:
    """First bytes of the segment that follows ``head``."""
    return SEGMENT_HEAD.pack(MAGIC, VERSION, SUITE, 0, 0, 0, head.chain, head.sequence + 1, head.hash)


def encode_entry(head: Head, body: EntryBody, time_ns: int, clock_trusted: bool) -> tuple[bytes, Head]:
    """The bytes of the entry that follows ``head``, and the head after it."""
    payload = cbor.encode(body.to_body())
    body.from_body(cbor.decode(payload, ENTRY_LIMIT))  # never chain what no reader takes
    flags = (FLAG_CRITICAL if body.CRITICAL else 0) | (FLAG_CLOCK_TRUSTED if clock_trusted else 0)
    sequence = head.sequence + 1
    length = ENTRY_HEAD.size - 4 + len(payload) + HASH_LENGTH
    if length > ENTRY_LIMIT:
        raise Malformed(f"a ledger entry of {length} bytes, bound {ENTRY_LIMIT}")
    bare = ENTRY_HEAD.pack(length, body.ENTRY_TYPE, flags, 0, sequence, time_ns, b"")[:-CHECK_LENGTH]
    before = bare + _head_check(bare) + payload
    digest = _entry_hash(head, before)
    return before + digest, Head(head.chain, sequence, digest)


class SegmentReader:
    """Reads one segment's entries, checking each hash against the one before.

    ``head`` tells how far it came, ``valid_length`` how many bytes are whole and good; ``torn`` that an entry was
    cut short at the end.
    """

    def __init__(self, data: bytes | memoryview, expected: Head | None = None) -> None:
        """``expected`` is the head of the chain before this segment; None takes the segment's word.

        Raises Malformed, Unsupported, or Forged when the segment does not follow ``expected``.
        """
        if len(data) < SEGMENT_HEAD.size:
            raise Malformed("ledger segment cut short in its head")
        magic, version, suite, critical, _, extended, chain, first, before = SEGMENT_HEAD.unpack_from(data)
        if magic != MAGIC:
            raise Malformed("not a ledger segment")
        if version != VERSION or suite != SUITE or critical:
            raise Unsupported(f"ledger segment of version {version}, suite {suite}, flags {critical:#x}")
        if first == 0 or (first == 1) != (before == GENESIS):
            raise Malformed("ledger segment: sequences start at 1, after no entry")
        start = SEGMENT_HEAD.size + extended
        if extended > EXTENSIONS_LIMIT or len(data) < start:
            raise Malformed("ledger segment: extensions out of bounds")
        check_packed_extensions("ledger segment", bytes(data[SEGMENT_HEAD.size : start]))
        self.head = Head(chain, first - 1, before)
        if expected is not None and expected != self.head:
            raise Forged("ledger segment does not follow the one before")
        self.valid_length = start
        self.torn = False
        self._data = memoryview(data)

    def entries(self) -> Iterator[LedgerEntry]:
        """The entries in order. Raises Forged or Malformed at the first that does not fit."""
        while self.valid_length < len(self._data):
            entry = self._next_entry()
            if entry is None:
                self.torn = True
                return
            yield entry

    def _next_entry(self) -> LedgerEntry | None:
        at = self.valid_length
        number = self.head.sequence + 1
        if len(self._data) - at < ENTRY_HEAD.size:
            return None
        length, kind, flags, _, sequence, time_ns, check = ENTRY_HEAD.unpack_from(self._data, at)
        end = at + 4 + length
        if check != _head_check(self._data[at : at + ENTRY_HEAD.size - CHECK_LENGTH]):
            if not any(self._data[at + ENTRY_HEAD.size :]):
                return None
            raise Forged(f"ledger entry {number}: the head does not fit its check")
        if not ENTRY_HEAD.size - 4 + HASH_LENGTH < length <= ENTRY_LIMIT:
            raise Malformed(f"ledger entry {number}: length out of bounds")
        if len(self._data) < end:
            return None
        before = self._data[at : end - HASH_LENGTH]
        digest = _entry_hash(self.head, before)
        if digest != self._data[end - HASH_LENGTH : end]:
            if not any(self._data[end - HASH_LENGTH :]):
                return None
            raise Forged(f"ledger entry {number}: the hash does not fit")
        if sequence != number:
            raise Malformed(f"ledger entry {number}: calls itself {sequence}")
        if flags & ~FLAGS_KNOWN:
            raise Unsupported(f"ledger entry {number}: unknown flags {flags:#x}")
        body = _decode_body(kind, bytes(before[ENTRY_HEAD.size :]), bool(flags & FLAG_CRITICAL))
        self.head = Head(self.head.chain, sequence, digest)
        self.valid_length = end
        return LedgerEntry(sequence, time_ns, bool(flags & FLAG_CLOCK_TRUSTED), body)


def _head_check(bare: bytes | memoryview) -> bytes:
    state = hasher(Purpose.LEDGER_ENTRY_HEAD)
    state.update(bare)
    return state.digest(length=CHECK_LENGTH)


def _entry_hash(head: Head, before: bytes | memoryview) -> bytes:
    state = hasher(Purpose.LEDGER_ENTRY)
    state.update(head.chain + head.hash)
    state.update(before)
    return state.digest()


def _decode_body(kind: int, payload: bytes, critical: bool) -> EntryBody | None:
    if kind not in KNOWN:
        if critical:
            raise Unsupported(f"ledger entry of unknown type {kind}: update this program")
        return None
    return ENTRY_TYPES[LedgerEntryType(kind)].from_body(cbor.decode(payload, ENTRY_LIMIT))
