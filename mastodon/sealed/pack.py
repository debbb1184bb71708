"""The pack: a file of many blobs, the unit that is appended, verified, kept verbatim and scrubbed.

protocol-spec.md §8::

    head        4   magic "MPCK"
                1   container version, 1
                1   blob format version, 1
                1   suite, 1
                1   origin: 1 agent, 2 compaction
                2   critical flags: one that is not known is refused
                2   ignorable flags
                32  machine id
                2   number of run records
                2   length of the extension map
    extensions      the extension map (schema.py), nothing where it is empty
    run records     each: 4 length, then the record
    blobs           one after the other (blob.py)
    index           per blob: 32 id, 1 kind, 4 offset, 4 size (header and sealed part)
    trailer     4   magic "KCPM"
                4   offset of the index
                4   number of blobs
                32  BLAKE3 over the purpose's prefix and every byte before: the pack's id

The index repeats what the blobs say and must say the same; it spares a reader the walk. A pack holds the records of
just those runs whose blobs it holds. An agent's pack holds an id once; compaction may bring several sealings together.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from mastodon.sealed import blob
from mastodon.sealed.blob import BlobHeader
from mastodon.sealed.errors import Forged, Malformed, Mismatch, Unsupported
from mastodon.sealed.purposes import Purpose, hasher
from mastodon.sealed.run import RunRecord, run_id
from mastodon.sealed.schema import EXTENSIONS_LIMIT, check_packed_extensions

MAGIC = b"MPCK"
END_MAGIC = b"KCPM"
VERSION = 1
SUITE = 1
HEAD = struct.Struct(">4sBBBBHH32sHH")
RUN_LENGTH = struct.Struct(">I")
INDEX_ROW = struct.Struct(">32sBII")
TRAILER = struct.Struct(">4sII32s")
CHECKSUM_LENGTH = 32

PACK_LIMIT = 32 * 1024 * 1024
RUNS_LIMIT = 1024
BLOBS_LIMIT = 1 << 16


class Origin(IntEnum):
    """Who wrote the pack."""

    AGENT = 1
    COMPACTION = 2


ORIGINS = frozenset(Origin)


@dataclass(frozen=True, slots=True)
class PackedBlob:
    """Where a blob lies in its pack."""

    header: BlobHeader
    offset: int


@dataclass(frozen=True, slots=True)
class Pack:
    """What a verified pack holds, without the sealed bytes."""

    id: bytes
    machine: bytes
    origin: Origin
    runs: dict[bytes, bytes]
    """Run id to run record, signatures not looked at."""
    blobs: tuple[PackedBlob, ...]


class PackWriter:
    """Builds a pack piece by piece: send or write what each call returns, in order."""

    def __init__(self, machine: bytes, runs: Iterable[bytes], origin: Origin = Origin.AGENT) -> None:
        records = list(runs)
        parts = [HEAD.pack(MAGIC, VERSION, blob.VERSION, SUITE, origin, 0, 0, machine, len(records), 0)]
        for record in records:
            parts += (RUN_LENGTH.pack(len(record)), record)
        self._pending = b"".join(parts)
        self._length = len(self._pending)
        self._hasher = hasher(Purpose.PACK_CHECKSUM)
        self._index: list[bytes] = []

    @property
    def length(self) -> int:
        """Bytes that the pack would have if it were finished now."""
        return self._length + len(self._index) * INDEX_ROW.size + TRAILER.size

    @property
    def count(self) -> int:
        """Blobs so far."""
        return len(self._index)

    def fits(self, size: int) -> bool:
        """Whether a blob of ``size`` bytes may still be added."""
        return self.length + size + INDEX_ROW.size <= PACK_LIMIT and self.count < BLOBS_LIMIT

    def add(self, id: bytes, kind: int, data: bytes) -> bytes:
        """Bytes to append for this blob (header and sealed part), with what came before it."""
        self._index.append(INDEX_ROW.pack(id, kind, self._length, len(data)))
        self._length += len(data)
        return self._emit(data)

    def finish(self) -> tuple[bytes, bytes]:
        """The last bytes, and the pack's id."""
        before = b"".join(self._index) + TRAILER.pack(END_MAGIC, self._length, self.count, b"")[:-CHECKSUM_LENGTH]
        last = self._emit(before)
        checksum = self._hasher.digest()
        return last + checksum, checksum

    def _emit(self, data: bytes) -> bytes:
        out = self._pending + data if self._pending else data
        self._pending = b""
        self._hasher.update(out)
        return out


