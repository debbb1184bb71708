"""The daemon's TLS: contexts for the two ports, and a transport that keeps up with the disks.

Promises:

* TLS 1.3 and nothing else; tickets and session cache off, no early data, no compression: what the client keeps
  of a session is worth nothing, each connection makes a whole handshake;
* a client that offers other protocols (ALPN) gets a fatal alert, one that offers none is dropped after
  the handshake; the application's protocol is made only when the handshake is done and ALPN fits;
* the restore port demands possession of a client key and nothing more of the certificate: *whose* key it
  is, the application decides from ``peer_pin``. The verify callback cannot: it sees the certificates that
  an attacker adds to the chain first;
* handshakes take turns: all of them together are one unit of the daemon's scheduler, as all strangers' work is, so
  that a flood of them costs the machines that are in no more than that unit's share;
* at most ``half_open`` connections are in the handshake, the oldest makes room, and none takes longer
  than ``handshake_seconds``; a closing connection whose peer does not answer is cut.

Why a subclass: Twisted's TLSMemoryBIOProtocol hands the SSL object 16 KiB at a time, reads what comes out
32 KiB at a time, takes 64 KiB from the socket and delivers each record by itself. Larger pieces and one delivery
for each read from the socket save about a fifth of the CPU on the way in (0.6 to 0.85 s per GiB instead of 0.7
to 1.1, loopback, two cores) and cost nothing on the way out. On the way out every buffer stays below 128 KiB, where
glibc starts to map and unmap memory for each allocation: with 256 KiB to 2 MiB sending was slower than in the original.
Reads of 250 KiB, each one turn of the reactor, cost a tenth less than those of 120 KiB for all that a pack takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as Interface
from typing import cast, runtime_checkable

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Port, Server
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mastodon.daemon.accepting import Acceptor
from mastodon.daemon.scheduling import UNAUTHENTICATED, Scheduler
from mastodon.host.certificates import CertificateError, Identity, spki_pin
from mastodon.wire.fair import Kind

APPEND_ALPN = b"mastodon/1"
RESTORE_ALPN = b"mastodon-restore/1"

WRITE_PIECE = 64 * 1024
BIO_READ = 80 * 1024
SOCKET_BUFFER = 250 * 1024
RECORD = 16 * 1024
ENABLE_PARTIAL_WRITE = 0x1
"""SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets and does not name: each call would write one record, and each
record would go to the socket by itself. Writing to memory never blocks half-way."""
BACKLOG = 1024
HANDSHAKE_COST = 512 * 1024
"""Of one step of a handshake, which takes about as long as to receive and store so many bytes."""


class NoCommonProtocol(SSL.Error):
    """The client does not speak this port's protocol."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how many, per listening port."""

    handshake_seconds: float = 10.0
    half_open: int = 512
    closing_seconds: float = 30.0


