"""Both ends of TLS over real loopback sockets, and clients that do not behave."""

import contextlib
import datetime
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mastodon.daemon import tls
from mastodon.daemon.tls import FastTLSFactory, HandshakeLimit, Limits, listen_tls, peer_pin
from mastodon.host import certificates, socket_tls
from mastodon.host.certificates import Identity, make_identity
from mastodon.host.socket_tls import (
    BadCertificate,
    ConnectionLost,
    NotMastodon,
    PinMismatch,
    TimedOut,
    TLSStream,
    Unreachable,
)

NOW = datetime.datetime.now(datetime.UTC)
SERVER = make_identity("server", NOW, names=("localhost",))
ALICE = make_identity("alice", NOW)
MALLORY = make_identity("mallory", NOW)
APPEND, RESTORE = "mastodon/1", "mastodon-restore/1"


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Deferred[None]]:
    """Let trial run a coroutine."""

    @wraps(test)
    def run(self: TestCase) -> Deferred[None]:
        return Deferred.fromCoroutine(test(self))

    return run


class Echo(Protocol):
    """Notes who came and what happened, and sends back what it gets."""

    def __init__(self, seen: "Application") -> None:
        self.seen = seen

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.seen.protocols.append(self)
        self.seen.pins.append(peer_pin(self.transport))
        self.transport.write(b"welcome")

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionResetError())) -> None:  # noqa: B008
        self.seen.lost += 1


class Application(Factory):
    """The daemon's place, with a list of what it saw."""

    noisy = False

    def __init__(self, protocol: Callable[["Application"], Protocol] = Echo) -> None:
        self.make = protocol
        self.protocols: list[Protocol] = []
        self.pins: list[bytes | None] = []
        self.lost = 0

    def buildProtocol(self, addr: object) -> Protocol:
        return self.make(self)


class TLSCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)

    async def listen(
        self, context: tls.ServerContext, application: Application | None = None, limits: Limits | None = None
    ) -> None:
        self.application = application or Application()
        port = await listen_tls(reactor, ("127.0.0.1", 0), context, self.application, limits or Limits())
        self.listening(port)

    def listening(self, port: Any) -> None:
        self.address = ("127.0.0.1", port.getHost().port)
        self.addCleanup(port.stopListening)
        self.factory: FastTLSFactory = port.factory
        self.addCleanup(self.hang_up)

    async def hang_up(self) -> None:
        """The clients are gone; wait until the server has noticed, so that the reactor is clean."""
        for protocol in list(self.factory.protocols):
            protocol.abortConnection()
        await self.until(lambda: not self.factory.protocols)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await deferLater(reactor, 0.01, lambda: None)

    def files(self, identity: Identity, *more: Identity) -> tuple[str, str]:
        """Certificate (others behind it) and key in PEM files."""
        certificate = os.path.join(self.directory, "certificate")
        key = os.path.join(self.directory, "key")
        with open(certificate, "wb") as file:
            file.write(b"".join(each.certificate_pem() for each in (identity, *more)))
        with open(key, "wb") as file:
            file.write(identity.key_pem())
        return certificate, key

    def handshake(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[bytes, bool, Any]:
        plain = socket.create_connection(self.address, 10)
        with context.wrap_socket(plain, session=session) as wrapped:
            first = wrapped.recv(7)
            return first, bool(wrapped.session_reused), wrapped.session

    def connect(self, alpn: str = APPEND, pins: set[bytes] | None = None, **more: Any) -> TLSStream:
        return socket_tls.connect([self.address], {SERVER.pin} if pins is None else pins, alpn, **more)


def careless_client(alpn: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the end, however the end looks."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except (OSError, ssl.SSLError):
        pass
    return data


class AppendPort(TLSCase):
    """A port without client certificates."""

    @awaited
    async def test_bytes_go_both_ways(self) -> None:
        """What is sent comes back whole, and the client knows the server's pin."""
        await self.listen(tls.append_context(SERVER))

        def client() -> tuple[bytes, bytes]:
            with self.connect() as stream:
                stream.send(b"x" * 100_000)
                received = b""
                while len(received) < 100_007:
                    received += stream.receive()
                return stream.server_pin, received

        pin, received = await deferToThread(client)
        self.assertEqual(pin, SERVER.pin)
        self.assertEqual(received, b"welcome" + b"x" * 100_000)
        self.assertEqual(self.application.pins, [None])

    @awaited
    async def test_closing_in_good_order_is_told_apart(self) -> None:
        """A server that closes is an empty receive, one that is cut off is an error."""
        await self.listen(tls.append_context(SERVER))
        for way in ("loseConnection", "abort"):
            stream = await deferToThread(self.connect)
            self.assertEqual(await deferToThread(stream.receive), b"welcome")
            transport: Any = self.application.protocols[-1].transport
            if way == "abort":
                transport.transport.abortConnection()
                await self.assertFailure(deferToThread(stream.receive), ConnectionLost)
            else:
                transport.loseConnection()
                self.assertEqual(await deferToThread(stream.receive), b"")
            stream.close()

    @awaited
    async def test_plain_tcp(self) -> None:
        """Bytes that are no TLS end the connection, and the application hears nothing of it."""
        await self.listen(tls.append_context(SERVER))

        def client() -> bytes:
            with socket.create_connection(self.address, 10) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return read_all(plain)

        self.assertNotIn(b"welcome", await deferToThread(client))
        self.assertEqual(self.application.protocols, [])

    @awaited
    async def test_tls_1_2_is_refused(self) -> None:
        """An older TLS gets an alert."""
        await self.listen(tls.append_context(SERVER))
        client = careless_client([APPEND], ssl.TLSVersion.TLSv1_2)
        error = await self.assertFailure(deferToThread(self.handshake, client), ssl.SSLError)
        self.assertIn("PROTOCOL_VERSION", str(error))
        self.assertEqual(self.application.protocols, [])

    @awaited
    async def test_wrong_alpn_is_refused(self) -> None:
        """A client of another protocol gets an alert in the handshake."""
        await self.listen(tls.append_context(SERVER))
        client = careless_client(["h2", RESTORE])
        error = await self.assertFailure(deferToThread(self.handshake, client), ssl.SSLError)
        self.assertIn("no application protocol", str(error))
        refused = await self.assertFailure(deferToThread(self.connect, RESTORE), NotMastodon)
        self.assertIn("no application protocol", str(refused))
        self.assertEqual(self.application.protocols, [])

    @awaited
    async def test_a_failed_alpn_harms_nobody_else(self) -> None:
        """After a refused client the next good one gets in."""
        await self.listen(tls.append_context(SERVER))
        for _ in range(3):
            await self.assertFailure(deferToThread(self.connect, RESTORE), NotMastodon)
            stream = await deferToThread(self.connect)
            self.assertEqual(await deferToThread(stream.receive), b"welcome")
            stream.close()

    @awaited
    async def test_no_alpn_is_dropped(self) -> None:
        """A client that names no protocol is dropped before the application sees it."""
        await self.listen(tls.append_context(SERVER))

        def client() -> bytes:
            plain = socket.create_connection(self.address, 10)
            with careless_client([]).wrap_socket(plain) as wrapped:
                return read_all(wrapped)

        self.assertEqual(await deferToThread(client), b"")
        self.assertEqual(self.application.protocols, [])

    @awaited
    async def test_resumption_is_impossible(self) -> None:
        """A client that keeps its session and offers it again makes a whole handshake."""
        await self.listen(tls.append_context(SERVER))
        client = careless_client([APPEND])
        _, _, session = await deferToThread(self.handshake, client)
        first, reused, _ = await deferToThread(self.handshake, client, session)
        self.assertEqual((first, reused), (b"welcome", False))


class RestorePort(TLSCase):
    """A port that demands a client's key."""

    async def served(self, files: tuple[str, str] | None) -> bytes:
        def client() -> bytes:
            with self.connect(RESTORE, client_cert=files) as stream:
                return stream.receive()

        return await deferToThread(client)

    @awaited
    async def test_the_clients_pin(self) -> None:
        """The application learns which key the client holds; who signed the certificate does not matter."""
        await self.listen(tls.restore_context(SERVER))
        self.assertEqual(await self.served(self.files(ALICE)), b"welcome")
        self.assertEqual(self.application.pins, [ALICE.pin])

    @awaited
    async def test_no_client_certificate(self) -> None:
        """Without a certificate there is no connection, and the client is told why."""
        await self.listen(tls.restore_context(SERVER))
        try:
            await self.served(None)
        except ConnectionLost as error:
            self.assertIn("certificate required", str(error))
        else:
            self.fail("the client was served")
        self.assertEqual(self.application.protocols, [])

    @awaited
    async def test_an_extra_certificate_does_not_confuse(self) -> None:
        """Mallory, who sends Alice's certificate along with her own, is known as Mallory."""
        await self.listen(tls.restore_context(SERVER))
        self.assertEqual(await self.served(self.files(MALLORY, ALICE, ALICE)), b"welcome")
        self.assertEqual(self.application.pins, [MALLORY.pin])

    @awaited
    async def test_an_expired_certificate_has_its_pin(self) -> None:
        """Dates do not matter at the handshake."""
        await self.listen(tls.restore_context(SERVER))
        self.patch(certificates, "_LIFETIME", datetime.timedelta(days=1))
        old = NOW - datetime.timedelta(days=1000)
        expired = Identity(ALICE.key, certificates.self_signed(ALICE.key, "alice", old))
        self.assertEqual(await self.served(self.files(expired)), b"welcome")
        self.assertEqual(self.application.pins, [ALICE.pin])

    @awaited
    async def test_a_weak_key_has_no_pin(self) -> None:
        """A key of a type that is not accepted has no pin, so that no authority can be found for it."""
        await self.listen(tls.restore_context(SERVER))
        key = rsa.generate_private_key(65537, 2048)
        self.patch(certificates, "SMALLEST_RSA", 2048)
        weak = Identity(key, certificates.self_signed(key, "weak", NOW))
        self.patch(certificates, "SMALLEST_RSA", 3072)
        self.assertEqual(await self.served(self.files(weak)), b"welcome")
        self.assertEqual(self.application.pins, [None])

    @awaited
    async def test_resumption_does_not_skip_the_certificate(self) -> None:
        """A kept session does not get a client in without showing its key again."""
        await self.listen(tls.restore_context(SERVER))
        context = careless_client([RESTORE])
        context.load_cert_chain(*self.files(ALICE))
        _, _, session = await deferToThread(self.handshake, context)
        _, reused, _ = await deferToThread(self.handshake, context, session)
        self.assertFalse(reused)
        self.assertEqual(self.application.pins, [ALICE.pin, ALICE.pin])

    def test_other_transports_have_no_pin(self) -> None:
        """A transport that is not ours stands for nobody."""
        self.assertIsNone(peer_pin(object()))  # type: ignore[arg-type]


class TheClientsChecks(TLSCase):
    """What the client demands of a server."""

    @awaited
    async def test_wrong_pin(self) -> None:
        """A server with another key is refused before a byte is sent, and both pins are named."""
        await self.listen(tls.append_context(MALLORY))
        error = await self.assertFailure(deferToThread(self.connect), PinMismatch)
        self.assertIn(certificates.pin_text(MALLORY.pin), str(error))
        self.assertIn(certificates.pin_text(SERVER.pin), str(error))

    @awaited
    async def test_spare_pin(self) -> None:
        """One of several pins is enough."""
        await self.listen(tls.append_context(SERVER))
        stream = await deferToThread(self.connect, APPEND, {ALICE.pin, SERVER.pin})
        self.assertEqual(stream.server_pin, SERVER.pin)
        stream.close()

    @awaited
    async def test_without_a_pin_the_authorities_decide(self) -> None:
        """Unpinned, a self-signed server is refused; a known one passes under its name and under no other."""
        await self.listen(tls.append_context(SERVER))
        error = await self.assertFailure(deferToThread(self.connect, APPEND, set()), BadCertificate)
        self.assertIn("server=PIN", str(error))
        authorities = os.path.join(self.directory, "authorities")
        with open(authorities, "wb") as file:
            file.write(SERVER.certificate_pem())
        environment = mock.patch.dict(os.environ, {"SSL_CERT_FILE": authorities})
        environment.start()
        self.addCleanup(environment.stop)
        await self.assertFailure(deferToThread(self.connect, APPEND, set()), BadCertificate)
        self.address = ("localhost", self.address[1])
        stream = await deferToThread(self.connect, APPEND, set())
        self.assertEqual(stream.server_pin, SERVER.pin)
        stream.close()

    @awaited
    async def test_hosts_are_tried_in_order(self) -> None:
        """A dead host is passed over and remembered; when all fail, the gravest reason is raised."""
        await self.listen(tls.append_context(SERVER))
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            dead = unused.getsockname()
        hosts = [dead, self.address]
        stream = await deferToThread(socket_tls.connect, hosts, {SERVER.pin}, APPEND)
        self.assertEqual(stream.address, self.address)
        self.assertEqual([type(error) for error in stream.failures], [Unreachable])
        stream.close()
        await self.assertFailure(deferToThread(socket_tls.connect, [dead], {SERVER.pin}, APPEND), Unreachable)
        hosts = [self.address, dead]
        await self.assertFailure(deferToThread(socket_tls.connect, hosts, {ALICE.pin}, APPEND), PinMismatch)
        await self.assertFailure(deferToThread(socket_tls.connect, [], {ALICE.pin}, APPEND), Unreachable)

    @awaited
    async def test_not_a_mastodon(self) -> None:
        """A server that speaks no TLS is NotMastodon, one that says nothing at all is Unreachable in time."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = server.getsockname()

            def shout() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"220 mail.example.org ESMTP\r\n")
                    read_all(connection)

            thread = threading.Thread(target=shout)
            thread.start()
            await self.assertFailure(deferToThread(self.connect), NotMastodon)
            thread.join()
            await self.assertFailure(deferToThread(self.connect, timeout=0.05), Unreachable)

    @awaited
    async def test_cut_in_the_handshake(self) -> None:
        """A server that dies while it shakes hands is Unreachable: to be tried again, not a wrong port."""
        for reset in (False, True):
            with socket.create_server(("127.0.0.1", 0)) as server:
                self.address = server.getsockname()

                def die(listener: socket.socket = server, reset: bool = reset) -> None:
                    connection, _ = listener.accept()
                    connection.recv(1)
                    if reset:  # what is left unread makes the kernel reset; a linger of zero makes it sure
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()

                thread = threading.Thread(target=die)
                thread.start()
                await self.assertFailure(deferToThread(self.connect), Unreachable)
                thread.join()

    @awaited
    async def test_a_server_without_our_protocol(self) -> None:
        """A TLS server that ignores ALPN is refused."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.files(SERVER))
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = server.getsockname()

            def serve() -> None:
                connection, _ = server.accept()
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    read_all(wrapped)

            thread = threading.Thread(target=serve)
            thread.start()
            await self.assertFailure(deferToThread(self.connect), NotMastodon)
            thread.join()

    @awaited
    async def test_reader_and_writer_threads(self) -> None:
        """One thread sends 16 MB while another receives them: all bytes come, in order."""
        await self.listen(tls.append_context(SERVER))
        block = bytes(range(256)) * 4096
        stream = await deferToThread(self.connect)

        def write() -> None:
            for _ in range(16):
                stream.send(block)

        def read() -> bytes:
            received = bytearray()
            while len(received) < 16 * len(block) + 7:
                received += stream.receive()
            return bytes(received)

        writing = deferToThread(write)
        received = await deferToThread(read)
        await writing
        self.assertEqual(received, b"welcome" + block * 16)
        stream.close()

    @awaited
    async def test_waiting_ends(self) -> None:
        """A silent server is TimedOut; ``abort`` from another thread ends a receive."""
        await self.listen(tls.append_context(SERVER))
        stream = await deferToThread(self.connect)
        await deferToThread(stream.receive)
        stream.settimeout(0.02)
        await self.assertFailure(deferToThread(stream.receive), TimedOut)
        stream.settimeout(None)
        waiting = deferToThread(stream.receive)
        stream.abort()
        await self.assertFailure(waiting, ConnectionLost)
        stream.close()


class SlowClients(TLSCase):
    """Handshakes and closings that do not come to an end."""

    @awaited
    async def test_a_slow_handshake_is_dropped(self) -> None:
        """A client that sends its handshake too slowly is cut."""
        await self.listen(tls.append_context(SERVER), limits=Limits(handshake_seconds=0.05))

        def client() -> bytes:
            with socket.create_connection(self.address, 10) as plain:
                plain.sendall(b"\x16\x03\x01")
                return read_all(plain)

        self.assertEqual(await deferToThread(client), b"")
        self.assertEqual(len(self.factory.handshakes), 0)

    @awaited
    async def test_half_open_connections_are_bounded(self) -> None:
        """With too many in the handshake the oldest goes, and a good client still gets in."""
        await self.listen(tls.append_context(SERVER), limits=Limits(handshake_seconds=1000, half_open=5))
        idle = [socket.create_connection(self.address, 10) for _ in range(20)]
        await self.until(lambda: self.factory.handshakes.begun >= 20)
        self.assertEqual(len(self.factory.handshakes), 5)
        stream = await deferToThread(self.connect)
        self.assertEqual(await deferToThread(stream.receive), b"welcome")
        self.assertEqual(await deferToThread(read_all, idle[0]), b"")
        stream.close()
        for each in idle:
            each.close()

    @awaited
    async def test_a_finished_handshake_does_not_count(self) -> None:
        """Connections past their handshake are not bounded here."""
        await self.listen(tls.append_context(SERVER), limits=Limits(half_open=2))
        streams = [await deferToThread(self.connect) for _ in range(6)]
        await self.until(lambda: len(self.application.protocols) == 6)
        self.assertEqual(len(self.factory.handshakes), 0)
        for stream in streams:
            self.assertEqual(await deferToThread(stream.receive), b"welcome")
            await deferToThread(stream.send, b"still here")
            self.assertEqual(await deferToThread(stream.receive), b"still here")
            stream.close()

    @awaited
    async def test_a_peer_that_does_not_close_is_cut(self) -> None:
        """After loseConnection a client that never answers loses the connection nevertheless."""
        await self.listen(tls.append_context(SERVER), limits=Limits(closing_seconds=0.05))
        stream = await deferToThread(self.connect)
        await self.until(lambda: self.application.protocols)
        transport: Any = self.application.protocols[0].transport
        transport.loseConnection()
        await self.until(lambda: self.application.lost)
        transport.abortConnection()
        stream.close()

    def test_limit_drops_the_oldest_and_the_late(self) -> None:
        """The bound and the clock, without sockets."""

        class Connection:
            aborted = False

            def abortConnection(self) -> None:
                self.aborted = True

        clock = Clock()
        limit = HandshakeLimit(Limits(handshake_seconds=10, half_open=2), clock)
        first, second, third = Connection(), Connection(), Connection()
        for each in (first, second, third):
            limit.begin(each)  # type: ignore[arg-type]
        self.assertEqual([each.aborted for each in (first, second, third)], [True, False, False])
        limit.end(second)  # type: ignore[arg-type]
        clock.advance(11)
        self.assertEqual([each.aborted for each in (second, third)], [False, True])
        self.assertEqual((len(limit), clock.getDelayedCalls()), (0, []))


class Pouring(Protocol):
    """Sends without end as a producer, push or pull, and counts."""

    def __init__(self, seen: Application, streaming: bool) -> None:
        self.seen = seen
        self.streaming = streaming
        self.produced = 0
        self.paused = False

    def connectionMade(self) -> None:
        self.seen.protocols.append(self)
        transport: Any = self.transport
        transport.registerProducer(self, self.streaming)
        if self.streaming:
            self.resumeProducing()

    def resumeProducing(self) -> None:
        assert self.transport is not None
        self.paused = False
        while not self.paused:
            self.transport.write(bytes(65536))
            self.produced += 65536
            if not self.streaming:
                break

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.paused = True


class Deaf(Protocol):
    """Stops reading after the first bytes, until told otherwise."""

    def __init__(self, seen: Application) -> None:
        self.seen = seen
        self.received = 0
        self.deaf = True

    def connectionMade(self) -> None:
        self.seen.protocols.append(self)

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        self.received += len(data)
        if self.deaf:
            transport.pauseProducing()


class Backpressure(TLSCase):
    """Slow readers on either side."""

    async def settled(self, count: Callable[[], int]) -> int:
        """The value once it no longer moves."""
        last = -1
        while count() != last or last == 0:
            last = count()
            await deferLater(reactor, 0.2, lambda: None)
        return last

    async def pour(self, streaming: bool) -> None:
        await self.listen(tls.append_context(SERVER), Application(lambda seen: Pouring(seen, streaming)))
        stream = await deferToThread(self.connect)
        await self.until(lambda: self.application.protocols)
        protocol: Any = self.application.protocols[0]
        stuck_at = await self.settled(lambda: int(protocol.produced))
        self.assertLess(stuck_at, 32 * 1024 * 1024)

        def read() -> None:
            received = 0
            while received < stuck_at + 1024 * 1024:
                received += len(stream.receive())

        await deferToThread(read)
        self.assertGreater(protocol.produced, stuck_at)
        stream.close()

    @awaited
    async def test_a_push_producer_is_paused(self) -> None:
        """A client that does not read stops a push producer, reading lets it go on."""
        await self.pour(True)

    @awaited
    async def test_a_pull_producer_is_paused(self) -> None:
        """The same for a pull producer."""
        await self.pour(False)

    @awaited
    async def test_pausing_reaches_tcp(self) -> None:
        """A paused connection takes no more than one read, and its client's send blocks until it goes on."""
        await self.listen(tls.append_context(SERVER), Application(Deaf))
        stream = await deferToThread(self.connect)
        total = 48 * 1024 * 1024
        sending = deferToThread(stream.send, bytes(total))
        await self.until(lambda: self.application.protocols)
        protocol: Any = self.application.protocols[0]
        stuck_at = await self.settled(lambda: int(protocol.received))
        self.assertLessEqual(stuck_at, tls.SOCKET_BUFFER)
        self.assertFalse(sending.called)
        protocol.deaf = False
        protocol.transport.resumeProducing()
        await sending
        await self.until(lambda: protocol.received == total)
        stream.close()


class Bounds(SynchronousTestCase):
    """Listening."""

    def test_a_port_in_use(self) -> None:
        """A port that is taken is a failure of the Deferred, not an exception."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listening = listen_tls(reactor, taken.getsockname(), tls.append_context(SERVER), Application())
            self.assertIn("in use", str(self.failureResultOf(listening).value))


class WritingTests(SynchronousTestCase):
    """How much is written at once."""

    def test_many_records_a_call(self) -> None:
        """All records of a piece are made by one call, and so leave by one call to the socket."""
        server = tls.append_context(SERVER).serverConnectionForTLS(mock.Mock())
        server.set_accept_state()
        client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        client.set_alpn_protos([tls.APPEND_ALPN])
        client.set_connect_state()
        for _ in range(3):
            for one, other in ((client, server), (server, client)):
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(one.bio_read(tls.BIO_READ))
        self.assertEqual(server.send(bytes(tls.WRITE_PIECE)), tls.WRITE_PIECE)
        self.assertGreater(len(server.bio_read(tls.BIO_READ)), tls.WRITE_PIECE)