def parse_pack(data: bytes | memoryview, machine: bytes) -> Pack:
    """Verify a whole pack of ``machine``: checksum, structure, index, and that each blob's run is in it.

    Raises Forged for a wrong checksum, Mismatch for another machine, Malformed or Unsupported.
    """
    if not HEAD.size + TRAILER.size < len(data) <= PACK_LIMIT:
        raise Malformed(f"a pack of {len(data)} bytes")
    view = memoryview(data)
    end = len(view) - TRAILER.size
    magic, index_offset, count, checksum = TRAILER.unpack_from(view, end)
    if magic != END_MAGIC:
        raise Malformed("pack cut short: no trailer")
    if pack_checksum(view[:-CHECKSUM_LENGTH]) != checksum:
        raise Forged("pack: the checksum does not fit")
    owner, origin, runs, start = _parse_front(view)
    if owner != machine:
        raise Mismatch("pack of another machine")
    if not 0 < count <= BLOBS_LIMIT or index_offset + count * INDEX_ROW.size != end or index_offset < start:
        raise Malformed("pack: the index does not fit")
    blobs = _parse_blobs(view, start, index_offset, count, machine, runs)
    if len({one.header.run for one in blobs}) != len(runs):
        raise Malformed("pack: the record of a run that has no blob here")
    if len({(one.header.id, origin is Origin.COMPACTION and one.header.salt) for one in blobs}) != count:
        raise Malformed("pack: the same blob twice")
    return Pack(checksum, machine, origin, runs, blobs)


def pack_checksum(data: bytes | memoryview) -> bytes:
    """BLAKE3 over a pack without its last CHECKSUM_LENGTH bytes."""
    state = hasher(Purpose.PACK_CHECKSUM)
    state.update(data)
    return state.digest()


def _parse_front(view: memoryview) -> tuple[bytes, Origin, dict[bytes, bytes], int]:
    magic, version, blob_version, suite, origin, critical, _, machine, count, extended = HEAD.unpack_from(view)
    if magic != MAGIC:
        raise Malformed("not a pack")
    if version != VERSION or blob_version != blob.VERSION or suite != SUITE or critical or origin not in ORIGINS:
        raise Unsupported(f"pack of version {version}, suite {suite}, origin {origin}, flags {critical:#x}")
    if not 0 < count <= RUNS_LIMIT or extended > EXTENSIONS_LIMIT:
        raise Malformed(f"pack with {count} run records and {extended} bytes of extensions")
    at = HEAD.size + extended
    if len(view) < at:
        raise Malformed("pack: extensions cut short")
    check_packed_extensions("pack", view[HEAD.size : at])
    runs, at = _parse_runs(view, at, count, machine)
    return machine, Origin(origin), runs, at


def _parse_runs(view: memoryview, at: int, count: int, machine: bytes) -> tuple[dict[bytes, bytes], int]:
    runs: dict[bytes, bytes] = {}
    for _ in range(count):
        if len(view) - at < RUN_LENGTH.size:
            raise Malformed("pack: run records cut short")
        (length,) = RUN_LENGTH.unpack_from(view, at)
        at += RUN_LENGTH.size
        if length > RunRecord.LIMIT or len(view) - at < length:
            raise Malformed("pack: run records cut short")
        record = bytes(view[at : at + length])
        if RunRecord.read_unverified(record).machine != machine:
            raise Mismatch("pack: run record of another machine")
        runs[run_id(record)] = record
        at += length
    if len(runs) != count:
        raise Malformed("pack: the same run record twice")
    return runs, at


def _parse_blobs(
    view: memoryview, start: int, index_offset: int, count: int, machine: bytes, runs: dict[bytes, bytes]
) -> tuple[PackedBlob, ...]:
    blobs = []
    at = start
    for number in range(count):
        header = blob.parse_header(view[:index_offset], at)
        if header.machine != machine or header.run not in runs:
            raise Mismatch("pack: a blob of another machine, or whose run record is not in the pack")
        row = INDEX_ROW.unpack_from(view, index_offset + number * INDEX_ROW.size)
        if row != (header.id, header.kind, at, header.size):
            raise Malformed("pack: index and blobs do not say the same")
        blobs.append(PackedBlob(header, at))
        at += header.size
    if at != index_offset:
        raise Malformed("pack: the blobs do not end where the index begins")
    return tuple(blobs)
