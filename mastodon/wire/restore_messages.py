"""The messages of the restore port, both ways.

protocol-spec.md §17. The client's certificate is its identity. A request's frame type is its verb; its body carries a
number of the client's choosing, which every frame of the answer repeats: items (or raw data), then DONE, or ERROR.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

from mastodon.sealed.book import BOOK_LIMIT
from mastodon.sealed.enrolment import Role
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.pair import ENVELOPE_LIMIT, PAIR_ID_LENGTH, PairRecord
from mastodon.sealed.run import RunRecord
from mastodon.sealed.schema import array, choice, key, octets, octets_or_none, text, unsigned
from mastodon.sealed.snapshot import SnapshotRecord
from mastodon.sealed.statement import Statement
from mastodon.wire.certificate_messages import CertificateItem, CertificatesRequest
from mastodon.wire.errors import BadMessage, UnknownVerb
from mastodon.wire.frame import LENGTH, RESTORE_FRAME_LIMIT, encode_frame
from mastodon.wire.messages import Error, Keepalive, Message, packed_ids
from mastodon.wire.read_messages import ReadItem, ReadsRequest
from mastodon.wire.restore_verbs import RestoreMessage, RestoreReply, RestoreVerb
from mastodon.wire.status_messages import ServerStatusItem, StatusItem, StatusRequest
from mastodon.wire.telling_messages import AcknowledgeRequest, ChannelItem, EventItem, EventsRequest, NotifyRequest

FETCH_LIMIT = 8192
SNAPSHOTS_LIMIT = 1000
PAIRS_LIMIT = 256
ENVELOPES_LIMIT = 16
"""Of one pair: the machine's own, and the newest 15 of the admin's."""
DATA_LIMIT = 1024 * 1024
"""As much as the server reads at once: so nearly all blobs lie in one frame, whole, and are not copied together."""
DATA_HEAD = struct.Struct(">I")


# From the client


@dataclass(frozen=True, slots=True)
class WhoRequest(RestoreMessage):
    """Who am I to this server, and who is it?"""

    KIND: ClassVar = RestoreVerb.WHO

    request: int = key(0, unsigned(32))


@dataclass(frozen=True, slots=True)
class MachinesRequest(RestoreMessage):
    """All machines of the tenant."""

    KIND: ClassVar = RestoreVerb.MACHINES

    request: int = key(0, unsigned(32))


@dataclass(frozen=True, slots=True)
class SnapshotsRequest(RestoreMessage):
    """Snapshot records of a machine with a sequence of at least ``first``, in order, at most ``limit``."""

    KIND: ClassVar = RestoreVerb.SNAPSHOTS

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets(32))
    first: int = key(2, unsigned())
    limit: int = key(3, unsigned(16))


@dataclass(frozen=True, slots=True)
class PairsRequest(RestoreMessage):
    """The names of a machine's pairs with a number of at least ``first``, in order, at most ``limit``."""

    KIND: ClassVar = RestoreVerb.PAIRS

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets(32))
    first: int = key(2, unsigned(32))
    limit: int = key(3, unsigned(16))


@dataclass(frozen=True, slots=True)
class RunsRequest(RestoreMessage):
    """Run records by id (32 bytes each)."""

    KIND: ClassVar = RestoreVerb.RUNS
    LIMIT: ClassVar = 32 * FETCH_LIMIT + 128

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets(32))
    ids: bytes = key(2, packed_ids(FETCH_LIMIT))


@dataclass(frozen=True, slots=True)
class FetchRequest(RestoreMessage):
    """Blobs by id (32 bytes each). They come in the order in which they lie in the packs; every sealing of an id
    that the server has comes, the newest first."""

    KIND: ClassVar = RestoreVerb.FETCH
    LIMIT: ClassVar = 32 * FETCH_LIMIT + 128

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets(32))
    ids: bytes = key(2, packed_ids(FETCH_LIMIT))


@dataclass(frozen=True, slots=True)
class BookRequest(RestoreMessage):
    """The newest book."""

    KIND: ClassVar = RestoreVerb.BOOK

    request: int = key(0, unsigned(32))


@dataclass(frozen=True, slots=True)
class StateRequest(RestoreMessage):
    """Do what a signed statement says; ``attachment`` is the book for SWAP_BOOK, else empty."""

    KIND: ClassVar = RestoreVerb.STATE
    LIMIT: ClassVar = Statement.LIMIT + BOOK_LIMIT + 128

    request: int = key(0, unsigned(32))
    statement: bytes = key(1, octets(1, Statement.LIMIT))
    attachment: bytes = key(2, octets(0, BOOK_LIMIT))


@dataclass(frozen=True, slots=True)
class EnvelopesRequest(RestoreMessage):
    """The record of one pair and the re-envelope records for it, each with its envelope: the admin's own first, the
    newest of them first, then the machine's."""

    KIND: ClassVar = RestoreVerb.ENVELOPES

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets(32))
    pair: bytes = key(2, octets(PAIR_ID_LENGTH))


# From the server


@dataclass(frozen=True, slots=True)
class WhoItem(RestoreMessage):
    """``servers`` are the pins of the server's keys, spare included; ``counter`` the last statement taken;
    ``append_hosts`` where agents connect, host:port."""

    KIND: ClassVar = RestoreReply.WHO
    LIMIT: ClassVar = 32 * 1024

    request: int = key(0, unsigned(32))
    tenant: bytes = key(1, octets_or_none(32))
    name: str = key(2, text(64))
    role: Role = key(3, choice(Role))
    servers: tuple[bytes, ...] = key(4, array(octets(32), 8))
    time_ns: int = key(5, unsigned())
    counter: int = key(6, unsigned())
    append_hosts: tuple[str, ...] = key(7, array(text(300), 8))
    ledger_head: bytes = key(8, octets(0, 16384), default=b"")


