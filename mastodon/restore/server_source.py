"""A source of backups: a server's restore port, over TLS with the admin's client certificate.

Requests are pipelined. A connection that breaks is taken up again: questions whose answers were not whole are asked
once more for what is left of them. What the server refuses is told with its own words. Blobs that it has and cannot
read cost themselves alone: a question that it fails at is asked again in halves, down to the ids that it fails at.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mastodon.host.socket_tls import ConnectError, ConnectionLost, PinMismatch
from mastodon.restore.errors import Distrusted, NotThere, ProtocolBroken, Refused, Unreachable
from mastodon.restore.source import Answered, BlobCame, Event, ListedPair, OfferedPair
from mastodon.sealed.errors import FormatError
from mastodon.sealed.snapshot import SnapshotRecord
from mastodon.wire.certificate_messages import CertificateItem, CertificatesRequest
from mastodon.wire.errors import ErrorCode, RemoteError, WireError
from mastodon.wire.messages import Message
from mastodon.wire.read_messages import READS_LIMIT, ReadItem, ReadsRequest
from mastodon.wire.restore_client import (
    AnswerWhole,
    ClientEvent,
    ItemCame,
    RequestFailed,
    RestoreClient,
    SealedBlobCame,
)
from mastodon.wire.restore_messages import (
    SNAPSHOTS_LIMIT,
    BookRequest,
    EnvelopesRequest,
    FetchRequest,
    MachineItem,
    MachinesRequest,
    PairsRequest,
    RunsRequest,
    SnapshotsRequest,
    StateRequest,
    WhoItem,
    WhoRequest,
)
from mastodon.wire.status_messages import ServerStatusItem, StatusItem, StatusRequest
from mastodon.wire.telling_messages import (
    EVENTS_LIMIT,
    AcknowledgeRequest,
    ChannelItem,
    EventItem,
    EventsRequest,
    NotifyRequest,
)

TRIES = 6
LONGEST_PAUSE_S = 60
SIGN_OF_LIFE_S = 15.0
RUNS_AT_ONCE = 1024
UNREADABLE_IN_A_ROW = 4096
"""So many answers fail one after the other before the server, and not the blob, is taken for broken."""


class Stream(Protocol):
    """An open connection."""

    server_pin: bytes

    def send(self, data: bytes) -> None:
        """Send all of it."""
        ...

    def receive_pieces(self) -> Sequence[bytes]:
        """The next bytes, in pieces; none at the end."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


@dataclass(slots=True)
class _Question:
    """Blobs asked for: what is left, what the server has not or cannot read, and how many requests are under way."""

    machine: bytes
    left: set[bytes]
    single: bool
    missing: set[bytes] = field(default_factory=set)
    requests: int = 0


