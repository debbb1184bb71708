"""Peers that shake hands, read or close too slowly or not at all, over real loopback sockets."""

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from mastodon.daemon import tls
from mastodon.daemon.tls import HandshakeLimit, Limits
from tests.tls_case import SERVER, Application, TLSCase, awaited, read_all


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
