"""The restore port's edge: who may ask stands in the table, what is answered comes from the store.

Blobs are read in threads, a few pieces ahead, and sent when the connection's turn comes and its peer takes them. The
client's key is looked up at each request, and every few seconds of a stream.
"""

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from mastodon.daemon.connection import FramedConnection, transport_of
from mastodon.daemon.errors import Refused
from mastodon.daemon.scheduling import Scheduler
from mastodon.daemon.store import Certificate, Located, Store
from mastodon.daemon.tls import peer_pin
from mastodon.sealed.ledger_entries import Role
from mastodon.wire.errors import ErrorCode, WireError
from mastodon.wire.fair import Kind
from mastodon.wire.frame import RESTORE_FRAME_LIMIT
from mastodon.wire.messages import Message, make_error
from mastodon.wire.restore_messages import (
    DATA_LIMIT,
    SNAPSHOTS_LIMIT,
    BookItem,
    BookRequest,
    DataItem,
    Done,
    FetchRequest,
    MachineItem,
    MachinesRequest,
    PairItem,
    PairsRequest,
    RunItem,
    RunsRequest,
    SnapshotItem,
    SnapshotsRequest,
    StateRequest,
    WhoItem,
    WhoRequest,
    decode_request,
)
from mastodon.wire.restore_server import (
    REQUESTS_LIMIT,
    Authorise,
    Close,
    Effect,
    RestoreSession,
    SecurityEvent,
    Send,
    Serve,
)

READ_AHEAD_PIECES = 3
RECHECK_S = 5.0


class BlobStream:
    """The answer to one FETCH: a source of its own, so that large answers take turns."""

    def __init__(self, connection: "RestoreConnection", request: int, located: Located) -> None:
        self._connection = connection
        self._request = request
        self._missing = b"".join(located.missing)
        self._pieces = _cut(located.ranges)
        self._ready: deque[bytes] = deque()
        self._reading = False
        self._read_all = False
        self._read_on()

    def next_cost(self) -> int | None:
        """The size of the next piece, when it is read and the peer takes it."""
        if not self._connection.may_send():
            return None
        if self._ready:
            return max(1, len(self._ready[0]))
        return 1 if self._read_all else None

    def run(self) -> None:
        """Send one piece, or the end."""
        if self._ready:
            self._connection.send(DataItem(self._request, self._ready.popleft()))
            self._read_on()
        else:
            self._connection.stream_done(self, Done(self._request, self._missing))

    def _read_on(self) -> None:
        if self._reading or self._read_all or len(self._ready) >= READ_AHEAD_PIECES:
            return
        if not self._pieces:
            self._read_all = True
            self._connection.scheduler.wake(self)
            return
        self._reading = True
        deferToThread(_read_piece, self._pieces.popleft()).addCallbacks(self._have, self._failed)

    def _have(self, data: bytes) -> None:
        self._reading = False
        self._ready.append(data)
        self._read_on()
        self._connection.scheduler.wake(self)

    def _failed(self, failure: Failure) -> None:
        self._connection.stream_failed(self, self._request, failure)


