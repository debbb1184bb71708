"""The client's half of the restore port: requests out, answers back, told apart by their numbers.

protocol-spec.md §17. Sans-IO: ``request`` gives bytes to send, ``receive`` takes bytes that came, ``next_event`` gives
what they mean, or None for "more bytes". Several requests may be under way; the frames of their answers may be
interleaved. Blobs are cut out of the stream of DATA here; what was not asked for, is cut short, or is of no use as an
answer to its request breaks the connection for good.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mastodon.sealed import blob
from mastodon.sealed.blob import HEAD, ID_LENGTH, REFERENCES_LIMIT, SEALED_LIMIT, BlobHeader, parse_header
from mastodon.sealed.errors import FormatError
from mastodon.sealed.schema import EXTENSIONS_LIMIT
from mastodon.wire.certificate_messages import CertificateItem
from mastodon.wire.errors import BadMessage, OutOfTurn, RemoteError
from mastodon.wire.frame import RESTORE_FRAME_LIMIT, FrameReader
from mastodon.wire.messages import Error, Keepalive, Message
from mastodon.wire.read_messages import READS_LIMIT, ReadItem
from mastodon.wire.restore_messages import (
    DATA_HEAD,
    ENVELOPES_LIMIT,
    PAIRS_LIMIT,
    BookItem,
    Done,
    EnvelopeItem,
    FetchRequest,
    MachineItem,
    PairItem,
    RestoreReply,
    RestoreVerb,
    RunItem,
    SnapshotItem,
    WhoItem,
    decode_reply,
)
from mastodon.wire.status_messages import ServerStatusItem, StatusItem
from mastodon.wire.telling_messages import CHANNELS_LIMIT, EVENTS_LIMIT, ChannelItem, EventItem

SEALINGS_LIMIT = 64
"""Sealings of one id in one answer: an honest machine has one, or two after damage."""
ITEMS_LIMIT = 100_000
FEWER_ITEMS: dict[int, int] = {
    RestoreVerb.PAIRS: PAIRS_LIMIT,
    RestoreVerb.ENVELOPES: ENVELOPES_LIMIT,
    RestoreVerb.EVENTS: EVENTS_LIMIT,
    RestoreVerb.TEST_NOTIFY: CHANNELS_LIMIT,
    RestoreVerb.READS: READS_LIMIT,
}
LAST_NUMBER = (1 << 32) - 1

ANSWERS: dict[int, tuple[type[Message], ...]] = {
    RestoreVerb.WHO: (WhoItem,),
    RestoreVerb.MACHINES: (MachineItem,),
    RestoreVerb.SNAPSHOTS: (SnapshotItem,),
    RestoreVerb.PAIRS: (PairItem,),
    RestoreVerb.RUNS: (RunItem,),
    RestoreVerb.FETCH: (),
    RestoreVerb.BOOK: (BookItem,),
    RestoreVerb.STATE: (),
    RestoreVerb.ENVELOPES: (EnvelopeItem,),
    RestoreVerb.EVENTS: (EventItem,),
    RestoreVerb.ACKNOWLEDGE: (),
    RestoreVerb.STATUS: (ServerStatusItem, StatusItem),
    RestoreVerb.TEST_NOTIFY: (ChannelItem,),
    RestoreVerb.READS: (ReadItem,),
    RestoreVerb.CERTIFICATES: (CertificateItem,),
}
"""The kinds of items that may answer each verb, beside the raw data of FETCH."""


@dataclass(frozen=True, slots=True)
class ItemCame:
    """An item of an answer."""

    request: int
    item: Message


@dataclass(frozen=True, slots=True)
class SealedBlobCame:
    """A whole blob of a FETCH's answer; nothing of it is verified but that it was asked for. ``data`` is what it came
    in, so that no copy is made of it here."""

    request: int
    header: BlobHeader
    data: memoryview


@dataclass(frozen=True, slots=True)
class AnswerWhole:
    """An answer is complete. ``missing`` are ids that the server says it has not."""

    request: int
    missing: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The server refused a request, and nothing more comes for it."""

    request: int
    error: RemoteError


ClientEvent = ItemCame | SealedBlobCame | AnswerWhole | RequestFailed


@dataclass(slots=True)
class _Open:
    """A request under way. For a FETCH ``wanted`` counts the sealings that came of each id."""

    verb: int
    wanted: dict[bytes, int] = field(default_factory=dict)
    buffer: bytearray = field(default_factory=bytearray)
    items: int = 0