@dataclass(frozen=True, slots=True)
class MachineItem(RestoreMessage):
    """A machine as the server knows it."""

    KIND: ClassVar = RestoreReply.MACHINE
    LIMIT: ClassVar = 17 * 1024

    request: int = key(0, unsigned(32))
    enrolment: bytes = key(1, octets(1, 16384))
    state: MachineState = key(2, choice(MachineState))
    seen_ns: int = key(3, unsigned())
    snapshots: int = key(4, unsigned())
    kept_bytes: int = key(5, unsigned())


@dataclass(frozen=True, slots=True)
class SnapshotItem(RestoreMessage):
    """A snapshot record and the server's time of its commit."""

    KIND: ClassVar = RestoreReply.SNAPSHOT
    LIMIT: ClassVar = SnapshotRecord.LIMIT + 128

    request: int = key(0, unsigned(32))
    record: bytes = key(1, octets(1, SnapshotRecord.LIMIT))
    time_ns: int = key(2, unsigned())


@dataclass(frozen=True, slots=True)
class PairItem(RestoreMessage):
    """A pair by name: number, id and hash of its record, and the server's time of taking it."""

    KIND: ClassVar = RestoreReply.PAIR

    request: int = key(0, unsigned(32))
    number: int = key(1, unsigned(32))
    pair: bytes = key(2, octets(PAIR_ID_LENGTH))
    hash: bytes = key(3, octets(32))
    time_ns: int = key(4, unsigned())


@dataclass(frozen=True, slots=True)
class RunItem(RestoreMessage):
    """A run record."""

    KIND: ClassVar = RestoreReply.RUN
    LIMIT: ClassVar = RunRecord.LIMIT + 128

    request: int = key(0, unsigned(32))
    record: bytes = key(1, octets(1, RunRecord.LIMIT))


@dataclass(frozen=True, slots=True)
class DataItem(RestoreMessage):
    """The next bytes of a FETCH's answer: blobs (header and sealed part) one after the other, cut anywhere. Raw: the
    request number, then the bytes."""

    KIND: ClassVar = RestoreReply.DATA

    request: int = key(0, unsigned(32))
    data: bytes = key(1, octets(1, RESTORE_FRAME_LIMIT))

    def encode(self) -> bytes:
        return encode_frame(self.KIND, DATA_HEAD.pack(self.request) + self.data)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> "DataItem":
        if not DATA_HEAD.size < len(payload) < RESTORE_FRAME_LIMIT:
            raise BadMessage(f"DataItem: {len(payload)} bytes")
        return cls(DATA_HEAD.unpack_from(payload)[0], bytes(payload[DATA_HEAD.size :]))


def data_head(request: int, length: int) -> bytes:
    """The beginning of a DATA frame, up to its ``length`` bytes of data."""
    return LENGTH.pack(1 + DATA_HEAD.size + length) + bytes((RestoreReply.DATA,)) + DATA_HEAD.pack(request)


@dataclass(frozen=True, slots=True)
class BookItem(RestoreMessage):
    """The newest book; no item where there is none yet."""

    KIND: ClassVar = RestoreReply.BOOK
    LIMIT: ClassVar = BOOK_LIMIT + 128

    request: int = key(0, unsigned(32))
    book: bytes = key(1, octets(1, BOOK_LIMIT))


@dataclass(frozen=True, slots=True)
class EnvelopeItem(RestoreMessage):
    """A pair record (``reenvelope`` 0) or a re-envelope record (1), and its envelope."""

    KIND: ClassVar = RestoreReply.ENVELOPE
    LIMIT: ClassVar = PairRecord.LIMIT + ENVELOPE_LIMIT + 128

    request: int = key(0, unsigned(32))
    record: bytes = key(1, octets(1, PairRecord.LIMIT))
    envelope: bytes = key(2, octets(1, ENVELOPE_LIMIT))
    reenvelope: int = key(3, unsigned(1))


@dataclass(frozen=True, slots=True)
class Done(RestoreMessage):
    """The answer is whole; ``missing`` are ids asked for that are not here (32 bytes each)."""

    KIND: ClassVar = RestoreReply.DONE
    LIMIT: ClassVar = 32 * FETCH_LIMIT + 128

    request: int = key(0, unsigned(32))
    missing: bytes = key(1, packed_ids(FETCH_LIMIT, 0), default=b"")


REQUESTS: dict[int, type[Message]] = {
    one.KIND: one
    for one in (
        WhoRequest, MachinesRequest, SnapshotsRequest, PairsRequest, RunsRequest, FetchRequest, BookRequest,
        StateRequest, EnvelopesRequest, StatusRequest, EventsRequest, AcknowledgeRequest, NotifyRequest,
        ReadsRequest, CertificatesRequest,
    )
}  # fmt: skip

REPLIES: dict[int, type[Message]] = {
    one.KIND: one
    for one in (
        WhoItem, MachineItem, SnapshotItem, PairItem, RunItem, DataItem, BookItem, EnvelopeItem, StatusItem,
        ServerStatusItem, EventItem, ChannelItem, ReadItem, CertificateItem, Done, Error, Keepalive,
    )
}  # fmt: skip


def decode_request(kind: int, payload: bytes) -> Message:
    """What a client asks for. Raises UnknownVerb or BadMessage."""
    cls = REQUESTS.get(kind)
    if cls is None:
        raise UnknownVerb(f"frame type {kind}")
    return cls.decode(payload)


def decode_reply(kind: int, payload: bytes) -> Message:
    """What the restore port said. Raises BadMessage."""
    cls = REPLIES.get(kind)
    if cls is None:
        raise BadMessage(f"the server sent a frame of unknown type {kind}")
    return cls.decode(payload)
