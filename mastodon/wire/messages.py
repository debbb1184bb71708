"""The messages of the append port, both ways.

protocol-spec.md §15. A client has two verbs, the frame types CHECKIN and APPEND; the payload's first byte says which
part of the verb it is, the rest is the part's body: a deterministic CBOR map, but for PIECE, which is raw bytes.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from mastodon.sealed import cbor
from mastodon.sealed.errors import FormatError, Malformed
from mastodon.sealed.order import SEALED_ORDER_LIMIT
from mastodon.sealed.pack import PACK_LIMIT
from mastodon.sealed.pair import ENVELOPE_LIMIT, PairRecord
from mastodon.sealed.schema import (
    Body,
    Check,
    array,
    boolean,
    choice,
    clean_text,
    key,
    octets,
    octets_or_none,
    text,
    unsigned,
)
from mastodon.sealed.snapshot import SnapshotRecord, SnapshotStatus
from mastodon.wire.errors import RETRYABLE, BadMessage, ErrorCode, RemoteError, UnknownVerb
from mastodon.wire.frame import APPEND_FRAME_LIMIT, encode_frame

NONCE_LENGTH = 32
OFFER_LIMIT = 4096
MISSING_LIMIT = 4096
PIECE_LIMIT = 256 * 1024
"""What the agent puts in one PIECE; the server takes any that fits in a frame."""


class Verb(IntEnum):
    """All that a client may send on the append port."""

    CHECKIN = 1
    APPEND = 2


class Reply(IntEnum):
    """Frame types that the server sends on the append port."""

    GREETING = 128
    ANSWER = 129
    WANTED = 130
    ACK = 131
    COMMITTED = 132
    MISSING = 133
    ERROR = 134
    KEEPALIVE = 135
    PUSH = 136
    PACE = 137
    GOODBYE = 138


def packed_ids(most: int, least: int = 1) -> Check:
    """``least`` to ``most`` ids of 32 bytes, one after the other."""
    bounded = octets(32 * least, 32 * most)

    def check(value: Any) -> bytes:
        if len(bounded(value)) % 32:
            raise Malformed("ids are 32 bytes each")
        return bytes(value)

    return check


def _error_code(value: Any) -> ErrorCode:
    try:
        return ErrorCode(_u16(value))
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        return ErrorCode.UNKNOWN


_u16 = unsigned(16)


@dataclass(frozen=True, slots=True)
class Message(Body):
    """Base of all messages: the frame type, and for clients the part."""

    KIND: ClassVar[int]
    PART: ClassVar[int | None] = None
    LIMIT: ClassVar[int] = 4096
    """Bytes of the body."""

    def encode(self) -> bytes:
        """The message as one frame. Raises Malformed for what the other end would not take."""
        body = self.to_body()
        self.from_body(body)
        part = b"" if self.PART is None else bytes((self.PART,))
        packed = cbor.encode(body)
        if len(packed) > self.LIMIT:
            raise Malformed(f"{type(self).__name__}: {len(packed)} bytes, bound {self.LIMIT}")
        return encode_frame(self.KIND, part + packed)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> "Message":
        """The message in a payload (after the part byte). Raises BadMessage."""
        try:
            return cls.from_body(cbor.decode(payload, cls.LIMIT))
        except FormatError as error:
            raise BadMessage(f"{cls.__name__}: {error}") from None


# From the agent


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Who the agent is, and what it remembers: the newest snapshot's sequence and record hash (0 and empty: none).

    ``notices`` are Notice bits (snapshot.py), told here too in case no commit follows; ``features`` as in Greeting.
    """

    KIND: ClassVar = Verb.CHECKIN
    PART: ClassVar = 1

    version: int = key(0, unsigned(16))
    machine: bytes = key(1, octets(32))
    signature: bytes = key(2, octets(64))
    run_nonce: bytes = key(3, octets(16))
    remembered_sequence: int = key(4, unsigned())
    remembered_hash: bytes = key(5, octets_or_none(32))
    time_ns: int = key(6, unsigned())
    agent_version: str = key(7, text(64))
    notices: int = key(8, unsigned(32), default=0)
    features: int = key(9, unsigned(), default=0)


@dataclass(frozen=True, slots=True)
class Progress(Message):
    """A sign of life, and how far the run is; sent at least every 15 s."""

    KIND: ClassVar = Verb.CHECKIN
    PART: ClassVar = 2

    files: int = key(0, unsigned())
    content_bytes: int = key(1, unsigned())