@implementer(IOpenSSLServerConnectionCreator)
class ServerContext:
    """What a port shows to its clients and demands of them."""

    def __init__(self, identity: Identity, alpn: bytes, *, client_certificates: bool) -> None:
        self.alpn = alpn
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.clear_mode(ENABLE_PARTIAL_WRITE)
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        context.check_privatekey()
        context.set_alpn_select_callback(self._select)
        if client_certificates:
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_any)
        self._context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A fresh connection object, as Twisted asks for it."""
        return SSL.Connection(self._context, None)

    def _select(self, connection: SSL.Connection, offered: list[bytes]) -> bytes:
        if self.alpn in offered:
            return self.alpn
        # Raising is what makes OpenSSL send the alert; pyOpenSSL's sentinel would let the handshake go on.
        raise NoCommonProtocol([("SSL routines", "", "no application protocol")])


def _accept_any(connection: SSL.Connection, certificate: object, number: int, depth: int, verified: int) -> bool:
    return True


def append_context(identity: Identity) -> ServerContext:
    """For the append port: machines prove themselves in HELLO, not by certificates."""
    return ServerContext(identity, APPEND_ALPN, client_certificates=False)


def restore_context(identity: Identity) -> ServerContext:
    """For the restore port: no handshake without a client certificate."""
    return ServerContext(identity, RESTORE_ALPN, client_certificates=True)


@runtime_checkable
class TakesRecords(Interface):
    """A protocol that takes what came as TLS cut it, and so spares a copy of everything."""

    def recordsReceived(self, records: Sequence[bytes]) -> None:
        """In place of dataReceived: the content of some records."""


class HandshakeLimit:
    """The connections of one port that are still in the handshake."""

    def __init__(self, limits: Limits, clock: IReactorTime) -> None:
        self._limits = limits
        self._clock = clock
        self._waiting: dict[FastTLSProtocol, IDelayedCall] = {}
        self.begun = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, connection: "FastTLSProtocol") -> None:
        """A connection came; when there are too many, the oldest goes."""
        self.begun += 1
        if len(self._waiting) >= self._limits.half_open:
            self._drop(next(iter(self._waiting)))
        self._waiting[connection] = self._clock.callLater(self._limits.handshake_seconds, self._drop, connection)

    def end(self, connection: "FastTLSProtocol") -> None:
        """Its handshake is done, or it is gone; no effect the second time."""
        call = self._waiting.pop(connection, None)
        if call is not None and call.active():
            call.cancel()

    def _drop(self, connection: "FastTLSProtocol") -> None:
        self.end(connection)
        connection.abortConnection()


class FastTLSProtocol(TLSMemoryBIOProtocol):
    """TLS with large pieces; makes the application's protocol when the handshake is done."""

    factory: "FastTLSFactory"

    def __init__(self, factory: "FastTLSFactory", address: IAddress | None) -> None:
        super().__init__(factory, Protocol(), _connectWrapped=False)  # a stand-in that ignores everything
        self._address = address
        self._closing: IDelayedCall | None = None
        self._settled = False
        self._early = b""

    def makeConnection(self, transport: ITransport) -> None:
        """The TCP connection is there."""
        self.factory.handshakes.begin(self)
        super().makeConnection(transport)
        if self.factory.turns is not None:
            self.factory.turns.add(UNAUTHENTICATED, Kind.CONTROL, self)

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the peer; those of the handshake wait for their turn, and no more are read meanwhile."""
        if self._settled or self.factory.turns is None:
            super().dataReceived(data)
            return
        self._early += data
        cast(Server, self.transport).pauseProducing()
        self.factory.turns.wake(self)

    def next_cost(self) -> int | None:
        """For the scheduler: whether the handshake can go on."""
        return HANDSHAKE_COST if self._early else None

    def run(self) -> None:
        """For the scheduler: a step of the handshake."""
        data, self._early = self._early, b""
        cast(Server, self.transport).resumeProducing()
        super().dataReceived(data)

    def _checkHandshakeStatus(self) -> None:
        super()._checkHandshakeStatus()
        if self._handshakeDone and not self._settled:
            self._settled = True
            self.factory.handshakes.end(self)
            self._take_no_turns()
            self._start_application()

    def _take_no_turns(self) -> None:
        if self.factory.turns is not None:
            self.factory.turns.remove(self)

    def _start_application(self) -> None:
        if self.negotiatedProtocol != self.factory.alpn:
            self.abortConnection()
            return
        application = self.factory.wrappedFactory.buildProtocol(self._address)
        if application is None:
            self.abortConnection()
            return
        connection = cast(Server, self.transport)
        connection.bufferSize = SOCKET_BUFFER
        connection.setTcpNoDelay(True)  # acks are small and must not wait for each other
        connection.setTcpKeepAlive(True)
        self.wrappedProtocol = application
        application.makeConnection(self)

    def _flushSendBIO(self) -> None:
        more = True
        while more:
            try:
                data = self._tlsConnection.bio_read(BIO_READ)
            except SSL.WantReadError:
                return
            self._send_out(data)
            more = len(data) == BIO_READ

    def _send_out(self, data: bytes) -> None:
        """Straight to the socket while nothing waits before it: that saves a copy and a round of the reactor."""
        connection = cast(Server, self.transport)
        waiting = not isinstance(connection, Server) or connection.dataBuffer or connection._tempDataLen
        if not waiting and connection.connected and not connection.disconnecting:
            sent = connection.writeSomeData(data)
            if isinstance(sent, int) and sent > 0:  # else the reactor will meet the same error
                data = data[sent:]
        if data:
            connection.write(data)

    def _flushReceiveBIO(self) -> None:
        pieces: list[bytes] = []
        while not self._lostTLSConnection:
            try:
                pieces.append(self._tlsConnection.recv(RECORD))
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self._deliver(pieces)
                self._shutdownTLS()
                self._tlsShutdownFinished(None)
            except SSL.Error:
                failure = Failure()
                self._deliver(pieces)
                self._tlsShutdownFinished(failure)
        self._deliver(pieces)
        self._flushSendBIO()

    def _deliver(self, pieces: list[bytes]) -> None:
        if pieces and not self._aborted:
            records, protocol = pieces.copy(), self.wrappedProtocol
            pieces.clear()
            if isinstance(protocol, TakesRecords):
                protocol.recordsReceived(records)
            else:
                protocol.dataReceived(b"".join(records))

    def _write(self, data: bytes | memoryview) -> None:
        if self._lostTLSConnection:
            return
        data = memoryview(data)  # so that to cut it copies nothing
        sent = 0
        while sent < len(data):
            try:
                sent += self._tlsConnection.send(data[sent : sent + WRITE_PIECE])
            except SSL.WantReadError:
                self._bufferedWrite(bytes(data[sent:]))
                break
            except SSL.Error:
                self._tlsShutdownFinished(Failure())
                break
            self._flushSendBIO()

    def _shutdownTLS(self) -> None:
        super()._shutdownTLS()
        self._limit_closing()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        super()._tlsShutdownFinished(reason)
        self._limit_closing()

    def _limit_closing(self) -> None:
        """Twisted waits for ever for the peer to take what is left and to close its side."""
        if self._closing is None and self.connected:
            seconds = self.factory.limits.closing_seconds
            self._closing = self.factory.clock.callLater(seconds, self.abortConnection)

    def abortConnection(self) -> None:
        """Cut the connection at once; no effect when it is gone."""
        if self._tlsConnection is not None:
            super().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The TCP connection is gone."""
        self.factory.handshakes.end(self)
        self._take_no_turns()
        super().connectionLost(reason)
        if self._closing is not None and self._closing.active():
            self._closing.cancel()


