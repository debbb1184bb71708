"""The client's end of TLS over real loopback sockets: what it demands of a server, and how waiting ends."""

import os
import socket
import ssl
import struct
import threading
from unittest import mock

from twisted.internet.threads import deferToThread

from mastodon.daemon import tls
from mastodon.host import certificates, socket_tls
from mastodon.host.socket_tls import BadCertificate, ConnectionLost, NotMastodon, PinMismatch, TimedOut, Unreachable
from tests.tls_case import ALICE, APPEND, MALLORY, SERVER, TLSCase, awaited, read_all


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
    async def test_cut_within_the_servers_answer(self) -> None:
        """The same in the middle of what the server says, within a record or between two of them."""
        await self.listen(tls.append_context(SERVER))
        behind = self.address
        for length in (1, 5, 67, 127, 128, 133, 300, 547):
            with socket.create_server(("127.0.0.1", 0)) as proxy:
                self.address = proxy.getsockname()

                def relay(listener: socket.socket = proxy, length: int = length) -> None:
                    connection, _ = listener.accept()
                    with connection, socket.create_connection(behind) as server:
                        server.sendall(connection.recv(4096))
                        connection.sendall(server.recv(length, socket.MSG_WAITALL))
                        connection.shutdown(socket.SHUT_WR)
                        connection.recv(4096)

                thread = threading.Thread(target=relay)
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