@dataclass(frozen=True, slots=True)
class Finish(Message):
    """The run is over. It resets no watch: only a commit does."""

    KIND: ClassVar = Verb.CHECKIN
    PART: ClassVar = 3

    exit_code: int = key(0, unsigned(8))
    text: str = key(1, text(1024))


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """Ids, 32 bytes each, that the agent could send; the answer says which are wanted."""

    KIND: ClassVar = Verb.APPEND
    PART: ClassVar = 1
    LIMIT: ClassVar = 32 * OFFER_LIMIT + 64

    number: int = key(0, unsigned(32))
    ids: bytes = key(1, packed_ids(OFFER_LIMIT))


@dataclass(frozen=True, slots=True)
class Piece(Message):
    """The next bytes of the pack that is being sent. Raw, without CBOR; decoded, a view of the frame's own bytes."""

    KIND: ClassVar = Verb.APPEND
    PART: ClassVar = 2

    data: bytes | memoryview = key(0, octets(1, APPEND_FRAME_LIMIT))

    def encode(self) -> bytes:
        return encode_frame(self.KIND, b"".join((bytes((self.PART,)), self.data)))

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> "Piece":
        if not 0 < len(payload) < APPEND_FRAME_LIMIT:
            raise BadMessage(f"Piece: {len(payload)} bytes")
        return cls(payload)


@dataclass(frozen=True, slots=True)
class PackEnd(Message):
    """The pack is whole; its id is the checksum in its trailer."""

    KIND: ClassVar = Verb.APPEND
    PART: ClassVar = 3

    pack: bytes = key(0, octets(32))


@dataclass(frozen=True, slots=True)
class NewPair(Message):
    """A pair record and its envelope, together."""

    KIND: ClassVar = Verb.APPEND
    PART: ClassVar = 4
    LIMIT: ClassVar = PairRecord.LIMIT + ENVELOPE_LIMIT + 64

    record: bytes = key(0, octets(1, PairRecord.LIMIT))
    envelope: bytes = key(1, octets(1, ENVELOPE_LIMIT))


@dataclass(frozen=True, slots=True)
class NewSnapshot(Message):
    """A snapshot record, to be committed when all that it reaches is there."""

    KIND: ClassVar = Verb.APPEND
    PART: ClassVar = 5
    LIMIT: ClassVar = SnapshotRecord.LIMIT + 64

    record: bytes = key(0, octets(1, SnapshotRecord.LIMIT))


# From the server


@dataclass(frozen=True, slots=True)
class Greeting(Message):
    """The server's first frame: a fresh nonce, the versions that it speaks, its features: bits, none defined so far,
    that say what it would take beyond the version's messages. A bit that is not known is ignored."""

    KIND: ClassVar = Reply.GREETING

    nonce: bytes = key(0, octets(NONCE_LENGTH))
    oldest_version: int = key(1, unsigned(16))
    newest_version: int = key(2, unsigned(16))
    features: int = key(3, unsigned())


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """HELLO was good. ``head_*`` name the newest snapshot committed (0 and empty: none), ``pair`` and ``stored_blobs``
    the newest pair record and how many blobs lie under it, ``mail`` sealed orders, ``pace`` bytes a second (0: free),
    ``ledger_head`` the signed head of the server's ledger (may be empty), ``pack_limit`` the longest pack and
    ``window`` the most bytes of packs not yet acknowledged that the server takes."""

    KIND: ClassVar = Reply.ANSWER
    LIMIT: ClassVar = APPEND_FRAME_LIMIT - 1

    time_ns: int = key(0, unsigned())
    epoch: int = key(1, unsigned())
    pace: int = key(2, unsigned())
    head_sequence: int = key(3, unsigned())
    head_hash: bytes = key(4, octets_or_none(32))
    pair: bytes = key(5, octets(0, PairRecord.LIMIT))
    stored_blobs: int = key(6, unsigned())
    mail: tuple[bytes, ...] = key(7, array(octets(1, SEALED_ORDER_LIMIT), 4), default=())
    ledger_head: bytes = key(8, octets(0, 16384), default=b"")
    pack_limit: int = key(9, unsigned(32), default=PACK_LIMIT)
    window: int = key(10, unsigned(), default=2 * PACK_LIMIT)


