"""Reads spools without daemon or catalogue, also damaged ones: what is whole is found, what is not is told.

Nothing read here is trusted: records prove themselves by their signatures, blobs by their ids. So damage costs what
it hit and no more: a ledger entry whose hash does not fit is passed over and the search goes on behind it; a pack
without its end, or with an index that lies, is walked blob by blob as far as it goes. Nothing is ever written.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mastodon.host import spool_layout
from mastodon.host.ledger_reader import SEGMENT_MOST
from mastodon.sealed import cbor
from mastodon.sealed.blob import HEAD as BLOB_HEAD
from mastodon.sealed.blob import ID_LENGTH, BlobHeader, parse_header
from mastodon.sealed.enrolment import Enrolment
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger import (
    CHECK_LENGTH,
    ENTRY_HEAD,
    ENTRY_LIMIT,
    FLAG_CRITICAL,
    HASH_LENGTH,
    SEGMENT_HEAD,
    SegmentReader,
)
from mastodon.sealed.ledger_entries import (
    ENTRY_TYPES,
    AdminAdded,
    BookSwapped,
    EntryBody,
    LedgerEntryType,
    MachineEnrolled,
    PairAdded,
    SnapshotCommitted,
)
from mastodon.sealed.pack import END_MAGIC, HEAD, INDEX_ROW, MAGIC, PACK_LIMIT, RUN_LENGTH, RUNS_LIMIT, TRAILER
from mastodon.sealed.pair import PairRecord, ReenvelopeRecord, envelope_hash
from mastodon.sealed.purposes import Purpose, hasher
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import RunRecord, run_id
from mastodon.sealed.snapshot import SnapshotRecord

LONGEST_HEADER = BLOB_HEAD.size + ID_LENGTH * (1 << 17)
FIRST_READ = 4096
KNOWN = frozenset(LedgerEntryType)


@dataclass(frozen=True, slots=True)
class KeptPair:
    """A pair or re-envelope record (``number`` 0) by name, and where it stands with its envelope: a hostile machine
    may have made more of them than there is memory."""

    number: int
    pair: bytes
    hash: bytes
    time_ns: int
    path: Path
    start: int
    end: int

    def read(self) -> tuple[bytes, bytes]:
        """Record and envelope. Raises OSError or FormatError."""
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.end - self.start, self.start)
        body = PairAdded.from_body(cbor.decode(data, ENTRY_LIMIT))
        return body.record, body.envelope


@dataclass(slots=True)
class MachineRecords:
    """What the ledgers say of a machine. ``pairs`` are by the pair's id, then by their hashes; snapshots have the
    server's time."""

    enrolment: Enrolment | None = None
    pairs: dict[bytes, dict[tuple[bytes, bytes], KeptPair]] = field(default_factory=dict)
    snapshots: dict[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackFile:
    """A pack of one machine: where it is, and its blobs as (id, offset, size)."""

    path: Path
    blobs: list[tuple[bytes, int, int]]
    runs: list[tuple[bytes, int, int]]


class LedgerRecords:
    """Everything in the ledgers of some spools that recovery can use, by machine and tenant."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.machines: dict[bytes, MachineRecords] = {}
        self.books: list[bytes] = []
        self.admins: dict[bytes, str] = {}
        self.warnings: list[str] = []
        for root in roots:
            found = spool_layout.chains(root)
            if not found:
                self.warnings.append(f"{root}: no ledger there, so no machine's envelopes or snapshots")
            for chain in found:
                for path in spool_layout.segments(root, chain):
                    self._read_segment(path)

    def _read_segment(self, path: Path) -> None:
        try:
            if os.path.getsize(path) > SEGMENT_MOST:
                raise FormatError("longer than a ledger segment can be")
            data = path.read_bytes()
        except (OSError, FormatError) as error:
            self.warnings.append(f"{path}: cannot be read: {error}")
            return
        good = 0
        try:
            reader = SegmentReader(data)
            good = reader.valid_length
            for entry in reader.entries():
                place = path, good + ENTRY_HEAD.size, reader.valid_length - HASH_LENGTH
                good = reader.valid_length
                self._take(entry.body, entry.time_ns, place)
            if not reader.torn:
                return
            self.warnings.append(f"{path}: its last entry is cut short")
        except FormatError as error:
            self.warnings.append(f"{path}: damaged ({error}); what can be found behind the damage is used")
        for body, time_ns, start, end in salvaged_entries(data, max(good, SEGMENT_HEAD.size)):
            self._take(body, time_ns, (path, start, end))

    def _take(self, body: EntryBody | None, time_ns: int, place: tuple[Path, int, int]) -> None:
        try:
            if isinstance(body, PairAdded):
                self._take_pair(body, time_ns, place)
            elif isinstance(body, SnapshotCommitted):
                record = SnapshotRecord.read_unverified(body.record)
                self._machine(record.machine).snapshots.setdefault(body.record, time_ns)
            elif isinstance(body, MachineEnrolled):
                enrolment = Enrolment.open(body.enrolment)
                self._machine(enrolment.machine).enrolment = enrolment
            elif isinstance(body, BookSwapped):
                self.books.append(body.book)
            elif isinstance(body, AdminAdded):
                self.admins[body.tenant] = body.name
        except FormatError as error:
            self.warnings.append(f"a ledger entry was passed over: {error}")

    def _take_pair(self, body: PairAdded, time_ns: int, place: tuple[Path, int, int]) -> None:
        said = (ReenvelopeRecord if body.reenvelope else PairRecord).read_unverified(body.record)
        number = said.number if isinstance(said, PairRecord) else 0
        name = record_hash(body.record)
        kept = self._machine(body.machine).pairs.setdefault(said.pair, {})
        kept.setdefault((name, envelope_hash(body.envelope)), KeptPair(number, said.pair, name, time_ns, *place))

    def _machine(self, machine: bytes) -> MachineRecords:
        return self.machines.setdefault(machine, MachineRecords())


def salvaged_entries(data: bytes, start: int) -> Iterator[tuple[EntryBody, int, int, int]]:
    """Entries behind damage: wherever a head fits its check and a body makes sense. Their hashes prove nothing.

    Gives body, time, and where the body begins and ends.
    """
    at = start
    while at + ENTRY_HEAD.size + HASH_LENGTH < len(data):
        length, kind, flags, _, _sequence, time_ns, check = ENTRY_HEAD.unpack_from(data, at)
        end = at + 4 + length
        plausible = ENTRY_HEAD.size - 4 + HASH_LENGTH < length <= ENTRY_LIMIT and end <= len(data)
        if plausible and kind in KNOWN and check == _head_check(data[at : at + ENTRY_HEAD.size - CHECK_LENGTH]):
            body = ENTRY_TYPES[LedgerEntryType(kind)]
            if bool(flags & FLAG_CRITICAL) == body.CRITICAL:
                try:
                    payload = data[at + ENTRY_HEAD.size : end - HASH_LENGTH]
                    said = body.from_body(cbor.decode(payload, ENTRY_LIMIT))
                    yield said, time_ns, at + ENTRY_HEAD.size, end - HASH_LENGTH
                    at = end
                    continue
                except FormatError:
                    pass  # not an entry after all: look at the next byte
        at += 1


def machines_with_packs(roots: Sequence[Path]) -> set[bytes]:
    """Ids of the machines whose packs lie in the spools, whatever their ledgers say."""
    found = set()
    for path in all_packs(roots):
        front = _read_at(path, 0, HEAD.size)
        if len(front) == HEAD.size and front[:4] == MAGIC:
            found.add(HEAD.unpack(front)[7])
    return found


def all_packs(roots: Sequence[Path]) -> Iterator[Path]:
    """Every pack in the spools, by day."""
    for root in roots:
        for day in spool_layout.pack_days(root):
            for _pack, path in spool_layout.packs_of_day(root, day):
                yield path


def packs_of(roots: Sequence[Path], machine: bytes, warn: Callable[[str], None]) -> Iterator[PackFile]:
    """The packs of one machine with what is in them, as their indices or a walk tell."""
    for path in all_packs(roots):
        try:
            pack = read_pack_index(path, machine)
        except OSError as error:
            warn(f"{path}: cannot be read: {error.strerror}")
            continue
        except FormatError as error:
            warn(f"{path}: {error}")
            continue
        if pack is not None:
            yield pack


def read_pack_index(path: Path, machine: bytes) -> PackFile | None:
    """What a pack holds; None for another machine's. Raises OSError, or FormatError when nothing in it is whole."""
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        front = os.pread(fd, FIRST_READ, 0)
        if len(front) < HEAD.size or front[:4] != MAGIC:
            raise FormatError("no pack: its beginning is missing or overwritten")
        owner = HEAD.unpack_from(front)[7]
        if owner != machine:
            return None
        if size > PACK_LIMIT:
            raise FormatError("longer than a pack can be")
        runs, start = _read_runs(fd)
        blobs = _indexed(fd, size, start)
        if blobs is None:
            blobs = list(walk_blobs(fd, start, size))
    return PackFile(path, blobs, runs)


def walk_blobs(fd: int, start: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """The whole blobs in a pack, from the first on, as far as one follows the other."""
    at = start
    while at < size:
        header = _header_at(fd, at)
        if header is None or at + header.size > size:
            return
        yield header.id, at, header.size
        at += header.size


def front_length(fd: int) -> int:
    """Where the blobs of an open pack begin. Raises FormatError."""
    return _read_runs(fd)[1]


def _read_runs(fd: int) -> tuple[list[tuple[bytes, int, int]], int]:
    front = os.pread(fd, HEAD.size, 0)
    if len(front) < HEAD.size:
        raise FormatError("cut short in its head")
    count, extended = HEAD.unpack(front)[8:10]
    runs = []
    at = HEAD.size + extended
    for _ in range(min(count, RUNS_LIMIT)):
        head = os.pread(fd, RUN_LENGTH.size, at)
        if len(head) < RUN_LENGTH.size:
            raise FormatError("cut short in its run records")
        (length,) = RUN_LENGTH.unpack(head)
        if length > RunRecord.LIMIT:
            raise FormatError("its run records are damaged")
        record = os.pread(fd, length, at + RUN_LENGTH.size)
        runs.append((run_id(record), at + RUN_LENGTH.size, length))
        at += RUN_LENGTH.size + length
    return runs, at


def _indexed(fd: int, size: int, start: int) -> list[tuple[bytes, int, int]] | None:
    """What the index says, where there is a whole one."""
    trailer = os.pread(fd, TRAILER.size, max(0, size - TRAILER.size))
    if len(trailer) < TRAILER.size:
        return None
    magic, offset, count, _checksum = TRAILER.unpack(trailer)
    end = size - TRAILER.size
    if magic != END_MAGIC or offset < start or offset + count * INDEX_ROW.size != end:
        return None
    rows = os.pread(fd, end - offset, offset)
    if len(rows) != end - offset:
        return None
    blobs = []
    for id, _kind, at, length in INDEX_ROW.iter_unpack(rows):
        if at < start or at + length > offset:
            return None
        blobs.append((id, at, length))
    return blobs


def _header_at(fd: int, at: int) -> BlobHeader | None:
    data = os.pread(fd, FIRST_READ, at)
    try:
        return parse_header(data)
    except FormatError:
        if len(data) < FIRST_READ:
            return None
    try:
        return parse_header(os.pread(fd, LONGEST_HEADER, at))
    except FormatError:
        return None


def _head_check(bare: bytes) -> bytes:
    state = hasher(Purpose.LEDGER_ENTRY_HEAD)
    state.update(bare)
    return state.digest(length=CHECK_LENGTH)


def _read_at(path: Path, offset: int, length: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)
    except OSError:
        return b""
