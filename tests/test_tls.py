"""The daemon's ports over real loopback sockets: who gets in, under which pin, and who does not."""

import contextlib
import datetime
import socket
import ssl
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon import tls
from mastodon.daemon.tls import listen_tls, peer_pin
from mastodon.host import certificates
from mastodon.host.certificates import Identity
from mastodon.host.socket_tls import ConnectionLost, NotMastodon
from tests.tls_case import (
    ALICE,
    APPEND,
    MALLORY,
    NOW,
    RESTORE,
    SERVER,
    Application,
    TLSCase,
    awaited,
    careless_client,
    read_all,
)


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