class RestoreConnection(FramedConnection):
    """One client's connection."""

    kind = Kind.RESTORE

    def __init__(self, port: "RestorePort") -> None:
        super().__init__(port.scheduler, port.clock, RESTORE_FRAME_LIMIT, port.silence_s)
        self._port = port
        self._store = port.store
        self._session = RestoreSession()
        self._pin: bytes | None = None
        self._certificate: Certificate | None = None
        self._requests = 0
        self._streams: set[BlobStream] = set()
        self._writable = True
        self._recheck: Any = None

    def connectionMade(self) -> None:
        """The handshake is done: whose key is it?"""
        super().connectionMade()
        self._pin = peer_pin(transport_of(self))
        self.belong_to(self._pin or b"")
        self._check()

    def frame(self, kind: int, payload: bytes) -> None:
        """One request."""
        self._run_effects(self._session.receive(decode_request(kind, payload)))

    def broken(self, error: WireError) -> None:
        """The client broke the protocol."""
        self._run_effects(self._session.broken(error))

    def ready_for_frames(self) -> bool:
        """Whether another request may be taken."""
        return self._requests < REQUESTS_LIMIT

    def gone(self) -> None:
        """Let go of the streams."""
        self._port.connections.discard(self)
        if self._recheck is not None and self._recheck.active():
            self._recheck.cancel()
        for stream in self._streams:
            self.scheduler.remove(stream)
        self._streams.clear()

    def may_send(self) -> bool:
        """Whether the peer takes more data."""
        return self._writable and not self.over

    def pauseProducing(self) -> None:
        """The peer does not take what we send."""
        super().pauseProducing()
        self._writable = False

    def resumeProducing(self) -> None:
        """It does again."""
        self._writable = True
        super().resumeProducing()
        for stream in self._streams:
            self.scheduler.wake(stream)

    def shut_down(self) -> None:
        """The daemon stops."""
        self.send(make_error(ErrorCode.UNAVAILABLE, "the server is shutting down: try again in a minute"))
        self.close()

    # Authority

    def _check(self) -> None:
        """Look the key up now, and every RECHECK_S while the connection lasts."""
        if self.over:
            return
        self._look_up().addCallbacks(self._checked, self._internal)
        self._recheck = self.clock.callLater(RECHECK_S, self._check)

    def _look_up(self) -> Deferred[Certificate | None]:
        if self._pin is None:
            return maybeDeferred(lambda: None)
        return self._store.certificate(self._pin)

    def _checked(self, certificate: Certificate | None) -> None:
        if certificate is None:
            self._run_effects(self._session.unregistered())

    def _authorise(self, request: Message) -> None:
        self._requests += 1

        def found(certificate: Certificate | None) -> None:
            self._certificate = certificate
            role: Role | None = certificate.role if certificate else None
            effects = self._session.authorised(request, role)
            if not any(isinstance(effect, Serve) for effect in effects):
                self._request_over()
            self._run_effects(effects)

        self._look_up().addCallbacks(found, self._internal)

    def _internal(self, failure: Failure) -> None:
        self.log.failure("restore port: internal error", failure)
        self.send(make_error(ErrorCode.INTERNAL, "the server failed: its log says why"))
        self.close()

    def _run_effects(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self.send(message)
                case Authorise(request):
                    self._authorise(request)
                case Serve(request):
                    self._serve(request)
                case SecurityEvent(text):
                    self.log.warn("restore port: security event from {peer}: {text}", peer=self.peer, text=text)
                case Close():
                    self.close()

    # Requests

    def _serve(self, request: Message) -> None:
        certificate = self._certificate
        assert certificate is not None  # an allowed request has a certificate
        number: int = request.request  # type: ignore[attr-defined]
        work = maybeDeferred(self._answer, certificate, request)
        work.addCallbacks(lambda items: self._send_items(number, items), lambda failure: self._failed(number, failure))

    def _answer(self, certificate: Certificate, request: Message) -> Deferred[Any]:
        tenant, number = certificate.tenant, 0
        self._refuse_outside_ticket(certificate, request)
        match request:
            case WhoRequest(number):
                return self._store.who(tenant).addCallback(lambda who: [self._port.who_item(number, certificate, who)])
            case MachinesRequest(number):
                return self._store.machines(tenant).addCallback(
                    lambda rows: [
                        MachineItem(number, row.enrolment, row.state, row.seen_ns, row.snapshots, row.kept_bytes)
                        for row in rows
                    ]
                )
            case SnapshotsRequest(number, machine, first, limit):
                bound = min(limit, SNAPSHOTS_LIMIT)
                return self._store.snapshots(tenant, machine, first, bound).addCallback(
                    lambda rows: [SnapshotItem(number, record, time_ns) for record, time_ns in rows]
                )
            case PairsRequest(number, machine):
                return self._store.pairs(tenant, machine).addCallback(
                    lambda rows: [PairItem(number, record, envelope, int(again)) for record, envelope, again in rows]
                )
            case RunsRequest(number, machine, ids):
                return self._store.runs(tenant, machine, _split(ids)).addCallback(
                    lambda records: [RunItem(number, record) for record in records]
                )
            case FetchRequest(number, machine, ids):
                return self._store.locate(tenant, machine, _split(ids))
            case BookRequest(number):
                return self._store.book(tenant).addCallback(lambda book: [BookItem(number, book)] if book else [])
            case StateRequest(number, statement, attachment):
                return self._store.execute(tenant, certificate.pin, statement, attachment).addCallback(lambda _: [])
        raise Refused(ErrorCode.REFUSED_VERB, "this server does not know the request")

    def _refuse_outside_ticket(self, certificate: Certificate, request: Message) -> None:
        if certificate.role is Role.TICKET:
            raise Refused(ErrorCode.NOT_ALLOWED, "restore tickets are not served by this release of the server")

    def _send_items(self, number: int, items: Any) -> None:
        if isinstance(items, Located):
            stream = BlobStream(self, number, items)
            self._streams.add(stream)
            if not self.over:
                self.scheduler.add(self._pin or b"", Kind.RESTORE, stream)
            return
        for item in items:
            self.send(item)
        self.send(Done(number))
        self._request_over()

    def stream_done(self, stream: BlobStream, done: Done) -> None:
        """All data of a FETCH was sent."""
        self._end_stream(stream)
        self.send(done)

    def stream_failed(self, stream: BlobStream, number: int, failure: Failure) -> None:
        """A FETCH cannot go on."""
        if stream in self._streams:
            self._end_stream(stream)
            self._failed(number, failure, over=False)

    def _end_stream(self, stream: BlobStream) -> None:
        self.scheduler.remove(stream)
        self._streams.discard(stream)
        self._request_over()

    def _failed(self, number: int, failure: Failure, over: bool = True) -> None:
        if failure.check(Refused):
            refused: Refused = failure.value
            error = make_error(refused.code, refused.text[:1000], refused.context[:1024], number)
        elif failure.check(OSError):
            self.log.failure("restore port: a spool cannot be read", failure)
            error = make_error(ErrorCode.INTERNAL, "a spool cannot be read: run `mastodon check`", request=number)
        else:
            self.log.failure("restore port: internal error", failure)
            error = make_error(ErrorCode.INTERNAL, "the server failed: its log says why", request=number)
        self.send(error)
        if over:
            self._request_over()

    def _request_over(self) -> None:
        self._requests -= 1
        self.woken()


def _split(ids: bytes) -> list[bytes]:
    return [ids[at : at + 32] for at in range(0, len(ids) - 31, 32)]


Range = tuple[str, int, int]


def _cut(ranges: "list[Range]") -> "deque[list[Range]]":
    """The ranges cut and grouped into pieces of at most DATA_LIMIT bytes each."""
    pieces: deque[list[Range]] = deque()
    room = 0
    for path, start, length in ranges:
        offset, left = start, length
        while left:
            if not room:
                pieces.append([])
                room = DATA_LIMIT
            taken = min(left, room)
            pieces[-1].append((path, offset, taken))
            offset, left, room = offset + taken, left - taken, room - taken
    return pieces


def _read_piece(piece: "list[Range]") -> bytes:
    """The bytes of some ranges, in a thread. Raises OSError."""
    parts = []
    descriptor, opened = -1, ""
    try:
        for path, offset, length in piece:
            if path != opened:
                if descriptor >= 0:
                    os.close(descriptor)
                descriptor, opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC), path
            part = os.pread(descriptor, length, offset)
            if len(part) != length:
                raise OSError(f"{path} is shorter than the catalogue says")
            parts.append(part)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class RestorePort(ServerFactory):
    """Makes the connections of the restore port."""

    noisy = False

    def __init__(
        self, store: Store, scheduler: Scheduler, clock: IReactorTime, servers: tuple[bytes, ...],
        append_hosts: Callable[[], tuple[str, ...]], connections_limit: int, silence_s: float,
    ) -> None:  # fmt: skip
        self.store = store
        self.scheduler = scheduler
        self.clock = clock
        self.silence_s = silence_s
        self.connections: set[RestoreConnection] = set()
        self._servers = servers
        self._append_hosts = append_hosts
        self._limit = connections_limit

    def buildProtocol(self, addr: IAddress | None) -> RestoreConnection | None:
        """A connection, or None when there are too many."""
        if len(self.connections) >= self._limit:
            return None
        connection = RestoreConnection(self)
        self.connections.add(connection)
        return connection

    def who_item(self, number: int, certificate: Certificate, who: Any) -> WhoItem:
        """The answer to WHO."""
        return WhoItem(
            number, certificate.tenant, who.name, certificate.role, self._servers, self.store.now_ns(), who.counter,
            self._append_hosts(), self.store.signed_head(),
        )  # fmt: skip

    def shut_down(self) -> None:
        """Tell every client to come back later."""
        for connection in list(self.connections):
            connection.shut_down()