class RestoreClient:
    """One connection. Any error is final."""

    def __init__(self) -> None:
        self._frames = FrameReader(RESTORE_FRAME_LIMIT)
        self._open: dict[int, _Open] = {}
        self._number = 0
        self._events: list[ClientEvent] = []
        self._failed: Exception | None = None

    @property
    def under_way(self) -> int:
        """Requests that have no whole answer yet."""
        return len(self._open)

    def request(self, kind: type[Message], *fields: Any) -> tuple[int, bytes]:
        """A request's number, and the bytes to send. ``fields`` follow the number in the message."""
        number = self._number = self._number % LAST_NUMBER + 1
        make: Callable[..., Message] = kind
        message = make(number, *fields)
        under_way = _Open(kind.KIND)
        if isinstance(message, FetchRequest):
            under_way.wanted = dict.fromkeys(split_ids(message.ids), 0)
        self._open[number] = under_way
        return number, message.encode()

    def receive(self, data: bytes) -> None:
        """Take bytes from the transport."""
        self._frames.receive(data)

    def next_event(self) -> ClientEvent | None:
        """What came next. Raises WireError, then and for ever after; RemoteError when the server ends it all."""
        if self._failed is not None:
            raise self._failed
        try:
            while not self._events:
                frame = self._frames.next_frame()
                if frame is None:
                    return None
                kind, payload = frame
                if kind == RestoreReply.DATA:
                    self._take_data(payload)
                else:
                    self._take(decode_reply(kind, payload))
            return self._events.pop(0)
        except Exception as error:
            self._failed = error
            raise

    def _take(self, message: Message) -> None:
        if isinstance(message, Keepalive):
            return
        if isinstance(message, Error) and not message.request:
            raise message.to_exception()
        number: int = message.request  # type: ignore[attr-defined]
        under_way = self._request(number)
        if isinstance(message, Error):
            del self._open[number]
            self._events.append(RequestFailed(number, message.to_exception()))
        elif isinstance(message, Done):
            self._end(number, under_way, message)
        elif type(message) not in ANSWERS[under_way.verb]:
            raise OutOfTurn(f"a {type(message).__name__} in answer to {RestoreVerb(under_way.verb).name}")
        else:
            under_way.items += 1
            if under_way.items > FEWER_ITEMS.get(under_way.verb, ITEMS_LIMIT):
                raise BadMessage("an answer with more items than any can have")
            self._events.append(ItemCame(number, message))

    def _end(self, number: int, under_way: _Open, done: Done) -> None:
        if under_way.buffer:
            raise BadMessage("an answer that ends in the middle of a blob")
        missing = frozenset(split_ids(done.missing))
        if not missing <= under_way.wanted.keys():
            raise BadMessage("missing ids that were not asked for")
        del self._open[number]
        self._events.append(AnswerWhole(number, missing))

    def _request(self, number: int) -> _Open:
        under_way = self._open.get(number)
        if under_way is None:
            raise OutOfTurn(f"an answer to request {number}, which is not under way")
        return under_way

    def _take_data(self, payload: bytes) -> None:
        """A DATA frame, without making a DataItem of it: all content passes here, and each copy shows."""
        if len(payload) <= DATA_HEAD.size:
            raise BadMessage("DataItem: empty")
        (number,) = DATA_HEAD.unpack_from(payload)
        under_way = self._request(number)
        if under_way.verb != RestoreVerb.FETCH:
            raise OutOfTurn(f"data in answer to {RestoreVerb(under_way.verb).name}")
        view = memoryview(payload)[DATA_HEAD.size :]
        while view:
            if under_way.buffer or len(view) < HEAD.size:
                view = self._complete(number, under_way, view)
                continue
            size = _size_at(view)
            if len(view) < size:
                under_way.buffer += view
                return
            self._blob(number, under_way, view[:size])
            view = view[size:]

    def _complete(self, number: int, under_way: _Open, view: memoryview) -> memoryview:
        """Add to the blob that has begun to come; what is left of the data."""
        buffer = under_way.buffer
        missing = HEAD.size - len(buffer)
        if missing > 0:
            buffer += view[:missing]
            view = view[missing:]
            if len(buffer) < HEAD.size:
                return view
        missing = _size_at(buffer) - len(buffer)
        buffer += view[:missing]
        if len(view) >= missing:
            under_way.buffer = bytearray()
            self._blob(number, under_way, memoryview(buffer))
        return view[missing:]

    def _blob(self, number: int, under_way: _Open, data: memoryview) -> None:
        try:
            header = parse_header(data)
        except FormatError as error:
            raise BadMessage(f"blob: {error}") from None
        count = under_way.wanted.get(header.id)
        if count is None:
            raise BadMessage("a blob that was not asked for")
        if count >= SEALINGS_LIMIT:
            raise BadMessage("the same blob again and again")
        under_way.wanted[header.id] = count + 1
        self._events.append(SealedBlobCame(number, header, data))


def split_ids(ids: bytes) -> Sequence[bytes]:
    """Ids that stand one after the other."""
    return [ids[at : at + ID_LENGTH] for at in range(0, len(ids), ID_LENGTH)]


def _size_at(data: bytearray | memoryview) -> int:
    """The whole size of the blob that begins here; checked against its bounds before anything is waited for."""
    magic, *_, sealed, count, extended = HEAD.unpack_from(data)
    if magic != blob.MAGIC or not sealed or sealed > SEALED_LIMIT or count > REFERENCES_LIMIT:
        raise BadMessage("data that is no blob")
    if extended > EXTENSIONS_LIMIT:
        raise BadMessage("a blob with extensions beyond their bound")
    return int(HEAD.size + ID_LENGTH * count + extended + sealed)
