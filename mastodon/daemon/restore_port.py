"""The restore port's edge: who may ask and what is answered stand in tables (restore_verbs, restore_requests).

Answers are sent when the connection's turn comes and its peer takes them. The client's key is looked up when the
connection begins (before that no request is taken), at each request, and every few seconds.
"""

from collections.abc import Hashable
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from mastodon.catalogue.interface import Certificate
from mastodon.daemon.admission import Admission
from mastodon.daemon.answers import Answers, Gone, ItemAnswer
from mastodon.daemon.bounded_log import BoundedLog
from mastodon.daemon.connection import FramedConnection, transport_of
from mastodon.daemon.errors import Refused
from mastodon.daemon.events import RESTORE_EVENTS
from mastodon.daemon.heard import Heard
from mastodon.daemon.restore_requests import LISTS, Desk, blobs
from mastodon.daemon.scheduling import Scheduler
from mastodon.daemon.tls import peer_certificate, peer_pin
from mastodon.sealed.ledger_entries import CertificateRemoved, Role
from mastodon.wire.effects import Close, SecurityEvent, Send
from mastodon.wire.errors import ErrorCode, WireError
from mastodon.wire.fair import Kind
from mastodon.wire.frame import HELLO_FRAME_LIMIT, RESTORE_FRAME_LIMIT
from mastodon.wire.messages import Message, make_error
from mastodon.wire.restore_messages import FetchRequest, decode_request
from mastodon.wire.restore_server import REQUESTS_LIMIT, Authorise, Effect, RestoreSession, Serve

RECHECK_S = 5.0
CONNECTIONS_EACH = 16
"""Connections of one tenant at a time."""
LISTS_EACH = 4
"""Lists of records that are fetched for one tenant at a time: each is in memory whole before it is sent."""
REQUEST_BYTES = 1024 * 1024
"""Bytes of a connection's requests that are being served before no more are taken."""