@dataclass(frozen=True, slots=True)
class Wanted(Message):
    """Answers an offer: a bitmap, first id in the highest bit of the first byte, 1 for wanted."""

    KIND: ClassVar = Reply.WANTED

    number: int = key(0, unsigned(32))
    bitmap: bytes = key(1, octets(1, OFFER_LIMIT // 8))


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """Durable (P9): a pack (by id) or a pair (by record hash)."""

    KIND: ClassVar = Reply.ACK

    id: bytes = key(0, octets(32))


@dataclass(frozen=True, slots=True)
class Committed(Message):
    """Durable (P9): the snapshot record with this hash, at the server's time."""

    KIND: ClassVar = Reply.COMMITTED

    hash: bytes = key(0, octets(32))
    time_ns: int = key(1, unsigned())
    status: SnapshotStatus = key(2, choice(SnapshotStatus))


@dataclass(frozen=True, slots=True)
class Missing(Message):
    """The snapshot was not committed: it reaches these ids (32 bytes each), and they are not here."""

    KIND: ClassVar = Reply.MISSING
    LIMIT: ClassVar = 32 * MISSING_LIMIT + 64

    ids: bytes = key(0, packed_ids(MISSING_LIMIT))
    more: bool = key(1, boolean)


@dataclass(frozen=True, slots=True)
class Error(Message):
    """Something was refused; ``request`` names what on the restore port.

    After MALFORMED, NOT_AUTHENTICATED, REFUSED_VERB and VERSION the connection closes.
    """

    KIND: ClassVar = Reply.ERROR
    LIMIT: ClassVar = 40 * 1024

    code: ErrorCode = key(0, _error_code)
    retryable: bool = key(1, boolean)
    retry_after_s: int = key(2, unsigned(32))
    text: str = key(3, text(1024))
    context: tuple[bytes, ...] = key(4, array(octets(32), 1024), default=())
    request: int = key(5, unsigned(32), default=0)

    def to_exception(self) -> RemoteError:
        """What the receiving end raises."""
        return RemoteError(self.code, self.text, self.retryable, self.retry_after_s, self.context)


@dataclass(frozen=True, slots=True)
class Keepalive(Message):
    """A sign of life from the server; at least every 15 s."""

    KIND: ClassVar = Reply.KEEPALIVE


@dataclass(frozen=True, slots=True)
class Push(Message):
    """Sealed pieces that an order or the machine's own restore asked for (a later release sends it)."""

    KIND: ClassVar = Reply.PUSH
    LIMIT: ClassVar = APPEND_FRAME_LIMIT - 1

    order: bytes = key(0, octets(16))
    data: bytes = key(1, octets(0, APPEND_FRAME_LIMIT))


@dataclass(frozen=True, slots=True)
class Pace(Message):
    """From now on at most so many bytes a second (0: free)."""

    KIND: ClassVar = Reply.PACE

    bytes_per_second: int = key(0, unsigned())


@dataclass(frozen=True, slots=True)
class Goodbye(Message):
    """Answers FINISH: the server will close."""

    KIND: ClassVar = Reply.GOODBYE


CLIENT_MESSAGES: dict[tuple[int, int], type[Message]] = {
    (one.KIND, one.PART or 0): one for one in (Hello, Progress, Finish, Offer, Piece, PackEnd, NewPair, NewSnapshot)
}
"""Every part of the two verbs. What is not here is a security event."""

SERVER_MESSAGES: dict[int, type[Message]] = {
    one.KIND: one for one in (Greeting, Answer, Wanted, Ack, Committed, Missing, Error, Keepalive, Push, Pace, Goodbye)
}


def decode_client(kind: int, payload: bytes) -> Message:
    """What an agent said in a frame. Raises UnknownVerb for anything but the parts of the two verbs, BadMessage."""
    cls = CLIENT_MESSAGES.get((kind, payload[0])) if payload else None
    if cls is None:
        raise UnknownVerb(f"frame type {kind}, part {payload[:1].hex() or 'none'}")
    return cls.decode(memoryview(payload)[1:])


def decode_server(kind: int, payload: bytes) -> Message:
    """What the append port said in a frame. Raises BadMessage."""
    cls = SERVER_MESSAGES.get(kind)
    if cls is None:
        raise BadMessage(f"the server sent a frame of unknown type {kind}")
    return cls.decode(payload)


def make_error(code: ErrorCode, text: str, context: tuple[bytes, ...] = (), request: int = 0) -> Error:
    """An ERROR message; whether it may be retried follows from its code. Text and context are cut to their bounds."""
    retryable = code in RETRYABLE
    return Error(code, retryable, 30 if retryable else 0, clean_text(text, 1024), context[:1024], request)