class FastTLSFactory(TLSMemoryBIOFactory):
    """Wraps the application's factory in TLS for one listening port."""

    protocol = FastTLSProtocol

    def __init__(
        self, context: ServerContext, application: IProtocolFactory, limits: Limits, clock: IReactorTime,
        turns: Scheduler | None = None,
    ) -> None:  # fmt: skip
        super().__init__(context, False, application, clock)
        self.alpn = context.alpn
        self.limits = limits
        self.clock = clock
        self.turns = turns
        self.handshakes = HandshakeLimit(limits, clock)

    def buildProtocol(self, addr: IAddress | None) -> FastTLSProtocol:
        """The TLS half only: the application's protocol is made after the handshake."""
        return FastTLSProtocol(self, addr)


def listen_tls(
    reactor: IReactorTime,
    address: tuple[str, int],
    context: ServerContext,
    application: IProtocolFactory,
    limits: Limits = Limits(),
    turns: Scheduler | None = None,
) -> Deferred[IListeningPort]:
    """Listen on an IP address (the empty one: all of IPv4) and port; fails with CannotListenError. Without ``turns``
    connections are taken in and handshakes done as they come."""
    host, port = address
    kind = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    endpoint = kind(reactor, port, BACKLOG, host)
    listening: Deferred[IListeningPort] = endpoint.listen(FastTLSFactory(context, application, limits, reactor, turns))
    if turns is not None:
        listening.addCallback(take_in_turns, turns)
    return listening


def take_in_turns(port: IListeningPort, turns: Scheduler) -> IListeningPort:
    """Have the scheduler say when the port takes connections in."""
    Acceptor(cast(Port, port), turns)
    return port


def peer_certificate(transport: ITransport) -> x509.Certificate | None:
    """The certificate of the key that the peer proved to hold; None without one, or with one that cannot be read."""
    if not isinstance(transport, FastTLSProtocol):
        return None
    certificate = transport.getPeerCertificate()
    try:
        return None if certificate is None else certificate.to_cryptography()
    except ValueError:
        return None


def peer_pin(transport: ITransport) -> bytes | None:
    """The pin of the key that the peer proved to hold; None without one or with a key of a refused type."""
    certificate = peer_certificate(transport)
    try:
        return None if certificate is None else spki_pin(certificate)
    except (CertificateError, ValueError):
        return None