class RestoreConnection(FramedConnection):
    """One client's connection."""

    kind = Kind.RESTORE

    def __init__(self, port: "RestorePort") -> None:
        super().__init__(port.scheduler, port.clock, HELLO_FRAME_LIMIT, port.silence_s)
        self._port = port
        self._store = port.store
        self._session = RestoreSession()
        self._pin: bytes | None = None
        self._tenant = b""
        self._owner: Hashable = None  # the tenant, once it is known
        self._requests = 0
        self._request_bytes = 0
        self._answers = Answers(self, port.scheduler)
        self._recheck: Any = None

    def connectionMade(self) -> None:
        """The handshake is done: whose key is it?"""
        super().connectionMade()
        self._pin = peer_pin(transport_of(self))
        self._check()

    def frame(self, kind: int, payload: bytes) -> None:
        """One request."""
        self._run_effects(self._session.receive(decode_request(kind, payload)), len(payload))

    def broken(self, error: WireError) -> None:
        """The client broke the protocol."""
        self._run_effects(self._session.broken(error))

    def ready_for_frames(self) -> bool:
        """Whether another request may be taken."""
        known = self._owner is not None
        return known and self._requests < REQUESTS_LIMIT and self._request_bytes < REQUEST_BYTES

    def waits_for_us(self) -> bool:
        """Whether an answer is due."""
        return self._requests > 0

    def dismissed(self) -> None:
        """Told to close: make room when room is needed."""
        self._port.admission.dismiss(self)

    def gone(self) -> None:
        """Let go of the answers."""
        self._port.admission.leave(self)
        if self._recheck is not None and self._recheck.active():
            self._recheck.cancel()
        self._answers.close()

    def may_send(self) -> bool:
        """Whether the peer takes more data."""
        return self.peer_reads and not self.over

    def send_bytes(self, frames: bytes | memoryview) -> None:
        """Send encoded messages, or the next part of one, unless the connection is over."""
        if not self.over:
            self.transport.write(frames)  # type: ignore[arg-type]  # tls.py takes any buffer

    def resumeProducing(self) -> None:
        """The peer takes what we send again."""
        super().resumeProducing()
        self._answers.wake()

    def shut_down(self) -> None:
        """The daemon stops."""
        self.send(make_error(ErrorCode.UNAVAILABLE, "the server is shutting down: try again in a minute"))
        self.close()

    # Authority

    def key_removed(self, pin: bytes) -> None:
        """This key may do nothing more, from now on."""
        if pin == self._pin:
            self._run_effects(self._session.unregistered())

    def _check(self) -> None:
        """Look the key up now, and every RECHECK_S while the connection lasts."""
        if self.over:
            return
        self._look_up().addCallback(self._checked).addErrback(self._internal)
        self._recheck = self.clock.callLater(RECHECK_S, self._check)

    def _look_up(self) -> Deferred[Certificate | None]:
        return succeed(None) if self._pin is None else maybeDeferred(self._store.certificate, self._pin)

    def _checked(self, certificate: Certificate | None) -> None:
        if certificate is None:
            self._run_effects(self._session.unregistered())
        elif self._owner is None and not self.over:
            self._tenant = certificate.tenant
            shown = peer_certificate(transport_of(self))
            if shown is not None:
                self._port.heard.came(certificate, shown)
            self._enter(certificate.tenant or certificate.pin)

    def _enter(self, owner: bytes) -> None:
        if not self._port.admission.prove(self, owner):
            text = f"the server takes no more connections now, of one admin at most {CONNECTIONS_EACH}"
            self.send(make_error(ErrorCode.UNAVAILABLE, text))
            self.close()
            return
        self._owner = owner
        self.belong_to(owner)
        self.raise_limit(RESTORE_FRAME_LIMIT)

    def _authorise(self, request: Message, size: int) -> None:
        self._requests += 1
        self._request_bytes += size

        def over(_: object) -> None:
            self._requests -= 1
            self._request_bytes -= size
            self.woken()

        def found(certificate: Certificate | None) -> Deferred[None] | None:
            effects = self._session.authorised(request, certificate.role if certificate else None)
            self._run_effects(effects)
            if certificate is None or self.over or not any(isinstance(effect, Serve) for effect in effects):
                return None
            return Deferred.fromCoroutine(self._serve(certificate, request))

        self._look_up().addCallback(found).addErrback(self._internal).addBoth(over)

    def _internal(self, failure: Failure) -> None:
        self.log.failure("restore port: internal error", failure)
        self.send(make_error(ErrorCode.INTERNAL, "the server failed: its log says why"))
        self.close()

    def _run_effects(self, effects: list[Effect], size: int = 0) -> None:
        """``size``: bytes of the request that led to them."""
        for effect in effects:
            match effect:
                case Send(message):
                    self.send(message)
                case Authorise(request):
                    self._authorise(request, size)
                case Serve():
                    pass  # by whoever asked for the authorisation, who has the certificate
                case SecurityEvent(code, text):
                    self._port.lines.warn(
                        self.host, "restore port: security event from {peer}: {text}", peer=self.peer, text=text
                    )
                    self._store.record(RESTORE_EVENTS[code], self._tenant, detail=f"{self.peer}: {text}")
                    if code is ErrorCode.NOT_AUTHENTICATED:
                        self._port.heard.refused("restore port", self.host)
                case Close():
                    self.close()

    # Requests

    async def _serve(self, certificate: Certificate, request: Message) -> None:
        number: int = request.request  # type: ignore[attr-defined]
        try:
            self._refuse_outside_ticket(certificate)
            if isinstance(request, FetchRequest):
                await self._answers.send(self._owner, await blobs(self._port.desk, certificate, request))
                return
            async with self._port.lists(self._owner):
                if not self.over:
                    items = await LISTS[type(request)](self._port.desk, certificate, request)
                    await self._answers.send(self._owner, ItemAnswer(number, items))
        except Gone:
            pass
        except Exception:
            self._failed(number, Failure())

    def _refuse_outside_ticket(self, certificate: Certificate) -> None:
        if certificate.role is Role.TICKET:
            raise Refused(ErrorCode.NOT_ALLOWED, "restore tickets are not served by this release of the server")

    def _failed(self, number: int, failure: Failure) -> None:
        refused = failure.value
        if isinstance(refused, Refused):
            error = make_error(refused.code, refused.text[:1000], refused.context[:1024], number)
        elif failure.check(OSError):
            self.log.failure("restore port: a spool cannot be read", failure)
            error = make_error(ErrorCode.INTERNAL, "a spool cannot be read: run `mastodon check`", request=number)
        else:
            self.log.failure("restore port: internal error", failure)
            error = make_error(ErrorCode.INTERNAL, "the server failed: its log says why", request=number)
        self.send(error)


class RestorePort(ServerFactory):
    """Makes the connections of the restore port."""

    noisy = False

    def __init__(
        self, desk: Desk, scheduler: Scheduler, clock: IReactorTime, connections_limit: int, strangers_limit: int,
        silence_s: float,
    ) -> None:  # fmt: skip
        self.desk = desk
        self.store = desk.store
        self.scheduler = scheduler
        self.clock = clock
        self.silence_s = silence_s
        self.admission: Admission[RestoreConnection] = Admission(connections_limit, CONNECTIONS_EACH, strangers_limit)
        self.lines = BoundedLog(RestoreConnection.log, clock)
        self.heard = Heard()
        self._lists: WeakValueDictionary[Hashable, DeferredSemaphore] = WeakValueDictionary()
        self.store.followers.add(CertificateRemoved, self._key_removed)

    @property
    def connections(self) -> set[RestoreConnection]:
        """All that there are."""
        return self.admission.all

    def buildProtocol(self, addr: IAddress | None) -> RestoreConnection:
        """A connection; the oldest stranger makes room for it."""
        connection = RestoreConnection(self)
        self.admission.arrive(connection)
        return connection

    def lists(self, owner: Hashable) -> DeferredSemaphore:
        """Bounds the lists that are in memory for one tenant."""
        return self._lists.setdefault(owner, DeferredSemaphore(LISTS_EACH))

    def _key_removed(self, body: CertificateRemoved) -> None:
        for connection in list(self.connections):
            connection.key_removed(body.pin)

    def shut_down(self) -> None:
        """Tell every client to come back later."""
        for connection in list(self.connections):
            connection.shut_down()
        self.lines.stop()