class ServerSource:
    """Implements Source over one connection, made when it is first needed. ``connect`` makes one."""

    has_an_end = False

    def __init__(
        self, connect: Callable[[], Stream], *, sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic, tell: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        self._connect = connect
        self._tell = tell
        self._sleep = sleep
        self._clock = clock
        self._stream: Stream | None = None
        self._client = RestoreClient()
        self._questions: dict[int, _Question] = {}
        self._number_of: dict[int, tuple[int, frozenset[bytes]]] = {}
        self._unreadable = 0
        self._next_question = 0
        self._ready: deque[Event] = deque()
        self._sent_at = 0.0
        self._pings: set[int] = set()
        self._failures = 0
        self._broken: ProtocolBroken | None = None

    # -- records

    @property
    def server_pin(self) -> bytes:
        """The pin of the server that is connected."""
        self._opened()
        assert self._stream is not None
        return self._stream.server_pin

    def who(self) -> WhoItem:
        """Who this client is to the server, and who the server is."""
        items = self._items(WhoRequest)
        if len(items) != 1 or not isinstance(items[0], WhoItem):
            raise Refused("the server does not say who it is")
        return items[0]

    def machines(self) -> Sequence[MachineItem]:
        """The tenant's machines as the server knows them."""
        return [item for item in self._items(MachinesRequest) if isinstance(item, MachineItem)]

    def status(self) -> tuple[ServerStatusItem, Sequence[StatusItem]]:
        """How the server and the tenant's machines do."""
        items = self._items(StatusRequest, b"")
        servers = [item for item in items if isinstance(item, ServerStatusItem)]
        machines = {item.machine: item for item in items if isinstance(item, StatusItem)}
        if len(servers) != 1 or len(machines) != len(items) - 1:
            raise ProtocolBroken("the server's status is not whole, or names a machine twice")
        return servers[0], list(machines.values())

    def certificates(self) -> Sequence[CertificateItem]:
        """The tenant's registered client keys."""
        return [item for item in self._items(CertificatesRequest) if isinstance(item, CertificateItem)]

    def book(self) -> bytes:
        """The newest book, empty for none."""
        items: Sequence[Any] = self._items(BookRequest)
        return bytes(items[0].book) if items else b""

    def state(self, statement: bytes, attachment: bytes = b"") -> None:
        """Have the server do what a statement says. Raises Refused."""
        self._items(StateRequest, statement, attachment)

    def events(self, machine: bytes, after: int, since_ns: int) -> Sequence[EventItem]:
        """The admin's events about a machine or (b"") all, behind a sequence and not older than a time."""
        found: list[EventItem] = []
        while True:
            items = self._items(EventsRequest, machine, after, since_ns, EVENTS_LIMIT)
            page = [item for item in items if isinstance(item, EventItem) and item.sequence > after]
            found += page
            if len(page) < EVENTS_LIMIT:
                return found
            after = page[-1].sequence

    def acknowledge(self, events: Sequence[int]) -> None:
        """Say that these events are known. Raises NotThere."""
        self._items(AcknowledgeRequest, tuple(events))

    def told(self, test: bool) -> Sequence[ChannelItem]:
        """Where the admin is told; each address is sent a test first, where asked."""
        return [item for item in self._items(NotifyRequest, int(test)) if isinstance(item, ChannelItem)]

    def pairs(self, machine: bytes, first: int, limit: int) -> Sequence[ListedPair]:
        """The names of a machine's pairs with a number of at least ``first``, in order, at most ``limit``."""
        items: Sequence[Any] = self._items(PairsRequest, machine, first, limit)
        return [ListedPair(item.number, item.pair, item.hash, item.time_ns) for item in items]

    def envelopes(self, machine: bytes, pair: bytes) -> Sequence[OfferedPair]:
        """All records of one pair, with their envelopes."""
        items: Sequence[Any] = self._items(EnvelopesRequest, machine, pair)
        return [OfferedPair(item.record, item.envelope, bool(item.reenvelope)) for item in items]

    def snapshots(self, machine: bytes) -> Iterable[tuple[bytes, int]]:
        """All snapshot records, each with the time at which the server took it."""
        first = 0
        while True:
            items: Sequence[Any] = self._items(SnapshotsRequest, machine, first, SNAPSHOTS_LIMIT)
            for item in items:
                yield item.record, item.time_ns
            following = _last_sequence(items) + 1
            if len(items) < SNAPSHOTS_LIMIT or following <= first:
                return
            first = following

    def reads(self, machine: bytes, since_ns: int) -> Iterable[ReadItem]:
        """Who read what of the tenant's machines since a time, about one or (empty) all."""
        after = 0
        while True:
            items = self._items(ReadsRequest, machine, after, since_ns, READS_LIMIT)
            found = [one for one in items if isinstance(one, ReadItem)]
            yield from found
            following = max((one.sequence for one in found), default=0)
            if len(items) < READS_LIMIT or following <= after:
                return
            after = following

    def runs(self, machine: bytes, ids: Sequence[bytes]) -> Sequence[bytes]:
        """Run records by id, those that there are."""
        found: list[bytes] = []
        for start in range(0, len(ids), RUNS_AT_ONCE):
            items: Sequence[Any] = self._items(RunsRequest, machine, b"".join(ids[start : start + RUNS_AT_ONCE]))
            found += [item.record for item in items]
        return found

    # -- blobs

    def ask(self, machine: bytes, ids: Sequence[bytes]) -> int:
        """Ask for blobs; every sealing that the server has of each comes."""
        self._next_question += 1
        question = self._next_question
        self._questions[question] = _Question(machine, set(ids), len(ids) == 1)
        try:
            self._opened()
            self._send_question(question)
        except ConnectionLost as error:
            self._recover(error)
        return question

    def receive(self) -> Event:
        """The next event of any question."""
        while not self._ready:
            try:
                self._dispatch(self._next_event())
            except ConnectionLost as error:
                self._recover(error)
        return self._ready.popleft()

    def close(self) -> None:
        """End the connection."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # -- inside

    def _items(self, kind: type[Message], *fields: Any) -> Sequence[Message]:
        """A request's whole answer; blobs that come meanwhile are kept."""
        while True:
            try:
                self._opened()
                number = self._send(kind, *fields)
                return self._answer(number)
            except ConnectionLost as error:
                self._recover(error, may_repeat=kind is not StateRequest)
            except _Again as again:
                self._pause(again.seconds, again.error)

    def _answer(self, number: int) -> Sequence[Message]:
        items: list[Message] = []
        while True:
            event = self._next_event()
            if isinstance(event, ItemCame) and event.request == number:
                items.append(event.item)
            elif isinstance(event, AnswerWhole) and event.request == number:
                self._failures = 0
                return items
            elif isinstance(event, RequestFailed) and event.request == number:
                raise _raised(event.error)
            else:
                self._dispatch(event)

    def _dispatch(self, event: ClientEvent) -> None:
        if event.request in self._pings:
            if not isinstance(event, ItemCame):
                self._pings.discard(event.request)
            return
        if event.request not in self._number_of:
            return
        question, ids = self._number_of[event.request]
        asked = self._questions[question]
        if isinstance(event, SealedBlobCame):
            self._failures = self._unreadable = 0
            if not asked.single:  # of a single id every sealing counts: after a cut it is asked for once more
                asked.left.discard(event.header.id)
            self._ready.append(BlobCame(question, event.header, event.data))
        elif isinstance(event, AnswerWhole):
            del self._number_of[event.request]
            self._answered(question, event.missing)
        elif isinstance(event, RequestFailed):
            del self._number_of[event.request]
            self._failed(question, ids, event.error)

    def _answered(self, question: int, missing: Iterable[bytes]) -> None:
        """One of a question's requests is over."""
        asked = self._questions[question]
        asked.missing.update(missing)
        asked.requests -= 1
        if not asked.requests:
            del self._questions[question]
            self._ready.append(Answered(question, frozenset(asked.missing)))

    def _failed(self, question: int, ids: frozenset[bytes], error: RemoteError) -> None:
        """One of a question's requests failed: again later, or in halves where the server cannot read something."""
        asked = self._questions[question]
        left = sorted(asked.left & ids)
        unreadable: list[bytes] = []
        if error.code is not ErrorCode.INTERNAL:
            try:
                raise _raised(error)
            except _Again as again:
                self._pause(again.seconds, again.error)
                self._send_ids(question, left)
        else:
            self._unreadable += 1
            if self._unreadable >= UNREADABLE_IN_A_ROW:
                raise _refusal(error)
            middle = len(left) // 2
            if middle:
                self._send_ids(question, left[:middle])
                self._send_ids(question, left[middle:])
            else:
                unreadable = left
        self._answered(question, unreadable)

    def _next_event(self) -> ClientEvent:
        while True:
            try:
                event = self._client.next_event()
            except WireError as error:
                self.close()
                self._broken = ProtocolBroken(f"the server does not keep to the protocol: {error}")
                raise self._broken from None
            except RemoteError as error:
                self.close()
                if error.retryable:
                    raise ConnectionLost(error.text) from None
                raise _raised(error) from None
            if event is not None:
                return event
            if self._clock() - self._sent_at > SIGN_OF_LIFE_S:
                self._pings.add(self._send(WhoRequest))
            assert self._stream is not None
            pieces = self._stream.receive_pieces()
            if not pieces:
                raise ConnectionLost("the server closed the connection")
            for piece in pieces:
                self._client.receive(piece)

    def _send(self, kind: type[Message], *fields: Any) -> int:
        assert self._stream is not None
        number, data = self._client.request(kind, *fields)
        self._sent_at = self._clock()
        self._stream.send(data)
        return number

    def _send_question(self, question: int) -> None:
        asked = self._questions[question]
        if not asked.left:
            del self._questions[question]
            self._ready.append(Answered(question, frozenset(asked.missing)))
            return
        asked.requests = 0
        self._send_ids(question, sorted(asked.left))

    def _send_ids(self, question: int, ids: Sequence[bytes]) -> None:
        asked = self._questions[question]
        asked.requests += 1
        number = self._send(FetchRequest, asked.machine, b"".join(ids))
        self._number_of[number] = question, frozenset(ids)

    def _opened(self) -> None:
        if self._broken is not None:
            raise self._broken
        while self._stream is None:
            try:
                self._stream = self._connect()
            except PinMismatch as error:
                raise Distrusted(str(error)) from None
            except ConnectError as error:
                if not self._failures:  # never connected: a wrong address is told at once
                    raise Unreachable(str(error)) from None
                self._count_failure(str(error))
                continue
            self._client = RestoreClient()
            self._number_of.clear()
            self._pings.clear()
            for question in list(self._questions):
                self._send_question(question)

    def _recover(self, error: ConnectionLost, *, may_repeat: bool = True) -> None:
        self.close()
        if not may_repeat:
            raise Unreachable(f"the connection was lost before the server answered: {error}; run the command again")
        self._count_failure(str(error))
        try:
            self._opened()
        except ConnectionLost as again:
            self._recover(again)

    def _count_failure(self, reason: str) -> None:
        self._failures += 1
        if self._failures >= TRIES:
            raise Unreachable(f"the connection was lost, {TRIES} times in a row: {reason}")
        self._wait(min(LONGEST_PAUSE_S, 2 ** (self._failures - 1)), reason)

    def _pause(self, seconds: int, error: RemoteError) -> None:
        self._failures += 1
        if self._failures >= TRIES:
            raise _refusal(error)
        self._wait(min(LONGEST_PAUSE_S, max(1, seconds)), error.text)

    def _wait(self, seconds: int, reason: str) -> None:
        """Sleep, and say why: whoever waits for us wants to know what we wait for."""
        self._tell(f"{reason}; trying again in {seconds} s")
        self._sleep(seconds)


class _Again(Exception):
    """The server asks to try later."""

    def __init__(self, error: RemoteError) -> None:
        super().__init__(error.text)
        self.error = error
        self.seconds = error.retry_after_s


def _raised(error: RemoteError) -> Exception:
    return _Again(error) if error.retryable else _refusal(error)


def _refusal(error: RemoteError) -> Exception:
    if error.code is ErrorCode.NOT_FOUND:
        return NotThere(f"the server: {error.text}")
    code = error.code.name.lower().replace("_", " ")
    return Refused(f"the server refused: {error.text} ({code})", conflict=error.code is ErrorCode.CONFLICT)


def _last_sequence(items: Sequence[Any]) -> int:
    highest = -1
    for item in items:
        try:
            highest = max(highest, SnapshotRecord.read_unverified(item.record).sequence)
        except FormatError:
            continue
    return highest
